"""GraphProto to Graph: names resolved through scopes, functions inlined, nodes brought to their newest version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto

import skipjack.ops.all  # noqa: F401  # pyright: ignore[reportUnusedImport]  (registers the operators)
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError, UnsupportedError, nearest
from skipjack.frontend import ordering
from skipjack.frontend.attributes import read_attribute
from skipjack.frontend.checks import (
    MAX_FUNCTION_DEPTH,
    MAX_NODES,
    check_bodies,
    check_name,
    check_node,
    normal_domain,
    schema_of,
)
from skipjack.frontend.element_types import output_dtypes
from skipjack.frontend.functions import FunctionBody, Key, schema_function
from skipjack.frontend.tensors import Tensors
from skipjack.frontend.upgrade.rewrite import Rewrite
from skipjack.frontend.upgrade.table import to_newest
from skipjack.frontend.value_types import Symbols, value_type
from skipjack.ir.graph import MS, ONNX, SKIPJACK, Attr, Graph, Node, Origin
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.registry import find, registered

_NCHWC = "com.microsoft.nchwc"


@dataclass
class Body:
    """One Graph under construction."""

    nodes: list[Node] = field(default_factory=list[Node])
    constants: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    types: dict[str, ValueType] = field(default_factory=dict[str, ValueType])
    dtypes: dict[str, DType] = field(default_factory=dict[str, DType])
    captured: dict[str, None] = field(default_factory=dict[str, None])
    read: set[str] = field(default_factory=set[str])

    def add_constant(self, name: str, array: np.ndarray) -> None:
        self.constants[name] = array
        self.set_type(name, TensorType(DType.from_numpy(array.dtype), array.shape))

    def set_type(self, name: str, value_type: ValueType) -> None:
        self.types[name] = value_type
        if isinstance(value_type, TensorType):
            self.dtypes[name] = value_type.dtype


@dataclass
class Scope:
    """Names visible to some nodes: the values of their graph or function, then those of the graph around it."""

    body: Body
    opsets: Mapping[str, int]
    outer: Scope | None = None
    attributes: Mapping[str, tuple[AttributeProto, Scope]] = field(
        default_factory=dict[str, "tuple[AttributeProto, Scope]"]
    )
    calls: tuple[Key, ...] = ()
    names: dict[str, str] = field(default_factory=dict[str, str])

    def find(self, name: str) -> str | None:
        """The unique name behind a name of the file; a value of an outer graph becomes captured."""
        if name in self.names:
            return self.names[name]
        if self.outer is None:
            return None
        found = self.outer.find(name)
        if found is not None and self.body is not self.outer.body and found not in self.body.captured:
            self.body.captured[found] = None
            if found in self.outer.body.types:
                self.body.types[found] = self.outer.body.types[found]
            if found in self.outer.body.dtypes:
                self.body.dtypes[found] = self.outer.body.dtypes[found]
        return found


class GraphImporter:
    """Imports the graphs of one model. Collects every unsupported node; `raise_unsupported` reports them at the end."""

    def __init__(
        self, tensors: Tensors, functions: Mapping[Key, FunctionBody], embedded: Mapping[int, np.ndarray] | None = None
    ) -> None:
        self._tensors = tensors
        self._embedded = embedded or {}
        self._functions = functions
        self._symbols = Symbols()
        self._used: set[str] = set()
        self._repeats: dict[str, int] = {}
        self._unsupported: list[str] = []
        self._n_nodes = 0

    def model_graph(self, proto: GraphProto, opsets: Mapping[str, int]) -> Graph:
        """The main graph of a model; every input has a type."""
        return self._graph(proto, Scope(Body(), opsets), typed_inputs=True)

    def raise_unsupported(self) -> None:
        """UnsupportedError that lists every node met so far that cannot run."""
        if self._unsupported:
            lines = "\n  ".join(self._unsupported)
            raise UnsupportedError(f"{len(self._unsupported)} nodes use operators that cannot run:\n  {lines}")

    def unique(self, hint: str) -> str:
        """A value name nobody has yet."""
        name = hint
        while name in self._used:
            self._repeats[hint] = self._repeats.get(hint, 0) + 1
            name = f"{hint}_{self._repeats[hint]}"
        self._used.add(name)
        return name

    def _graph(self, proto: GraphProto, scope: Scope, typed_inputs: bool) -> Graph:
        what = f"graph {proto.name!r}"
        body = scope.body
        initialised = self._constants(proto, scope)
        inputs = [v for v in proto.input if v.name not in initialised]
        for v in inputs:
            self._define(v.name, scope, f"{what}: input")
            self._set_type(v, scope, typed_inputs)
        self._nodes(proto.node, [o.name for o in proto.output], scope, what)
        outputs = [self._resolve(o.name, scope, f"{what}: output") for o in proto.output]
        if typed_inputs and len(set(outputs)) != len(outputs):
            raise ModelError(f"{what}: an output is listed twice in {outputs}")
        return Graph(
            proto.name,
            tuple(scope.names[v.name] for v in inputs),
            tuple(outputs),
            tuple(body.nodes),
            MappingProxyType(body.types),
            MappingProxyType(body.constants),
            tuple(body.captured),
        )

    def _constants(self, proto: GraphProto, scope: Scope) -> set[str]:
        found: set[str] = set()
        is_main = scope.outer is None
        for i, tensor in enumerate(proto.initializer):
            raw = self._embedded.get(i) if is_main else None
            array = self._tensors.dense(tensor, f"initializer {tensor.name!r}", raw)
            scope.body.add_constant(self._define(tensor.name, scope, "initializer"), array)
            found.add(tensor.name)
        for sparse in proto.sparse_initializer:
            name = sparse.values.name
            array = self._tensors.sparse(sparse, f"sparse initializer {name!r}")
            scope.body.add_constant(self._define(name, scope, "sparse initializer"), array)
            found.add(name)
        return found

    def _define(self, name: str, scope: Scope, what: str) -> str:
        check_name(name, what)
        if not name:
            raise ModelError(f"{what}: a name is empty")
        if name in scope.names:
            raise ModelError(f"{what} {name!r}: the name is already taken by another value; rename one of them")
        scope.names[name] = self.unique(name)
        return scope.names[name]

    def _set_type(self, v: ValueInfoProto, scope: Scope, required: bool) -> None:
        if required or v.type.WhichOneof("value"):
            scope.body.set_type(scope.names[v.name], value_type(v.type, v.name, self._symbols))

    def _resolve(self, name: str, scope: Scope, what: str) -> str:
        found = scope.find(name)
        if found is None:
            known = list(scope.names)[:2000]
            raise ModelError(f"{what} {name!r}: no node, input or initializer makes this value{nearest(name, known)}")
        return found

    def _nodes(self, nodes: Sequence[NodeProto], outputs: Sequence[str], scope: Scope, what: str) -> None:
        self._n_nodes += len(nodes)
        if self._n_nodes > MAX_NODES:
            raise ModelError(f"the model has more than {MAX_NODES} nodes after its functions were inlined; split it")
        node_reads = [ordering.reads(n) for n in nodes]
        for node in nodes:
            for name in node.output:
                if name and not (scope.calls and name in scope.names and name in outputs):
                    self._define(name, scope, f"{what}: output of node {node.name or node.op_type!r}")
        wanted = set(outputs).union(*node_reads)
        scope.body.read |= {scope.names[n] for n in wanted if n in scope.names}
        for i in ordering.in_order(nodes, node_reads, what):
            self._node(nodes[i], scope)

    def _node(self, proto: NodeProto, scope: Scope) -> None:
        domain = normal_domain(proto.domain)
        name = proto.name or next((o for o in proto.output if o), proto.op_type)
        opset = scope.opsets.get(domain, 0)
        origin = Origin(name, proto.op_type, domain, opset)
        key = (domain, proto.op_type, proto.overload)
        if key in self._functions:
            self._inline(proto, scope, self._functions[key], key, origin)
            return
        if domain == ONNX and not opset:
            raise ModelError(f"{origin}: opset_import does not name the default domain; the model is damaged")
        schema = schema_of(proto.op_type, opset, domain)
        if schema is not None:
            check_node(_with_references(proto, scope), schema, origin)
        elif find(domain, proto.op_type) is None or schema_of(proto.op_type, _NEWEST, domain) is not None:
            self._refuse(origin)
            return
        node = self._read_node(proto, scope, origin)
        if schema is not None:
            scope.body.dtypes.update(output_dtypes(schema, node, scope.body.dtypes))
        upgraded = to_newest(node, opset, Rewrite(self.unique, scope.body)) if domain == ONNX else [node]
        if all(_runs(n) for n in upgraded):
            self._place(upgraded, scope.body)
            return
        types = [scope.body.types.get(i) for i in node.inputs if i]
        function = schema_function(schema, proto, opset, types) if schema else None
        if function is None:
            self._refuse(origin)
        else:
            self._inline(proto, scope, function, key, origin)

    def _read_node(self, proto: NodeProto, scope: Scope, origin: Origin) -> Node:
        inputs = tuple(self._resolve(i, scope, f"{origin}: input") if i else "" for i in proto.input)
        attrs: dict[str, Attr] = {}
        for a, a_scope in _attributes(proto, scope):
            attrs[a.name] = read_attribute(
                a,
                f"{origin}: attribute {a.name!r}",
                self._tensors,
                self._symbols,
                lambda g, s=a_scope: self._subgraph(g, s),
            )
        outputs = tuple(scope.names[o] if o else "" for o in proto.output)
        return Node(proto.op_type, inputs, outputs, MappingProxyType(attrs), origin.domain, origin)

    def _subgraph(self, proto: GraphProto, scope: Scope) -> Graph:
        inner = Scope(Body(), scope.opsets, scope, scope.attributes, scope.calls)
        return self._graph(proto, inner, typed_inputs=False)

    def _place(self, nodes: Sequence[Node], body: Body) -> None:
        for node in nodes:
            array = _constant_value(node) if node.key == (ONNX, "Constant") else None
            if array is not None:
                body.add_constant(node.outputs[0], array)
            else:
                check_bodies(node)
                body.nodes.append(_without_empty_resize_inputs(node, body))

    def _inline(self, proto: NodeProto, scope: Scope, function: FunctionBody, key: Key, origin: Origin) -> None:
        if key in scope.calls or len(scope.calls) >= MAX_FUNCTION_DEPTH:
            raise ModelError(f"{origin}: functions call each other without end, or more than {MAX_FUNCTION_DEPTH} deep")
        if len(proto.input) > len(function.inputs) or len(proto.output) > len(function.outputs):
            raise ModelError(
                f"{origin}: expected at most {len(function.inputs)} inputs and {len(function.outputs)} outputs,"
                f" got {len(proto.input)} and {len(proto.output)}"
            )
        attributes = {name: (a, scope) for name, a in function.defaults.items()}
        attributes.update({a.name: (a, s) for a, s in _attributes(proto, scope)})
        missing = [a for a in function.required if a not in attributes]
        if missing and key in self._functions:
            raise ModelError(f"{origin}: expected the attributes {missing} of function {function.name!r}, got none")
        inner = Scope(scope.body, function.opsets, None, attributes, (*scope.calls, key))
        for formal, actual in zip(function.inputs, proto.input):
            if actual:
                inner.names[formal] = self._resolve(actual, scope, f"{origin}: input")
        nodes = [_renamed(n, origin) for n in function.nodes]
        wanted = [f for f, actual in zip(function.outputs, proto.output) if actual]
        passed = set(function.inputs) & set(wanted)
        for formal, actual in zip(function.outputs, proto.output):
            if actual and formal not in passed:
                inner.names[formal] = scope.names[actual]
        self._nodes(nodes, wanted, inner, f"function {function.name!r}")
        self._check_made(nodes, wanted, passed, origin)
        for formal, actual in zip(function.outputs, proto.output):
            if formal in passed and actual:
                source = self._resolve(formal, inner, f"{origin}: output")
                scope.body.nodes.append(Node("Identity", (source,), (scope.names[actual],), origin=origin))

    def _check_made(self, nodes: Sequence[NodeProto], wanted: Sequence[str], passed: set[str], origin: Origin) -> None:
        made = {o for n in nodes for o in n.output} | passed
        missing = [w for w in wanted if w not in made]
        if missing:
            raise ModelError(f"{origin}: no node of the function makes its outputs {missing}")

    def _refuse(self, origin: Origin) -> None:
        self._unsupported.append(f"{origin}: {_advice(origin)}")


def _attributes(proto: NodeProto, scope: Scope) -> Iterator[tuple[AttributeProto, Scope]]:
    """Attributes of a node with the scope their graphs belong to; a reference to an absent one is left out."""
    for a in proto.attribute:
        if not a.ref_attr_name:
            yield a, scope
        elif a.ref_attr_name in scope.attributes:
            source, source_scope = scope.attributes[a.ref_attr_name]
            renamed = AttributeProto()
            renamed.CopyFrom(source)
            renamed.name = a.name
            yield renamed, source_scope


def _with_references(proto: NodeProto, scope: Scope) -> NodeProto:
    """The node with attribute references replaced by what the caller gave."""
    if not any(a.ref_attr_name for a in proto.attribute):
        return proto
    out = NodeProto()
    out.CopyFrom(proto)
    del out.attribute[:]
    out.attribute.extend(a for a, _ in _attributes(proto, scope))
    return out


def _renamed(node: NodeProto, origin: Origin) -> NodeProto:
    """A node of a function that carries the name of the call in its own."""
    out = NodeProto()
    out.CopyFrom(node)
    out.name = f"{origin.name}/{node.name or node.op_type}"
    return out


_NEWEST = 1 << 30


def _runs(node: Node) -> bool:
    if node.domain == SKIPJACK:
        return False
    return node.key == (ONNX, "Constant") or find(node.domain, node.op) is not None


def _constant_value(node: Node) -> np.ndarray | None:
    """The array of a Constant node, whichever of its attributes holds it."""
    if len(node.attrs) != 1:
        raise ModelError(f"{node.origin}: expected one value attribute, got {sorted(node.attrs)}")
    ((name, value),) = node.attrs.items()
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if name in dtypes:
        return np.array(value, dtypes[name])
    if name in ("value_string", "value_strings"):
        return np.array(value, object)
    return value if isinstance(value, np.ndarray) else None


def _without_empty_resize_inputs(node: Node, body: Body) -> Node:
    """Resize takes an empty roi, scales or sizes for an absent one; here absent is the empty name."""
    if node.op != "Resize" or node.domain != ONNX:
        return node
    empty = {i for i in node.inputs[1:] if i in body.constants and body.constants[i].size == 0}
    return node.with_inputs("" if i in empty else i for i in node.inputs) if empty else node


def _advice(origin: Origin) -> str:
    if origin.domain == _NCHWC:
        return "this file was optimised for one machine; export with ORT_ENABLE_EXTENDED instead of ORT_ENABLE_ALL"
    if origin.domain not in (ONNX, MS):
        domains = sorted({o.domain for o in registered()} - {SKIPJACK, ONNX})
        if origin.domain not in domains:
            return f"its domain is not known (known: ai.onnx, {', '.join(domains)}); inline it as a function"
    names = [o.name for o in registered() if o.domain == origin.domain]
    if origin.op in names:
        return "the operator is not part of this opset; export with a newer one"
    if schema_of(origin.op, origin.opset, origin.domain) is not None:
        return "skipjack does not run this operator; rewrite it with others before export"
    return f"the operator is not known{nearest(origin.op, names)}; rewrite it with standard operators before export"
