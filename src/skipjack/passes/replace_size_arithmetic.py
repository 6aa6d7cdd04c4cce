"""Replace shape arithmetic by its result: integers that follow from the sizes of the inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.core.dims import Sym, symbols
from skipjack.ir.graph import SKIPJACK, Attr, Graph
from skipjack.ir.types import TensorType
from skipjack.ops.sizes import size_vector
from skipjack.passes.propagate_types import holds_symbols, typed
from skipjack.passes.rewrite import Edit


@dataclass(frozen=True)
class ReplaceSizeArithmetic:
    """Every value known as an array of sizes is made by a SizeVector, which is evaluated when sizes are bound.

    The pass goes through bodies of control flow by itself: a size of theirs counts when it follows from the inputs of
    the whole graph. Sizes that depend on data are known only after a node has run; they keep their arithmetic.
    """

    name: str = "replace_size_arithmetic"

    def apply(self, graph: Graph) -> Graph:
        return _replaced(graph, _input_symbols(graph))


def _replaced(graph: Graph, bound: frozenset[str]) -> Graph:
    """The graph, bodies included, where sizes made of bound symbols are SizeVectors."""
    nodes = list(graph.nodes)
    for i, n in enumerate(nodes):
        bodies: dict[str, Attr] = {name: _replaced(body, bound) for name, body in n.subgraphs()}
        nodes[i] = n.with_attrs(**bodies) if bodies else n
    known = typed(graph.with_nodes(nodes))
    edit = Edit(known.graph)
    for n in known.graph.nodes:
        if n.domain == SKIPJACK or len(n.outputs) != 1:
            continue
        value = known.values.get(n.outputs[0])
        t = known.graph.types.get(n.outputs[0])
        if value is None or not isinstance(t, TensorType) or not holds_symbols(value):
            continue
        if _symbols_of(value) <= bound:
            edit.replace(n, [size_vector(value, t.dtype, n.outputs[0])])
    return edit.finish()


def _input_symbols(graph: Graph) -> frozenset[str]:
    found: set[str] = set()
    for name in graph.inputs:
        t = graph.types[name]
        if isinstance(t, TensorType):
            found.update(*(symbols(d) for d in t.shape or ()))
    return frozenset(found)


def _symbols_of(value: np.ndarray) -> frozenset[str]:
    return frozenset().union(*(symbols(d) for d in value.flat if isinstance(d, Sym)))
