"""What makes a model invalid before any tensor is read: structure, limits, versions, and nodes against their schema."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, defs

from skipjack.core.errors import ModelError, nearest
from skipjack.frontend.ordering import graphs_of
from skipjack.ir.graph import ML, ONNX, Node, Origin

MAX_SUBGRAPH_DEPTH = 24
MAX_FUNCTION_DEPTH = 24
MAX_NODES = 100_000
OLDEST_OPSET = 7
_MAX_NAME = 4096


def check_model(model: ModelProto) -> dict[str, int]:
    """The opset of every imported domain of a model whose outer structure is sound; ModelError otherwise."""
    if not model.HasField("ir_version") or model.ir_version < 1:
        raise ModelError("expected an ONNX model, got one without ir_version; the file is empty, damaged or not ONNX")
    if not model.HasField("graph"):
        raise ModelError("expected an ONNX model, got one without a graph; the file is damaged or cut off")
    if not model.graph.output:
        raise ModelError("the graph has no outputs; the file is damaged or cut off")
    check_limits(model)
    opsets = imported_opsets(model.opset_import)
    if not opsets:
        if model.ir_version >= 3:
            raise ModelError("opset_import is empty, expected the version of every operator set that the model uses")
        opsets = {ONNX: 1}
    return opsets


def imported_opsets(entries: object) -> dict[str, int]:
    """Domain -> version of a list of OperatorSetIdProto. Unknown domains matter only to nodes that use them."""
    opsets: dict[str, int] = {}
    for entry in entries:  # type: ignore[attr-defined]
        domain = normal_domain(entry.domain)
        if opsets.get(domain, entry.version) != entry.version:
            raise ModelError(f"opset_import names domain {domain or 'ai.onnx'!r} twice, with different versions")
        opsets[domain] = entry.version
    for domain in (ONNX, ML):
        _check_version(domain, opsets.get(domain, 1))
    return opsets


def normal_domain(domain: str) -> str:
    """`ai.onnx` is another spelling of the default domain."""
    return ONNX if domain == "ai.onnx" else domain


def _check_version(domain: str, version: int) -> None:
    newest = defs.onnx_opset_version() if domain == ONNX else _newest_versions()[domain]
    oldest = OLDEST_OPSET if domain == ONNX else 1
    if not 1 <= version <= newest:
        raise ModelError(
            f"opset {version} of {domain or 'ai.onnx'} is not known: expected {oldest} to {newest};"
            " export with an older opset, or install a newer onnx package"
        )


@cache
def _newest_versions() -> dict[str, int]:
    newest: dict[str, int] = {}
    for schema in defs.get_all_schemas():
        newest[schema.domain] = max(newest.get(schema.domain, 1), schema.since_version)
    return newest


def check_limits(model: ModelProto) -> None:
    """Refuse subgraphs nested too deep and too many nodes; walks without recursion."""
    waiting: list[tuple[GraphProto | FunctionProto, int]] = [(model.graph, 0), *((f, 0) for f in model.functions)]
    total = 0
    while waiting:
        body, depth = waiting.pop()
        total += len(body.node)
        if depth > MAX_SUBGRAPH_DEPTH:
            raise ModelError(f"subgraphs are nested more than {MAX_SUBGRAPH_DEPTH} levels deep; flatten the model")
        if total > MAX_NODES:
            raise ModelError(f"the model has more than {MAX_NODES} nodes; split it")
        for node in body.node:
            waiting.extend((g, depth + 1) for g in graphs_of(node))


def check_name(name: str, what: str) -> None:
    """Refuse names no exporter writes and no message can show."""
    if len(name) > _MAX_NAME:
        raise ModelError(f"{what}: a name is {len(name)} characters long, expected at most {_MAX_NAME}")


@cache
def schema_of(op: str, opset: int, domain: str) -> defs.OpSchema | None:
    """The schema valid at an opset; a deprecated operator's last real one; None when the operator is not known."""
    try:
        schema = defs.get_schema(op, opset, domain)
        if schema.deprecated and not schema.outputs:
            return defs.get_schema(op, schema.since_version - 1, domain)
        return schema
    except defs.SchemaError:
        return None


def check_node(proto: NodeProto, schema: defs.OpSchema, origin: Origin) -> None:
    """The number of inputs and outputs, and names and types of attributes, against the schema."""
    given = len(proto.input)
    while given and not proto.input[given - 1]:
        given -= 1
    if not schema.min_input <= given <= schema.max_input:
        _fail(origin, f"{_range(schema.min_input, schema.max_input)} inputs", given)
    if len(proto.output) > schema.max_output or len(proto.output) < schema.min_output:
        _fail(origin, f"{_range(schema.min_output, schema.max_output)} outputs", len(proto.output))
    for i, formal in enumerate(schema.inputs):
        if formal.option == defs.OpSchema.FormalParameterOption.Single and not (i < given and proto.input[i]):
            _fail(origin, f"input {i} ({formal.name})", "nothing")
    _check_attributes(proto, schema.attributes, origin)


def _check_attributes(proto: NodeProto, known: Mapping[str, defs.OpSchema.Attribute], origin: Origin) -> None:
    for a in proto.attribute:
        if a.name not in known:
            raise ModelError(f"{origin}: attribute {a.name!r} is not known{nearest(a.name, known)}")
        expected = str(known[a.name].type).rpartition(".")[2]
        got = AttributeProto.AttributeType.Name(a.type) if a.type in AttributeProto.AttributeType.values() else a.type
        if got != expected:
            _fail(origin, f"attribute {a.name!r} of type {expected}", got)
    names = [a.name for a in proto.attribute]
    if len(set(names)) != len(names):
        raise ModelError(f"{origin}: an attribute is given twice in {names}")
    missing = [k for k, a in known.items() if a.required and k not in names]
    if missing:
        _fail(origin, f"the attributes {missing}", names or "none")


def check_bodies(node: Node) -> None:
    """The number of inputs and outputs of a newest control-flow node against its bodies."""
    for name, body in node.subgraphs():
        fixed_inputs = {"If": 0, "Loop": max(2, len(node.inputs))}.get(node.op, len(node.inputs))
        hidden_outputs = 1 if node.op == "Loop" else 0
        if len(body.inputs) != fixed_inputs:
            _fail(node.origin, f"{name} to have {fixed_inputs} inputs", len(body.inputs))
        if len(body.outputs) != len(node.outputs) + hidden_outputs:
            _fail(node.origin, f"{name} to have {len(node.outputs) + hidden_outputs} outputs", len(body.outputs))


def _range(low: int, high: int) -> str:
    if high > 1000:
        return f"at least {low}"
    return f"{low}" if low == high else f"{low} to {high}"


def _fail(origin: Origin, expected: str, got: object) -> None:
    raise ModelError(f"{origin}: expected {expected}, got {got}; the model is damaged or its exporter is at fault")
