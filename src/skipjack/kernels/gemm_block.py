"""The register block of every contraction in f32: C[rows, T vectors] (+)= X[rows, K] times W[K, T vectors].

A block has up to `rows` rows of `vectors` accumulators that stay in registers over K. Every output is one chain of
multiply-adds in ascending k, so its bits do not depend on how rows are cut into blocks. K counts numbers of f32, or
pairs of neighbouring bf16, whose products an instruction adds to f32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import BF16, F32, I32, Ty
from skipjack.targets.instructions import DOT_BF16_512
from skipjack.targets.target import Target


@dataclass(frozen=True)
class Shape:
    """What fits the registers of a target: at most `rows` x `vectors` accumulators of `vl` lanes.

    pairs: K counts pairs of bf16 instead of f32; both have 4 bytes.
    """

    rows: int
    vectors: int
    vl: int
    pairs: bool = False

    @property
    def columns(self) -> int:
        return self.vectors * self.vl

    @property
    def vector(self) -> Ty:
        return F32.vec(self.vl)

    @property
    def element(self) -> Ty:
        """One element of K in memory."""
        return I32 if self.pairs else F32

    def multiplied(self, k: Kernel, x: V, w: V, total: V) -> V:
        """total plus the products of vectors of elements."""
        if not self.pairs:
            return k.fma(x, w, total)
        half = BF16.vec(2 * self.vl)
        return k.intrinsic(DOT_BF16_512.name, total.ty, total, x.bitcast(half), w.bitcast(half))


def block_shape(target: Target) -> Shape:
    """Accumulators, one row of W and one broadcast fill 31 of 32 registers, 15 of 16."""
    return Shape(14 if target.registers >= 32 else 6, 2, target.vl)


@dataclass(frozen=True)
class Operand:
    """Rows in memory: row i starts at pointer + i * pitch bytes."""

    pointer: V
    pitch: V | int

    def row(self, index: int) -> V:
        return self.pointer.at(self.pitch * index)


@dataclass(frozen=True)
class Terms:
    """Where a block reads and writes: C (+)= X W over count steps of K; fresh (i1): C starts from zero.

    ahead: memory that is wanted in L2 soon, one cache line per step of K.
    """

    x: Operand
    w: Operand
    c: Operand
    count: V
    fresh: V
    ahead: V | None = None


def multiply_block(k: Kernel, s: Shape, rows: V, terms: Terms, heights: Sequence[int] = ()) -> None:
    """A block of 1 <= rows <= s.rows: computes and writes the least of `heights` (default: any) that holds rows."""
    sizes = list(heights) or list(range(1, s.rows + 1))

    def choose(low: int, high: int) -> None:
        if low == high:
            _body(k, s, sizes[low], terms)
            return
        middle = (low + high) // 2
        k.branch(rows <= sizes[middle], lambda: choose(low, middle), lambda: choose(middle + 1, high))

    choose(0, len(sizes) - 1)


def _body(k: Kernel, s: Shape, rows: int, terms: Terms) -> None:
    x, w, c = terms.x, terms.w, terms.c
    acc = [[k.var(k.zero(s.vector)) for _ in range(s.vectors)] for _ in range(rows)]
    step = 4 * s.vl
    with k.when(terms.fresh.eq(0)):
        for r in range(rows):
            for t in range(s.vectors):
                acc[r][t].set(c.row(r).at(t * step).load(s.vector))
    with k.loop(terms.count) as i:
        weights_at = w.pointer.at(i * w.pitch)
        weights = [weights_at.at(t * step).load(s.element.vec(s.vl)) for t in range(s.vectors)]
        if terms.ahead is not None:
            k.prefetch(terms.ahead.at(i * 64), 2)
        for r in range(rows):
            value = x.pointer.at(i, 4).at(x.pitch * r).load(s.element, 4).splat(s.vl)
            for t in range(s.vectors):
                acc[r][t].set(s.multiplied(k, value, weights[t], acc[r][t].get()))
    for r in range(rows):
        for t in range(s.vectors):
            c.row(r).at(t * step).store(acc[r][t].get())
