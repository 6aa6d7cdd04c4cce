"""Reducing a run of elements to one number: a fixed number of partial results in lanes, joined by a fixed tree."""

from __future__ import annotations

from collections.abc import Callable

from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import Ty

Combine = Callable[[V, V], V]
Element = Callable[[V, int, "V | None"], V]
_CHAINS = 4


def add(a: V, b: V) -> V:
    return a + b


def fold(
    k: Kernel, count: V, ty: Ty, lanes: int, masked: bool, combine: Combine, identity: float, element: Element
) -> V:
    """combine over element(i, lanes, mask) for i in [0, count), as a scalar of type ty.

    Chain c of a lane takes every (4 * lanes)-th element; the order depends on count alone.
    """
    start = k.constant(ty.vec(lanes), identity)
    chains = [k.var(start) for _ in range(_CHAINS)]
    wide = _CHAINS * lanes
    whole = (count // wide) * wide
    with k.loop(whole, step=wide) as i:
        for n, chain in enumerate(chains):
            chain.set(combine(chain.get(), element(i + n * lanes, lanes, None)))
    tail = k.var(k.constant(ty, identity))
    if masked:
        with k.loop(count, whole, lanes) as i:
            mask = k.below(count - i, lanes)
            kept = k.select(mask, element(i, lanes, mask), start)
            chains[0].set(combine(chains[0].get(), kept))
    else:
        rest = whole + ((count - whole) // lanes) * lanes
        with k.loop(rest, whole, lanes) as i:
            chains[0].set(combine(chains[0].get(), element(i, lanes, None)))
        with k.loop(count, rest) as i:
            tail.set(combine(tail.get(), element(i, 0, None)))
    a, b, c, d = (chain.get() for chain in chains)
    return combine(across(combine(combine(a, b), combine(c, d)), combine), tail.get())


def across(v: V, combine: Combine) -> V:
    """The lanes of v combined: halves with each other until one is left."""
    while v.ty.lanes > 1:
        half = v.ty.lanes // 2
        v = combine(v.shuffle(range(half)), v.shuffle(range(half, 2 * half)))
    return v.extract(0)
