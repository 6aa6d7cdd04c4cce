"""What QuantizeLinear and DequantizeLinear with constant parameters say, and their meaning as expressions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX, Node
from skipjack.lang.expr import Expr, binary, cast, const, maximum, minimum, select, unary
from skipjack.ops.quantize import limits
from skipjack.passes.rewrite import Edit, node

BYTES = (DType.U8, DType.I8)
_CODES = (DType.U8, DType.I8, DType.U4, DType.I4, DType.I32)


@dataclass(frozen=True)
class Quant:
    """Codes of type `dtype` stand for (code - zero) * scale. scale (f32) and zero (i64): one for all, or one per index
    of `axis`; both then have one axis."""

    dtype: DType
    scale: np.ndarray
    zero: np.ndarray
    axis: int

    @property
    def whole(self) -> bool:
        """Whether one scale and zero point hold for all elements."""
        return self.scale.ndim == 0

    def same(self, other: Quant) -> bool:
        """Whether both say the same about every code; neither may have an axis."""
        alike = self.whole and other.whole and self.dtype is other.dtype
        return alike and bool(self.scale == other.scale) and bool(self.zero == other.zero)

    def moved(self, axis: int) -> Quant:
        """The same along another axis."""
        return replace(self, axis=axis)


def quant_of(edit: Edit, n: Node | None) -> Quant | None:
    """The parameters of a QuantizeLinear or DequantizeLinear between f32 and integers; None when they are not constant,
    belong to blocks, or the node is another one."""
    if n is None or n.op not in ("QuantizeLinear", "DequantizeLinear") or n.domain not in (ONNX, MS):
        return None
    scale = edit.array(n.input(1))
    zero = edit.array(n.input(2)) if n.input(2) else None
    real, coded = (n.input(0), n.outputs[0]) if n.op == "QuantizeLinear" else (n.outputs[0], n.input(0))
    x, codes = edit.tensor(real), edit.tensor(coded)
    if scale is None or scale.dtype != np.float32 or (n.input(2) and zero is None) or x is None or codes is None:
        return None
    if x.dtype is not DType.F32 or codes.dtype not in _CODES or n.attrs.get("block_size", 0) or scale.ndim > 1:
        return None
    if int(n.attrs.get("precision", 0)) not in (0, 1):  # type: ignore[arg-type]
        return None
    return _quant(scale, zero, codes.dtype, codes.rank, int(n.attrs.get("axis", 1)))  # type: ignore[arg-type]


def _quant(scale: np.ndarray, zero: np.ndarray | None, dtype: DType, rank: int | None, axis: int) -> Quant | None:
    numbers = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    if scale.size == 1:
        one = Quant(dtype, scale.reshape(()), numbers.reshape(-1)[0], 0)
        return one if one.scale > 0 else None
    if rank is None or numbers.shape != scale.shape or bool(np.any(scale < 0)):
        return None
    return Quant(dtype, scale, numbers, 0 if rank == 1 else axis % rank)


def dequantised_codes(edit: Edit, name: str) -> tuple[Node, Quant] | None:
    """The DequantizeLinear that makes a value, and what it says."""
    n = edit.made_by(name, "DequantizeLinear")
    quant = quant_of(edit, n)
    return None if n is None or quant is None else (n, quant)


def quantise(edit: Edit, x: str, quant: Quant, output: str) -> Node:
    """QuantizeLinear with these parameters."""
    return _affine(edit, "QuantizeLinear", x, quant, output)


def dequantise(edit: Edit, codes: str, quant: Quant, output: str) -> Node:
    """DequantizeLinear with these parameters."""
    return _affine(edit, "DequantizeLinear", codes, quant, output)


def _affine(edit: Edit, op: str, x: str, quant: Quant, output: str) -> Node:
    scale = edit.constant(quant.scale.astype(np.float32), f"{output}.scale")
    zero = edit.constant(quant.zero.astype(quant.dtype.np), f"{output}.zero")
    return node(op, (x, scale, zero), output, axis=quant.axis)


def real_number(codes: Expr, scale: Expr, zero: Expr | None) -> Expr:
    """The f32 number of a code; scale f32, zero i32."""
    if zero is not None:
        codes = cast(codes, DType.I32) - zero
    return cast(codes, DType.F32) * scale


def nearest_code(steps: Expr, zero: Expr | None, dtype: DType) -> Expr:
    """The code of a number in units of the scale: rounded to even, shifted by zero (f32), limited; NaN is code 0."""
    shifted = unary("round", steps)
    if zero is not None:
        shifted = shifted + zero
    low, high = limits(dtype)
    if low == 0:
        limited = select(shifted > 0.0, shifted, const(0.0, DType.F32))
    else:
        real = select(unary("isnan", shifted, DType.BOOL), const(0.0, DType.F32), shifted)
        limited = maximum(real, float(low))
    return cast(minimum(limited, float(high)), dtype)


def other_sign(code: Expr) -> Expr:
    """The i8 code of a u8 one, or the u8 code of an i8 one, 128 apart: the top bit turned over."""
    flipped = binary("xor", code, -128 if code.dtype is DType.I8 else 128)
    return cast(flipped, DType.U8 if code.dtype is DType.I8 else DType.I8)
