"""Integer linear layers in column tiles that skip single weights that are zero.

X is taken apart first, block by block: one row of bytes per input, positions in lanes. Then a row of W takes its
entries four at a time: four arbitrary inputs are interleaved in registers to the words that dot products read.
Interleaving within 128-bit parts leaves positions in order because taking apart has put them where it brings them back
from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.column_pointwise import PITCH_BYTES
from skipjack.kernels.dot import broadcast4, dot4
from skipjack.kernels.epilogue import Epilogue, extras_of
from skipjack.kernels.gemm import part
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.positions import RowsEpilogue
from skipjack.kernels.quad_finish import (
    Sums,
    accepts_integers,
    accepts_to_rows,
    epilogue_for,
    finish,
    finish_rows,
    to_rows_us,
)
from skipjack.kernels.quad_pack import GROUP_BYTES, Cut, pack_scattered, term_count
from skipjack.kernels.sparsity import zeros_of
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I8, I16, I32, I64, PTR, Program
from skipjack.targets.target import Target

_PANEL_ROWS = 192
_BLOCK_K4 = 192
_VECTORS = 4
_WORDS = ("features", "k4", "blocks", "block", "positions", "tiles", "tile_groups")


@dataclass(frozen=True)
class ScatteredSpec:
    """What is compiled in. ragged: rows are no multiple of what is finished together."""

    epilogue: RowsEpilogue | Epilogue
    ragged: bool


def _in_parts(lanes: Sequence[int], part_lanes: int, lanes_in_all: int) -> list[int]:
    """A shuffle of two vectors within 128-bit parts: lanes (second vector from part_lanes on), for every part."""
    found: list[int] = []
    for first in range(0, lanes_in_all, part_lanes):
        found += [first + n if n < part_lanes else lanes_in_all + first + n - part_lanes for n in lanes]
    return found


def _zipped(a: V, b: V) -> tuple[V, V]:
    """The low and the high halves of every 128-bit part of a and b, interleaved."""
    n, each = a.ty.lanes, 128 // a.ty.bits
    halves = [[m for i in range(start, start + each // 2) for m in (i, each + i)] for start in (0, each // 2)]
    low, high = (a.shuffle(_in_parts(h, each, n), b) for h in halves)
    return low, high


class _Unit:
    """Traces one panel of rows times a group of tiles."""

    def __init__(self, k: Kernel, target: Target, spec: ScatteredSpec) -> None:
        self.k, self.target, self.spec, self.vl = k, target, spec, target.vl
        a = k.arg
        self.ends, self.entries = (a.w.at(a.w.at(8 * i).load(I64, 8)) for i in range(2))
        self.starts = a.w.at(16)
        self.together = finish_rows(spec.epilogue, target.vl)
        self.row_bytes = 4 * target.vl
        self.pitch = _VECTORS * self.row_bytes
        self.apart_bytes = 4 * _BLOCK_K4 * self.row_bytes

    @property
    def scratch_bytes(self) -> int:
        return self.apart_bytes + (_PANEL_ROWS + self.together) * self.pitch

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
                self._block_by_block(tile, vector, k.min(vectors - vector, _VECTORS))

    def _block_by_block(self, tile: V, vector: V, left: V) -> None:
        k, a = self.k, self.k.arg
        x = a.x.at(tile * a.k4 * PITCH_BYTES + vector * self.row_bytes)
        sums = k.scratch.at(self.apart_bytes)
        start = k.var(self.table.load(I32, 4).sext(I64))
        with k.loop(a.blocks) as block:
            self._take_apart(x.at(block * a.block * PITCH_BYTES), k.min(a.block, a.k4 - block * a.block))
            with k.loop(self.rows) as r:
                end = self.table.at(block * self.rows + r + 1, 4).load(I32, 4).sext(I64)
                self._row(start.get(), end, sums.at(r * self.pitch), block)
                start.set(end)
        with k.loop(self.rows, 0, self.together) as r:
            row = self.first + r
            rows = k.min(k.min(a.features - row, self.rows - r), self.together)
            s = Sums(sums.at(r * self.pitch), self.pitch, row, rows, tile, vector, left)
            finish(k, self.spec.epilogue, s, self.vl, self.spec.ragged)

    def _take_apart(self, x: V, words: V) -> None:
        """Word rows of X as four rows of bytes each, to the start of scratch."""
        k, n = self.k, self.row_bytes
        turned = [16 * p + 4 * i + f for p in range(n // 16) for f in range(4) for i in range(4)]
        with k.loop(words) as k4:
            source, to = x.at(k4 * PITCH_BYTES), k.scratch.at(k4 * (4 * n))
            v = [source.at(n * j).load(I8.vec(n)).shuffle(turned).bitcast(I32.vec(self.vl)) for j in range(_VECTORS)]
            low = [_zipped(v[0], v[1]), _zipped(v[2], v[3])]
            for half in range(2):
                a, b = (pair[half].bitcast(I64.vec(self.vl // 2)) for pair in low)
                for f, one in enumerate(_zipped(a, b)):
                    to.at((2 * half + f) * n).store(one)

    def _row(self, start: V, end: V, sums: V, block: V) -> None:
        """The entries [start, end) into the sums of one row."""
        k, ty, n = self.k, I32.vec(self.vl), self.row_bytes
        acc = [k.var(k.zero(ty)) for _ in range(_VECTORS)]
        with k.when(block.ne(0)):
            for t, one in enumerate(acc):
                one.set(sums.at(n * t).load(ty))
        with k.loop(end, start, GROUP_BYTES) as i:
            entry = self.entries.at(i)
            which = entry.load(I64)
            rows = [k.scratch.at((which >> (16 * j) & 0xFFFF) * n).load(I8.vec(n)) for j in range(4)]
            pairs = [_zipped(rows[0], rows[1]), _zipped(rows[2], rows[3])]
            words: list[V] = []
            for half in range(2):
                a, b = (pair[half].bitcast(I16.vec(n // 2)) for pair in pairs)
                words += _zipped(a, b)
            weights = broadcast4(entry.at(8), self.vl)
            for one, word in zip(acc, words, strict=True):
                one.set(dot4(k, self.target, one.get(), word.bitcast(ty), weights))
        for t, one in enumerate(acc):
            sums.at(n * t).store(one.get())


@generator("linear_scattered")
def linear_scattered(target: Target, symbol: str, spec: ScatteredSpec) -> Program:
    """A unit is one panel of rows times a group of tiles."""
    fields = [("x", PTR), ("w", PTR), *spec.epilogue.fields(), *((name, I64) for name in _WORDS)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    unit = _Unit(k, target, spec)
    with k.units() as index:
        unit.trace(index)
    return k.finish(unit.scratch_bytes)


def _lower(work: Work) -> list[Launch]:
    x, w, y = work.input(0), work.input(1), work.output()
    depth, m = w.shape
    if not y.elements:
        return []
    positions, k4 = y.elements // m, -(-depth // 4)
    tiles, blocks = -(-positions // TILE), max(-(-k4 // _BLOCK_K4), 1)
    cut = Cut(-(-m // _PANEL_ROWS), _PANEL_ROWS, max(-(-k4 // blocks), 1))
    tile_groups = min(max(-(-tiles // 8), -(-2 * work.threads // cut.panels)), tiles)
    e, ragged = epilogue_for(work)
    packed = work.memory.packed(w, f"scattered{cut}", lambda a: pack_scattered(a, cut))
    extras = [b.place for b in extras_of(work)]
    words = (m, k4, blocks, cut.block, positions, tiles, tile_groups)
    reads = (x.place, packed, *extras)
    arguments = (x.place, packed, y.place, *extras, *words)
    spec = KernelSpec("linear_scattered", (ScatteredSpec(e, ragged),))
    return [Launch(spec, cut.panels * tile_groups, arguments, reads, (y.place,))]


_ROW_NS, _APART_NS = 5.0, 4.5


def _cost(work: Work) -> float:
    w, y = work.input(1), work.output()
    assert w.value is not None, "the weight of an integer linear layer is constant"
    depth, m = w.shape[0], max(w.shape[1], 1)
    k4 = -(-depth // 4)
    blocks = max(-(-k4 // _BLOCK_K4), 1)
    groups = zeros_of(w.value).nonzeros * term_count(w.value) / 4 + 0.375 * m * blocks
    passes = -(-(y.elements // m) // (_VECTORS * work.target.vl))
    apart = -(-m // _PANEL_ROWS) * k4 * _APART_NS
    return passes * (groups * _group_ns(work.target) + m * blocks * _ROW_NS + apart) / 1000.0


def _group_ns(target: Target) -> float:
    """What four vectors of positions take for a group of four entries, on a core of 3.6 GHz."""
    if target.has("avx512vnni"):
        return 2.0
    return 5.6 if target.vl == 16 else 3.1


def _cost_to_rows(work: Work) -> float:
    return _cost(work) + to_rows_us(work)


def _way(accepts: Callable[[Site], str], layouts: str, cost: Callable[[Work], float]) -> Lowering:
    way = Lowering("linear_scattered", SKIPJACK, "Linear", accepts, _lower, layouts, 4, cost, encoding="csr")
    return lowering(way)


SCATTERED = _way(accepts_integers, "columns", _cost)
_way(accepts_to_rows, "columns>plain", _cost_to_rows)
