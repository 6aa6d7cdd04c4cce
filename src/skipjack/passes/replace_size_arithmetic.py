"""Replace shape arithmetic by its result: integers that follow from the sizes of the inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.core.dims import Sym, symbols
from skipjack.ir.graph import SKIPJACK, Graph
from skipjack.ir.types import TensorType
from skipjack.ops.sizes import size_vector
from skipjack.passes.propagate_types import holds_symbols, typed
from skipjack.passes.rewrite import Edit


@dataclass(frozen=True)
class ReplaceSizeArithmetic:
    """Every value known as an array of sizes is made by a SizeVector, which is evaluated when sizes are bound.

    Sizes that depend on data (they are known only after a node has run) keep their arithmetic.
    """

    name: str = "replace_size_arithmetic"

    def apply(self, graph: Graph) -> Graph:
        known = typed(graph)
        bound = _input_symbols(graph)
        edit = Edit(known.graph)
        for node in known.graph.nodes:
            if node.domain == SKIPJACK or len(node.outputs) != 1:
                continue
            value = known.values.get(node.outputs[0])
            t = known.graph.types.get(node.outputs[0])
            if value is None or not isinstance(t, TensorType) or not holds_symbols(value):
                continue
            if _symbols_of(value) <= bound:
                edit.replace(node, [size_vector(value, t.dtype, node.outputs[0])])
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
