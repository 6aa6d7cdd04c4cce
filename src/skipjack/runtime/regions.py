"""Large batches in parts: runs of nodes whose activations would leave the caches work on a few items at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dims import Sym
from skipjack.core.errors import ModelError
from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.ir.types import TensorType
from skipjack.kernels.sparsity import zeros_of
from skipjack.runtime.separable import Separation, batch_symbol
from skipjack.runtime.shapes import Sizes
from skipjack.select.choose import Plan

_CACHE_BYTES = 8 << 20
_GAIN = 2.0


@dataclass(frozen=True)
class Region:
    """Nodes [start, end) that run on `items` items of the batch at a time."""

    start: int
    end: int
    items: int


class Batching:
    """Finds the regions of one plan for any batch size."""

    def __init__(self, plan: Plan) -> None:
        self.graph: Graph = plan.graph
        self.batch = batch_symbol(plan.graph)
        if self.batch is None:
            return
        separation = Separation(plan.graph, self.batch)
        self.values = separation.values
        simple = [not c.on_host and not _has_free_parameters(plan, i) for i, c in enumerate(plan.choices)]
        self.separable = [a and b for a, b in zip(separation.nodes, simple, strict=True)]
        self.crossed = _crossed(plan.graph)

    def regions(self, known: Mapping[str, int]) -> dict[int, Region]:
        """Regions by their first node; nodes in none run on the whole batch."""
        if self.batch is None or known.get(self.batch, 1) < 2:
            return {}
        total = known[self.batch]
        one = Sizes({**known, self.batch: 1})
        found: dict[int, Region] = {}
        current: Region | None = None
        for index, node in enumerate(self.graph.nodes):
            items = self._items(node, one, total) if self.separable[index] else total
            joins = current is not None and current.end == index and items < total and items <= 2 * current.items
            if current is not None and joins and current.items <= 2 * items:
                current = Region(current.start, index + 1, min(current.items, items))
            elif items < total:
                current = Region(index, index + 1, items)
            else:
                current = None
            if current is not None:
                found[current.start] = current
        trimmed = (self._trimmed(r) for r in found.values())
        return {r.start: r for r in trimmed if r.end - r.start > 1}

    def _trimmed(self, region: Region) -> Region:
        """The region between the first and last node boundaries that no column tiles cross: items share tiles."""
        edges = [p for p in range(region.start, region.end + 1) if p not in self.crossed]
        return replace(region, start=edges[0], end=edges[-1]) if edges else replace(region, end=region.start)

    def _items(self, node: Node, one: Sizes, total: int) -> int:
        """A divisor of the batch whose activations fit the cache; the whole batch when parts would not pay."""
        moved = sum(self._bytes(n, one) for n in (*node.inputs, *node.outputs) if n in self.values)
        if moved * total <= _CACHE_BYTES:
            return total
        items = max(d for d in range(1, total + 1) if total % d == 0 and (d == 1 or d * moved <= _CACHE_BYTES))
        weights = sum(_packed_bytes(self.graph.constants[n]) for n in node.inputs if n in self.graph.constants)
        again = weights * (total // items - 1)
        return items if moved * total > _GAIN * again else total

    def _bytes(self, name: str, one: Sizes) -> int:
        t = self.graph.types[name]
        assert isinstance(t, TensorType), f"value {name!r} of a batch is no tensor"
        shape = one.shape(t)
        if shape is None:
            raise ModelError(f"the size of {name!r} is not known: {t.shape} with {one.known}")
        elements = 1
        for d in shape:
            elements *= d
        return elements * t.dtype.itemsize


def _crossed(graph: Graph) -> frozenset[int]:
    """The boundaries before nodes that a value in column tiles is alive at."""
    made = {o: i for i, node in enumerate(graph.nodes) for o in node.outputs}
    found: set[int] = set()
    for i, node in enumerate(graph.nodes):
        for name in node.inputs:
            t = graph.types.get(name)
            if isinstance(t, TensorType) and t.layout.kind == "columns":
                found.update(range(made[name] + 1, i + 1))
    return frozenset(found)


def _packed_bytes(weight: np.ndarray) -> int:
    """About what a weight takes: kernels that skip zeros hold an index beside each one that is left."""
    if weight.ndim < 2:
        return weight.nbytes
    return min(weight.nbytes, zeros_of(weight).nonzeros * (4 + weight.itemsize))


def _has_free_parameters(plan: Plan, index: int) -> bool:
    """Whether a lowering needs values that are neither constants nor size vectors, or sizes that depend on data."""
    node = plan.graph.nodes[index]
    sized = {o for n in plan.graph.nodes if n.key == (SKIPJACK, "SizeVector") for o in n.outputs}
    names = {node.input(p) for way in plan.choices[index].candidates for p in way.parameters} - {""}
    if any(n not in plan.graph.constants and n not in sized for n in names):
        return True
    types = [plan.graph.types.get(o) for o in node.outputs if o]
    free = {
        s for t in types if isinstance(t, TensorType) for d in t.shape or () if isinstance(d, Sym) for s in _names(d)
    }
    return any(":" in s for s in free)


def _names(d: Sym) -> set[str]:
    return {str(a) for m, _ in d.terms for a in m}
