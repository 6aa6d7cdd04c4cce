"""Sums of four products of bytes per 32-bit lane: the step of every integer contraction, exact on every target."""

from __future__ import annotations

from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I8, I16, I32
from skipjack.targets.instructions import DOT_U8_S8_512, MULTIPLY_PAIRS_256, MULTIPLY_PAIRS_512
from skipjack.targets.target import Target


def dot4(k: Kernel, target: Target, total: V, x: V, w: V) -> V:
    """total + the four products of unsigned bytes of x with signed bytes of w, per i32 lane; nothing saturates.

    Written for many calls with the same x: what depends on x alone is computed once.
    """
    lanes = total.ty.lanes
    if target.has("avx512vnni") and lanes == 16:
        return k.intrinsic(DOT_U8_S8_512.name, total.ty, total, x.bitcast(I8.vec(64)), w.bitcast(I8.vec(64)))
    pairs = {8: MULTIPLY_PAIRS_256, 16: MULTIPLY_PAIRS_512}.get(lanes)
    if pairs is not None and target.has(pairs.feature):
        words = I16.vec(2 * lanes)
        w16 = w.bitcast(words)
        even = k.intrinsic(pairs.name, total.ty, (x & 0x00FF00FF).bitcast(words), (w16 << 8).sar(8))
        odd = k.intrinsic(pairs.name, total.ty, (x >> 8 & 0x00FF00FF).bitcast(words), w16.sar(8))
        return total + even + odd
    for byte in range(4):
        value = w << (24 - 8 * byte) if byte < 3 else w
        total = total + (x >> (8 * byte) & 0xFF) * value.sar(24)
    return total


def broadcast4(p: V, lanes: int) -> V:
    """The four bytes at p in every i32 lane."""
    return p.load(I32).splat(lanes)
