"""AttributeProto to the attribute values of a node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import AttributeProto, GraphProto

from skipjack.core.errors import ModelError
from skipjack.frontend.tensors import Tensors
from skipjack.frontend.value_types import Symbols, value_type
from skipjack.ir.graph import Attr, Graph


def read_attribute(
    proto: AttributeProto, what: str, tensors: Tensors, symbols: Symbols, graph: Callable[[GraphProto], Graph]
) -> Attr:
    """The value of an attribute: number, text (bytes when it is not UTF-8), array, type, graph, or a tuple of them."""
    t = proto.type
    if t == AttributeProto.FLOAT:
        return proto.f
    if t == AttributeProto.INT:
        return proto.i
    if t == AttributeProto.STRING:
        return _text(proto.s)
    if t == AttributeProto.TENSOR:
        return tensors.dense(proto.t, what)
    if t == AttributeProto.GRAPH:
        return graph(proto.g)
    if t == AttributeProto.SPARSE_TENSOR:
        return tensors.sparse(proto.sparse_tensor, what)
    if t == AttributeProto.TYPE_PROTO:
        return value_type(proto.tp, what, symbols)
    return _read_list(proto, what, tensors, graph)


def _read_list(proto: AttributeProto, what: str, tensors: Tensors, graph: Callable[[GraphProto], Graph]) -> Attr:
    t = proto.type
    if t == AttributeProto.FLOATS:
        return tuple(proto.floats)
    if t == AttributeProto.INTS:
        return tuple(proto.ints)
    if t == AttributeProto.STRINGS:
        return tuple(_str(s, what) for s in proto.strings)
    if t == AttributeProto.TENSORS:
        arrays: tuple[np.ndarray, ...] = tuple(tensors.dense(x, what) for x in proto.tensors)
        return arrays
    if t == AttributeProto.GRAPHS:
        return tuple(graph(g) for g in proto.graphs)
    raise ModelError(f"{what}: expected an ONNX attribute type, got number {t}")


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _str(value: bytes, what: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ModelError(f"{what}: a string is not UTF-8") from e
