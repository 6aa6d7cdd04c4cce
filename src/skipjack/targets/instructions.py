"""Instructions that only some targets have: the feature they need, their LLVM spelling, their meaning in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skipjack.lang.half_products import from_bits, fused, without_denormals
from skipjack.lang.program import BF16, F32, I1, I8, I16, I32, I64, Ty


@dataclass(frozen=True)
class Instruction:
    """One instruction. name is LLVM's; meaning maps operand arrays to the result and is what the interpreter runs."""

    name: str
    feature: str
    result: Ty
    operands: tuple[Ty, ...]
    meaning: Callable[..., np.ndarray]


def _dot_u8_s8(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Each i32 lane plus the products of its four bytes of a (unsigned) with those of b (signed), wrapping."""
    products = a.view(np.uint8).astype(np.int64) * b.view(np.int8).astype(np.int64)
    return (total.astype(np.int64) + products.reshape(-1, 4).sum(axis=1)).astype(np.int32)


DOT_U8_S8_512 = Instruction(
    "llvm.x86.avx512.vpdpbusd.512", "avx512vnni", I32.vec(16), (I32.vec(16), I8.vec(64), I8.vec(64)), _dot_u8_s8
)

DOT_U8_S8_128 = Instruction(
    "llvm.aarch64.neon.usdot.v4i32.v16i8", "i8mm", I32.vec(4), (I32.vec(4), I8.vec(16), I8.vec(16)), _dot_u8_s8
)


def _dot_s8_s8(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Each i32 lane plus the products of its four signed bytes of a and b, wrapping."""
    products = a.view(np.int8).astype(np.int64) * b.view(np.int8).astype(np.int64)
    return (total.astype(np.int64) + products.reshape(-1, 4).sum(axis=1)).astype(np.int32)


DOT_S8_S8_128 = Instruction(
    "llvm.aarch64.neon.sdot.v4i32.v16i8", "dotprod", I32.vec(4), (I32.vec(4), I8.vec(16), I8.vec(16)), _dot_s8_s8
)


def _multiply_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Each i32 lane: the products of two neighbouring i16 lanes added, wrapping."""
    products = a.astype(np.int64) * b.astype(np.int64)
    return products.reshape(-1, 2).sum(axis=1).astype(np.int32)


MULTIPLY_PAIRS_256 = Instruction(
    "llvm.x86.avx2.pmadd.wd", "avx2", I32.vec(8), (I16.vec(16), I16.vec(16)), _multiply_pairs
)
MULTIPLY_PAIRS_512 = Instruction(
    "llvm.x86.avx512.pmaddw.d.512", "avx512bw", I32.vec(16), (I16.vec(32), I16.vec(32)), _multiply_pairs
)


def _dot_half(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Each f32 lane plus the product of its odd bf16, then of its even one: two fused steps without denormals."""
    x, y, sums = from_bits(a), from_bits(b), total
    for first in (1, 0):
        sums = fused(x[first::2], y[first::2], sums)
    return sums


DOT_BF16_512 = Instruction(
    "llvm.x86.avx512bf16.dpbf16ps.512",
    "avx512bf16",
    F32.vec(16),
    (F32.vec(16), BF16.vec(32), BF16.vec(32)),
    _dot_half,
)


def _two_rounded(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The bits of low and then high rounded to bf16, ties to even; denormals as zeros, NaN stays NaN."""
    x = without_denormals(np.concatenate([low, high]))
    bits = x.view(np.uint32)
    rounded = bits + ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return (np.where(np.isnan(x), bits | 0x400000, rounded) >> 16).astype(np.uint16).view(np.int16)


ROUND_TO_BF16_512 = Instruction(
    "llvm.x86.avx512bf16.cvtne2ps2bf16.512", "avx512bf16", BF16.vec(32), (F32.vec(16), F32.vec(16)), _two_rounded
)


def _expand(data: np.ndarray, rest: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The first elements of data in the lanes of the mask, in order; lanes of rest elsewhere."""
    out = rest.copy()
    out[mask] = data[: np.count_nonzero(mask)]
    return out


EXPAND_BYTES = Instruction(
    "llvm.x86.avx512.mask.expand.v64i8", "avx512vbmi2", I8.vec(64), (I8.vec(64), I8.vec(64), I1.vec(64)), _expand
)
EXPAND_WORDS = Instruction(
    "llvm.x86.avx512.mask.expand.v32i16", "avx512vbmi2", I16.vec(32), (I16.vec(32), I16.vec(32), I1.vec(32)), _expand
)
EXPAND_DOUBLE_WORDS = Instruction(
    "llvm.x86.avx512.mask.expand.v16i32", "avx512f", I32.vec(16), (I32.vec(16), I32.vec(16), I1.vec(16)), _expand
)


def _deposit(bits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The low bits of `bits` at the set bits of mask, in order; zeros elsewhere."""
    source, places, out = int(bits) % 2**64, int(mask) % 2**64, 0
    while places:
        lowest = places & -places
        out |= lowest if source & 1 else 0
        source, places = source >> 1, places ^ lowest
    return np.array(out, np.uint64).view(np.int64)[()]


DEPOSIT_BITS = Instruction("llvm.x86.bmi.pdep.64", "bmi2", I64, (I64, I64), _deposit)


def _look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """table[the low four bits of index], per lane."""
    return table[index & 15]


LOOK_UP_FLOATS = Instruction(
    "llvm.x86.avx512.permvar.sf.512", "avx512f", F32.vec(16), (F32.vec(16), I32.vec(16)), _look_up
)


def _nearest(x: np.ndarray) -> np.ndarray:
    """To the nearest integer, ties to even; the lowest integer for NaN and what does not fit."""
    with np.errstate(invalid="ignore"):
        fits = np.abs(x) < 2.0**31
        return np.where(fits, np.rint(np.where(fits, x, 0)), -(2.0**31)).astype(np.int64).astype(np.int32)


def _packed(a: np.ndarray, b: np.ndarray, low: int, high: int) -> np.ndarray:
    """Per 16 bytes: the lanes of a, then those of b, limited."""
    per = 16 // a.itemsize
    pairs = np.concatenate([a.reshape(-1, per), b.reshape(-1, per)], axis=1)
    return np.clip(pairs, low, high).reshape(-1)


def _pack_words(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _packed(a, b, -(2**15), 2**15 - 1).astype(np.int16)


def _pack_bytes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _packed(a, b, 0, 255).astype(np.uint8).view(np.int8)


NEAREST = {
    8: Instruction("llvm.x86.avx.cvt.ps2dq.256", "avx", I32.vec(8), (F32.vec(8),), _nearest),
    16: Instruction("llvm.lrint.v16i32.v16f32", "avx512f", I32.vec(16), (F32.vec(16),), _nearest),
}
"""By f32 lanes."""
PACK_WORDS = {
    8: Instruction("llvm.x86.avx2.packssdw", "avx2", I16.vec(16), (I32.vec(8), I32.vec(8)), _pack_words),
    16: Instruction("llvm.x86.avx512.packssdw.512", "avx512bw", I16.vec(32), (I32.vec(16), I32.vec(16)), _pack_words),
}
PACK_BYTES = {
    8: Instruction("llvm.x86.avx2.packuswb", "avx2", I8.vec(32), (I16.vec(16), I16.vec(16)), _pack_bytes),
    16: Instruction("llvm.x86.avx512.packuswb.512", "avx512bw", I8.vec(64), (I16.vec(32), I16.vec(32)), _pack_bytes),
}

INSTRUCTIONS: tuple[Instruction, ...] = (
    *NEAREST.values(),
    *PACK_WORDS.values(),
    *PACK_BYTES.values(),
    DOT_U8_S8_512,
    DOT_U8_S8_128,
    DOT_S8_S8_128,
    MULTIPLY_PAIRS_256,
    MULTIPLY_PAIRS_512,
    DOT_BF16_512,
    ROUND_TO_BF16_512,
    EXPAND_BYTES,
    EXPAND_WORDS,
    EXPAND_DOUBLE_WORDS,
    DEPOSIT_BITS,
    LOOK_UP_FLOATS,
)


def meanings() -> dict[str, Callable[..., np.ndarray]]:
    """Name -> meaning, as the interpreter takes them."""
    return {i.name: i.meaning for i in INSTRUCTIONS}
