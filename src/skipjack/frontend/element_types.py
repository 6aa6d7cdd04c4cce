"""Element types of node outputs as far as an operator's schema tells them; shapes are left to shape propagation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import defs

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Node

_NAMES = {
    "float": DType.F32,
    "double": DType.F64,
    "float16": DType.F16,
    "bfloat16": DType.BF16,
    "string": DType.STRING,
    "bool": DType.BOOL,
    **{f"{sign}int{bits}": DType(f"{sign or 'i'}{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


def output_dtypes(schema: defs.OpSchema, node: Node, dtypes: Mapping[str, DType]) -> dict[str, DType]:
    """Output name -> element type, for the outputs whose type an input, an attribute or the schema fixes."""
    bound: dict[str, DType] = {}
    for i, name in enumerate(node.inputs):
        formal = _formal(schema.inputs, i)
        if formal is not None and name in dtypes:
            bound.setdefault(formal.type_str, dtypes[name])
    found: dict[str, DType] = {}
    for i, name in enumerate(node.outputs):
        formal = _formal(schema.outputs, i)
        if formal is not None and name:
            dtype = _fixed(formal.type_str) or bound.get(formal.type_str) or _from_attributes(node)
            if dtype is not None:
                found[name] = dtype
    return found


def _formal(formals: Sequence[defs.OpSchema.FormalParameter], index: int) -> defs.OpSchema.FormalParameter | None:
    """The formal parameter of an index; None past the end and for lists whose members differ in type."""
    if index < len(formals) - 1 or (formals and index == len(formals) - 1):
        formal = formals[index]
    elif formals and formals[-1].option == defs.OpSchema.FormalParameterOption.Variadic:
        formal = formals[-1]
    else:
        return None
    variadic = formal.option == defs.OpSchema.FormalParameterOption.Variadic
    return None if variadic and not formal.is_homogeneous else formal


def _fixed(type_str: str) -> DType | None:
    if type_str.startswith("tensor(") and type_str.endswith(")"):
        return _NAMES.get(type_str[7:-1])
    return None


def _from_attributes(node: Node) -> DType | None:
    for name in _TYPE_ATTRIBUTES:
        number = node.attrs.get(name)
        if isinstance(number, int):
            return next((d for d in DType if d.onnx == number), None)
    value = node.attrs.get("value")
    return DType.from_numpy(value.dtype) if isinstance(value, np.ndarray) else None
