"""The register block of every f32 contraction: C[rows, T vectors] (+)= X[rows, K] times W[K, T vectors].

A block has up to `rows` rows of `vectors` accumulators that stay in registers over K. Every output is one chain of
multiply-adds in ascending k, so its bits do not depend on how rows are cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, Ty
from skipjack.targets.target import Target


PF,PF_ROWS=4096,8
@dataclass(frozen=True)
class Shape:
    """What fits the registers of a target: at most `rows` x `vectors` accumulators of `vl` lanes."""

    rows: int
    vectors: int
    vl: int

    @property
    def columns(self) -> int:
        return self.vectors * self.vl

    @property
    def vector(self) -> Ty:
        return F32.vec(self.vl)


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


def multiply_block(k: Kernel, s: Shape, rows: V, x: Operand, w: Operand, count: V, c: Operand, fresh: V) -> None:
    """C (+)= X W for 1 <= rows <= s.rows and count steps of K; fresh (i1): C starts from zero instead of its content."""

    def choose(low: int, high: int) -> None:
        if low == high:
            _body(k, s, low, x, w, count, c, fresh)
            return
        middle = (low + high) // 2
        k.branch(rows <= middle, lambda: choose(low, middle), lambda: choose(middle + 1, high))

    choose(1, s.rows)


def _body(k: Kernel, s: Shape, rows: int, x: Operand, w: Operand, count: V, c: Operand, fresh: V) -> None:
    acc = [[k.var(k.zero(s.vector)) for _ in range(s.vectors)] for _ in range(rows)]
    step = 4 * s.vl
    with k.when(fresh.eq(0)):
        for r in range(rows):
            for t in range(s.vectors):
                acc[r][t].set(c.row(r).at(t * step).load(s.vector))
    with k.loop(count) as i:
        weights_at = w.pointer.at(i * w.pitch)
        weights = [weights_at.at(t * step).load(s.vector) for t in range(s.vectors)]
        for line in range(0, 4 * s.columns, 64):
            if rows <= PF_ROWS: k.prefetch(weights_at.at(PF + line))
        for r in range(rows):
            value = x.pointer.at(i, 4).at(x.pitch * r).load(F32, 4).splat(s.vl)
            for t in range(s.vectors):
                acc[r][t].set(k.fma(value, weights[t], acc[r][t]))
    for r in range(rows):
        for t in range(s.vectors):
            c.row(r).at(t * step).store(acc[r][t].get())
