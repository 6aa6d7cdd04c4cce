"""Shapes in numbers: what every value of a graph measures once the sizes of its inputs are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from skipjack.core.dims import Sym, evaluate, symbols
from skipjack.ir.graph import Graph
from skipjack.ir.types import TensorType


class Shapes:
    """Looks shapes up; None for what is not a tensor or has a size nobody knows."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        self._graph = graph
        self._sizes = sizes

    def __call__(self, name: str) -> tuple[int, ...] | None:
        if name in self._graph.constants:
            return self._graph.constants[name].shape
        t = self._graph.types.get(name)
        if not isinstance(t, TensorType) or t.shape is None:
            return None
        if any(symbols(d) - self._sizes.keys() for d in t.shape):
            return None
        return tuple(evaluate(d, self._sizes) for d in t.shape)

    def is_constant(self, name: str) -> bool:
        return name in self._graph.constants

    def nbytes(self, name: str) -> int:
        """Bytes of a value, 0 when its shape is not known."""
        t, shape = self._graph.types.get(name), self(name)
        if name in self._graph.constants:
            return self._graph.constants[name].nbytes
        return prod(shape) * t.dtype.itemsize if isinstance(t, TensorType) and shape is not None else 0


def learn(sizes: dict[str, int], graph: Graph, name: str, shape: Sequence[int | str]) -> None:
    """Note the sizes that a value of this shape tells."""
    t = graph.types.get(name)
    if not isinstance(t, TensorType) or t.shape is None:
        return
    for dim, n in zip(t.shape, shape, strict=False):
        if isinstance(dim, Sym) and isinstance(n, int) and Sym.named(str(dim)) == dim:
            sizes[str(dim)] = n
