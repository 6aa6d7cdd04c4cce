"""Put the branch of an If with a known condition in the place of the node; give bodies the constants they capture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skipjack.ir.graph import ONNX, Attr, Graph, Node, frozen
from skipjack.passes.propagate_types import typed
from skipjack.passes.rewrite import Edit, renamed, without_dead_code


@dataclass(frozen=True)
class InlineConstantBranches:
    """After it no If has a constant condition, and no body captures a constant."""

    name: str = "inline_constant_branches"

    def apply(self, graph: Graph) -> Graph:
        graph = _with_own_constants(graph)
        while True:
            edit = Edit(graph)
            found = next((n for n in graph.nodes if _chosen(edit, n) is not None), None)
            if found is None:
                return graph
            body = _chosen(edit, found)
            assert body is not None, "the node was found by its known branch"
            graph = _with_own_constants(_inlined(graph, found, body, edit))


def _chosen(edit: Edit, n: Node) -> Graph | None:
    if n.op != "If" or n.domain != ONNX:
        return None
    condition = edit.array(n.input(0))
    if condition is None or condition.size != 1:
        return None
    body = n.attrs["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
    return body if isinstance(body, Graph) else None


def _inlined(graph: Graph, n: Node, body: Graph, edit: Edit) -> Graph:
    own = [*body.constants, *(o for inner in body.nodes for o in inner.outputs if o)]
    names = {name: edit.name(f"{n.outputs[0]}/{name}") for name in own}
    constants = {**graph.constants, **{names[name]: array for name, array in body.constants.items()}}
    moved = [replace(renamed(i, names), outputs=tuple(names.get(o, o) for o in i.outputs)) for i in body.nodes]
    results = [
        Node("Identity", (names.get(b, b),), (o,), origin=n.origin) for o, b in zip(n.outputs, body.outputs) if o
    ]
    nodes: list[Node] = []
    for other in graph.nodes:
        nodes += [*moved, *results] if other is n else [other]
    types = {**graph.types, **{names[name]: body.types[name] for name in body.constants if name in body.types}}
    changed = graph.with_nodes(nodes, constants=frozen(constants), types=frozen(types))
    return typed(without_dead_code(changed)).graph


def _with_own_constants(graph: Graph) -> Graph:
    """Every constant that a body captures becomes a constant of that body; the array is shared."""
    if not any(body.captured for n in graph.nodes for _, body in n.subgraphs()):
        return graph
    nodes = [_own(n, graph) for n in graph.nodes]
    return graph if all(a is b for a, b in zip(nodes, graph.nodes)) else graph.with_nodes(nodes)


def _own(n: Node, graph: Graph) -> Node:
    bodies: dict[str, Attr] = {}
    for key, body in n.subgraphs():
        taken: dict[str, np.ndarray] = {c: graph.constants[c] for c in body.captured if c in graph.constants}
        if taken:
            captured = tuple(c for c in body.captured if c not in taken)
            types = {**body.types, **{c: graph.types[c] for c in taken if c in graph.types}}
            body = replace(body, constants=frozen({**body.constants, **taken}), captured=captured, types=frozen(types))
        bodies[key] = _with_own_constants(body)
    return n.with_attrs(**bodies) if any(bodies[k] is not b for k, b in n.subgraphs()) else n
