"""Large weights inside a model file, left in the mapped file: the protobuf parser sees the model without them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9
_LENGTH_DELIMITED = 2
_FIXED_BYTES = {1: 8, 5: 4}
_SMALL_BYTES = 64 * 1024


class _Field(NamedTuple):
    number: int
    wire_type: int
    start: int
    value: int
    end: int


def split_embedded(data: np.ndarray) -> tuple[memoryview | bytes, dict[int, np.ndarray]]:
    """(the model without the raw data of large initialisers, initialiser index -> view of its raw data).

    A file that is not laid out as ONNX writers do comes back whole, for the parser to judge.
    """
    whole = memoryview(data)  # pyright: ignore[reportArgumentType]
    try:
        fields = list(_fields(whole, 0, len(whole)))
        if sum(f.number == _MODEL_GRAPH for f in fields) != 1:
            return whole, {}
        graph = next(f for f in fields if f.number == _MODEL_GRAPH)
        if graph.wire_type != _LENGTH_DELIMITED:
            return whole, {}
        pieces, found = _split_graph(whole, graph)
    except (IndexError, ValueError):
        return whole, {}
    if not found:
        return whole, {}
    return b"".join([whole[: graph.start], *pieces, whole[graph.end :]]), {
        i: data[start:end] for i, (start, end) in found.items()
    }


def _split_graph(whole: memoryview, graph: _Field) -> tuple[list[bytes | memoryview], dict[int, tuple[int, int]]]:
    pieces: list[bytes | memoryview] = []
    found: dict[int, tuple[int, int]] = {}
    index = 0
    for f in _fields(whole, graph.value, graph.end):
        piece: bytes | memoryview = whole[f.start : f.end]
        if f.number == _GRAPH_INITIALIZER:
            if f.wire_type == _LENGTH_DELIMITED and f.end - f.value >= _SMALL_BYTES:
                raw = [t for t in _fields(whole, f.value, f.end) if t.number == _TENSOR_RAW_DATA]
                if len(raw) == 1 and raw[0].wire_type == _LENGTH_DELIMITED:
                    found[index] = (raw[0].value, raw[0].end)
                    kept = bytes(whole[f.value : raw[0].start]) + bytes(whole[raw[0].end : f.end])
                    piece = _message(_GRAPH_INITIALIZER, kept)
            index += 1
        pieces.append(piece)
    return [_message(_MODEL_GRAPH, b"".join(pieces))], found


def _fields(data: memoryview, start: int, end: int) -> Iterator[_Field]:
    """The fields of a message; ValueError or IndexError when it is damaged or holds groups."""
    at = start
    while at < end:
        key, value = _varint(data, at)
        wire_type = key & 7
        if wire_type == 0:
            stop = _varint(data, value)[1]
        elif wire_type == _LENGTH_DELIMITED:
            length, value = _varint(data, value)
            stop = value + length
        elif wire_type in _FIXED_BYTES:
            stop = value + _FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"wire type {wire_type}")
        if stop > end:
            raise ValueError("a field is longer than its message")
        yield _Field(key >> 3, wire_type, at, value, stop)
        at = stop


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint is too long")


def _message(number: int, content: bytes) -> bytes:
    length, head = len(content), bytearray([number << 3 | _LENGTH_DELIMITED])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes(head) + bytes([length]) + content
