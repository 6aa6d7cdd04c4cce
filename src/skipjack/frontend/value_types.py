"""TypeProto to ValueType, and the names of symbolic sizes."""

from __future__ import annotations

import re

from onnx import TensorShapeProto, TypeProto

from skipjack.core.dims import Dim, Sym
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.frontend.tensors import checked_dims, element_type
from skipjack.ir.types import MapType, OptionalType, SequenceType, TensorType, ValueType

_MAX_DEPTH = 8
_KEY_TYPES = (DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64, DType.STRING)


class Symbols:
    """Names of symbolic sizes of one model: equal dim_params give equal symbols, different ones different symbols."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._used: set[str] = set()

    def of(self, text: str) -> Sym:
        """The symbol of a dim_param or of an unnamed dim's description."""
        if text not in self._names:
            base = re.sub(r"[^A-Za-z0-9_.]", "_", text)
            base = base if base[:1].isalpha() or base[:1] == "_" else f"_{base}"
            name, n = base, 1
            while name in self._used:
                n += 1
                name = f"{base}_{n}"
            self._used.add(name)
            self._names[text] = name
        return Sym.named(self._names[text])


def value_type(proto: TypeProto, name: str, symbols: Symbols, depth: int = 0) -> ValueType:
    """The type of the value called name; ModelError for kinds that no operator takes."""
    what = f"value {name!r}"
    kind = proto.WhichOneof("value")
    if depth > _MAX_DEPTH:
        raise ModelError(f"{what}: its type is nested more than {_MAX_DEPTH} levels deep")
    if kind == "tensor_type":
        return _tensor_type(proto.tensor_type, name, symbols)
    if kind == "sequence_type":
        return SequenceType(value_type(proto.sequence_type.elem_type, name, symbols, depth + 1))
    if kind == "optional_type":
        return OptionalType(value_type(proto.optional_type.elem_type, name, symbols, depth + 1))
    if kind == "map_type":
        key = element_type(proto.map_type.key_type, what)
        if key not in _KEY_TYPES:
            raise ModelError(f"{what}: expected map keys to be integers or strings, got {key.value}")
        return MapType(key, value_type(proto.map_type.value_type, name, symbols, depth + 1))
    raise ModelError(f"{what}: expected a tensor, sequence, optional or map type, got {kind or 'none'}")


def _tensor_type(proto: TypeProto.Tensor, name: str, symbols: Symbols) -> TensorType:
    dtype = element_type(proto.elem_type, f"value {name!r}")
    if not proto.HasField("shape"):
        return TensorType(dtype, None)
    dims = proto.shape.dim
    checked_dims([max(1, d.dim_value) if d.HasField("dim_value") else 1 for d in dims], f"value {name!r}")
    return TensorType(dtype, tuple(_dim(d, f"{name}.dim{i}", symbols) for i, d in enumerate(dims)))


def _dim(proto: TensorShapeProto.Dimension, description: str, symbols: Symbols) -> Dim:
    if proto.HasField("dim_value") and proto.dim_value >= 0:
        return proto.dim_value
    return symbols.of(proto.dim_param or description)
