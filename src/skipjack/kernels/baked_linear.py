"""Very small sparse layers in column tiles as straight-line code: which weights are there is part of the kernel.

A group of output rows has its accumulators in registers; each input row is loaded once per group and multiplied with
the weights that read it, which come from a stream in the order of use. Sums run in ascending k, one chain per output.
Pays only while the code fits the cache of decoded instructions; larger matrices are data (csr).
"""

from __future__ import annotations

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.epilogue import accepts_epilogue, extras_of
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.positions import FULL, Rows, RowsEpilogue, Words, pack_of, rows_epilogue
from skipjack.kernels.sparsity import zeros_of
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.targets.target import Target

MOST_NONZEROS = 2000
_PITCH = 4 * TILE
_GFLOPS = 85.0
Pattern = tuple[tuple[int, ...], ...]
"""Per output row the input rows whose weights are not zero, ascending."""


def pattern_of(w: np.ndarray) -> Pattern:
    """The pattern of a weight [inputs, outputs]."""
    return tuple(tuple(np.flatnonzero(column).tolist()) for column in w.T)


def _groups(pattern: Pattern, rows: int) -> list[tuple[int, Pattern]]:
    return [(first, pattern[first : first + rows]) for first in range(0, len(pattern), rows)]


def _uses(group: Pattern) -> list[tuple[int, int]]:
    """(input row, output row of the group) of every weight in the order of use."""
    return sorted((k, r) for r, inputs in enumerate(group) for k in inputs)


def _height(target: Target, wide: int) -> int:
    """Rows of a group: as many accumulators as leave room for the input and the epilogue."""
    return max((target.registers - 4) // wide, 1) * wide


def stream(w: np.ndarray, rows: int) -> np.ndarray:
    """The weights that are not zero, in the order of use."""
    pattern = pattern_of(w)
    found = [w[k, first + r] for first, group in _groups(pattern, rows) for k, r in _uses(group)]
    return np.array(found, np.float32)


class _Group:
    """Traces one group of rows for one vector of positions."""

    def __init__(self, k: Kernel, e: RowsEpilogue, vl: int, first: int, group: Pattern, outputs: int) -> None:
        self.k, self.e, self.vl = k, e, vl
        self.first, self.group, self.outputs = first, group, outputs

    def trace(self, x: V, weights: V, tile: V, offset: V) -> None:
        k, vector = self.k, F32.vec(self.vl)
        acc: list[Var] = [k.var(k.zero(vector)) for _ in self.group]
        loaded = -1
        value = k.zero(vector)
        for n, (row, r) in enumerate(_uses(self.group)):
            if row != loaded:
                value, loaded = x.at(row * _PITCH).load(vector), row
            acc[r].set(k.fma(weights.at(4 * n).load(F32).splat(self.vl), value, acc[r]))
        self._store([a.get() for a in acc], tile, offset)

    def _store(self, sums: list[V], tile: V, offset: V) -> None:
        k, e = self.k, self.e
        missing = -len(sums) % e.wide
        sums += [k.zero(F32.vec(self.vl))] * missing
        for r in range(0, len(sums), e.wide):
            row = k.i64(self.first + r)
            ragged = self.first + r + e.wide > self.outputs
            rows = Rows(k, e, self.vl, row, k.i64(self.outputs), ragged)
            y = self._words(k.arg.y, e.output, tile, offset, self.first + r)
            full = [
                self._words(getattr(k.arg, f"e{i}"), dtype, tile, offset, self.first + r)
                for i, (kind, dtype) in enumerate(e.extras)
                if kind == FULL
            ]
            rows.store(sums[r : r + e.wide], y, full)

    def _words(self, p: V, dtype: DType, tile: V, offset: V, row: int) -> Words:
        groups = -(-self.outputs // pack_of(dtype))
        return Words(p.at(tile * (groups * _PITCH)).at(row // pack_of(dtype) * _PITCH).at(offset), _PITCH)


@generator("baked_linear")
def baked_linear(target: Target, symbol: str, e: RowsEpilogue, inputs: int, pattern: Pattern) -> Program:
    """A unit is a tile of positions."""
    k = Kernel(symbol, [("x", PTR), ("w", PTR), *e.fields(), ("positions", I64)], 8 * target.vector_bytes)
    a, vl = k.arg, target.vl
    with k.units() as tile:
        vectors = k.min((a.positions - tile * TILE + (vl - 1)) // vl, TILE // vl)
        x = a.x.at(tile * (inputs * _PITCH))
        done = 0
        for first, group in _groups(pattern, _height(target, e.wide)):
            weights = a.w.at(4 * done)
            with k.loop(vectors) as t:
                offset = t * (4 * vl)
                _Group(k, e, vl, first, group, len(pattern)).trace(x.at(offset), weights, tile, offset)
            done += sum(map(len, group))
    return k.finish()


def _accepts(site: Site) -> str:
    x, w = site.inputs[0], site.constants[1]
    if w is None:
        return "its weight is not constant"
    if x is None or x.dtype is not DType.F32 or w.dtype != np.float32:
        return "only f32"
    if zeros_of(w).nonzeros > MOST_NONZEROS:
        return f"more than {MOST_NONZEROS} weights that are not zero"
    return accepts_epilogue(site)


def _lower(work: Work) -> list[Launch]:
    x, w, y = work.input(0), work.input(1), work.output()
    assert w.value is not None, "accepts takes constant weights only"
    if not y.elements:
        return []
    e = rows_epilogue(work)
    positions = y.elements // w.shape[1]
    height = _height(work.target, e.wide)
    weights = work.memory.packed(w, f"baked{height}", lambda array: stream(array, height))
    extras = [b.place for b in extras_of(work)]
    spec = KernelSpec("baked_linear", (e, w.shape[0], pattern_of(w.value)))
    words = (x.place, weights, y.place, *extras, positions)
    return [Launch(spec, -(-positions // TILE), words, (x.place, weights, *extras), (y.place,))]


def _us(work: Work) -> float:
    w, y = work.input(1), work.output()
    assert w.value is not None, "accepts takes constant weights only"
    positions = y.elements // max(w.shape[1], 1)
    return 2e-3 * zeros_of(w.value).nonzeros * -(-positions // work.target.vl) * work.target.vl / _GFLOPS + 0.1


lowering(Lowering("baked_linear", SKIPJACK, "Linear", _accepts, _lower, "columns", 15, cost=_us, encoding="baked"))
