"""A band of input rows copied to scratch for a convolution over quads: padded, shifted, split by phase of the stride.

For every four of channels, every column of the window and every phase the copy holds rows of `width` words, one per
output position, so that the inputs of any tap at neighbouring outputs are neighbours, across rows too.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64

BAND_WORDS = (
    "columns", "phase_rows", "width", "in_height", "in_width", "row_step", "column_step", "pad_top",
    "pad_left", "copy_group", "pad_word",
)  # fmt: skip


@dataclass(frozen=True)
class BandSpec:
    """What is compiled in. flat: the image is one row, and a band starts at one of its positions."""

    stride: int
    phases: tuple[int, ...]
    flat: bool


@dataclass(frozen=True)
class Band:
    """Fours of channels [low, high) of the image at x, from output row `first` on (position `first` when flat)."""

    x: V
    first: V
    scratch: V
    low: V
    high: V


def copy_band(k: Kernel, lanes: int, s: BandSpec, b: Band) -> None:
    """Copy a band to scratch; the argument words BAND_WORDS and x_group say how."""
    a = k.arg
    phases = len(s.phases)

    def copy(row: V, plane: V, shift: V, at: V) -> None:
        _row(k, lanes, s, plane.at(row * a.in_width * 4), at, shift)

    with k.loop(b.high, b.low) as group:
        plane, target = b.x.at(group * a.x_group), b.scratch.at((group - b.low) * a.copy_group)
        if s.flat:
            copy(k.i64(0), plane, b.first, target)
        with k.loop(0 if s.flat else a.columns) as column:
            shift = column * a.column_step - a.pad_left
            for n, phase in enumerate(s.phases):
                with k.loop(a.phase_rows) as j:
                    row = (b.first + j) * a.row_step + phase - a.pad_top
                    at = target.at(((column * phases + n) * a.phase_rows + j) * a.width * 4)
                    k.branch(
                        (row > -1) & (row < a.in_height),
                        lambda row=row, plane=plane, shift=shift, at=at: copy(row, plane, shift, at),
                        lambda at=at: _fill(k, lanes, at),
                    )


def _fill(k: Kernel, lanes: int, target: V) -> None:
    """A row of padding. The last vector may reach into the next row, which is written later."""
    pad = k.arg.pad_word.trunc(I32).splat(lanes)
    with k.loop(k.arg.width, 0, lanes) as o:
        target.at(o, 4).store(pad)


def _row(k: Kernel, lanes: int, s: BandSpec, source: V, target: V, shift: V) -> None:
    """target[o] = source[o * stride + shift], padding outside the row."""
    a = k.arg
    pad = a.pad_word.trunc(I32).splat(lanes)
    row = WordRow(k, lanes, s.stride, source, a.in_width, pad)
    with k.loop(a.width, 0, lanes) as o:
        first, out = o * s.stride + shift, target.at(o, 4)
        k.branch(
            row.holds(first),
            lambda row=row, first=first, out=out: out.store(row.inner(first)),
            lambda row=row, first=first, out=out: out.store(row.edge(first)),
        )


@dataclass(frozen=True)
class WordRow:
    """`width` words from source on; vectors of every stride-th of them, `pad` for those outside."""

    k: Kernel
    lanes: int
    stride: int
    source: V
    width: V
    pad: V

    def holds(self, first: V) -> V:
        """Whether `inner` may be asked for the words from `first` on."""
        return (first > -1) & (first + self.lanes * self.stride <= self.width)

    def inner(self, first: V) -> V:
        """Words first, first + stride, ...: all of them inside."""
        p, n, vector = self.source.at(first, 4), self.lanes, I32.vec(self.lanes)
        if self.stride == 1:
            return p.load(vector)
        if self.stride == 2:
            return p.load(vector).shuffle(range(0, 2 * n, 2), p.at(4 * n).load(vector))
        return self.edge(first)

    def edge(self, first: V) -> V:
        """The same where some lie outside."""
        k, n = self.k, self.lanes
        if self.stride == 1:
            return self._part(first)
        if self.stride == 2:
            return self._part(first).shuffle(range(0, 2 * n, 2), self._part(first + n))
        at = k.iota(I64.vec(n)) * self.stride + first
        mask = (at > -1) & (at < self.width)
        return k.select(mask, self.source.gather(I32.vec(n), at * 4, mask), self.pad)

    def _part(self, start: V) -> V:
        k, n = self.k, self.lanes
        mask = k.below(self.width - start, n) & (k.below(0 - start, n) ^ 1)
        return k.select(mask, self.source.at(start, 4).load_masked(I32.vec(n), mask), self.pad)
