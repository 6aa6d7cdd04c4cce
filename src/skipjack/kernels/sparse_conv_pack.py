"""Sparse convolution on plain images: how output positions are cut into tiles, and weights as streams of non-zeros.

An entry is (byte offset of its input from the tile's, i32; weight, f32), so a tap costs one addition whatever the
window. Entries are ordered [block of channels][map][channel][tap row][tap column].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd

import numpy as np

from skipjack.kernels.conv_shape import WindowShape
from skipjack.targets.target import Target

ENTRY_BYTES = 8
_ENTRY = np.dtype([("offset", "<i4"), ("weight", "<f4")])
_BLOCK_BYTES = 40 * 1024
_BAND_BYTES = 320 * 1024
_KEPT_BYTES = 2 << 20
_OFFSET_LIMIT = 1 << 31
_UNITS_PER_THREAD = 4
_GROUPED_TILES = 8

DIRECT, TILE, BAND = "direct", "tile", "band"


@dataclass(frozen=True)
class Geometry:
    """Tiles of `rows` output rows times `vectors` vectors of `lanes`; a unit has `down` rows of `across` tiles each.

    source: where a tile's inputs are read. "direct": in the image itself; "tile": in a copy of the tile's positions,
    [tile][channel][position]; both only for pointwise convolutions, whose image is one row. "band": in a copy of the
    unit's input rows, [tile of a row][channel][tap column][input row][output column], in which every tap is a vector
    that begins at a multiple of `lanes` and what a tile reads lies together.
    """

    source: str
    lanes: int
    rows: int
    vectors: int
    down: int
    across: int
    block: int
    s: WindowShape

    @property
    def columns(self) -> int:
        """Output positions of a row."""
        return self.s.out[2]

    @property
    def height(self) -> int:
        return self.s.out[1]

    @property
    def width(self) -> int:
        """Positions of a whole tile's row."""
        return self.vectors * self.lanes

    @property
    def tiles_across(self) -> int:
        """Tiles in a row of the image."""
        return -(-self.columns // self.width)

    @property
    def tiles_down(self) -> int:
        """Rows of tiles of the image."""
        return -(-self.height // self.rows)

    @property
    def units_across(self) -> int:
        return -(-self.tiles_across // self.across)

    @property
    def units(self) -> int:
        """Units of an image, but for parts of the maps."""
        return self.units_across * -(-self.tiles_down // self.down)

    @property
    def blocks(self) -> int:
        return max(-(-self.s.channels // self.block), 1)

    @property
    def tiles(self) -> int:
        """Tiles of a unit."""
        return self.down * self.across

    @property
    def tile_bytes(self) -> int:
        """Accumulators of one map."""
        return self.rows * self.width * 4

    @property
    def row_bytes(self) -> int:
        """One row of a tile's copy."""
        return self.width * 4

    @property
    def row_step(self) -> int:
        """Input rows from one row of a copy to the next: rows that no tap reads are left out."""
        return self.s.strides[1] if self.s.kernel[1] == 1 else 1

    @property
    def tile_row_step(self) -> int:
        """Rows of a copy from one output row to the next."""
        return self.s.strides[1] // self.row_step

    def copied_rows(self, rows: int) -> int:
        """Rows of a copy that `rows` output rows read."""
        return (rows - 1) * self.tile_row_step + (self.s.kernel[1] - 1) * self.s.dilations[1] + 1

    @property
    def column_bytes(self) -> int:
        """All rows of one tap column of a copy."""
        return self.copied_rows(self.down * self.rows) * self.row_bytes

    @property
    def channel_bytes(self) -> int:
        """From one channel to the next in what a tile reads: an odd number of cache lines where rows are copied."""
        if self.source == DIRECT:
            return self.columns * 4
        if self.source == TILE:
            return self.width * 4
        return (-(-self.s.kernel[2] * self.column_bytes // 64) | 1) * 64

    @property
    def across_bytes(self) -> int:
        """From one tile of a row to the next in a copy."""
        return -(-self.block * self.channel_bytes // 64) * 64

    @property
    def copy_bytes(self) -> int:
        """Scratch for the inputs of one block of channels: one tile's for "tile"."""
        return {DIRECT: 0, TILE: 1, BAND: self.across}[self.source] * self.across_bytes

    def compiled(self) -> Geometry:
        """What a kernel depends on: equal for convolutions that differ in numbers of channels and maps only."""
        block = 1 if self.source == DIRECT else self.block
        return replace(self, block=block, s=replace(self.s, batch=1, channels=0, maps=0, group=1))

    def recipe(self, parts: int) -> str:
        """Equal for equal packed weights."""
        taps = f"{self.column_bytes} {self.row_bytes} {self.s.dilations}" if self.source == BAND else ""
        return f"sparse conv {self.s.group} {self.source} {self.channel_bytes} {self.block} {taps} {parts}"


@dataclass(frozen=True)
class Streams:
    """Byte offsets inside packed weights: first entry of each (block, part), first map of each part, entry counts."""

    starts: int
    firsts: int
    counts: int
    entries: int


def streams(g: Geometry, parts: int) -> Streams:
    """Where what lies in weights packed by `pack`."""
    firsts = 8 * g.blocks * parts
    counts = firsts + 8 * (parts + 1)
    entries = counts + 4 * g.blocks * g.s.maps
    return Streams(0, firsts, counts, -(-entries // 64) * 64)


def pack(w: np.ndarray, g: Geometry, parts: int) -> np.ndarray:
    """The bytes of the streams of w [maps, channels of a group, taps...]; parts hold about as many entries each."""
    maps, channels = w.shape[:2]
    at = np.nonzero(w.reshape(maps, channels, -1))
    channel = at[1] + at[0] // max(maps // g.s.group, 1) * channels
    block = channel // g.block
    order = np.argsort(block, kind="stable")
    entries = np.empty(order.size, _ENTRY)
    inside = channel if g.source == DIRECT else channel - block * g.block
    entries["offset"] = (inside * g.channel_bytes + _tap_offsets(g)[at[2]])[order]
    entries["weight"] = w.reshape(maps, channels, -1)[at][order]
    counts = np.bincount(block * maps + at[0], minlength=g.blocks * maps).reshape(g.blocks, maps)
    firsts = _shares(counts.sum(axis=0), parts)
    before = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts.reshape(-1), out=before[1:])
    starts = before[(np.arange(g.blocks)[:, None] * maps + firsts[:-1]).reshape(-1)]
    place = streams(g, parts)
    out = np.zeros(place.entries + entries.nbytes, np.uint8)
    tables = (starts, firsts, counts.astype(np.int32), entries)
    for offset, table in zip((place.starts, place.firsts, place.counts, place.entries), tables):
        out[offset : offset + table.nbytes] = table.reshape(-1).view(np.uint8)
    return out


def _tap_offsets(g: Geometry) -> np.ndarray:
    if g.source != BAND:
        return np.zeros(1, np.int64)
    rows = np.arange(g.s.kernel[1]) * g.s.dilations[1] * g.row_bytes
    columns = np.arange(g.s.kernel[2]) * g.column_bytes
    return (rows[:, None] + columns[None]).reshape(-1)


def _shares(work: np.ndarray, parts: int) -> np.ndarray:
    """The first map of each part, and the end: maps count by their entries and a little more."""
    total = np.concatenate([[0], np.cumsum(work + 4)])
    wanted = total[-1] * np.arange(parts + 1) / parts
    firsts = np.searchsorted(total, wanted, side="left").astype(np.int64)
    firsts[0], firsts[-1] = 0, work.size
    return firsts


@dataclass(frozen=True)
class _Costs:
    """Cycles, a whole vector register of the target being one unit of arithmetic."""

    row: float = 9.0
    entry: float = 0.8
    vector: float = 1.1
    kept: float = 0.6
    finished: float = 3.0
    copied: float = 2.4
    misaligned: float = 1.45
    far: float = 0.45
    streamed_bytes: float = 7.0
    near_bytes: float = 512 * 1024


_COSTS = _Costs()


@lru_cache(maxsize=4096)
def choose(s: WindowShape, density: float, target: Target, threads: int = 1) -> tuple[Geometry, float]:
    """The geometry of least predicted cycles for one image, and those; s has batch 1."""
    best: tuple[float, Geometry] | None = None
    for g in candidates(s, target, threads):
        cycles = predicted_cycles(g, density, target)
        if best is None or cycles < best[0]:
            best = cycles, g
    assert best is not None, "a convolution with outputs has at least one tile shape"
    return best[1], best[0]


def pointwise_row(s: WindowShape) -> WindowShape:
    """A convolution with one tap that uses every position once, with the image as one row; others unchanged."""
    if not s.is_pointwise() or any(s.before):
        return s
    flat = (1, 1, s.pixels)
    return replace(s, size=flat, out=flat)


def candidates(s: WindowShape, target: Target, threads: int) -> Iterator[Geometry]:
    """The geometries that are weighed."""
    flat = s.is_pointwise() and s.out[:2] == (1, 1) and not any(s.before)
    for lanes in (target.vl, target.vl // 2) if target.vl == 16 else (target.vl,):
        most = min(target.registers - 4, 8 if lanes == 16 else 14)
        vectors = -(-s.out[2] // lanes)
        for v in range(min(most // 2, vectors) if flat else 1, min(most, vectors) + 1):
            across = -(-vectors // v)
            grouped = min(across, _GROUPED_TILES)
            if flat:
                for source in (DIRECT, TILE):
                    yield from _grouped([_sized(source, lanes, (1, v), (1, n), s) for n in (1, grouped)], threads)
            elif v == -(-vectors // across):
                highest = min(most // v, s.out[1])
                for rows in range(highest // 2 + 1, highest + 1):
                    down = -(-s.out[1] // rows)
                    cuts = [(d, a) for d in (1, 2, 4, 8) if d <= down for a in {1, grouped}]
                    yield from _grouped([_sized(BAND, lanes, (rows, v), cut, s) for cut in cuts], threads)


def _grouped(found: list[Geometry], threads: int) -> Iterator[Geometry]:
    """The first, and of the others those whose copies stay in L2 and that leave units enough for threads."""
    yield found[0]
    for g in found[1:]:
        small = g.copy_bytes <= _BAND_BYTES and g.tiles * g.s.maps * g.tile_bytes <= _KEPT_BYTES
        if g != found[0] and small and (threads == 1 or g.units >= _UNITS_PER_THREAD * threads):
            yield g


def _sized(source: str, lanes: int, tile: tuple[int, int], unit: tuple[int, int], s: WindowShape) -> Geometry:
    """With blocks of channels whose inputs of one tile stay in L1, equal in size."""
    g = Geometry(source, lanes, *tile, *unit, 1, s)
    block = max(_BLOCK_BYTES // read_bytes(g), 1)
    blocks = max(-(-s.channels // block), 1)
    return replace(g, block=max(-(-s.channels // blocks), 1))


def read_bytes(g: Geometry) -> int:
    """What one tile reads of one channel."""
    if g.source != BAND:
        return g.width * 4
    return g.s.kernel[2] * g.copied_rows(g.rows) * g.width * 4


def fits_offsets(s: WindowShape) -> bool:
    """Whether byte offsets inside one image fit entries."""
    return s.channels * s.size[1] * s.size[2] * 4 < _OFFSET_LIMIT


def predicted_cycles(g: Geometry, density: float, target: Target) -> float:
    """Cycles of one image on one thread."""
    c, s, unit = _COSTS, g.s, g.lanes / target.vl
    vectors = g.rows * g.vectors * unit
    per_block = s.channels * s.taps * density / g.blocks
    each = c.entry + c.vector * vectors * _slowdown(g)
    kept = c.kept * vectors if g.blocks > 1 else 0.0
    tile = s.maps * (g.blocks * (c.row + kept + per_block * each) + c.finished * vectors)
    return _tiles(g) * tile + _copy_cycles(g, unit) + _stream_cycles(g, density)


def _tiles(g: Geometry) -> float:
    """Tiles of an image, those at its edges counted by their vectors."""
    return -(-g.columns // g.lanes) / g.vectors * max(g.height / g.rows, 1.0)


def _slowdown(g: Geometry) -> float:
    """By how much loads are slower than from L1."""
    room, read = 32 * 1024, g.block * read_bytes(g)
    slow = 1.0
    if g.source == DIRECT:
        if g.columns % g.lanes:
            slow = _COSTS.misaligned
        elif g.channel_bytes % 64 == 0:
            apart = gcd(g.channel_bytes // 64, 64)
            room = room * min(max(g.width // 16, 1), apart) // apart
    return slow + _COSTS.far * min(max(read / room - 1.25, 0.0), 1.0)


def _stream_cycles(g: Geometry, density: float) -> float:
    """Entries that leave L2 before the next unit and accumulators that leave it before the next block are read anew."""
    c, s = _COSTS, g.s
    entries = s.maps * s.channels * s.taps * density * ENTRY_BYTES
    kept = 2 * (g.blocks - 1) * s.maps * g.tile_bytes * g.tiles
    near = s.maps * g.tile_bytes * g.tiles + entries / g.blocks <= c.near_bytes
    read = 0.0 if entries <= c.near_bytes else entries * (g.units if near else _tiles(g))
    return (read + (0 if near else g.units * kept)) / c.streamed_bytes


def _copy_cycles(g: Geometry, unit: float) -> float:
    c, s = _COSTS, g.s
    if g.source == DIRECT:
        return 0.0
    if g.source == TILE:
        return _tiles(g) * s.channels * (2 + g.vectors * unit * c.copied)
    step = {1: 1.0, 2: 2.0}.get(s.strides[2], 8.0)
    stored = 1.0 if g.copy_bytes <= _BLOCK_BYTES else 1.4
    rows = g.height / (g.down * g.rows) * g.copied_rows(g.down * g.rows)
    vectors = g.across * g.vectors * unit
    return g.units_across * rows * s.channels * (4 + s.kernel[2] * (1 + step * stored * c.copied * vectors))
