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
_OFFSET_LIMIT = 1 << 31
_UNITS_PER_THREAD = 4

DIRECT, TILE, BAND = "direct", "tile", "band"


@dataclass(frozen=True)
class Geometry:
    """Tiles of `rows` output rows times `vectors` vectors of `lanes`.

    source: where a tile's inputs are read. "direct": in the image itself; "tile": in a copy of the tile's positions,
    [channel][position]; both only for pointwise convolutions, whose image is one row. "band": in a copy of the input
    rows of `band` rows of tiles, [tile of a row][channel][tap column][input row][output column], in which every tap is
    a vector that begins at a multiple of `lanes` and what a tile reads lies together.
    """

    source: str
    lanes: int
    rows: int
    vectors: int
    band: int
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
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.columns // self.width)

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.rows)

    @property
    def bands(self) -> int:
        """Units of an image, but for groups of maps."""
        return -(-self.down // self.band) if self.source == BAND else self.across

    @property
    def blocks(self) -> int:
        return max(-(-self.s.channels // self.block), 1)

    @property
    def tiles(self) -> int:
        """Tiles of a unit."""
        return self.band * self.across if self.source == BAND else 1

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
        """Input rows from one row of a band's copy to the next: rows that no tap reads are left out."""
        return self.s.strides[1] if self.s.kernel[1] == 1 else 1

    @property
    def tile_row_step(self) -> int:
        """Rows of a band's copy from one output row to the next."""
        return self.s.strides[1] // self.row_step

    def copied_rows(self, rows: int) -> int:
        """Rows of a band's copy that `rows` output rows read."""
        return (rows - 1) * self.tile_row_step + (self.s.kernel[1] - 1) * self.s.dilations[1] + 1

    @property
    def column_bytes(self) -> int:
        """All rows of one tap column of a band's copy."""
        return self.copied_rows(self.band * self.rows) * self.row_bytes

    @property
    def channel_bytes(self) -> int:
        """From one channel to the next in what a tile reads: an odd number of cache lines where it is a copy."""
        if self.source == DIRECT:
            return self.columns * 4
        if self.source == TILE:
            return self.width * 4
        return (-(-self.s.kernel[2] * self.column_bytes // 64) | 1) * 64

    @property
    def across_bytes(self) -> int:
        """From one tile of a row to the next in a band's copy."""
        return self.block * self.channel_bytes

    @property
    def copy_bytes(self) -> int:
        """Scratch for the inputs of one block of channels."""
        tiles = {DIRECT: 0, TILE: 1, BAND: self.across}[self.source]
        return -(-tiles * self.across_bytes // 64) * 64

    def compiled(self) -> Geometry:
        """What a kernel depends on: equal for convolutions that differ in numbers of channels and maps only."""
        block = 1 if self.source == DIRECT else self.block
        return replace(self, block=block, s=replace(self.s, batch=1, channels=0, maps=0))

    def recipe(self, parts: int) -> str:
        """Equal for equal packed weights."""
        taps = f"{self.column_bytes} {self.row_bytes} {self.s.dilations}" if self.source == BAND else ""
        return f"sparse conv {self.source} {self.channel_bytes} {self.block} {taps} {parts}"


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
    """The bytes of the streams of w [maps, channels, taps...]; parts hold about as many entries each."""
    maps, channels = w.shape[:2]
    w = np.ascontiguousarray(w, np.float32).reshape(maps, channels, -1)
    offsets = _tap_offsets(g)
    counts = np.zeros((g.blocks, maps), np.int64)
    found: list[np.ndarray] = []
    for b in range(g.blocks):
        band = w[:, b * g.block : (b + 1) * g.block]
        at = np.nonzero(band)
        entries = np.empty(at[0].size, _ENTRY)
        first = b * g.block if g.source == DIRECT else 0
        entries["offset"] = (at[1] + first) * g.channel_bytes + offsets[at[2]]
        entries["weight"] = band[at]
        counts[b] = np.bincount(at[0], minlength=maps)
        found.append(entries)
    firsts = _shares(counts.sum(axis=0), parts)
    before = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts.reshape(-1), out=before[1:])
    starts = before[(np.arange(g.blocks)[:, None] * maps + firsts[:-1]).reshape(-1)]
    place = streams(g, parts)
    body = np.concatenate(found).tobytes() if found else b""
    out = np.zeros(place.entries + len(body), np.uint8)
    for offset, table in ((place.starts, starts), (place.firsts, firsts), (place.counts, counts.astype(np.int32))):
        out[offset : offset + table.nbytes] = np.frombuffer(table.tobytes(), np.uint8)
    out[place.entries :] = np.frombuffer(body, np.uint8)
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


_COSTS = _Costs()


@lru_cache(maxsize=4096)
def choose(s: WindowShape, density: float, target: Target, threads: int = 1) -> tuple[Geometry, float]:
    """The geometry of least predicted cycles for one image, and those; s has batch 1."""
    best: tuple[float, Geometry] | None = None
    for g in _candidates(s, target, threads):
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


def _candidates(s: WindowShape, target: Target, threads: int) -> Iterator[Geometry]:
    flat = s.is_pointwise() and s.out[:2] == (1, 1) and not any(s.before)
    for lanes in (target.vl, target.vl // 2) if target.vl == 16 else (target.vl,):
        most = min(target.registers - 4, 8 if lanes == 16 else 14)
        vectors = -(-s.out[2] // lanes)
        for v in range(1, min(most, vectors) + 1):
            if flat:
                yield _sized(DIRECT, lanes, 1, v, 1, s)
                yield _sized(TILE, lanes, 1, v, 1, s)
                continue
            if v != -(-vectors // -(-vectors // v)):
                continue
            for rows in range(1, min(most // v, s.out[1]) + 1):
                yield from _banded(lanes, rows, v, s, threads)


def _banded(lanes: int, rows: int, v: int, s: WindowShape, threads: int) -> Iterator[Geometry]:
    down = -(-s.out[1] // rows)
    for band in (1, 2, 4, 8):
        if band > 1 and (band > down or (threads > 1 and -(-down // band) < _UNITS_PER_THREAD * threads)):
            return
        g = _sized(BAND, lanes, rows, v, band, s)
        if band == 1 or g.copy_bytes <= _BAND_BYTES:
            yield g


def _sized(source: str, lanes: int, rows: int, v: int, band: int, s: WindowShape) -> Geometry:
    """With blocks of channels whose inputs of one tile stay in L1, equal in size."""
    g = Geometry(source, lanes, rows, v, band, 1, s)
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
    return _tiles(g) * tile + _copy_cycles(g, unit)


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


def _copy_cycles(g: Geometry, unit: float) -> float:
    c, s = _COSTS, g.s
    if g.source == DIRECT:
        return 0.0
    if g.source == TILE:
        return _tiles(g) * s.channels * (2 + g.vectors * unit * c.copied)
    step = {1: 1.0, 2: 2.0}.get(s.strides[2], 8.0)
    rows = g.height / (g.band * g.rows) * g.copied_rows(g.band * g.rows)
    return rows * s.channels * s.kernel[2] * (3 + step * c.copied * unit * g.across * g.vectors)
