"""Drop what no output needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from skipjack.ir.graph import Graph, Node
from skipjack.passes.propagate_types import typed
from skipjack.passes.rewrite import without_dead_code

OPTIONAL_TAIL = frozenset(
    {
        "LayerNormalization",
        "SkipLayerNormalization",
        "MaxPool",
        "Dropout",
        "Attention",
        "BatchNormalization",
        "LSTM",
        "GRU",
    }
)


@dataclass(frozen=True)
class EliminateDeadCode:
    """Nodes, constants and captures nobody reads go; so do unread optional outputs at the end of a node."""

    name: str = "eliminate_dead_code"

    def apply(self, graph: Graph) -> Graph:
        alive = without_dead_code(graph)
        needed = set(alive.consumers()) | set(alive.outputs)
        nodes = [_trimmed(node, needed) for node in alive.nodes]
        return typed(alive.with_nodes(nodes)).graph


def _trimmed(node: Node, needed: set[str]) -> Node:
    if node.op not in OPTIONAL_TAIL:
        return node
    outputs = [o if o in needed else "" for o in node.outputs]
    while len(outputs) > 1 and not outputs[-1]:
        outputs.pop()
    return node if tuple(outputs) == node.outputs or not outputs[0] else replace(node, outputs=tuple(outputs))
