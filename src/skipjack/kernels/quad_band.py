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
    a, vector = k.arg, I32.vec(lanes)
    pad = a.pad_word.trunc(I32).splat(lanes)
    reach = lanes * s.stride

    def part(first: V, n: int) -> V:
        """Vector n of the words from `first` on."""
        start = first + n * lanes
        low, high = k.below(0 - start, lanes), k.below(a.in_width - start, lanes)
        mask = high & (low ^ 1)
        return k.select(mask, source.at(start, 4).load_masked(vector, mask), pad)

    def edge(first: V, out: V) -> None:
        if s.stride <= 2:
            parts = [part(first, n) for n in range(s.stride)]
            out.store(parts[0] if s.stride == 1 else parts[0].shuffle(range(0, 2 * lanes, 2), parts[1]))
            return
        at = k.iota(I64.vec(lanes)) * s.stride + first
        mask = (at > -1) & (at < a.in_width)
        out.store(k.select(mask, source.gather(vector, at * 4, mask), pad))

    def inner(first: V, out: V) -> None:
        p = source.at(first, 4)
        if s.stride == 1:
            out.store(p.load(vector))
        else:
            out.store(p.load(vector).shuffle(range(0, 2 * lanes, 2), p.at(4 * lanes).load(vector)))

    with k.loop(a.width, 0, lanes) as o:
        first, out = o * s.stride + shift, target.at(o, 4)
        if s.stride > 2:
            edge(first, out)
        else:
            k.branch(
                (first > -1) & (first + reach <= a.in_width),
                lambda first=first, out=out: inner(first, out),
                lambda first=first, out=out: edge(first, out),
            )
