"""Offsets of buffers: what is alive together lies apart, and the block is hardly larger than it must be."""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis import given, settings

from skipjack.runtime.arena import ALIGN, Interval, place_intervals


@st.composite
def intervals(draw: st.DrawFn) -> list[Interval]:
    spans = draw(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 8)), max_size=40))
    return [Interval(nbytes, first, first + length) for nbytes, first, length in spans]


def padded(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGN) * ALIGN


def peak(placed: list[Interval]) -> int:
    """The most bytes alive at one step."""
    steps = {i.first for i in placed}
    return max((sum(padded(i.nbytes) for i in placed if i.first <= s <= i.last) for s in steps), default=0)


@settings(max_examples=150, deadline=None)
@given(intervals())
def test_buffers_alive_together_lie_apart(wanted: list[Interval]) -> None:
    offsets, total = place_intervals(wanted)
    assert all(o % ALIGN == 0 and o + i.nbytes <= total for o, i in zip(offsets, wanted, strict=True))
    for a, x in enumerate(wanted):
        for b, y in enumerate(wanted[:a]):
            if x.first <= y.last and y.first <= x.last:
                assert offsets[a] >= offsets[b] + padded(y.nbytes) or offsets[b] >= offsets[a] + padded(x.nbytes)
    assert peak(wanted) <= total <= 2 * peak(wanted)


def test_the_total_is_close_to_what_is_alive_at_once() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        wanted = [Interval(rng.randint(1, 1 << 20), s, s + rng.choice([1, 1, 1, 2, 5, 20])) for s in range(120)]
        _, total = place_intervals(wanted)
        assert total <= 1.25 * peak(wanted), seed


def test_a_chain_takes_two_buffers() -> None:
    _, total = place_intervals([Interval(1000, s, s + 1) for s in range(50)])
    assert total == 2 * padded(1000)
