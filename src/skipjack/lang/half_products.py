"""What instructions that multiply bf16 compute: steps fused in f32, in which denormal numbers count as zeros."""

from __future__ import annotations

import numpy as np


def without_denormals(x: np.ndarray) -> np.ndarray:
    """x with zeros of the same sign for denormal numbers."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def from_bits(x: np.ndarray) -> np.ndarray:
    """The f32 of bf16 bits, denormals as zeros."""
    bits = np.ascontiguousarray(x).view(np.uint16).astype(np.uint32) << 16
    return without_denormals(bits.view(np.float32))


def fused(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    """a * b + total rounded once, for f32 made from bf16: their product is exact in f64, where the sum goes to odd."""
    product, addend = a.astype(np.float64) * b.astype(np.float64), without_denormals(total).astype(np.float64)
    found = product + addend
    rest = found - product
    error = (product - (found - rest)) + (addend - rest)
    bits = np.ascontiguousarray(found).view(np.int64)
    towards = np.where((error > 0) == (found > 0), 1, -1)
    even = np.isfinite(found) & (error != 0) & (bits & 1 == 0)
    odd = np.ascontiguousarray(bits + np.where(even, towards, 0)).view(np.float64)
    return without_denormals(odd.astype(np.float32))
