"""Sums of four products of bytes per 32-bit lane: the step of every integer contraction, exact on every target."""

from __future__ import annotations

from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I8, I16, I32
from skipjack.targets.instructions import (
    DOT_S8_S8_128,
    DOT_U8_S8_128,
    DOT_U8_S8_512,
    MULTIPLY_PAIRS_256,
    MULTIPLY_PAIRS_512,
)
from skipjack.targets.target import Target


def dot4(k: Kernel, target: Target, total: V, x: V, w: V) -> V:
    """total + the four products of unsigned bytes of x with signed bytes of w, per i32 lane; nothing saturates.

    Written for many calls with the same x or w: what depends on one of them alone is computed once.
    """
    lanes = total.ty.lanes
    quads = {4: DOT_U8_S8_128, 16: DOT_U8_S8_512}.get(lanes)
    if quads is not None and target.has(quads.feature):
        octets = I8.vec(4 * lanes)
        return k.intrinsic(quads.name, total.ty, total, x.bitcast(octets), w.bitcast(octets))
    if lanes == 4 and target.has(DOT_S8_S8_128.feature):
        return _dot_signed(k, total, x, w)
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


def _dot_signed(k: Kernel, total: V, x: V, w: V) -> V:
    """With products of signed bytes only: x - 128 is one, and 128 times w is taken from the sum again."""
    ty, octets = total.ty, I8.vec(16)
    less = (x ^ -0x7F7F7F80).bitcast(octets)
    shift = k.intrinsic(DOT_S8_S8_128.name, ty, k.zero(ty), k.constant(octets, -128), w.bitcast(octets))
    return k.intrinsic(DOT_S8_S8_128.name, ty, total, less, w.bitcast(octets)) - shift


def broadcast4(p: V, lanes: int) -> V:
    """The four bytes at p in every i32 lane."""
    return p.load(I32).splat(lanes)
