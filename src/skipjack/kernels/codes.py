"""Unsigned codes of four rows of positions at once: rounded, shifted by the zero point, limited, packed into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I8, I16, I32
from skipjack.targets.instructions import NEAREST, PACK_BYTES, PACK_WORDS

_FARTHEST = 1e6
_ROWS = 4


@dataclass(frozen=True)
class Requantised:
    """An expression that ends in unsigned codes: what is rounded, and the zero point (f32) added then, if any."""

    steps: Expr
    zero: Expr | None


def requantised(e: Expr | None) -> Requantised | None:
    """The parts of `u8(min(max(round(steps) + zero, 0), 255))`, NaN as code 0; None for any other expression."""
    if e is None or e.op != "cast" or e.dtype is not DType.U8 or e.args[0].op != "min":
        return None
    limited, top = e.args[0].args
    if not _is(top, 255.0) or limited.op != "select" or limited.args[0].op != "gt" or not _is(limited.args[2], 0.0):
        return None
    shifted = limited.args[1]
    compared, bound = limited.args[0].args
    if compared != shifted or not _is(bound, 0.0):
        return None
    if shifted.op == "round":
        return Requantised(shifted.args[0], None)
    if shifted.op == "add" and shifted.args[0].op == "round" and shifted.args[1].op in ("const", "input"):
        return Requantised(shifted.args[0].args[0], shifted.args[1])
    return None


def _is(e: Expr, number: float) -> bool:
    return e.op == "const" and float(e.value) == number


def can_pack(lanes: int) -> bool:
    """Whether vectors of so many f32 lanes have the instructions."""
    return lanes in NEAREST


def pack_codes(k: Kernel, steps: Sequence[V], zero: V | None, exists: Sequence[V] | None) -> V:
    """Words of the codes of four rows. zero: i32 lanes; exists: per row, an i1 that is false where zeros belong."""
    lanes = steps[0].ty.lanes
    rows: list[V] = []
    for r in range(_ROWS):
        # The first operand is the number, so that a NaN stays one; it becomes the lowest integer.
        near = k.min(k.constant(F32.vec(lanes), _FARTHEST), steps[r])
        code = k.intrinsic(NEAREST[lanes].name, I32.vec(lanes), near)
        if zero is not None:
            code = code + zero
        rows.append(code if exists is None else k.select(exists[r], code, 0))
    pairs = [k.intrinsic(PACK_WORDS[lanes].name, I16.vec(2 * lanes), rows[r], rows[r + 1]) for r in range(0, _ROWS, 2)]
    packed = k.intrinsic(PACK_BYTES[lanes].name, I8.vec(4 * lanes), *pairs)
    order = [16 * part + 4 * r + i for part in range(lanes // 4) for i in range(4) for r in range(_ROWS)]
    return packed.shuffle(order).bitcast(I32.vec(lanes))
