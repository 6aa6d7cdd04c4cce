"""Affine quantisation and products of quantised tensors."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX
from skipjack.kernels.integer_product import BYTES, Operand, integer_product
from skipjack.kernels.launch import Bound, Launch, Lowering, Place, Site, Work, lowering
from skipjack.kernels.reduce import Fold, reduce_axes
from skipjack.kernels.strided import View, apply, at_place, contiguous, whole
from skipjack.kernels.take import take_axis
from skipjack.lang.expr import Expr, arg, binary, cast, const, maximum, minimum, select, unary
from skipjack.ops.quantize import limits

_HALVES = (DType.F32, DType.F16, DType.BF16)
_STORED = {DType.I4: DType.U8, DType.U4: DType.U8}
_INTEGERS = (DType.I8, DType.U8, DType.I16, DType.U16)
_F32, _I32 = DType.F32, DType.I32


def stored(dtype: DType) -> DType:
    """The type whose bytes an element has in memory."""
    return _STORED.get(dtype, dtype)


def number(index: int, dtype: DType, wide: DType) -> Expr:
    """Input `index`, whose elements have `dtype`, in a wide integer type; 4-bit numbers are the low bits of a byte."""
    x = cast(arg(index, stored(dtype)), wide)
    if dtype not in _STORED:
        return x
    low = binary("and", x, 15)
    return binary("xor", low, 8) - 8 if dtype is DType.I4 else low


def quantised(steps: Expr, zero: Expr | None, dtype: DType) -> Expr:
    """Steps of the scale (f32) rounded to even, shifted and limited to dtype; NaN becomes 0."""
    low, high = limits(dtype)
    shifted = unary("round", steps)
    if zero is not None:
        shifted = shifted + cast(zero, _F32)
    real = select(unary("isnan", shifted, DType.BOOL), const(0.0, _F32), shifted)
    limited = minimum(maximum(real, float(low)), float(high))
    if dtype is DType.I4:
        return cast(binary("and", cast(limited, _I32), 15), DType.U8)
    return cast(limited, stored(dtype))


def parameter(work: Work, b: Bound, shape: tuple[int, ...], launches: list[Launch]) -> View:
    """A scale or zero point over every element of a tensor: one for all, one per index of an axis, or one per block."""
    dtype, item = stored(b.dtype), b.dtype.itemsize
    if b.elements == 1 and len(b.shape) <= 1:
        return View(b.place, dtype, (0,) * len(shape))
    axis = int(work.attr("axis", 1)) % len(shape)
    if len(b.shape) == 1 and len(shape) != 1:
        return View(b.place, dtype, tuple(item if a == axis else 0 for a in range(len(shape))))
    block = int(work.attr("block_size", 0))
    if not block:
        return View(b.place, dtype, contiguous(shape, item))
    size = shape[axis]
    made = tuple(size if a == axis else n for a, n in enumerate(b.shape))
    place = work.memory.temporary(math.prod(made) * item)
    table = work.memory.constant(np.arange(size, dtype=np.int64) // block)
    launches += take_axis(b.place, b.shape, axis, item, table, DType.I64, size, place, work.target)
    return at_place(place, dtype, made)


def _accepts_quantize(site: Site) -> str:
    x, scale, out = site.inputs[0], site.inputs[1], site.outputs[0]
    if x is None or scale is None or out is None or x.dtype not in _HALVES or scale.dtype not in _HALVES:
        return "an input or scale that is neither f32 nor half precision"
    if int(site.node.attrs.get("precision", 0)) not in (0, 1, 10, 16):  # type: ignore[arg-type]
        return "another precision"
    return "" if out.dtype in (*_INTEGERS, *_STORED) else f"quantises to {out.dtype.value}"


def _quantize(work: Work) -> list[Launch]:
    x, scale, zero, out = work.input(0), work.input(1), work.maybe(2), work.output()
    launches: list[Launch] = []
    views = [whole(x), parameter(work, scale, x.shape, launches)]
    asked = int(work.attr("precision", 0))
    precision = DType.from_onnx(asked) if asked else scale.dtype
    value = cast(cast(arg(0, x.dtype), precision), _F32)
    factor = cast(cast(arg(1, scale.dtype), precision), _F32)
    steps = cast(cast(value / factor, precision), _F32)
    offset = None
    if zero is not None:
        views.append(parameter(work, zero, x.shape, launches))
        offset = number(2, zero.dtype, _I32)
    expr = quantised(steps, offset, out.dtype)
    return launches + apply(expr, x.shape, views, _raw(out), work.target)


def _raw(b: Bound) -> View:
    """A whole value in the type its bytes have."""
    return View(b.place, stored(b.dtype), contiguous(b.shape, b.dtype.itemsize))


def _accepts_dequantize(site: Site) -> str:
    x, scale, out = site.inputs[0], site.inputs[1], site.outputs[0]
    if x is None or scale is None or out is None or scale.dtype not in _HALVES or out.dtype not in _HALVES:
        return "a scale or output that is neither f32 nor half precision"
    return "" if x.dtype in (*_INTEGERS, *_STORED, _I32) else f"dequantises {x.dtype.value}"


def _dequantize(work: Work) -> list[Launch]:
    x, scale, zero, out = work.input(0), work.input(1), work.maybe(2), work.output()
    launches: list[Launch] = []
    views = [_raw(x), parameter(work, scale, x.shape, launches)]
    wide = DType.I64 if x.dtype is _I32 else _I32
    value = number(0, x.dtype, wide)
    if zero is not None:
        views.append(parameter(work, zero, x.shape, launches))
        value = value - number(2, zero.dtype, wide)
    expr = cast(cast(value, _F32) * cast(arg(1, scale.dtype), _F32), out.dtype)
    return launches + apply(expr, x.shape, views, whole(out), work.target)


def _dynamic(work: Work) -> list[Launch]:
    x = work.input(0)
    ends = [work.memory.temporary(4) for _ in range(2)]
    launches: list[Launch] = []
    for place, op in zip(ends, ("min", "max"), strict=True):
        launches += reduce_axes(work, x.place, _F32, x.shape, range(len(x.shape)), Fold(op, None, None), place, _F32)
    low, high = (arg(i, _F32) for i in range(2))
    low, high = minimum(low, 0.0), maximum(high, 0.0)
    step = (high - low) / 255.0
    step = select(step.eq(0.0), const(1.0, _F32), step)
    zero = cast(maximum(minimum(unary("round", -low / step), 255.0), 0.0), DType.U8)
    found = [View(p, _F32, ()) for p in ends]
    y, scale, point = (*work.outputs, None, None)[:3]
    places = [b.place if b is not None else work.memory.temporary(4) for b in (scale, point)]
    scalars = [View(p, d, ()) for p, d in zip(places, (_F32, DType.U8), strict=True)]
    launches += apply(step, (), found, scalars[0], work.target)
    launches += apply(zero, (), found, scalars[1], work.target)
    if y is not None:
        expr = quantised(arg(0, _F32) / arg(1, _F32), arg(2, DType.U8), DType.U8)
        none = (0,) * len(x.shape)
        views = [whole(x), *(View(s.place, s.dtype, none) for s in scalars)]
        launches += apply(expr, x.shape, views, whole(y), work.target)
    return launches


def _accepts_dynamic(site: Site) -> str:
    t = site.inputs[0]
    return "" if t is not None and t.dtype is _F32 else "no f32"


def _accepts_product(a: int, b: int, zeros: tuple[int, int]) -> Callable[[Site], str]:
    def accepts(site: Site) -> str:
        types = [site.inputs[i] for i in (a, b)]
        if any(t is None or t.dtype not in BYTES or t.rank is None for t in types):
            return "operands that are not bytes"
        for z in zeros:
            t = site.inputs[z] if z < len(site.inputs) else None
            if t is not None and (t.rank is None or t.rank > 1):
                return "zero points with more than one axis"
        return ""

    return accepts


def zero_point(work: Work, b: Bound | None, dtype: DType) -> tuple[Place, int]:
    """(place, 1 when there is one number per row or column else 0) of an optional zero point."""
    if b is None:
        return work.memory.constant(np.zeros(1, dtype.np)), 0
    return b.place, int(b.elements > 1)


def product_into(work: Work, a: Bound, b: Bound, zeros: tuple[Bound | None, Bound | None], out: Place) -> list[Launch]:
    """Integer sums of a @ b at a place, batch axes broadcast."""
    left = (1, *a.shape) if len(a.shape) == 1 else a.shape
    right = (*b.shape, 1) if len(b.shape) == 1 else b.shape
    (m, k), n = left[-2:], right[-1]
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    a_zero, b_zero = (zero_point(work, z, d.dtype) for z, d in zip(zeros, (a, b), strict=True))
    if zeros[0] is not None and len(a.shape) == 1:
        a_zero = (a_zero[0], 0)
    count = math.prod(batch)
    one_a, one_b = (math.prod(s[:-2]) == 1 for s in (left, right))
    if (one_a or left[:-2] == batch) and (one_b or right[:-2] == batch):
        x = Operand(a.place, a.dtype, 0 if one_a else m * k, *a_zero)
        y = Operand(b.place, b.dtype, 0 if one_b else k * n, *b_zero)
        return integer_product(x, y, out, count, m, k, n, work.target)
    launches: list[Launch] = []
    which = [np.broadcast_to(np.arange(math.prod(s[:-2])).reshape(s[:-2]), batch).reshape(-1) for s in (left, right)]
    for i in range(count):
        x = Operand(a.place.at(int(which[0][i]) * m * k), a.dtype, 0, *a_zero)
        y = Operand(b.place.at(int(which[1][i]) * k * n), b.dtype, 0, *b_zero)
        launches += integer_product(x, y, out.at(i * m * n * 4), 1, m, k, n, work.target)
    return launches


def _matmul_integer(work: Work) -> list[Launch]:
    zeros = (work.maybe(2), work.maybe(3))
    return product_into(work, work.input(0), work.input(1), zeros, work.output().place)


def _qlinear_matmul(work: Work) -> list[Launch]:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (work.input(i) for i in range(8))
    out = work.output()
    sums = work.memory.temporary(out.elements * 4)
    launches = product_into(work, a, b, (a_zero, b_zero), sums)
    rows = None if len(a.shape) == 1 else len(out.shape) - (1 if len(b.shape) == 1 else 2)
    columns = len(out.shape) - 1
    views = [at_place(sums, _I32, out.shape)]
    for p, axis in ((a_scale, rows), (b_scale, columns), (y_scale, rows), (y_zero, rows)):
        views.append(along(p, axis, len(out.shape)))
    scales = [cast(arg(i + 1, v.dtype), _F32) for i, v in enumerate(views[1:4])]
    steps = cast(arg(0, _I32), _F32) * (scales[0] * scales[1] / scales[2])
    expr = quantised(steps, arg(4, y_zero.dtype), out.dtype)
    return launches + apply(expr, out.shape, views, whole(out), work.target)


def along(b: Bound, axis: int | None, rank: int) -> View:
    """A number for all elements, or a vector along one axis."""
    one = b.elements == 1 or axis is None
    return View(b.place, b.dtype, tuple(b.dtype.itemsize if not one and a == axis else 0 for a in range(rank)))


def _accepts_qlinear(site: Site) -> str:
    out = site.outputs[0]
    if any(t is None or t.rank is None or t.rank > 1 for i, t in enumerate(site.inputs[:8]) if i not in (0, 3)):
        return "scales or zero points with more than one axis"
    if out is None or out.dtype not in BYTES:
        return "an output that is not bytes"
    return _accepts_product(0, 3, (2, 5))(site)


for _domain in (ONNX, MS):
    lowering(Lowering("pointwise", _domain, "QuantizeLinear", _accepts_quantize, _quantize))
    lowering(Lowering("pointwise", _domain, "DequantizeLinear", _accepts_dequantize, _dequantize))
lowering(Lowering("fold", ONNX, "DynamicQuantizeLinear", _accepts_dynamic, _dynamic))
lowering(Lowering("integer", ONNX, "MatMulInteger", _accepts_product(0, 1, (2, 3)), _matmul_integer))
lowering(Lowering("integer", ONNX, "QLinearMatMul", _accepts_qlinear, _qlinear_matmul))
