"""Few rows times weights of 2, 4 or 8 bits: the codes stream by once for a block of rows.

Within a group sums are of integers and exact; the groups' sums, times their scales, are added by multiply-adds in
ascending order. A unit is one panel and every row.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.kernels.dot import broadcast4, dot4
from skipjack.kernels.epilogue import Ending, Epilogue
from skipjack.kernels.gemv import panel_vectors
from skipjack.kernels.launch import generator
from skipjack.kernels.nbits_codes import Codes, Decoder, group_added
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F32, I32, I64, PTR, Program
from skipjack.targets.target import Target

WORDS = ("rows", "columns", "groups", "group_steps", "row_bytes", "plane_bytes")


def block_rows(target: Target, planes: int) -> int:
    """Rows that share what was loaded of a weight; all their sums stay in registers."""
    if target.registers >= 32:
        return 2 if planes > 1 else 4
    return 1 if planes > 1 else 2


@dataclass(frozen=True)
class FewSpec:
    """What is compiled in. planes: of X. heights: rows of each block but the last, rows of the last."""

    codes: Codes
    planes: int
    heights: tuple[int, ...]
    epilogue: Epilogue


class _Panel:
    """Traces one unit of work."""

    def __init__(self, k: Kernel, target: Target, spec: FewSpec) -> None:
        self.k, self.target, self.s = k, target, spec
        self.vl, self.vectors = target.vl, panel_vectors(target)

    @property
    def scratch_bytes(self) -> int:
        return self.vectors * self.s.heights[0] * self.target.vector_bytes

    def trace(self, panel: V) -> None:
        k, a, high = self.k, self.k.arg, self.s.heights[0]
        self.weights = Decoder(k, self.target, self.s.codes, panel, a.groups * a.group_steps, a.groups)
        self.first_column = panel * (self.vectors * self.vl)
        whole = a.rows // high
        with k.loop(whole) as block:
            self._rows(block * high, high)
        if len(self.s.heights) > 1:
            self._rows(whole * high, self.s.heights[1])

    def _rows(self, first: V, count: int) -> None:
        k, a = self.k, self.k.arg
        self.weights.rewind()
        totals = [[k.var(k.zero(F32.vec(self.vl))) for _ in range(self.vectors)] for _ in range(count)]
        with k.loop(a.groups) as group:
            self.weights.begin_group(group)
            zero = k.zero(I32.vec(self.vl))
            sums = [[[k.var(zero) for _ in range(self.s.planes)] for _ in totals[0]] for _ in totals]
            with k.loop(a.group_steps) as i:
                self._step(group * a.group_steps + i, first, sums)
            scales = self.weights.scales(group)
            for b, (own, total) in enumerate(zip(sums, totals, strict=True)):
                self._add((first + b) * a.groups + group, own, total, scales)
        self._finish(first, totals)

    def _step(self, index: V, first: V, sums: list[list[list[Var]]]) -> None:
        """The codes of one lane width of K."""
        k, a, codes = self.k, self.k.arg, self.s.codes
        chunks = self.weights.step(index)
        for b, own in enumerate(sums):
            row = a.x.at((first + b) * a.row_bytes).at(index * codes.per_lane)
            for p in range(self.s.planes):
                plane = row.at(a.plane_bytes * p) if p else row
                for f in range(codes.fields):
                    x = broadcast4(plane.at(4 * f), self.vl)
                    for t, chunk in enumerate(chunks):
                        own[t][p].set(dot4(k, self.target, own[t][p].get(), chunk[f], x))

    def _add(self, at: V, sums: list[list[Var]], totals: list[Var], scales: list[V]) -> None:
        """Group `at` of the rows' groups to the totals."""
        k, a, planes = self.k, self.k.arg, self.s.planes
        x_scale = a.x_scales.at(at, 4).load(F32)
        x_sums = [a.x_sums.at(at * planes + p, 4).load(I32) for p in range(planes)]
        for t, (own, total) in enumerate(zip(sums, totals, strict=True)):
            parts, factor = [s.get() for s in own], scales[t] * x_scale
            total.set(group_added(k, self.s.codes, parts, x_sums, self.weights.zeros[t], factor, total.get()))

    def _finish(self, first: V, totals: list[list[Var]]) -> None:
        k, a, size = self.k, self.k.arg, self.target.vector_bytes
        for t in range(self.vectors):
            for b, own in enumerate(totals):
                k.scratch.at((t * len(totals) + b) * size).store(own[t].get())
        with k.loop(self.vectors) as t:
            column = self.first_column + t * self.vl

            def store(mask: V | None) -> None:
                end = Ending(k, self.s.epilogue, column, self.vl, mask)
                with k.loop(len(totals)) as b:
                    total = k.scratch.at((t * len(totals) + b) * size).load(F32.vec(self.vl))
                    end.store(total, (first + b) * a.columns + column)

            with k.when(column < a.columns):
                whole = column + self.vl <= a.columns
                k.branch(whole, lambda: store(None), lambda: store(k.below(a.columns - column, self.vl)))


X_FIELDS = [("x", PTR), ("x_scales", PTR), ("x_sums", PTR)]


@generator("nbits_few")
def nbits_few(target: Target, symbol: str, spec: FewSpec) -> Program:
    """A unit is one panel of outputs and every row."""
    fields = [*X_FIELDS, *spec.codes.arguments(), *spec.epilogue.fields(), *((name, I64) for name in WORDS)]
    k = Kernel(symbol, fields, target.vector_bytes * 8)
    unit = _Panel(k, target, spec)
    with k.units() as index:
        unit.trace(index)
    return k.finish(unit.scratch_bytes)
