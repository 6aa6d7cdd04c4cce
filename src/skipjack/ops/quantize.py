"""Affine quantisation: to and from integers and small floats, and products of quantised tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from skipjack.core.dims import ceildiv
from skipjack.core.dtypes import DType
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.cast import convert
from skipjack.ops.contraction import conv
from skipjack.ops.conv import conv_shapes, kernel_of, pads_in_order
from skipjack.ops.linear import matmul_shape
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import attr_dtype, outputs, same_dim
from skipjack.ops.window import output_sizes, window

_LIMITS = {DType.I4: (-8, 7), DType.U4: (0, 15), DType.I2: (-2, 1), DType.U2: (0, 3)}


def limits(dtype: DType) -> tuple[int, int]:
    """The smallest and largest number of an integer type."""
    if dtype in _LIMITS:
        return _LIMITS[dtype]
    bounds = np.iinfo(dtype.np)
    return int(bounds.min), int(bounds.max)


def quantized_axis(x: Infer | Ref, rank: int) -> int:
    """The axis that scales run along; a tensor with one axis has only that."""
    axis = int(x.attr("axis", 1))
    if rank != 1 and not -rank <= axis < rank:
        x.fail(f"an axis from {-rank} to {rank - 1}", axis)
    return 0 if rank == 1 else axis % rank


def spread(r: Ref, parameter: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A scale or zero point shaped to broadcast with x: for the whole tensor, along an axis, or for blocks of it."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    axis = quantized_axis(r, x.ndim)
    if parameter.ndim == 1 and not r.attr("block_size", 0):
        if parameter.shape[0] != x.shape[axis]:
            r.fail(f"{x.shape[axis]} scales along axis {axis}", parameter.shape[0])
        return parameter.reshape([-1 if n == axis else 1 for n in range(x.ndim)])
    block = int(r.attr("block_size", 0))
    if not block:
        if parameter.shape != x.shape:
            r.fail("block_size with a scale per block", parameter.shape)
        return parameter
    whole = np.repeat(parameter, block, axis=axis)
    return np.take(whole, range(x.shape[axis]), axis=axis)


def to_quantized(steps: np.ndarray, zero_point: np.ndarray | None, dtype: DType, saturate: bool = True) -> np.ndarray:
    """Numbers in units of the scale, rounded to even, shifted and limited to dtype."""
    shift = np.zeros((), np.float64) if zero_point is None else zero_point.astype(np.float64)
    if dtype.is_float:
        return convert((steps.astype(np.float64) + shift).astype(np.float32), dtype, saturate)
    low, high = limits(dtype)
    whole = np.clip(np.nan_to_num(np.rint(steps.astype(np.float64)) + shift, posinf=high, neginf=low), low, high)
    return whole.astype(np.int32).astype(dtype.np)


def _check_parameters(i: Infer) -> None:
    """The scale must be one number, one per index of the axis, or one per block; the zero point has its shape."""
    x, scale = i.shape(0), i.shape(1)
    zero = i.shape(2) if i.has(2) else scale
    if x is None or scale is None or scale == () or scale == (1,):
        return
    if zero is not None and len(zero) != len(scale):
        i.fail(f"a zero point of the scale's shape {scale}", zero)
    for a, b in zip(zero or scale, scale):
        same_dim(i, a, b, "scale and zero point")
    axis, block = quantized_axis(i, len(x)), int(i.attr("block_size", 0))
    if len(scale) == 1 and not block:
        same_dim(i, x[axis], scale[0], f"axis {axis} and scale")
        return
    if len(scale) != len(x):
        i.fail(f"a scale with 1 or {len(x)} axes", scale)
    for n, (size, count) in enumerate(zip(x, scale)):
        same_dim(i, ceildiv(size, block) if n == axis and block else size, count, f"axis {n} and scale")


def _infer_quantize(i: Infer) -> list[ValueType]:
    _check_parameters(i)
    default = i.tensor(2).dtype if i.has(2) else attr_dtype(i, "output_dtype", DType.U8)
    return [TensorType(default, i.shape(0))]


def _quantize(r: Ref) -> list[np.ndarray]:
    x, scale = np.asarray(r.inputs[0]), np.asarray(r.inputs[1])
    zero = None if r.get(2) is None else np.asarray(r.inputs[2])
    named = int(r.attr("output_dtype", 0))
    dtype = DType.from_onnx(named) if named else DType.U8 if zero is None else DType.from_numpy(zero.dtype)
    asked = int(r.attr("precision", 0))
    precision = DType.from_onnx(asked).np if asked else scale.dtype
    if precision.kind in "iu" or precision == DType.F8E8M0.np:
        precision = np.dtype(np.float32)
    factor = spread(r, scale, x).astype(precision)
    steps = (x.astype(precision).astype(np.float32) / factor.astype(np.float32)).astype(precision)
    offset = None if zero is None else spread(r, zero, x)
    return [to_quantized(steps, offset, dtype, bool(r.attr("saturate", 1)))]


def _infer_dequantize(i: Infer) -> list[ValueType]:
    _check_parameters(i)
    return [TensorType(attr_dtype(i, "output_dtype", i.tensor(1).dtype), i.shape(0))]


def _dequantize(r: Ref) -> list[np.ndarray]:
    x, scale = np.asarray(r.inputs[0]), np.asarray(r.inputs[1])
    named = int(r.attr("output_dtype", 0))
    dtype = DType.from_onnx(named) if named else DType.from_numpy(scale.dtype)
    wide = x.astype(np.float32) if DType.from_numpy(x.dtype).is_float else x.astype(np.int64)
    if r.get(2) is not None:
        wide = wide - spread(r, np.asarray(r.inputs[2]), x).astype(wide.dtype)
    factor = spread(r, scale, x).astype(np.float32)
    return [(wide.astype(np.float32) * factor).astype(dtype.np)]


register(Op("QuantizeLinear", _infer_quantize, _quantize))
register(Op("DequantizeLinear", _infer_dequantize, _dequantize))


def _infer_dynamic(i: Infer) -> list[ValueType]:
    return outputs(i, TensorType(DType.U8, i.shape(0)), TensorType(DType.F32, ()), TensorType(DType.U8, ()))


def _dynamic(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0], np.float32)
    low = np.minimum(np.min(x, initial=0), np.float32(0))
    high = np.maximum(np.max(x, initial=0), np.float32(0))
    scale = np.asarray((high - low) / np.float32(255), np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    zero = np.asarray(np.clip(np.rint(-low / scale), 0, 255)).astype(np.uint8)
    return [to_quantized(x / scale, zero, DType.U8), scale, zero][: r.n_outputs]


register(Op("DynamicQuantizeLinear", _infer_dynamic, _dynamic))


def _centred(x: np.ndarray, zero: Any, axis: int | None) -> np.ndarray:
    """x minus its zero point in f64, where sums of products of bytes are exact; a vector runs along the axis given."""
    wide = x.astype(np.float64)
    return wide if zero is None else wide - _along(np.asarray(zero).astype(np.float64), axis, x.ndim)


def _along(parameter: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """A parameter per row, column or channel, shaped to broadcast; single numbers and full ranks stay."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    if parameter.ndim != 1 or axis is None:
        return parameter
    return parameter.reshape([-1 if n == axis % rank else 1 for n in range(rank)])


