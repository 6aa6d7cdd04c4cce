"""Linear layers with f32 activations in column tiles times constant weights of which only what is not zero is held.

A unit is a chunk of neighbouring tiles times a group of rows (output features). Within it blocks of the depth advance
one by one, and within a block every tile of the chunk, so that a block's weights come from far away once. The sums of a
row stay in registers over a block and wait in y between blocks; each row asks for a line of the next block of x. Every
output is one chain of multiply-adds in ascending depth over the weights that are not zero: its bits depend neither on
the split nor on its place in a tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.epilogue import accepts_epilogue, extras_of
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.positions import FULL, Rows, RowsEpilogue, Words, rows_epilogue
from skipjack.kernels.sparsity import zeros_of
from skipjack.kernels.spmm_pack import BLOCK_K, SEGMENT_WORDS, blocks_of, pack_stream
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F32, I8, I32, I64, PTR, Program
from skipjack.targets.target import Target

PITCH = 4 * TILE
_FOUR = 4
_LINE_BYTES = 64
_GROUP_ROWS = 768
_LEAST_ROWS = 48
_MOST_ROWS = 1 << 23
_GROUPS_PER_THREAD = 2
_CHUNK_TILES = 2
_UNITS_PER_THREAD = 3
_MOST_DENSITY = 0.65
_WORDS = ("positions", "depth", "rows", "tiles", "blocks", "groups", "chunk")


def widths(target: Target) -> list[int]:
    """Numbers of vectors that code exists for: quarters of a tile, and a single vector."""
    whole = TILE // target.vl
    return sorted({1, *(whole * quarter // 4 for quarter in range(1, 5))})


@dataclass(frozen=True)
class _Segment:
    """One block of one group: where its rows, weights and depths begin, and whether it is the first or the last."""

    rows: V
    count: V
    weights: V
    depths: V
    first: V
    last: V


@dataclass(frozen=True)
class _Tile:
    """One block of X, the tile of Y, and the same tile of every extra of the output's shape."""

    x: V
    y: V
    full: list[V]


class _Unit:
    """Traces one unit of work."""

    def __init__(self, k: Kernel, target: Target, e: RowsEpilogue) -> None:
        self.k, self.vl, self.e = k, target.vl, e
        self.widths = widths(target)
        self.vector = F32.vec(self.vl)
        self.step = 4 * self.vl
        self.full = [getattr(k.arg, f"e{i}") for i, (kind, _) in enumerate(e.extras) if kind == FULL]

    def trace(self, unit: V) -> None:
        k, a = self.k, self.k.arg
        group, first_tile = unit % a.groups, unit // a.groups * a.chunk
        last_tile = k.min(first_tile + a.chunk, a.tiles)
        with k.loop(a.blocks) as block:
            s = self._segment(group, block)
            with k.loop(last_tile, first_tile) as index:
                y = index * a.rows * PITCH
                tile = _Tile(
                    a.x.at((index * a.depth + block * BLOCK_K) * PITCH), a.y.at(y), [p.at(y) for p in self.full]
                )
                self._choose(0, len(self.widths) - 1, a.positions - index * TILE, s, tile)

    def _segment(self, group: V, block: V) -> _Segment:
        a = self.k.arg
        entry = a.w.at((group * a.blocks + block) * (8 * SEGMENT_WORDS))
        rows, weights, depths, count = (entry.at(8 * i).load(I64, 8) for i in range(SEGMENT_WORDS))
        return _Segment(a.w.at(rows), count, a.w.at(weights), a.w.at(depths), block.eq(0), block.eq(a.blocks - 1))

    def _choose(self, low: int, high: int, valid: V, s: _Segment, tile: _Tile) -> None:
        """As many vectors as hold the valid positions."""
        if low == high:
            self._rows(self.widths[low], s, tile)
            return
        middle = (low + high) // 2
        self.k.branch(
            valid <= self.widths[middle] * self.vl,
            lambda: self._choose(low, middle, valid, s, tile),
            lambda: self._choose(middle + 1, high, valid, s, tile),
        )

    def _rows(self, width: int, s: _Segment, tile: _Tile) -> None:
        k = self.k
        weights, depths = k.var(s.weights), k.var(s.depths)
        with k.loop(s.count) as i:
            if width == self.widths[-1]:
                k.prefetch(tile.x.at(BLOCK_K * PITCH).at(i * _LINE_BYTES), 2)
            word = s.rows.at(i, 4).load(I32, 4).zext(I64)
            count, row = word & 255, word >> 8
            y = tile.y.at(row * PITCH)
            sums = [k.var(k.zero(self.vector)) for _ in range(width)]
            with k.when(s.first.eq(0)):
                for t, total in enumerate(sums):
                    total.set(y.at(t * self.step).load(self.vector))
            with k.loop(count >> 2):
                self._add(_FOUR, weights, depths, tile.x, sums)
            with k.loop(count & 3):
                self._add(1, weights, depths, tile.x, sums)
            for t, total in enumerate(sums):
                y.at(t * self.step).store(total)
            if self.e.expr is not None:
                with k.when(s.last):
                    self._finish(width, row, y, tile)

    def _add(self, entries: int, weights: Var, depths: Var, x: V, sums: list[Var]) -> None:
        """Adds the next entries of a row; four of them share the loads of weights and of depths."""
        k = self.k
        values = self._four(weights.get(), len(sums)) if entries == _FOUR else [self._spread(weights.get())]
        packed = depths.get().load(I32) if entries == _FOUR else depths.get().load(I8).zext(I32)
        for j, value in enumerate(values):
            offset = (packed >> (8 * j) & 255).zext(I64) << 8
            row = x.at(offset)
            for t, total in enumerate(sums):
                total.set(k.fma(value, row.at(t * self.step).load(self.vector), total))
        weights.set(weights.get().at(4 * entries))
        depths.set(depths.get().at(entries))

    def _spread(self, at: V) -> V:
        return at.load(F32, 4).splat(self.vl)

    def _four(self, at: V, width: int) -> list[V]:
        """Four weights, each in every lane.

        They pass through scalar registers where loads of whole vectors are what limits: spreading a word of memory
        would take as long as loading a vector.
        """
        if width == 1 or self.vl <= _FOUR:
            return [self._spread(at.at(4 * j)) for j in range(_FOUR)]
        pairs = [at.at(8 * i).load(I64, 4) for i in range(2)]
        words = [pair >> shift for pair in pairs for shift in (0, 32)]
        return [word.trunc(I32).splat(self.vl).bitcast(self.vector) for word in words]

    def _finish(self, width: int, row: V, y: V, tile: _Tile) -> None:
        k = self.k
        rows = Rows(k, self.e, self.vl, row, k.arg.rows, ragged=False)
        full = [p.at(row * PITCH) for p in tile.full]
        with k.loop(width) as t:
            at = y.at(t * self.step)
            places = [Words(p.at(t * self.step), PITCH) for p in full]
            rows.store([at.load(self.vector)], Words(at, PITCH), places)


