"""Rewriting a graph: replace nodes, forward values, add constants. Finishing it drops dead code and gives types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, Attr, Graph, Node, Origin, frozen, reads
from skipjack.ir.types import TensorType, tensor
from skipjack.passes.propagate_types import typed


class Edit:
    """A graph being rewritten. Questions are answered for the graph as it was given; finish() returns the new one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = graph.producers()
        self.consumers = graph.consumers()
        self._outputs = frozenset(graph.outputs)
        self._replaced: dict[int, tuple[Node, ...]] = {}
        self._forwarded: dict[str, str] = {}
        self._constants = dict(graph.constants)
        self._names = set(graph.types) | set(graph.constants)

    @property
    def changed(self) -> bool:
        return bool(self._replaced or self._forwarded)

    def name(self, near: str) -> str:
        """A value name that is not in use, made from near."""
        found, n = near, 0
        while found in self._names:
            n += 1
            found = f"{near}.{n}"
        self._names.add(found)
        return found

    def constant(self, array: np.ndarray, near: str) -> str:
        """A new constant; its name is made from near."""
        name = self.name(near)
        self._constants[name] = np.ascontiguousarray(array).reshape(np.shape(array))
        return name

    def array(self, name: str) -> np.ndarray | None:
        """The constant called name, None when it is not a constant."""
        return self._constants.get(name) if name else None

    def scalar(self, name: str) -> float | None:
        """The number in a one-element constant, None when name is anything else."""
        array = self.array(name)
        return (
            float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.dtype.kind != "O" else None
        )

    def tensor(self, name: str) -> TensorType | None:
        """The type of a tensor, None for other values and values made by this edit."""
        t = self.graph.types.get(name)
        return t if isinstance(t, TensorType) else None

    def rank(self, name: str) -> int | None:
        """The rank of a tensor, None while it is not known."""
        t = self.tensor(name)
        return None if t is None else t.rank

    def made_by(self, name: str, *ops: str) -> Node | None:
        """The node that makes name when it is one of ops and this edit has not replaced it."""
        node = self.producers.get(name)
        return node if node is not None and node.op in ops and not self.is_replaced(node) else None

    def is_replaced(self, node: Node) -> bool:
        return id(node) in self._replaced

    def only_reader(self, name: str) -> Node | None:
        """The single node that reads name; None when there are more, or name is an output of the graph."""
        readers = self.consumers.get(name, [])
        if len(readers) != 1 or name in self._outputs or self.is_replaced(readers[0]):
            return None
        return readers[0]

    def replace(self, node: Node, new: Iterable[Node]) -> None:
        """Put new nodes in the place of node. They make its outputs, and have its origin unless they have their own."""
        assert not self.is_replaced(node), f"{node.origin} was replaced already in this pass"
        self._replaced[id(node)] = tuple(n if n.origin.op else replace(n, origin=node.origin) for n in new)

    def forward(self, node: Node, value: str) -> None:
        """Drop a node; what read its first output reads value."""
        self.replace(node, ())
        self._forwarded[node.outputs[0]] = value

    def finish(self) -> Graph:
        """The new graph, without dead code, with every type; the graph as given when nothing was changed."""
        if not self.changed:
            return self.graph
        renames = {old: self._target(old) for old in self._forwarded}
        nodes: list[Node] = []
        for node in self.graph.nodes:
            nodes += [renamed(n, renames) for n in self._replaced.get(id(node), (node,))]
        made = {o for n in nodes for o in n.outputs}
        for output in dict.fromkeys(self.graph.outputs):
            if output in renames and output not in made:
                nodes.append(Node("Identity", (renames[output],), (output,), origin=Origin(output, "Identity")))
        types = {**self.graph.types, **_constant_types(self._constants, self.graph)}
        graph = self.graph.with_nodes(nodes, constants=frozen(self._constants), types=frozen(types))
        return typed(without_dead_code(graph)).graph

    def _target(self, name: str) -> str:
        while name in self._forwarded:
            name = self._forwarded[name]
        return name


def node(op: str, inputs: Sequence[str], output: str, domain: str = ONNX, **attrs: Attr) -> Node:
    """A node with one output; Edit.replace gives it its origin."""
    return Node(op, tuple(inputs), (output,), MappingProxyType(attrs), domain)


Rule = Callable[[Edit, Node], None]


def apply_rules(graph: Graph, rules: Mapping[tuple[str, str], Rule]) -> Graph:
    """The graph after every node met the rule of its (domain, operator)."""
    edit = Edit(graph)
    for n in graph.nodes:
        rule = rules.get(n.key)
        if rule is not None:
            rule(edit, n)
    return edit.finish()


def _constant_types(constants: Mapping[str, np.ndarray], graph: Graph) -> dict[str, TensorType]:
    new = {name: array for name, array in constants.items() if name not in graph.constants}
    return {name: tensor(DType.from_numpy(array.dtype), *array.shape) for name, array in new.items()}


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """The node, captures of its bodies included, reading other values."""
    if not any(name in names for name in reads(node)):
        return node
    bodies: dict[str, Attr] = {key: _body_renamed(body, names) for key, body in node.subgraphs()}
    changed = node.with_attrs(**bodies) if bodies else node
    return changed.with_inputs(names.get(i, i) for i in node.inputs)


def _body_renamed(body: Graph, names: Mapping[str, str]) -> Graph:
    own = {old: new for old, new in names.items() if old in body.captured}
    if not own:
        return body
    types = {own.get(name, name): t for name, t in body.types.items()}
    captured = tuple(dict.fromkeys(own.get(c, c) for c in body.captured))
    outputs = tuple(own.get(o, o) for o in body.outputs)
    nodes = [renamed(n, own) for n in body.nodes]
    return body.with_nodes(nodes, types=frozen(types), captured=captured, outputs=outputs)


def without_dead_code(graph: Graph) -> Graph:
    """The graph without nodes and constants that no output needs, and without captures nobody reads."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for n in reversed(graph.nodes):
        if needed.isdisjoint(n.outputs):
            continue
        kept.append(n)
        needed.update(reads(n))
    kept.reverse()
    constants = {name: array for name, array in graph.constants.items() if name in needed}
    alive = needed | set(graph.inputs) | {o for n in kept for o in n.outputs}
    types = {name: t for name, t in graph.types.items() if name in alive}
    captured = tuple(c for c in graph.captured if c in needed)
    return graph.with_nodes(kept, constants=frozen(constants), types=frozen(types), captured=captured)
