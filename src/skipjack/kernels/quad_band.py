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
    words = Words(k, lanes, s.stride, a.in_width, a.pad_word.trunc(I32).splat(lanes))
    tops = [b.first * a.row_step + phase - a.pad_top for phase in s.phases]
    with k.loop(b.high, b.low) as group:
        plane, target = b.x.at(group * a.x_group), b.scratch.at((group - b.low) * a.copy_group)
        if s.flat:
            _flat(k, words, plane, target, b.first)
        with k.loop(0 if s.flat else a.columns) as column:
            for n, top in enumerate(tops):
                out = target.at((column * len(tops) + n) * a.phase_rows * a.width * 4)
                _shifted(k, words, plane.at(top * a.in_width * 4), out, top, column * a.column_step - a.pad_left)


def _flat(k: Kernel, words: Words, source: V, target: V, shift: V) -> None:
    """Neighbouring positions as they lie. The last vector may reach beyond them."""
    with k.loop(k.arg.width, 0, words.lanes) as o:
        _vector(k, words, source, target, o, shift)


def _vector(k: Kernel, words: Words, source: V, target: V, o: V, shift: V) -> None:
    """One vector of a row, from output o on."""
    first, out = o * words.stride + shift, target.at(o, 4)
    k.branch(
        words.inside(first),
        lambda: out.store(words.load(source, first)),
        lambda: out.store(words.load(source, first, words.masks(first))),
    )


def _shifted(k: Kernel, words: Words, source: V, target: V, top: V, shift: V) -> None:
    """One shift and phase of a plane: rows of words o * stride + shift; source is where input row `top` would begin.

    The last vector of a row may reach into the next row, which is written later.
    """
    a, lanes, rows = k.arg, words.lanes, k.arg.phase_rows
    begin = k.min(k.max((a.row_step - 1 - top) // a.row_step, 0), rows)
    end = k.min(k.max((a.in_height - top + (a.row_step - 1)) // a.row_step, begin), rows)
    last = (a.width - 1) // lanes * lanes
    last_first = last * words.stride + shift
    masks, last_masks = words.masks(shift), words.masks(last_first)

    def fill(low: V | int, high: V) -> None:
        with k.loop(high, low) as j, k.loop(a.width, 0, lanes) as o:
            target.at((j * a.width + o) * 4).store(words.pad)

    fill(0, begin)
    with k.loop(end, begin) as j:
        row, out = source.at(j * a.row_step * a.in_width * 4), target.at(j * a.width * 4)
        out.store(words.load(row, shift, masks))
        with k.loop(last, lanes, lanes) as o:
            _vector(k, words, row, out, o, shift)
        with k.when(last > 0):
            out.at(last, 4).store(words.load(row, last_first, last_masks))
    fill(end, rows)


@dataclass(frozen=True)
class Words:
    """Rows of `width` words: vectors of every stride-th of them, `pad` for those outside."""

    k: Kernel
    lanes: int
    stride: int
    width: V
    pad: V

    def inside(self, first: V) -> V:
        """Whether no masks are needed for the words from `first` on."""
        return (first > -1) & (first + self.lanes * self.stride <= self.width)

    def masks(self, first: V) -> tuple[V, ...]:
        """Which of the words from `first` on exist."""
        k, n = self.k, self.lanes
        if self.stride > 2:
            at = self._places(first)
            return ((at > -1) & (at < self.width),)
        starts = [first + i * n for i in range(self.stride)]
        return tuple(k.below(self.width - start, n) & (k.below(0 - start, n) ^ 1) for start in starts)

    def load(self, source: V, first: V, masks: tuple[V, ...] | None = None) -> V:
        """Words first, first + stride, ... of the row at source."""
        k, n, vector = self.k, self.lanes, I32.vec(self.lanes)
        if self.stride > 2:
            (mask,) = masks or self.masks(first)
            return k.select(mask, source.gather(vector, self._places(first) * 4, mask), self.pad)
        places = [source.at(first, 4).at(i * 4 * n) for i in range(self.stride)]
        if masks is None:
            parts = [p.load(vector) for p in places]
        else:
            parts = [k.select(m, p.load_masked(vector, m), self.pad) for p, m in zip(places, masks, strict=True)]
        return parts[0] if self.stride == 1 else parts[0].shuffle(range(0, 2 * n, 2), parts[1])

    def _places(self, first: V) -> V:
        return self.k.iota(I64.vec(self.lanes)) * self.stride + first