@generator("spmm")
def spmm(target: Target, symbol: str, e: RowsEpilogue) -> Program:
    """A unit is one chunk of tiles times one group of rows."""
    fields = [("x", PTR), ("w", PTR), *e.fields(), *((name, I64) for name in _WORDS)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    unit = _Unit(k, target, e)
    with k.units() as index:
        unit.trace(index)
    return k.finish()


def groups_of(rows: int, threads: int) -> int:
    """Groups of rows, whatever the number of positions: their sums stay in L2, and threads find enough of them."""
    wanted = 1 if threads == 1 else _GROUPS_PER_THREAD * threads
    return max(-(-rows // _GROUP_ROWS), min(wanted, rows // _LEAST_ROWS), 1)


def _lower(work: Work) -> list[Launch]:
    x, w, y = work.input(0), work.input(1), work.output()
    depth, rows = w.shape
    positions = prod(y.shape[:-1])
    if not positions or not rows:
        return []
    groups, tiles = groups_of(rows, work.threads), -(-positions // TILE)
    packed = work.memory.packed(w, f"spmm{groups}", lambda a: pack_stream(a, groups))
    enough = tiles * groups >= _CHUNK_TILES * _UNITS_PER_THREAD * work.threads
    chunk = _CHUNK_TILES if enough or work.threads == 1 else 1
    extras = [b.place for b in extras_of(work)]
    words = (positions, depth, rows, tiles, blocks_of(depth), groups, chunk)
    spec = KernelSpec("spmm", (rows_epilogue(work),))
    units = -(-tiles // chunk) * groups
    return [Launch(spec, units, (x.place, packed, y.place, *extras, *words), (x.place, packed, *extras), (y.place,))]


def _accepts(site: Site) -> str:
    x, w, y = site.inputs[0], site.constants[1], site.outputs[0]
    assert x is not None, "a Linear node lacks its input"
    if w is None:
        return "its weight is not constant"
    if x.dtype is not DType.F32 or not _is_float(w):
        return f"computes in f32, the input is {x.dtype.value}"
    if zeros_of(w).density > _MOST_DENSITY:
        return "too few weights are zero"
    if w.shape[1] >= _MOST_ROWS:
        return "too many features"
    words = (DType.F32, DType.I32)
    wide = [t for t in site.inputs[2:] if t is not None and t.rank != 1 and t.dtype not in words]
    if y is None or y.dtype is not DType.F32 or wide:
        return "the output and what is added to it are f32"
    if (x.rank or 0) < 2:
        return "a single position"
    return accepts_epilogue(site)


def _is_float(w: np.ndarray) -> bool:
    return DType.from_numpy(w.dtype) in (DType.F32, DType.F16, DType.BF16)


def cost_us(work: Work) -> float:
    """Microseconds by entries and started rows, from measured rates; a tile that is not full takes fewer vectors."""
    w, positions = work.input(1), prod(work.output().shape[:-1])
    assert w.value is not None, "accepts lets only constant weights pass"
    depth, rows = w.shape
    entries, starts = zeros_of(w.value).nonzeros, rows * blocks_of(depth)
    full, rest = divmod(positions, TILE)
    quarters = -(-4 * rest // TILE)
    return full * _tile_us(entries, starts, 4) + (_tile_us(entries, starts, quarters) if quarters else 0.0)


def _tile_us(entries: int, starts: int, quarters: int) -> float:
    return entries * (0.0002 + 0.00027 * quarters) + starts * (0.0003 + 0.0008 * quarters)


SPMM = lowering(Lowering("spmm_f32", SKIPJACK, "Linear", _accepts, _lower, "columns", 5, cost_us, encoding="csr"))
