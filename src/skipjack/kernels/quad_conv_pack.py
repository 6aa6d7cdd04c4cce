"""How an integer convolution over quads is cut up, and its weights rearranged for that.

A term is four input channels of one tap of the window. Positions of the output lie flat, row behind row; for every
term its inputs lie flat as well, at a fixed offset: in place where the window is a single position, else in a copy of
a band of input rows that holds one shifted copy for every column of the window and splits rows by phase of the stride.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from skipjack.kernels.conv_shape import WindowShape

_LINE = 64
_SETS, _WAYS = 64, 8
_COPY_BYTES = 256 * 1024
_SUM_BYTES = 128 * 1024
_GROUP_BYTES = 96 * 1024
_UNITS_PER_THREAD = 3
_GROUPS_PER_PART = 8


@dataclass(frozen=True)
class Block:
    """What one kernel keeps in registers and L1: at most `vectors` vectors of positions, `bytes` of inputs."""

    vectors: int
    bytes: int
    lanes: int

    def most(self, tail: int) -> int:
        """The most vectors of a block; a few positions more take the registers of one vector."""
        return self.vectors - 1 if tail else self.vectors


@dataclass(frozen=True)
class Joined:
    """Groups of a convolution joined until their channels and maps fill fours: how many there are, their sizes."""

    count: int
    channels: int
    maps: int
    together: int

    @property
    def fours(self) -> int:
        """Fours of input channels that a map reads."""
        return -(-self.channels // 4)


def joined(channels: int, maps: int, group: int) -> Joined | None:
    """None when maps of one four would read different channels."""
    if group == 1:
        return Joined(1, channels, maps, 1)
    own, made = channels // group, maps // group
    together = math.lcm(4, own) // own
    if made * together % 4:
        return None
    return Joined(-(-group // together), own * together, made * together, together)


@dataclass(frozen=True)
class Geometry:
    """One convolution cut up. flat: the window is one position and the image counts as one row.

    copied: inputs are copied to scratch, in bands of `rows` output rows (of `rows` positions when flat), those of
    `span` fours of channels at a time: all of them, or those of some joined groups.
    """

    s: WindowShape
    joined: Joined
    flat: bool
    copied: bool
    rows: int
    block: Block
    span: int

    @property
    def apart(self) -> bool:
        """Whether there are several groups."""
        return self.joined.count > 1

    @property
    def groups(self) -> int:
        """Fours of input channels that a map reads."""
        return self.joined.fours

    @property
    def kernel(self) -> tuple[int, int]:
        return (1, 1) if self.flat else self.s.kernel[1:]

    @property
    def terms(self) -> int:
        return self.groups * self.kernel[0] * self.kernel[1]

    @property
    def width(self) -> int:
        """Positions per row."""
        return self.rows if self.flat else self.s.out[2]

    @property
    def bands(self) -> int:
        return -(-self.s.pixels // self.rows) if self.flat else -(-self.s.out[1] // self.rows)

    @property
    def positions(self) -> int:
        """Positions of a band."""
        return self.rows if self.flat else self.rows * self.s.out[2]

    @property
    def phases(self) -> tuple[int, ...]:
        """The rows, modulo the stride, that taps start from."""
        if self.flat:
            return (0,)
        return tuple(sorted({t * self.s.dilations[1] % self.s.strides[1] for t in range(self.kernel[0])}))

    @property
    def phase_rows(self) -> int:
        """Rows that a band holds of each phase."""
        return 1 if self.flat else self.rows + (self.kernel[0] - 1) * self.s.dilations[1] // self.s.strides[1]

    @property
    def group_bytes(self) -> int:
        """From one four of channels to the next: an odd number of cache lines in a copy."""
        if not self.copied:
            return self.s.pixels * 4
        used = self.kernel[1] * len(self.phases) * self.phase_rows * self.width * 4
        return (-(-used // _LINE) | 1) * _LINE

    @property
    def copy_bytes(self) -> int:
        """Scratch for a band; vectors at its end may reach beyond it."""
        slack = (self.block.vectors + 1) * self.block.lanes * 4
        return -(-(self.span * self.group_bytes + slack) // _LINE) * _LINE if self.copied else 0

    @property
    def tail(self) -> int:
        """Positions behind the last whole vector where a kernel takes them as four lanes of maps each; else 0."""
        rest = self.s.pixels % self.block.lanes
        single = self.bands == 1 and self.copied and self.block.lanes == 16 and self.s.pixels > 16
        return rest if single and rest <= 4 else 0

    def sizes(self, tail: int) -> tuple[int, ...]:
        """In how many vectors the blocks of all bands come, ascending."""
        most, found = self.block.most(tail), set[int]()
        for count in (self.positions, self.s.pixels - (self.bands - 1) * self.positions):
            vectors = count // self.block.lanes if tail else -(-count // self.block.lanes)
            tiles = -(-vectors // most)
            found |= {vectors // tiles, -(-vectors // tiles)}
        return tuple(sorted(found))

    @property
    def step(self) -> int:
        """Terms whose inputs are kept in L1 together."""
        vectors = min(self.block.vectors, -(-self.positions // self.block.lanes))
        return max(self.block.bytes // (vectors * self.block.lanes * 4), 8)

    @property
    def steps(self) -> int:
        return -(-self.terms // self.step)

    def offsets(self) -> np.ndarray:
        """Bytes from the start of the inputs of a band to each term, channels outermost."""
        taps = list[int]()
        for h in range(self.kernel[0]):
            row, phase = divmod(h * self.s.dilations[1], self.s.strides[1])
            for w in range(self.kernel[1]):
                at = w * len(self.phases) + (self.phases.index(phase) if not self.flat else 0)
                taps.append((at * self.phase_rows + row) * self.width * 4)
        groups = np.arange(self.groups, dtype=np.int64) * self.group_bytes
        return (groups[:, None] + np.array(taps, np.int64)).reshape(-1).astype(np.int32)


def _collides(pitch_bytes: int, terms: int, b: Block) -> bool:
    """Whether terms this far apart push each other out of L1."""
    sets = _SETS // int(np.gcd(pitch_bytes // _LINE, _SETS))
    lines = b.vectors * b.lanes * 4 // _LINE
    return -(-terms // sets) * max(-(-lines * sets // _SETS), 1) > _WAYS


def geometry(s: WindowShape, b: Block, threads: int) -> Geometry:
    """How a convolution is cut for a kernel."""
    j = joined(s.channels, s.maps, s.group)
    assert j is not None, "accepts lets only groups pass that fill fours"
    if not s.is_pointwise() or any(s.before):
        return _banded(s, j, b)
    tile = b.vectors * b.lanes
    tiles = -(-s.pixels // tile)
    wanted = min(tiles, -(-_UNITS_PER_THREAD * threads // s.batch)) if threads > 1 else 1
    terms = min(j.fours, max(b.bytes // (tile * 4), 1))
    whole = s.pixels % b.lanes == 0 and s.pixels * 4 % _LINE == 0 and j.count * j.fours == -(-s.channels // 4)
    if whole and not _collides(s.pixels * 4, terms, b):
        return Geometry(s, j, True, False, _even(s.pixels, wanted, tile), b, j.fours)
    most = max(_COPY_BYTES // (j.fours * tile * 4), 1)
    return _spanned(Geometry(s, j, True, True, _even(s.pixels, max(-(-tiles // most), wanted), tile), b, j.fours))


def _spanned(g: Geometry) -> Geometry:
    """As many joined groups at a time as fit."""
    each = g.joined.fours * g.group_bytes
    return replace(g, span=g.joined.fours * min(max(_GROUP_BYTES // each, 1), g.joined.count))


def _even(pixels: int, bands: int, tile: int) -> int:
    """Positions per band: whole tiles, as evenly as that goes; all positions when there is one band."""
    return pixels if bands == 1 else -(-pixels // (bands * tile)) * tile


def _banded(s: WindowShape, j: Joined, b: Block) -> Geometry:
    def cut(rows: int) -> Geometry:
        return Geometry(s, j, False, True, rows, b, j.fours)

    most = max(s.out[1], 1)
    while most > 1 and cut(most).copy_bytes > _COPY_BYTES:
        most -= 1
    least = s.out[1] if most == s.out[1] else max(most // 2, 1)

    def vectors(rows: int) -> int:
        whole, rest = divmod(s.out[1], rows)
        return whole * -(-rows * s.out[2] // b.lanes) + -(-rest * s.out[2] // b.lanes)

    return _spanned(cut(min(range(most, least - 1, -1), key=vectors)))


def parts_of(g: Geometry, work: Callable[[], np.ndarray], threads: int) -> np.ndarray:
    """Where the parts of maps begin and end, in groups of four maps of which `work` says how much they take."""
    if g.apart:
        return _joined_parts(g, threads)
    count = max(-(-g.s.maps // 4), 1)
    sums = 4 * g.block.vectors * g.block.lanes * 4
    parts = -(-count * sums // _SUM_BYTES) if g.steps > 1 else 1
    if threads > 1:
        wanted = -(-_UNITS_PER_THREAD * threads // max(g.s.batch * g.bands, 1))
        parts = max(parts, min(wanted, count // _GROUPS_PER_PART))
    if parts <= 1:
        return np.array([0, count], np.int64)
    done = np.concatenate([[0], np.cumsum(work(), dtype=np.float64)])
    cuts = np.searchsorted(done, np.linspace(0, done[-1], parts + 1)[1:-1])
    return np.concatenate([[0], np.maximum.accumulate(cuts), [count]]).astype(np.int64)


def _joined_parts(g: Geometry, threads: int) -> np.ndarray:
    """Parts of whole joined groups, as many as are copied together; more of them when threads share."""
    parts = -(-g.joined.count * g.joined.fours // g.span)
    if threads > 1:
        wanted = -(-_UNITS_PER_THREAD * threads // max(g.s.batch * g.bands, 1))
        parts = max(parts, min(wanted, g.joined.count))
    cuts = np.arange(parts + 1) * g.joined.count // parts * (g.joined.maps // 4)
    return np.minimum(cuts, -(-g.s.maps // 4)).astype(np.int64)


def side_by_side(w: np.ndarray, j: Joined, group: int) -> np.ndarray:
    """Weights [M, C / group, window] as [M, channels of a joined group, window], zeros for channels of other groups."""
    if j.count == 1 and j.together == 1:
        return w
    m, own, *window = w.shape
    full = np.zeros((m, j.together, own, *window), w.dtype)
    maps = np.arange(m)
    full[maps, maps // (m // group) % j.together] = w
    return full.reshape(m, j.together * own, *window)


def _bytes(w: np.ndarray) -> list[np.ndarray]:
    """Arrays of i8 whose sum is w."""
    if w.dtype == np.int8:
        return [w]
    found, rest = list[np.ndarray](), w
    while True:
        one = np.clip(rest, -128, 127)
        found.append(one.astype(np.int8))
        rest = rest - one
        if not rest.any():
            return found


def summands(w: np.ndarray) -> int:
    """How many terms of bytes one weight takes: more than one where it does not fit."""
    if w.dtype == np.int8 or not w.size:
        return 1
    low, high = int(w.min()), int(w.max())
    return max(-(-high // 127), -(low // 128), 1)


def _terms(w: np.ndarray) -> np.ndarray:
    """[M, C, window] as [maps up to a multiple of 4][C/4, window][4], filled up with zeros."""
    m, c, *window = w.shape
    full = np.zeros((-(-m // 4) * 4, -(-c // 4) * 4, *window), np.int8)
    full[:m, :c] = w
    return np.ascontiguousarray(np.moveaxis(full.reshape(len(full), -1, 4, *window), 2, -1)).reshape(len(full), -1, 4)


def _all_terms(w: np.ndarray) -> np.ndarray:
    """All summands, one behind the other for every term: [maps][terms * summands][4]."""
    arrays = [_terms(part) for part in _bytes(w)]
    return np.stack(arrays, 2).reshape(len(arrays[0]), -1, 4)


def pack_dense(w: np.ndarray) -> np.ndarray:
    """[maps / 4][terms][4 maps][4 channels]."""
    terms = _all_terms(w)
    return terms.reshape(-1, 4, *terms.shape[1:]).transpose(0, 2, 1, 3)


@dataclass(frozen=True)
class TermRows:
    """The terms that are not zero, ordered by step, map, term: entries (offset, four weights) as i32 pairs.

    starts[step * maps + map] is the first entry of a map.
    """

    entries: np.ndarray
    starts: np.ndarray


def sparse_rows(w: np.ndarray, offsets: np.ndarray, step: int) -> TermRows:
    """Packed rows of [M, C, window]; offsets are in bytes, per term."""
    arrays = [words_of(part) for part in _bytes(w)]
    maps, terms = arrays[0].shape
    steps = -(-terms // step)
    if len(arrays) > 1:
        # The summands of a term lie side by side, so that they fall into one step.
        offsets, step = np.repeat(offsets, len(arrays)), step * len(arrays)
    words = np.stack(arrays, 2).reshape(maps, -1)
    row, column = np.nonzero(words)
    number = column // step
    order = np.argsort(number, kind="stable") if steps > 1 else slice(None)
    row, column = row[order], column[order]
    entries = np.empty((len(row), 2), np.int32)
    entries[:, 0] = offsets[column]
    entries[:, 1] = words[row, column]
    counts = np.bincount(number[order] * maps + row, minlength=steps * maps)
    return TermRows(entries, np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))


def words_of(w: np.ndarray) -> np.ndarray:
    """[M, C, window] of i8 as [maps up to a multiple of 4][terms] of i32, four weights each."""
    return _terms(w).view(np.int32)[..., 0]


def live_terms(w: np.ndarray) -> np.ndarray:
    """Per group of four maps, how many terms are not zero."""
    words = sum((words_of(part) != 0).sum(axis=1) for part in _bytes(w))
    return np.asarray(words, np.float64).reshape(-1, 4).sum(axis=1)
