"""Large batches in parts: runs of nodes whose activations would leave the caches work on a few items at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from skipjack.core.dims import Sym
from skipjack.core.errors import ModelError
from skipjack.ir.graph import SKIPJACK, Graph
from skipjack.ir.types import TensorType
from skipjack.kernels.sparsity import zeros_of
from skipjack.runtime.separable import Separation, batch_symbol
from skipjack.runtime.shapes import Sizes
from skipjack.select.choose import Plan

_NEAR_BYTES, _NEAR_RATE = 768 << 10, 50_000.0
_MIDDLE_BYTES, _MIDDLE_RATE = 12 << 20, 20_000.0
_FAR_RATE = 9_000.0
_WEIGHT_RATE = 25_000.0
_LAUNCH_US = 0.3


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
        edges = [p for p in range(len(plan.graph.nodes) + 1) if p not in _crossed(plan.graph)]
        self.steps = list(pairwise(edges))
        self.spans = _spans(plan.graph, self.values)
        self._found: dict[tuple[tuple[str, int], ...], dict[int, Region]] = {}

    def regions(self, known: Mapping[str, int]) -> dict[int, Region]:
        """Regions by their first node; nodes in none run on the whole batch."""
        if self.batch is None or known.get(self.batch, 1) < 2:
            return {}
        key = tuple(sorted(known.items()))
        if key not in self._found:
            self._found[key] = self._search(known)
        return self._found[key]

    def _search(self, known: Mapping[str, int]) -> dict[int, Region]:
        """The cut with the least predicted time: every step may run on any divisor of the batch, a change costs the
        traffic of what crosses it.
        """
        assert self.batch is not None, "the caller looked for a batch"
        total, one = known[self.batch], Sizes({**known, self.batch: 1})
        divisors = [d for d in range(1, total + 1) if total % d == 0]
        best: list[dict[int, tuple[float, int]]] = []
        for start, end in self.steps:
            costs = self._costs(start, end, one, divisors)
            crossing = self._crossing_us(start, one, total)
            before = best[-1] if best else {total: (0.0, total)}
            entry: dict[int, tuple[float, int]] = {}
            for items, us in costs.items():
                arrival = {d: cost + (0.0 if d == items else crossing) for d, (cost, _) in before.items()}
                source = min(arrival, key=lambda d: arrival[d])
                entry[items] = (arrival[source] + us, source)
            best.append(entry)
        return self._regions_of(best, total)

    def _regions_of(self, best: list[dict[int, tuple[float, int]]], total: int) -> dict[int, Region]:
        """The regions of the cheapest path through the steps."""
        items = min(best[-1], key=lambda d: best[-1][d][0]) if best else total
        found: list[Region] = []
        for (start, end), entry in zip(reversed(self.steps), reversed(best), strict=True):
            if items < total and found and found[-1].start == end and found[-1].items == items:
                found[-1] = replace(found[-1], start=start)
            elif items < total:
                found.append(Region(start, end, items))
            items = entry[items][1]
        return {r.start: r for r in found if r.end - r.start > 1}

    def _costs(self, start: int, end: int, one: Sizes, divisors: list[int]) -> dict[int, float]:
        """Predicted microseconds of memory traffic per size of a part; only the whole when some node needs it."""
        total = divisors[-1]
        if not all(self.separable[start:end]):
            return {total: 0.0}
        found = dict.fromkeys(divisors, 0.0)
        for node in self.graph.nodes[start:end]:
            moved = sum(self._bytes(n, one) for n in (*node.inputs, *node.outputs) if n in self.values)
            weights = sum(_packed_bytes(self.graph.constants[n]) for n in node.inputs if n in self.graph.constants)
            for items in divisors:
                again = weights / _WEIGHT_RATE + _LAUNCH_US
                found[items] += total * moved / _rate(items * moved) + total // items * again
        return found

    def _crossing_us(self, position: int, one: Sizes, total: int) -> float:
        """The time to write and read what is alive before the node at `position`."""
        alive = (n for n, (made, read) in self.spans.items() if made < position <= read)
        nbytes = total * sum(self._bytes(n, one) for n in alive)
        return 2 * nbytes / _rate(nbytes)

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


def _rate(nbytes: float) -> float:
    """Bytes per microsecond that so much memory is worked on at."""
    if nbytes <= _NEAR_BYTES:
        return _NEAR_RATE
    return _MIDDLE_RATE if nbytes <= _MIDDLE_BYTES else _FAR_RATE


def _spans(graph: Graph, values: set[str]) -> dict[str, tuple[int, int]]:
    """Of each value that nodes make: the node that makes it and the last one that reads it."""
    found = {o: (i, i) for i, node in enumerate(graph.nodes) for o in node.outputs if o in values}
    for i, node in enumerate(graph.nodes):
        found |= {n: (found[n][0], i) for n in node.inputs if n in found}
    return found


def _crossed(graph: Graph) -> frozenset[int]:
    """The boundaries before nodes that a value in column tiles is alive at: items share tiles, so no part ends."""
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
