"""The entry of the ONNX frontend: a file, bytes or ModelProto in, a Graph of newest operators out."""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto

from skipjack.core.errors import ModelError, SkipjackError
from skipjack.frontend.checks import check_model
from skipjack.frontend.embedded_data import split_embedded
from skipjack.frontend.external_data import ExternalFiles, map_file
from skipjack.frontend.functions import model_functions
from skipjack.frontend.graphs import GraphImporter
from skipjack.frontend.tensors import Tensors
from skipjack.ir.graph import Graph
from skipjack.zoo.names import is_remote

Source: TypeAlias = "str | os.PathLike[str] | ModelProto | bytes"
_DEFAULT_FILE = "model.onnx"
_DAMAGED = (ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError, DecodeError, EncodeError)


@dataclass(frozen=True)
class ImportedModel:
    """A model as read: its graph, where it came from, the operator set versions it was written for, its exporter."""

    graph: Graph
    path: Path | None
    opsets: Mapping[str, int]
    producer: str


def import_model(model: Source, *, strict_links: bool = False) -> ImportedModel:
    """Read, check and import a model, and bring its operators to their newest versions.

    model is a path (or a directory that holds model.onnx), an hf: or zoo: name, the bytes of a model, or a ModelProto.
    Whatever is wrong with it is a ModelError that starts with the path; UnsupportedError lists every node that cannot
    run.
    """
    if isinstance(model, str) and is_remote(model):
        model = importlib.import_module("skipjack.zoo.resolve").resolve(model).model
    path = None if isinstance(model, (ModelProto, bytes)) else _model_path(model)
    label = str(path) if path is not None else "model"
    try:
        if isinstance(model, ModelProto):
            return _import(model, {}, path, strict_links)
        proto, embedded = _parse(model if isinstance(model, bytes) else _model_path(model))
        return _import(proto, embedded, path, strict_links)
    except SkipjackError as e:
        raise type(e)(f"{label}: {e}") from e
    except _DAMAGED as e:
        reason = str(e).splitlines()[0][:300] if str(e) else ""
        raise ModelError(f"{label}: the model is damaged: {type(e).__name__}: {reason}") from e


def _model_path(given: str | os.PathLike[str]) -> Path:
    try:
        path = Path(given)
        if path.is_dir() and (path / _DEFAULT_FILE).exists():
            return path / _DEFAULT_FILE
        return path
    except (ValueError, TypeError) as e:
        raise ModelError(f"{given!r} is not a path: {e}") from e


def _parse(source: bytes | Path) -> tuple[ModelProto, dict[int, np.ndarray]]:
    """The parsed model and the raw data of large initialisers, by index, that were left in the file."""
    data = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else _file_bytes(source)
    if data.size == 0:
        raise ModelError("the file is empty, expected an ONNX model; download it again")
    small, embedded = split_embedded(data)
    proto = ModelProto()
    try:
        proto.ParseFromString(small)  # pyright: ignore[reportArgumentType]
    except DecodeError as e:
        raise ModelError("not an ONNX model, or cut off or damaged: its protobuf cannot be read") from e
    return proto, embedded


def _file_bytes(path: Path) -> np.ndarray:
    """The bytes of a regular file, mapped; a pipe or device is refused without waiting for it."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise ModelError(f"the file cannot be opened: {reason}") from e
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"the directory holds no {_DEFAULT_FILE}; give the path of the model file")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError("expected a regular file")
        return map_file(fd, status.st_size)
    finally:
        os.close(fd)


def _import(proto: ModelProto, embedded: dict[int, np.ndarray], path: Path | None, strict_links: bool) -> ImportedModel:
    opsets = check_model(proto)
    tensors = Tensors(ExternalFiles(path, strict_links))
    importer = GraphImporter(tensors, model_functions(proto, opsets), embedded)
    graph = importer.model_graph(proto.graph, opsets)
    importer.raise_unsupported()
    producer = f"{proto.producer_name} {proto.producer_version}".strip()
    return ImportedModel(graph, path, MappingProxyType(opsets), producer)
