"""Compute equal things once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import Graph, Node, frozen
from skipjack.ops.registry import find
from skipjack.passes.propagate_types import typed
from skipjack.passes.rewrite import Edit, renamed, without_dead_code

_LARGEST_COMPARED_BYTES = 1 << 16


@dataclass(frozen=True)
class MergeCommonSubexpressions:
    """Nodes of one operator with the same inputs and attributes are one node; small equal constants too."""

    name: str = "merge_common_subexpressions"

    def apply(self, graph: Graph) -> Graph:
        graph = _merge_constants(graph)
        first: dict[object, Node] = {}
        same: dict[str, str] = {}
        edit = Edit(graph)
        for node in graph.nodes:
            key = _key(renamed(node, same))
            if key is None:
                continue
            twin = first.setdefault(key, node)
            if twin is not node and len(twin.outputs) == len(node.outputs) == 1:
                same[node.outputs[0]] = twin.outputs[0]
                edit.forward(node, twin.outputs[0])
        return edit.finish()


def _merge_constants(graph: Graph) -> Graph:
    first: dict[object, str] = {}
    same: dict[str, str] = {}
    for name, array in graph.constants.items():
        if array.nbytes > _LARGEST_COMPARED_BYTES or array.dtype == object or name in graph.outputs:
            continue
        twin = first.setdefault(_content(array), name)
        if twin != name:
            same[name] = twin
    if not same:
        return graph
    nodes = [renamed(node, same) for node in graph.nodes]
    constants = {name: array for name, array in graph.constants.items() if name not in same}
    return typed(without_dead_code(graph.with_nodes(nodes, constants=frozen(constants)))).graph


def _content(array: np.ndarray) -> object:
    return (array.dtype.str, array.dtype.name, array.shape, array.tobytes())


def _key(node: Node) -> object | None:
    """What makes two nodes equal; None for a node that must run for itself."""
    op = find(node.domain, node.op)
    if op is None or op.random or any(True for _ in node.subgraphs()):
        return None
    attrs: list[object] = []
    for name, value in sorted(node.attrs.items()):
        attrs.append((name, _content(value) if isinstance(value, np.ndarray) else repr(value)))
    return (node.key, node.inputs, tuple(attrs))
