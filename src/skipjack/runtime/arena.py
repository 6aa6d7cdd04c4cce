"""Offsets in one block of memory for buffers with known lifetimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGN = 64


@dataclass(frozen=True)
class Interval:
    """A buffer of nbytes that is alive from step first to step last, both included."""

    nbytes: int
    first: int
    last: int


def place_intervals(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """(offset of each interval, total bytes): intervals alive at the same step never overlap. Big ones go first."""
    offsets = [0] * len(intervals)
    placed: list[tuple[int, int, Interval]] = []
    total = 0
    order = sorted(range(len(intervals)), key=lambda i: (-intervals[i].nbytes, intervals[i].first, i))
    for index in order:
        interval = intervals[index]
        size = -(-max(interval.nbytes, 1) // ALIGN) * ALIGN
        offset = _lowest_gap(placed, interval, size)
        offsets[index] = offset
        placed.append((offset, offset + size, interval))
        total = max(total, offset + size)
    return offsets, total


def _lowest_gap(placed: list[tuple[int, int, Interval]], interval: Interval, size: int) -> int:
    busy = sorted(
        (start, end) for start, end, other in placed if other.first <= interval.last and interval.first <= other.last
    )
    offset = 0
    for start, end in busy:
        if start - offset >= size:
            break
        offset = max(offset, end)
    return offset
