"""Integer linear layers in column tiles that skip fours of neighbouring inputs whose weights are all zero.

Rows of a panel take their entries (k4, four weights) one after another; k4 picks the word row of X that is multiplied.
Deep layers go through X in blocks that stay in L1; sums wait in scratch between blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.column_pointwise import PITCH_BYTES
from skipjack.kernels.dot import dot4
from skipjack.kernels.epilogue import Epilogue, extras_of
from skipjack.kernels.gemm import part
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.positions import RowsEpilogue
from skipjack.kernels.quad_finish import (
    WIDE,
    Sums,
    accepts_integers,
    accepts_to_rows,
    epilogue_for,
    finish,
    finish_rows,
    to_rows_us,
)
from skipjack.kernels.quad_pack import ENTRY_BYTES, Cut, pack_fours, term_count
from skipjack.kernels.sparsity import zeros_of
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program
from skipjack.targets.target import Target

_PANEL_ROWS = 192
_BLOCK_K4 = 192
_VECTORS = 4
_ROW_NS = 1.2
_WORDS = ("features", "k4", "blocks", "block_bytes", "positions", "tiles", "tile_groups")


@dataclass(frozen=True)
class FoursSpec:
    """What is compiled in. ragged: rows are no multiple of what is finished together. blocked: several blocks of K."""

    epilogue: RowsEpilogue | Epilogue
    ragged: bool
    blocked: bool
    panel_rows: int


class _Unit:
    """Traces one panel of rows times a group of tiles."""

    def __init__(self, k: Kernel, target: Target, spec: FoursSpec) -> None:
        self.k, self.target, self.spec, self.vl = k, target, spec, target.vl
        a = k.arg
        self.ends, self.entries = (a.w.at(a.w.at(8 * i).load(I64, 8)) for i in range(2))
        self.starts = a.w.at(16)
        self.together = finish_rows(spec.epilogue, target.vl)

    @property
    def scratch_bytes(self) -> int:
        rows = self.spec.panel_rows + self.together if self.spec.blocked else self.together
        return rows * _VECTORS * self.vl * 4

    def trace(self, unit: V) -> None:
        k, a = self.k, self.k.arg
        self.panel = unit // a.tile_groups
        first, last = (self.starts.at(self.panel + i, 8).load(I64, 8) for i in range(2))
        self.first, self.rows = first, last - first
        self.table = self.ends.at(a.blocks * first + self.panel, 4)
        lo, hi = part(k, unit % a.tile_groups, a.tile_groups, a.tiles)
        with k.loop(hi, lo) as tile:
            vectors = k.min((a.positions - tile * TILE + (self.vl - 1)) // self.vl, TILE // self.vl)
            with k.loop(vectors, 0, _VECTORS) as vector:
                left = k.min(vectors - vector, _VECTORS)
                k.branch(
                    left > _VECTORS // 2,
                    lambda: self._block_by_block(tile, vector, left, _VECTORS),
                    lambda: self._one_by_one(tile, vector, left),
                )

    def _one_by_one(self, tile: V, vector: V, left: V) -> None:
        with self.k.loop(left) as t:
            self._block_by_block(tile, vector + t, self.k.i64(1), 1)

    def _block_by_block(self, tile: V, vector: V, left: V, vectors: int) -> None:
        """All rows of the panel; `vectors` are multiplied, of which `left` are wanted."""
        k, a = self.k, self.k.arg
        x = a.x.at(tile * a.k4 * PITCH_BYTES + vector * (4 * self.vl))
        pitch = vectors * self.vl * 4
        start = k.var(self.table.load(I32, 4).sext(I64))
        with k.loop(a.blocks) as block, k.loop(self.rows, 0, WIDE) as r:
            into = k.scratch.at((r if self.spec.blocked else r % self.together) * pitch)
            ends = self.table.at(block * self.rows + r, 4)
            for i in range(WIDE):
                end = ends.at(4 * (i + 1)).load(I32, 4).sext(I64)
                self._row(x.at(block * a.block_bytes), start.get(), end, into.at(i * pitch), block, vectors)
                start.set(end)
            done = r % self.together + WIDE
            last = block.eq(a.blocks - 1)
            if self.together > WIDE:
                last = last & (done.eq(self.together) | (r + WIDE).eq(self.rows))
            with k.when(last):
                before = (done - WIDE) * -1
                row = self.first + r + before
                s = Sums(into.at(before * pitch), pitch, row, k.min(a.features - row, done), tile, vector, left)
                finish(k, self.spec.epilogue, s, self.vl, self.spec.ragged)

    def _row(self, x: V, start: V, end: V, sums: V, block: V, vectors: int) -> None:
        """The entries [start, end) into the sums of one row."""
        k, ty = self.k, I32.vec(self.vl)
        acc = [k.var(k.zero(ty)) for _ in range(vectors)]
        if self.spec.blocked:
            with k.when(block.ne(0)):
                for t, one in enumerate(acc):
                    one.set(sums.at(4 * self.vl * t).load(ty))
        with k.loop(end, start, ENTRY_BYTES) as i:
            # One load for both: a load of its own for the broadcast would take a turn from a vector of X.
            entry = self.entries.at(i).load(I64)
            weights, row = entry.trunc(I32).splat(self.vl), x.at((entry >> 24) & 0xFF00)
            for t, one in enumerate(acc):
                one.set(dot4(k, self.target, one.get(), row.at(4 * self.vl * t).load(ty), weights))
        for t, one in enumerate(acc):
            sums.at(4 * self.vl * t).store(one.get())


@generator("linear_fours")
def linear_fours(target: Target, symbol: str, spec: FoursSpec) -> Program:
    """A unit is one panel of rows times a group of tiles."""
    fields = [("x", PTR), ("w", PTR), *spec.epilogue.fields(), *((name, I64) for name in _WORDS)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    unit = _Unit(k, target, spec)
    with k.units() as index:
        unit.trace(index)
    return k.finish(unit.scratch_bytes)


def _cut(depth: int, m: int) -> Cut:
    rows = -(-m // WIDE) * WIDE
    k4 = -(-depth // 4)
    blocks = max(-(-k4 // _BLOCK_K4), 1)
    return Cut(2 * -(-rows // _PANEL_ROWS), _PANEL_ROWS, max(-(-k4 // blocks), 1))


def _lower(work: Work) -> list[Launch]:
    x, w, y = work.input(0), work.input(1), work.output()
    depth, m = w.shape
    if not y.elements:
        return []
    positions = y.elements // m
    cut = _cut(depth, m)
    e, ragged = epilogue_for(work)
    tiles, k4 = -(-positions // TILE), -(-depth // 4)
    blocks = max(-(-k4 // cut.block), 1)
    tile_groups = -(-tiles // 8)
    packed = work.memory.packed(w, f"fours{cut}", lambda a: pack_fours(a, cut))
    extras = [b.place for b in extras_of(work)]
    spec = FoursSpec(e, ragged, blocks > 1, cut.rows)
    words = (m, k4, blocks, cut.block * PITCH_BYTES, positions, tiles, tile_groups)
    reads = (x.place, packed, *extras)
    arguments = (x.place, packed, y.place, *extras, *words)
    return [Launch(KernelSpec("linear_fours", (spec,)), cut.panels * tile_groups, arguments, reads, (y.place,))]


def _cost(work: Work) -> float:
    w, y = work.input(1), work.output()
    assert w.value is not None, "the weight of an integer linear layer is constant"
    m = max(w.shape[1], 1)
    entries = zeros_of(w.value).live_quads * term_count(w.value)
    vectors = -(-(y.elements // m) // work.target.vl)
    return vectors * (entries * _entry_ns(work.target) + m * _ROW_NS) / 1000.0


def _entry_ns(target: Target) -> float:
    """What one vector of positions takes for an entry, on a core of 3.6 GHz."""
    if target.has("avx512vnni"):
        return 0.34
    return 1.15 if target.vl == 16 else 0.67


def _cost_to_rows(work: Work) -> float:
    return _cost(work) + to_rows_us(work)


def _way(accepts: Callable[[Site], str], layouts: str, cost: Callable[[Work], float]) -> Lowering:
    return lowering(Lowering("linear_fours", SKIPJACK, "Linear", accepts, _lower, layouts, 5, cost, encoding="fours"))


FOURS = _way(accepts_integers, "columns", _cost)
_way(accepts_to_rows, "columns>plain", _cost_to_rows)
