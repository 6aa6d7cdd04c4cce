"""Instructions that only some targets have: the feature they need, their LLVM spelling, their meaning in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skipjack.lang.program import I8, I16, I32, Ty


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

INSTRUCTIONS: tuple[Instruction, ...] = (DOT_U8_S8_512, MULTIPLY_PAIRS_256, MULTIPLY_PAIRS_512)


def meanings() -> dict[str, Callable[..., np.ndarray]]:
    """Name -> meaning, as the interpreter takes them."""
    return {i.name: i.meaning for i in INSTRUCTIONS}
