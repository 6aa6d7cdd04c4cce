"""Nodes with likely numbers for sizes that are free, so that costs can be compared before a run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skipjack.core.dims import Dim, evaluate, symbols
from skipjack.ir.graph import Graph, Node
from skipjack.ir.types import TensorType
from skipjack.kernels.launch import Bound, Place, Work
from skipjack.targets.target import Target

_FREE = 128
_NOWHERE = Place(-1)


class Nominal:
    """Sizes of one graph: every leading symbol of an input counts as a batch of 1, every other as a length of 128."""

    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph, self.target = graph, target
        self.sizes: dict[str, int] = {}
        for name in graph.inputs:
            t = graph.types.get(name)
            for axis, d in enumerate((t.shape or ()) if isinstance(t, TensorType) else ()):
                for symbol in symbols(d):
                    self.sizes.setdefault(symbol, 1 if axis == 0 else _FREE)

    def _dim(self, d: Dim) -> int:
        if isinstance(d, int):
            return d
        known = {s: self.sizes.get(s, _FREE) for s in symbols(d)}
        try:
            return max(evaluate(d, known), 0)
        except (ArithmeticError, ValueError):
            return _FREE

    def shape(self, t: TensorType) -> tuple[int, ...]:
        """The likely shape of a value."""
        return tuple(self._dim(d) for d in t.shape or ())

    def bound(self, name: str) -> Bound | None:
        """The value with likely sizes; it has no memory."""
        t = self.graph.types.get(name) if name else None
        if not isinstance(t, TensorType):
            return None
        value: np.ndarray | None = self.graph.constants.get(name)
        return Bound(name, t.dtype, self.shape(t) if value is None else value.shape, _NOWHERE, value=value)

    def work(self, node: Node) -> Work:
        """The node as a lowering's cost function sees it; asking for memory is an error."""
        inputs, outputs = [self.bound(n) for n in node.inputs], [self.bound(n) for n in node.outputs]
        return Work(node, inputs, outputs, _NoMemory(), self.target)


class _NoMemory:
    """Costs are asked for before there is memory."""

    def temporary(self, nbytes: int) -> Place:
        raise AssertionError("a cost function asked for memory")

    def packed(self, source: Bound, recipe: str, pack: Callable[[np.ndarray], np.ndarray]) -> Place:
        raise AssertionError("a cost function asked for packed weights")

    def constant(self, array: np.ndarray) -> Place:
        raise AssertionError("a cost function asked for a table")
