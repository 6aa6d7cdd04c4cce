"""The sizes of one convolution or pool, spatial axes normalised to three, and how an output row is cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from skipjack.kernels.launch import Work

Triple = tuple[int, int, int]


def _three(values: Sequence[int], fill: int) -> Triple:
    a, b, c = (*[fill] * (3 - len(values)), *[int(v) for v in values])
    return a, b, c


@dataclass(frozen=True)
class WindowShape:
    """Sizes and steps of a sliding window; missing leading axes have size 1 and no pads."""

    batch: int
    channels: int
    maps: int
    group: int
    kernel: Triple
    strides: Triple
    dilations: Triple
    before: Triple
    size: Triple
    out: Triple

    @property
    def taps(self) -> int:
        return prod(self.kernel)

    @property
    def pixels(self) -> int:
        """Output positions of one image."""
        return prod(self.out)

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole operation."""
        return self.batch * self.maps * (self.channels // self.group) * self.taps * self.pixels

    def is_pointwise(self) -> bool:
        """One tap, nothing padded, every input position used once."""
        return self.taps == 1 and self.strides == (1, 1, 1) and self.size == self.out


def same_pads(
    work: Work, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Pads at the beginnings that auto_pad asks for."""
    upper, before = work.attr("auto_pad") == "SAME_UPPER", list[int]()
    for n, k, s, d in zip(size, kernel, strides, dilations):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        before.append(total // 2 if upper else total - total // 2)
    return before


def window_shape(work: Work, kernel: Sequence[int], maps: int) -> WindowShape:
    """What the attributes strides, pads, dilations, group, auto_pad of a node mean for its sizes."""
    x, y = work.input(0).shape, work.output().shape
    rank = len(x) - 2
    strides = tuple(work.attr("strides") or (1,) * rank)
    dilations = tuple(work.attr("dilations") or (1,) * rank)
    before = list(work.attr("pads") or (0,) * (2 * rank))[:rank]
    if str(work.attr("auto_pad", "NOTSET")).startswith("SAME"):
        before = same_pads(work, x[2:], kernel, strides, dilations)
    elif work.attr("auto_pad", "NOTSET") == "VALID":
        before = [0] * rank
    return WindowShape(
        x[0], x[1], maps, int(work.attr("group", 1)), _three(kernel, 1), _three(strides, 1), _three(dilations, 1),
        _three(before, 0), _three(x[2:], 1), _three(y[2:], 1),
    )  # fmt: skip


def conv_shape(work: Work) -> WindowShape:
    """The sizes of a Conv node."""
    weight = work.input(1).shape
    return window_shape(work, weight[2:], weight[0])


@dataclass(frozen=True)
class Segment:
    """`count` consecutive blocks of `pixels` outputs of a row.

    valid[k] is the range of pixels for which tap k is inside the input; counts[r] how many columns a mean at pixel r
    counts.
    """

    count: int
    pixels: int
    valid: tuple[tuple[int, int], ...]
    counts: tuple[int, ...] = ()

    @property
    def inside(self) -> bool:
        return all(v == (0, self.pixels) for v in self.valid)


def _valid(first: int, pixels: int, tap: int, s: WindowShape) -> tuple[int, int]:
    offset = first * s.strides[2] - s.before[2] + tap * s.dilations[2]
    low = min(max(-(offset // s.strides[2]), 0), pixels)
    high = min(max(-((offset - s.size[2]) // s.strides[2]), low), pixels)
    return low, high


def _counts(first: int, pixels: int, s: WindowShape, begin: int, end: int) -> tuple[int, ...]:
    """The taps of each pixel that meet columns of [begin, end)."""
    starts = [(first + r) * s.strides[2] - s.before[2] for r in range(pixels)]
    return tuple(sum(begin <= a + t * s.dilations[2] < end for t in range(s.kernel[2])) for a in starts)


def segments(s: WindowShape, pixels: int, counted: tuple[int, int] | None = None) -> tuple[Segment, ...]:
    """An output row as blocks of `pixels` outputs and one smaller block; blocks that look alike are one segment.

    counted is the range of input columns (pads may belong to it) that a mean counts.
    """
    found: list[Segment] = []
    for first in range(0, s.out[2], pixels):
        n = min(pixels, s.out[2] - first)
        valid = tuple(_valid(first, n, t, s) for t in range(s.kernel[2]))
        one = Segment(1, n, valid, _counts(first, n, s, *counted) if counted else ())
        if found and replace(found[-1], count=1) == one:
            found[-1] = replace(one, count=found[-1].count + 1)
        else:
            found.append(one)
    return tuple(found)


def clipped(s: WindowShape, axis: int) -> bool:
    """Whether a tap of the axis can lie outside the input."""
    end = (s.out[axis] - 1) * s.strides[axis] - s.before[axis] + (s.kernel[axis] - 1) * s.dilations[axis]
    return s.before[axis] > 0 or end >= s.size[axis]


def even_block(width: int, most: int) -> int:
    """The block length of at most `most` that cuts a row into the fewest, most equal blocks."""
    return -(-width // -(-width // most)) if width else 1
