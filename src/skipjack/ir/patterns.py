"""Where the zeros of a weight lie: anywhere, N of every M, in blocks, in whole rows and columns.

Masks are looked at as 64-bit words, so that a weight costs a pass over its numbers and little more.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BLOCKS: tuple[tuple[int, int], ...] = ((1, 4), (4, 1), (1, 16), (16, 1), (4, 4), (16, 16), (32, 32))
"""Blocks looked for: outputs x inputs."""

_N_OF_M = ((1, 4), (2, 4), (4, 8))
_DENSE_BELOW = 0.02
_LEAST_COVERAGE = 0.95
_MOST_RANDOM_MISSES = 0.25
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_BAND_BYTES = 1 << 20


@dataclass(frozen=True)
class Pattern:
    """The zeros of one weight of `elements` numbers, seen as outputs x inputs (per position of a convolution's kernel).

    kind is "dense", "unstructured", "2:4" (at most 2 of 4 consecutive inputs are not zero) or a block such as "1x4".
    blocks holds, per size, the share of the zeros that lie in aligned blocks of nothing but zeros. Rows and columns
    that are empty (zero throughout) are left out of kind and blocks.
    """

    elements: int
    zeros: int
    kind: str
    blocks: dict[str, float]
    empty_rows: int
    empty_columns: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.elements if self.elements else 0.0

    @property
    def scattered(self) -> float:
        """The share of the zeros outside of 1x4 and of 4x1 blocks: what only unstructured kernels skip."""
        return 1.0 - max(self.blocks.get("1x4", 0.0), self.blocks.get("4x1", 0.0)) if self.zeros else 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "dense" else f"{self.kind} {self.sparsity:.1%}"


@dataclass(frozen=True)
class Bits:
    """A mask [rows, positions, columns] as words [rows, positions, columns/64]: bit i of word w is column 64 * w + i.

    Bits behind the last column are set. inputs_last: rows are outputs and columns inputs; else the other way round.
    """

    words: np.ndarray
    columns: int
    inputs_last: bool

    @staticmethod
    def of(zeros: np.ndarray) -> Bits:
        """The bits of a mask [outputs, positions, inputs], packed along the axis that is contiguous in memory."""
        inputs_last = abs(zeros.strides[2]) <= abs(zeros.strides[0])
        mask = zeros if inputs_last else np.swapaxes(zeros, 0, 2)
        rows, positions, columns = mask.shape
        octets = np.full((rows, positions, -(-columns // 64) * 8), 0xFF, np.uint8)
        if mask.size:
            packed = np.packbits(mask, axis=2, bitorder="little")
            if columns % 8:
                packed[:, :, -1] |= np.uint8(0xFF << columns % 8 & 0xFF)
            octets[:, :, : packed.shape[2]] = packed
        return Bits(octets.view("<u8"), columns, inputs_last)

    @property
    def row_count(self) -> int:
        return self.words.shape[0]

    def inside(self) -> np.ndarray:
        """The bits of a row that are columns, not filling."""
        bits = np.zeros(self.words.shape[2] * 64, bool)
        bits[: self.columns] = True
        return np.packbits(bits, bitorder="little").view("<u8")

    def grouped(self, rows: int) -> np.ndarray:
        """The words of every `rows` neighbouring rows together: [groups, rows, positions, words], filled with ones."""
        missing = -self.row_count % rows
        words = self.words
        if missing:
            words = np.concatenate([words, np.full((missing, *words.shape[1:]), _ALL)])
        return words.reshape(-1, rows, *words.shape[1:])


def popcount(words: np.ndarray) -> np.ndarray:
    """How many bits of each word are set."""
    counter: Callable[[np.ndarray], np.ndarray] | None = getattr(np, "bitwise_count", None)
    if counter is not None:
        return counter(words)
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, words.itemsize)
    return _bits_of_octets()[octets].sum(axis=-1)


@functools.cache
def _bits_of_octets() -> np.ndarray:
    return np.array([n.bit_count() for n in range(256)], np.uint8)


def _total(words: np.ndarray) -> int:
    return int(popcount(words).sum(dtype=np.int64))


def detect(zeros: np.ndarray) -> Pattern:
    """The pattern of a mask [outputs, positions, inputs] that is true where the weight is zero."""
    return _Search(Bits.of(zeros)).pattern() if zeros.size else Pattern(0, 0, "dense", {}, *_all_empty(zeros))


def _all_empty(zeros: np.ndarray) -> tuple[int, int]:
    return zeros.shape[0], zeros.shape[2]


def live_fours(zeros: np.ndarray) -> tuple[int, int, int]:
    """Of a mask [outputs, positions, inputs]: zeros, fours of neighbouring inputs, and fours that are not all zero."""
    outputs, positions, inputs = zeros.shape
    fours = outputs * positions * -(-inputs // 4)
    if not zeros.size:
        return 0, fours, 0
    bits = Bits.of(zeros)
    inside = bits.inside()
    count = _total(bits.words & inside)
    if not bits.inputs_last:
        dead = np.bitwise_and.reduce(bits.grouped(4), axis=1) & inside
        return count, fours, fours - _total(dead)
    dead = _whole_blocks(bits.words, 4) & (inside & _starts(4))
    return count, fours, fours - _total(dead)


def _starts(width: int) -> np.uint64:
    """The first bit of every aligned block of `width` bits."""
    return np.uint64(sum(1 << i for i in range(0, 64, width)))


def _whole_blocks(words: np.ndarray, width: int) -> np.ndarray:
    """Words whose first bit of every aligned block of `width` (a power of two) tells whether all its bits are set."""
    step = 1
    while step < width:
        words = words & (words >> np.uint64(step))
        step *= 2
    return words & _starts(width)


class _Search:
    """Looks at one mask."""

    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        self.inside = bits.inside()
        words = bits.words
        self.live_row = ~np.asarray((words == _ALL).all(axis=(1, 2)))
        empty = np.bitwise_and.reduce(np.bitwise_and.reduce(words, axis=0), axis=0)
        self.live_columns = ~empty & self.inside
        self.zeros = self._sum(lambda band: band & self.inside)
        live = int(self.live_row.sum()) * words.shape[1] * _total(self.live_columns)
        self.live_zeros = self._sum(lambda band: band & self.live_columns, live_rows_only=True)
        self.sparsity = self.live_zeros / live if live else 0.0

    def _sum(self, f: Callable[[np.ndarray], np.ndarray], live_rows_only: bool = False) -> int:
        words = self.bits.words[self.live_row] if live_rows_only else self.bits.words
        step = max(_BAND_BYTES // max(words[:1].nbytes, 1), 1)
        return sum(_total(f(words[i : i + step])) for i in range(0, len(words), step))

    def pattern(self) -> Pattern:
        bits = self.bits
        elements = bits.row_count * bits.words.shape[1] * bits.columns
        empty_rows = bits.row_count - int(self.live_row.sum())
        empty_columns = bits.columns - _total(self.live_columns)
        if not bits.inputs_last:
            empty_rows, empty_columns = empty_columns, empty_rows
        blocks: dict[str, float] = {}
        kind = "dense"
        if self.sparsity >= _DENSE_BELOW:
            blocks = {f"{r}x{c}": self._covered(r, c) / self.live_zeros for r, c in BLOCKS if self._fits(r, c)}
            kind = self._kind(blocks)
        return Pattern(elements, self.zeros, kind, blocks, empty_rows, empty_columns)

    def _turned(self, outputs: int, inputs: int) -> tuple[int, int]:
        return (outputs, inputs) if self.bits.inputs_last else (inputs, outputs)

    def _fits(self, outputs: int, inputs: int) -> bool:
        rows, columns = self._turned(outputs, inputs)
        return self.bits.row_count >= rows and self.bits.columns >= columns

    def _kind(self, blocks: dict[str, float]) -> str:
        """The largest block that holds nearly all zeros, far more than chance would; else N:M; else unstructured."""
        for rows, columns in sorted(BLOCKS, key=lambda b: -b[0] * b[1]):
            share = blocks.get(f"{rows}x{columns}", 0.0)
            by_chance = self.sparsity ** (rows * columns - 1)
            if share >= _LEAST_COVERAGE and 1 - share <= _MOST_RANDOM_MISSES * (1 - by_chance):
                return f"{rows}x{columns}"
        return next((f"{n}:{m}" for n, m in _N_OF_M if self._keeps(n, m)), "unstructured")

    def _covered(self, outputs: int, inputs: int) -> int:
        """The zeros of live rows and columns in aligned blocks of zeros; blocks at the edge may be smaller."""
        rows, columns = self._turned(outputs, inputs)
        missing = -len(self.live_row) % rows
        live_rows = np.pad(self.live_row, (0, missing)).reshape(-1, rows).sum(axis=1)
        groups = self.bits.grouped(rows)
        step = max(_BAND_BYTES // max(groups[:1].nbytes, 1), 1)
        filled = np.uint64((1 << columns) - 1)
        total = 0
        for i in range(0, len(groups), step):
            together = np.bitwise_and.reduce(groups[i : i + step], axis=1) if rows > 1 else groups[i : i + step, 0]
            if columns > 1:
                together = _whole_blocks(together, columns) * filled
            counts = popcount(together & self.live_columns).sum(axis=(1, 2), dtype=np.int64)
            total += int(counts @ live_rows[i : i + step])
        return total

    def _keeps(self, n: int, m: int) -> bool:
        """Whether at most n of every m consecutive inputs are not zero, where chance would break that often."""
        broken, groups = self._broken_columns(n, m) if self.bits.inputs_last else self._broken_rows(n, m)
        s = self.sparsity
        by_chance = sum(math.comb(m, k) * (1 - s) ** k * s ** (m - k) for k in range(n + 1, m + 1))
        return groups * by_chance >= 10 and broken <= 0.01 * by_chance * groups

    def _broken_columns(self, n: int, m: int) -> tuple[int, int]:
        """Groups of m bits of live rows with more than n kept, and how many groups there are."""
        whole = self.bits.columns // m
        starts = np.zeros(self.bits.words.shape[2] * 64, bool)
        starts[: whole * m : m] = True
        # A sum of m bits fits in its group with the highest bit to spare, so an addition carries n + 1 and more there.
        tested = np.packbits(starts, bitorder="little").view("<u8") << np.uint64(m - 1)
        carry = _starts(m) * np.uint64((1 << (m - 1)) - 1 - n)
        broken = self._sum(lambda band: (_group_sums(~band, m) + carry) & tested, live_rows_only=True)
        return broken, whole * int(self.live_row.sum()) * self.bits.words.shape[1]

    def _broken_rows(self, n: int, m: int) -> tuple[int, int]:
        """The same where inputs are rows: bits of live columns, m rows together."""
        whole = self.bits.row_count // m
        groups = self.bits.words[: whole * m].reshape(whole, m, *self.bits.words.shape[1:])
        step = max(_BAND_BYTES // max(groups[:1].nbytes, 1), 1)
        broken = sum(_total(_more_than(n, ~groups[i : i + step]) & self.live_columns) for i in range(0, whole, step))
        return broken, whole * _total(self.live_columns) * self.bits.words.shape[1]


def _group_sums(words: np.ndarray, width: int) -> np.ndarray:
    """The number of set bits of each aligned group of 4 or 8 bits, in its place."""
    one, two = np.uint64(0x5555_5555_5555_5555), np.uint64(0x3333_3333_3333_3333)
    words = (words & one) + ((words >> np.uint64(1)) & one)
    words = (words & two) + ((words >> np.uint64(2)) & two)
    return words if width == 4 else (words + (words >> np.uint64(4))) & np.uint64(0x0F0F_0F0F_0F0F_0F0F)


def _more_than(n: int, groups: np.ndarray) -> np.ndarray:
    """Bits that are set in more than n of the words along axis 1, counted in binary with one word per digit."""
    digits: list[np.ndarray] = [np.zeros_like(groups[:, 0]) for _ in range(groups.shape[1].bit_length())]
    for i in range(groups.shape[1]):
        carry = groups[:, i]
        for d, digit in enumerate(digits):
            digits[d], carry = digit ^ carry, digit & carry
    found = np.zeros_like(digits[0])
    for number in range(n + 1, groups.shape[1] + 1):
        same = np.full_like(found, _ALL)
        for d, digit in enumerate(digits):
            same &= digit if number >> d & 1 else ~digit
        found |= same
    return found


_SAMPLED = 64


def duplicate_rows(matrix: np.ndarray) -> int:
    """How many rows of a matrix equal an earlier one, rows of zeros left out; -0.0 counts as zero.

    Rows are compared on some of their columns first, and whole only where those agree.
    """
    rows, columns = matrix.shape
    if rows < 2 or not columns:
        return 0
    picked = np.unique(np.linspace(0, columns - 1, min(columns, _SAMPLED)).astype(np.int64))
    samples = np.ascontiguousarray(matrix[:, picked]) + matrix.dtype.type(0)
    order = sorted(range(rows), key=lambda r: samples[r].tobytes())
    found = 0
    for _, group in itertools.groupby(order, key=lambda r: samples[r].tobytes()):
        alike = list(group)
        if len(alike) > 1:
            whole = np.ascontiguousarray(matrix[alike]) + matrix.dtype.type(0)
            alive = {row.tobytes() for row in whole if row.any()}
            found += sum(bool(row.any()) for row in whole) - len(alive)
    return found
