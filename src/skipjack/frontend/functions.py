"""Functions: those a model defines, and those an operator's schema defines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorShapeProto, TypeProto, defs

from skipjack.core.dims import Sym
from skipjack.core.errors import ModelError
from skipjack.frontend.checks import imported_opsets, normal_domain
from skipjack.ir.graph import ONNX
from skipjack.ir.types import TensorType, ValueType


@dataclass(frozen=True)
class FunctionBody:
    """What inlining needs: formal names, nodes, versions they are written for, attributes with and without default."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: Sequence[NodeProto]
    opsets: dict[str, int]
    required: tuple[str, ...] = ()
    defaults: dict[str, AttributeProto] = field(default_factory=dict[str, AttributeProto])


Key = tuple[str, str, str]


def model_functions(model: ModelProto, opsets: dict[str, int]) -> dict[Key, FunctionBody]:
    """(domain, name, overload) -> body of every function of a model; a name given twice is a ModelError."""
    found: dict[Key, FunctionBody] = {}
    for proto in model.functions:
        key = (normal_domain(proto.domain), proto.name, proto.overload)
        if key in found:
            raise ModelError(f"function {proto.name!r} of domain {proto.domain!r} is defined twice")
        found[key] = _body(proto, opsets)
    return found


def schema_function(
    schema: defs.OpSchema, node: NodeProto, opset: int, types: Iterable[ValueType | None]
) -> FunctionBody | None:
    """The body an operator's schema gives for a node, None when it has none or it needs types that are not known."""
    # onnx's stubs lack the members that tell functions apart
    described: Any = schema
    if described.has_function:
        proto: object = described.function_body
    elif described.has_context_dependent_function:
        known = [_type_bytes(t) for t in types]
        if any(not t for t in known):
            return None
        text = described.get_context_dependent_function(node.SerializeToString(), known)
        proto = FunctionProto.FromString(text) if text else None
    else:
        return None
    if not isinstance(proto, FunctionProto) or not proto.node:
        return None
    body = _body(proto, {schema.domain: opset})
    body.opsets.setdefault(ONNX, defs.onnx_opset_version())
    return body


def _body(proto: FunctionProto, outer_opsets: dict[str, int]) -> FunctionBody:
    defaults = {a.name: a for a in proto.attribute_proto}
    opsets = imported_opsets(proto.opset_import) if proto.opset_import else outer_opsets
    return FunctionBody(
        proto.name, tuple(proto.input), tuple(proto.output), proto.node, opsets, tuple(proto.attribute), defaults
    )


def _type_bytes(t: ValueType | None) -> bytes:
    if not isinstance(t, TensorType):
        return b""
    proto = TypeProto()
    proto.tensor_type.elem_type = t.dtype.onnx
    if t.shape is not None:
        proto.tensor_type.shape.CopyFrom(TensorShapeProto())
        for d in t.shape:
            dim = proto.tensor_type.shape.dim.add()
            if isinstance(d, Sym):
                dim.dim_param = str(d)
            else:
                dim.dim_value = d
    return proto.SerializeToString()
