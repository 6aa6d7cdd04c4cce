"""A run of elements as vectors: the loop every elementwise kernel ends in."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import memory_type
from skipjack.lang.kernel import Kernel, V
from skipjack.targets.target import Target

Body = Callable[[V, int, "V | None"], None]


def lanes_for(target: Target, dtypes: Iterable[DType]) -> int:
    """Lanes such that the widest of the types fills one register; types below 4 bytes are computed in 4."""
    return target.vector_bytes // max(4, *(d.itemsize for d in dtypes))


def maskable(target: Target, dtypes: Iterable[DType]) -> bool:
    """Whether the target loads and stores part of a vector of each of these types."""
    return target.has("avx512bw") or (target.has("avx2") and all(memory_type(d).bits >= 32 for d in dtypes))


def span(k: Kernel, start: V, stop: V, lanes: int, masked: bool, body: Body, unroll: int = 1) -> None:
    """Call body(index, lanes, mask) for [start, stop): whole vectors, then what is left masked or one by one (lanes 0).

    unroll 0 writes the body once: every vector is masked.
    """
    if unroll == 0 and masked:
        with k.loop(stop, start, lanes) as i:
            body(i, lanes, k.below(stop - i, lanes))
        return
    wide = lanes * max(unroll, 1)
    whole = start + ((stop - start) // wide) * wide
    with k.loop(whole, start, wide) as i:
        for n in range(max(unroll, 1)):
            body(i + n * lanes, lanes, None)
    if masked:
        with k.loop(stop, whole, lanes) as i:
            body(i, lanes, k.below(stop - i, lanes))
        return
    if unroll > 1:
        rest = whole + ((stop - whole) // lanes) * lanes
        with k.loop(rest, whole, lanes) as i:
            body(i, lanes, None)
        whole = rest
    with k.loop(stop, whole) as i:
        body(i, 0, None)
