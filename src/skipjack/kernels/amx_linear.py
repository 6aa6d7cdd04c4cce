"""Linear layers on matrix tiles, positions in columns: u8 or s8 times s8 in i32, bf16 in f32.

A tile of a column layout lies in memory as the right operand of the tile products; weights are packed as left operands
of 16 rows (output features). A block is `rows` tiles of weights by `columns` tiles of 16 positions, all in registers.
A unit is one column tile times a group of blocks. Within it the depth advances by a fixed number of steps, so that this
part of X stays in L1; sums wait in scratch between. Every step lists the weights it has: tiles of zeros are left out
when `skipped`. A bf16 sum adds its steps in ascending depth, and a step left out would have added zero.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.epilogue import Epilogue, accepts_epilogue, extras_of
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.positions import RowsEpilogue, accumulator_type, pack_of
from skipjack.kernels.quad_finish import Sums, epilogue_for, finish, not_in_columns, to_rows_us
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program
from skipjack.lang.tiles import DOT_BF16, DOT_S8_S8, DOT_S8_U8, ROW_BYTES, TILE_BYTES, TILE_ROWS, Tiles
from skipjack.targets.target import Target

PITCH = 4 * TILE
STEPS = 8
_STEP_BYTES = TILE_ROWS * PITCH
_GROUP_ROWS = 768
_UNITS_PER_THREAD = 3
_SEGMENT_WORDS = 3
_TILE_US, _ROWS_US, _DENSE_US = 0.0077, 0.026, 0.0110
_WORDS = ("words", "features", "positions", "blocks", "groups", "parts", "last_step")
_DOTS = {DType.U8: DOT_S8_U8, DType.I8: DOT_S8_S8, DType.BF16: DOT_BF16}
_FEATURES = {DType.U8: "amx-int8", DType.I8: "amx-int8", DType.BF16: "amx-bf16"}
_WEIGHTS = {DType.U8: DType.I8, DType.I8: DType.I8, DType.BF16: DType.BF16}


@dataclass(frozen=True)
class Shape:
    """Tiles of weights and of positions in a block: four tiles of sums, `rows` of weights, the rest of positions."""

    rows: int
    columns: int

    @property
    def sums(self) -> list[list[int]]:
        return [[r * self.columns + c for c in range(self.columns)] for r in range(self.rows)]

    def weights(self, r: int) -> int:
        return 4 + r

    def positions(self, c: int) -> int:
        free = 8 - 4 - self.rows
        return 4 + self.rows + c % free


DENSE, SKIPPING = Shape(2, 2), Shape(1, 4)


@dataclass(frozen=True)
class AmxSpec:
    """What is compiled in. tail: the last step is not whole, and its words are copied to scratch."""

    x_type: DType
    shape: Shape
    tail: bool
    ragged: bool
    epilogue: RowsEpilogue | Epilogue


def weight_tiles(w: np.ndarray, rows: int) -> np.ndarray:
    """[K, M] as [block][step][rows * 16][64 bytes], filled up with zeros."""
    depth, m = w.shape
    per, height = ROW_BYTES // w.itemsize, rows * TILE_ROWS
    blocks, steps = -(-m // height), -(-depth // per)
    full = np.zeros((blocks * height, steps * per), w.dtype)
    full[:m, :depth] = w.T
    return full.reshape(blocks, height, steps, per).transpose(0, 2, 1, 3)


def pack(w: np.ndarray, rows: int, skipped: bool) -> np.ndarray:
    """The bytes of: a table [block][part] of (where tiles begin, where steps begin, how many), steps, tiles."""
    tiles = weight_tiles(w, rows)
    blocks, steps = tiles.shape[:2]
    kept = tiles.astype(bool).any(axis=(2, 3)) if skipped else np.ones((blocks, steps), bool)
    parts = max(-(-steps // STEPS), 1)
    padded = np.zeros((blocks, parts * STEPS), bool)
    padded[:, :steps] = kept
    counts = padded.reshape(-1, STEPS).sum(axis=1)
    before = np.cumsum(counts) - counts
    block, step = np.nonzero(kept)
    table_bytes = 8 * _SEGMENT_WORDS * counts.size
    first_tile = -(-(table_bytes + 4 * step.size) // 64) * 64
    table = np.stack([first_tile + before * (rows * TILE_BYTES), table_bytes + 4 * before, counts], axis=1)
    out = np.zeros(first_tile + step.size * rows * TILE_BYTES, np.uint8)
    out[:table_bytes] = np.frombuffer(table.astype(np.int64).tobytes(), np.uint8)
    out[table_bytes : table_bytes + 4 * step.size] = np.frombuffer(step.astype(np.int32).tobytes(), np.uint8)
    out[first_tile:] = np.frombuffer(np.ascontiguousarray(tiles[block, step]).tobytes(), np.uint8)
    return out


class _Unit:
    """Traces one unit of work."""

    def __init__(self, k: Kernel, target: Target, s: AmxSpec) -> None:
        self.k, self.s, self.vl, self.tiles = k, s, target.vl, Tiles(k)
        self.height = s.shape.rows * TILE_ROWS
        self.block_bytes = self.height * PITCH
        self.sums_at = _STEP_BYTES if s.tail else 0
        self.scratch_bytes = self.sums_at + (_GROUP_ROWS // self.height + 1) * self.block_bytes

    def trace(self, unit: V) -> None:
        k, a = self.k, self.k.arg
        group, index = unit % a.groups, unit // a.groups
        x = a.x.at(index * a.words * PITCH)
        first, last = group * a.blocks // a.groups, (group + 1) * a.blocks // a.groups
        if self.s.tail:
            self._copy_tail(x)
        with k.loop(a.parts) as part, k.loop(last, first) as block:
            sums = k.scratch.at(self.sums_at).at((block - first) * self.block_bytes)
            self._multiply(x, part, block, sums)
            with k.when(part.eq(a.parts - 1)):
                self._finish(index, block, sums)

    def _copy_tail(self, x: V) -> None:
        """The words of the last step, and zeros behind them."""
        k, a = self.k, self.k.arg
        first = a.last_step * TILE_ROWS
        vector = I32.vec(self.vl)
        with k.loop(TILE_ROWS) as r, k.loop(PITCH, 0, vector.nbytes) as i:
            to = k.scratch.at(r * PITCH + i)
            there = (first + r < a.words).splat(self.vl)
            to.store(x.at((first + r) * PITCH + i).load_masked(vector, there))

    def _multiply(self, x: V, part: V, block: V, sums: V) -> None:
        k, a, shape, tiles = self.k, self.k.arg, self.s.shape, self.tiles
        entry = a.w.at((block * a.parts + part) * (8 * _SEGMENT_WORDS))
        weights, steps, count = (entry.at(8 * i).load(I64, 8) for i in range(_SEGMENT_WORDS))
        weights, steps = a.w.at(weights), a.w.at(steps)
        width = shape.columns * ROW_BYTES
        with k.loop(PITCH, 0, width) as at:
            places = [
                (shape.sums[r][c], sums.at(at).at(r * TILE_ROWS * PITCH + c * ROW_BYTES))
                for r in range(shape.rows)
                for c in range(shape.columns)
            ]
            self._start(part.eq(0), places)
            with k.loop(count) as i:
                step = steps.at(i, 4).load(I32, 4).zext(I64)
                source = x.at(step * _STEP_BYTES)
                if self.s.tail:
                    source = k.select(step.eq(a.last_step), k.scratch, source)
                for r in range(shape.rows):
                    tile = weights.at(i * (shape.rows * TILE_BYTES)).at(r * TILE_BYTES)
                    tiles.load(shape.weights(r), tile, ROW_BYTES)
                for c in range(shape.columns):
                    tiles.load(shape.positions(c), source.at(at).at(c * ROW_BYTES), PITCH)
                    for r in range(shape.rows):
                        tiles.dot(_DOTS[self.s.x_type], shape.sums[r][c], shape.weights(r), shape.positions(c))
            for tile, p in places:
                tiles.store(tile, p, PITCH)

    def _start(self, fresh: V, places: list[tuple[int, V]]) -> None:
        """Sums of zero, or those of the steps before."""

        def zeros() -> None:
            for tile, _ in places:
                self.tiles.zero(tile)

        def loaded() -> None:
            for tile, p in places:
                self.tiles.load(tile, p, PITCH)

        self.k.branch(fresh, zeros, loaded)

    def _finish(self, index: V, block: V, sums: V) -> None:
        k, a, lanes = self.k, self.k.arg, self.vl
        vectors = k.min((a.positions - index * TILE + (lanes - 1)) // lanes, TILE // lanes)
        element = accumulator_type(self.s.x_type, 0)
        with k.loop(self.s.shape.rows) as r:
            row = block * self.height + r * TILE_ROWS
            rows = k.min(a.features - row, TILE_ROWS)
            with k.when(rows > 0):
                at = sums.at(r * (TILE_ROWS * PITCH))
                done = Sums(at, PITCH, row, rows, index, k.i64(0), vectors, element)
                finish(k, self.s.epilogue, done, lanes, self.s.ragged)


@generator("amx_linear")
def amx_linear(target: Target, symbol: str, s: AmxSpec) -> Program:
    """A unit is one column tile times one group of blocks."""
    fields = [("x", PTR), ("w", PTR), *s.epilogue.fields(), *((name, I64) for name in _WORDS)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    unit = _Unit(k, target, s)
    with unit.tiles.configured(), k.units() as index:
        unit.trace(index)
    return k.finish(unit.scratch_bytes)


def _accepts_to_rows(site: Site) -> str:
    x, w = site.inputs[0], site.constants[1]
    assert x is not None, "a Linear node lacks its input"
    if x.dtype not in _FEATURES or not site.target.has(_FEATURES[x.dtype]):
        return f"this CPU has no tile products of {x.dtype.value}"
    if w is None or DType.from_numpy(w.dtype) is not _WEIGHTS[x.dtype]:
        return "its weight is not a constant of a type that tiles multiply"
    if not isinstance(site.node.attrs.get("epilogue"), Expr):
        return "no epilogue that says what the sums become"
    return "a single position" if (x.rank or 0) < 2 else accepts_epilogue(site)


def _accepts(site: Site) -> str:
    return not_in_columns(site) or _accepts_to_rows(site)


def _lowered(shape: Shape, skipped: bool) -> Callable[[Work], list[Launch]]:
    def lower(work: Work) -> list[Launch]:
        x, w, y = work.input(0), work.input(1), work.output()
        depth, rows = w.shape
        positions, (e, ragged) = prod(y.shape[:-1]), epilogue_for(work)
        if not positions or not rows:
            return []
        per = ROW_BYTES // w.dtype.itemsize
        steps, tiles = -(-depth // per), -(-positions // TILE)
        blocks = -(-rows // (shape.rows * TILE_ROWS))
        words = -(-depth // pack_of(x.dtype))
        height = _GROUP_ROWS // (shape.rows * TILE_ROWS)
        wanted = 1 if work.threads == 1 else -(-_UNITS_PER_THREAD * work.threads // tiles)
        groups = max(-(-blocks // height), min(wanted, blocks))
        packed = work.memory.packed(w, f"amx{shape.rows}{skipped}", lambda a: pack(a, shape.rows, skipped))
        extras = [b.place for b in extras_of(work)]
        tail = words % TILE_ROWS != 0
        spec = KernelSpec("amx_linear", (AmxSpec(x.dtype, shape, tail, ragged, e),))
        numbers = (words, rows, positions, blocks, groups, max(-(-steps // STEPS), 1), steps - 1)
        reads = (x.place, packed, *extras)
        return [Launch(spec, tiles * groups, (x.place, packed, y.place, *extras, *numbers), reads, (y.place,))]

    return lower


_known: dict[int, tuple[weakref.ref[np.ndarray], int]] = {}


def live_tiles(w: np.ndarray) -> int:
    """How many tiles of 16 outputs by 64 bytes of inputs hold a weight that is not zero; counted once per array."""
    found = _known.get(id(w))
    if found is not None and found[0]() is w:
        return found[1]
    counted = int(weight_tiles(w, 1).astype(bool).any(axis=(2, 3)).sum())
    key = id(w)
    _known[key] = (weakref.ref(w, lambda _: _known.pop(key, None)), counted)
    return counted


def _cost(skipped: bool) -> Callable[[Work], float]:
    """Microseconds from measured rates per 16 positions: of a tile of weights, and of a row of tiles with gaps."""

    def cost(work: Work) -> float:
        w, y = work.input(1), work.output()
        assert w.value is not None, "accepts lets only constant weights pass"
        tall = -(-w.shape[1] // TILE_ROWS)
        lines = -(-prod(y.shape[:-1]) // TILE_ROWS)
        if skipped:
            return lines * (live_tiles(w.value) * _TILE_US + tall * _ROWS_US)
        return lines * tall * -(-w.shape[0] * w.dtype.itemsize // ROW_BYTES) * _DENSE_US

    return cost


def _ways(name: str, shape: Shape, skipped: bool, rank: int) -> tuple[Lowering, Lowering]:
    """The lowering to column tiles and the one to plain rows."""
    lower, cost = _lowered(shape, skipped), _cost(skipped)

    def cost_to_rows(work: Work) -> float:
        return cost(work) + to_rows_us(work)

    made = (
        Lowering(name, SKIPJACK, "Linear", _accepts, lower, "columns", rank, cost),
        Lowering(name, SKIPJACK, "Linear", _accepts_to_rows, lower, "columns>plain", rank, cost_to_rows),
    )
    return lowering(made[0]), lowering(made[1])


AMX_DENSE, AMX_DENSE_TO_ROWS = _ways("amx_linear", DENSE, False, 30)
AMX_SKIPPING, AMX_SKIPPING_TO_ROWS = _ways("amx_linear_skip", SKIPPING, True, 29)