def _infer_matmul_integer(i: Infer) -> list[ValueType]:
    return [TensorType(DType.I32, matmul_shape(i, i.shape(0), i.shape(1)))]


def _matmul_integer(r: Ref) -> list[np.ndarray]:
    a, b = np.asarray(r.inputs[0]), np.asarray(r.inputs[1])
    y = np.matmul(_centred(a, r.get(2), -2 if a.ndim > 1 else None), _centred(b, r.get(3), -1))
    return [np.asarray(y).astype(np.int64).astype(np.int32)]


register(Op("MatMulInteger", _infer_matmul_integer, _matmul_integer))


def _infer_qlinear_matmul(i: Infer) -> list[ValueType]:
    return [TensorType(i.tensor(7).dtype, matmul_shape(i, i.shape(0), i.shape(3)))]


def _qlinear_matmul(r: Ref) -> list[np.ndarray]:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (np.asarray(v) for v in r.inputs)
    rows = -2 if a.ndim > 1 else None
    total = np.asarray(np.matmul(_centred(a, a_zero, rows), _centred(b, b_zero, -1)))
    left = _along(a_scale.astype(np.float32), rows, a.ndim)
    right = _along(b_scale.astype(np.float32), -1, b.ndim)
    steps = total.astype(np.float32) * (left * right / _along(y_scale.astype(np.float32), rows, a.ndim))
    return [to_quantized(steps, _along(y_zero, rows, a.ndim), DType.from_numpy(y_zero.dtype))]


register(Op("QLinearMatMul", _infer_qlinear_matmul, _qlinear_matmul))


def _conv_type(i: Infer, x_index: int, w_index: int, dtype: DType) -> list[ValueType]:
    x, w = i.shape(x_index), i.shape(w_index)
    bias = i.shape(8) if i.has(8) else None
    if bias is not None and w is not None:
        same_dim(i, bias[0] if len(bias) == 1 else 0, w[0], "bias and output channels")
    if x is None or w is None:
        return [TensorType(dtype, None)]
    return [TensorType(dtype, (x[0], w[0], *output_sizes(i, conv_shapes(i, x, w), x[2:])))]


def _infer_conv_integer(i: Infer) -> list[ValueType]:
    return _conv_type(i, 0, 1, DType.I32)


def _conv_sums(r: Ref, x: np.ndarray, w: np.ndarray, x_zero: Any, w_zero: Any) -> np.ndarray:
    """Exact sums of (x - x_zero) * (w - w_zero); padding counts as x_zero."""
    win = window(r, kernel_of(r, w.shape))
    pads = pads_in_order(win, x.shape[2:])
    group = int(r.attr("group", 1))
    return conv(_centred(x, x_zero, None), _centred(w, w_zero, 0), win.strides, pads, win.dilations, group)


def _conv_integer(r: Ref) -> list[np.ndarray]:
    x, w = np.asarray(r.inputs[0]), np.asarray(r.inputs[1])
    return [_conv_sums(r, x, w, r.get(2), r.get(3)).astype(np.int64).astype(np.int32)]


register(Op("ConvInteger", _infer_conv_integer, _conv_integer))


def _infer_qlinear_conv(i: Infer) -> list[ValueType]:
    return _conv_type(i, 0, 3, i.tensor(7).dtype)


def _qlinear_conv(r: Ref) -> list[np.ndarray]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (np.asarray(v) for v in r.inputs[:8])
    total = _conv_sums(r, x, w, x_zero, w_zero)
    bias = r.get(8)
    if bias is not None:
        total = total + _along(np.asarray(bias).astype(np.float64), 1, total.ndim)
    factor = x_scale.reshape(()) * _along(w_scale, 1, total.ndim) / y_scale.reshape(())
    steps = total.astype(np.float32) * factor.astype(np.float32)
    return [to_quantized(steps, y_zero.reshape(()), DType.from_numpy(y_zero.dtype))]


register(Op("QLinearConv", _infer_qlinear_conv, _qlinear_conv))
