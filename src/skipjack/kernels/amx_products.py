"""Products of weights and positions on matrix tiles: packed weights, and the block that multiplies them.

A column tile (kernels/kinds.py) lies in memory as right operands of the tile products; weights are packed as left
operands of 16 rows (output features). A block is `rows` tiles of weights by `columns` tiles of 16 positions, all in
registers. The depth advances by a fixed number of steps, so that this part of X stays in L1; sums wait in memory
between. Every step lists the weights it has: tiles of zeros are left out when `skipped`.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.kernels.kinds import TILE
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64
from skipjack.lang.tiles import DOT_BF16, DOT_S8_S8, DOT_S8_U8, ROW_BYTES, TILE_BYTES, TILE_ROWS, Tiles

PITCH = 4 * TILE
STEPS = 8
STEP_BYTES = TILE_ROWS * PITCH
GROUP_ROWS = 768
DOTS = {DType.U8: DOT_S8_U8, DType.I8: DOT_S8_S8, DType.BF16: DOT_BF16}
_SEGMENT_WORDS = 3
_TILE_US, _ROWS_US, _DENSE_US = 0.0077, 0.026, 0.0110


@dataclass(frozen=True)
class Shape:
    """Tiles of weights and of positions in a block: four tiles of sums, `rows` of weights, the rest of positions."""

    rows: int
    columns: int

    @property
    def height(self) -> int:
        """Rows of a block."""
        return self.rows * TILE_ROWS

    @property
    def sums(self) -> list[list[int]]:
        return [[r * self.columns + c for c in range(self.columns)] for r in range(self.rows)]

    def weights(self, r: int) -> int:
        return 4 + r

    def positions(self, c: int) -> int:
        free = 8 - 4 - self.rows
        return 4 + self.rows + c % free


DENSE, SKIPPING = Shape(2, 2), Shape(1, 4)


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
    parts = parts_of(steps)
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


def parts_of(steps: int) -> int:
    """How many parts the depth has; one when it is 0, for sums need a last part."""
    return max(-(-steps // STEPS), 1)


def sums_bytes(shape: Shape) -> int:
    """Room for the sums of a group of blocks."""
    return (GROUP_ROWS // shape.height + 1) * shape.height * PITCH


def groups_of(blocks: int, shape: Shape, units: int, wanted: int) -> int:
    """Groups of blocks whose sums have room; `units` of other work times them reach `wanted` where blocks allow."""
    most = GROUP_ROWS // shape.height
    return max(-(-blocks // most), min(-(-wanted // max(units, 1)), blocks))


def products_us(lines: int, w: np.ndarray, skipped: bool) -> float:
    """Microseconds of w [depth, rows] times `lines` times 16 positions, from measured rates.

    Those are of a tile of weights, and of a row of tiles with gaps.
    """
    tall = -(-w.shape[1] // TILE_ROWS)
    if skipped:
        return lines * (live_tiles(w) * _TILE_US + tall * _ROWS_US)
    return lines * tall * -(-w.shape[0] * w.dtype.itemsize // ROW_BYTES) * _DENSE_US


@dataclass(frozen=True)
class Terms:
    """One part of the depth of one block, and where its operands and sums [row][64 positions] lie.

    tail: where the step `last_step` of X lies when it is not at its place.
    """

    w: V
    x: V
    parts: V
    part: V
    block: V
    sums: V
    tail: V | None = None
    last_step: V | None = None


class Products:
    """Traces the products of blocks by one instruction."""

    def __init__(self, k: Kernel, dot: str, shape: Shape) -> None:
        self.k, self.dot, self.shape, self.tiles = k, dot, shape, Tiles(k)

    def add(self, t: Terms) -> None:
        """sums (+)= W X over one part; the first part starts from zero."""
        k, shape, tiles = self.k, self.shape, self.tiles
        entry = t.w.at((t.block * t.parts + t.part) * (8 * _SEGMENT_WORDS))
        weights, steps, count = (entry.at(8 * i).load(I64, 8) for i in range(_SEGMENT_WORDS))
        weights, steps = t.w.at(weights), t.w.at(steps)
        with k.loop(PITCH, 0, shape.columns * ROW_BYTES) as at:
            places = [
                (shape.sums[r][c], t.sums.at(at).at(r * TILE_ROWS * PITCH + c * ROW_BYTES))
                for r in range(shape.rows)
                for c in range(shape.columns)
            ]
            self._start(t.part.eq(0), places)
            with k.loop(count) as i:
                source = self._source(t, steps.at(i, 4).load(I32, 4).zext(I64))
                for r in range(shape.rows):
                    tile = weights.at(i * (shape.rows * TILE_BYTES)).at(r * TILE_BYTES)
                    tiles.load(shape.weights(r), tile, ROW_BYTES)
                for c in range(shape.columns):
                    tiles.load(shape.positions(c), source.at(at).at(c * ROW_BYTES), PITCH)
                    for r in range(shape.rows):
                        tiles.dot(self.dot, shape.sums[r][c], shape.weights(r), shape.positions(c))
            for tile, p in places:
                tiles.store(tile, p, PITCH)

    def _source(self, t: Terms, step: V) -> V:
        source = t.x.at(step * STEP_BYTES)
        if t.tail is None or t.last_step is None:
            return source
        return self.k.select(step.eq(t.last_step), t.tail, source)

    def _start(self, fresh: V, places: list[tuple[int, V]]) -> None:
        """Sums of zero, or those of the parts before."""

        def zeros() -> None:
            for tile, _ in places:
                self.tiles.zero(tile)

        def loaded() -> None:
            for tile, p in places:
                self.tiles.load(tile, p, PITCH)

        self.k.branch(fresh, zeros, loaded)
