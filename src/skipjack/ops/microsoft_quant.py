"""Quantised operators of com.microsoft: each dequantises, computes in f32 and quantises its result.

Products sum integers, and multiply the sums by one f32 factor: scale of input times scale of weight by scale of output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.linear import matmul_shape
from skipjack.ops.quantize import to_quantized
from skipjack.ops.registry import Infer, Op, Ref, find, register
from skipjack.ops.rules import axis_of, broadcast_shapes, ref_axis, same_as_first, same_dim
from skipjack.ops.window import kernel_shape, known, output_sizes, padded, taps, window


def real(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """The f32 numbers that codes x of one scale and zero point stand for."""
    offset = np.int32(0) if zero is None else np.asarray(zero).reshape(-1)[0].astype(np.int32)
    return (x.astype(np.int32) - offset).astype(np.float32) * np.asarray(scale, np.float32).reshape(-1)[0]


def codes(y: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    """The codes nearest to y, saturated to dtype."""
    kind = DType.from_numpy(dtype)
    offset = None if zero is None else np.asarray(zero).reshape(-1)[0]
    return to_quantized(y / np.asarray(scale, np.float32).reshape(-1)[0], offset, kind)


def _infer_binary(i: Infer) -> list[ValueType]:
    return [TensorType(i.tensor(0).dtype, broadcast_shapes(i, (i.shape(0), i.shape(3))))]


def _binary(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Ref], list[Any]]:
    def reference(r: Ref) -> list[Any]:
        a, sa, za, b, sb, zb, sc, zc = (r.get(n) for n in range(8))
        return [codes(function(real(a, sa, za), real(b, sb, zb)), sc, zc, a.dtype)]

    return reference


register(Op("QLinearAdd", _infer_binary, _binary(np.add), domain=MS))
register(Op("QLinearMul", _infer_binary, _binary(np.multiply), domain=MS))


def _sigmoid(r: Ref, x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _leaky(r: Ref, x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, x, np.float32(r.attr("alpha", 0.01)) * x)


def _softmax(r: Ref, x: np.ndarray) -> np.ndarray:
    """Over one axis, or before opset 13 over that axis and all behind it."""
    axis = ref_axis(r, int(r.attr("axis", -1)), x.ndim)
    axes = (axis,) if int(r.attr("opset", 13)) >= 13 else tuple(range(axis, x.ndim))
    e = np.exp(x - x.max(axis=axes, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axes, keepdims=True)


def _channels_last(x: Infer | Ref) -> bool:
    return bool(x.attr("channels_last", 0))


def _mean(r: Ref, x: np.ndarray) -> np.ndarray:
    axes = tuple(range(1, x.ndim - 1)) if _channels_last(r) else tuple(range(2, x.ndim))
    return x.mean(axis=axes, keepdims=True)


def _average(r: Ref, x: np.ndarray) -> np.ndarray:
    x = np.moveaxis(x, -1, 1) if _channels_last(r) else x
    w = window(r, kernel_shape(r, x.ndim - 2))
    sizes = [known(s) for s in output_sizes(r, w, x.shape[2:])]
    counted = np.ones((1, 1, *x.shape[2:]), np.float32)
    if r.attr("count_include_pad", 0):
        counted = np.pad(counted, [(0, 0), (0, 0), *[(known(a), known(b)) for a, b in w.pads_for(x.shape[2:])]])
        counted = np.ones_like(counted)
        bare = replace(w, pads=(0,) * len(w.pads), auto_pad="VALID")
        count = sum(v for _, v in taps(padded(counted, bare, sizes, 0), w, sizes))
    else:
        count = sum(v for _, v in taps(padded(counted, w, sizes, 0), w, sizes))
    y = np.asarray(sum(v for _, v in taps(padded(x, w, sizes, 0), w, sizes)) / count)
    return np.moveaxis(y, 1, -1) if _channels_last(r) else y


def _unary(function: Callable[[Ref, np.ndarray], np.ndarray]) -> Callable[[Ref], list[Any]]:
    def reference(r: Ref) -> list[Any]:
        x, sx, zx, sy, zy = (r.get(n) for n in range(5))
        return [codes(function(r, real(x, sx, zx)), sy, zy, x.dtype)]

    return reference


def _infer_pool(spatial: Callable[[Infer, Sequence[Dim]], Sequence[Dim]]) -> Callable[[Infer], list[ValueType]]:
    def rule(i: Infer) -> list[ValueType]:
        t = i.tensor(0)
        if t.shape is None:
            return [TensorType(t.dtype, None)]
        if len(t.shape) < 3:
            i.fail("an input with at least three axes", t.shape)
        if _channels_last(i):
            return [TensorType(t.dtype, (t.shape[0], *spatial(i, t.shape[1:-1]), t.shape[-1]))]
        return [TensorType(t.dtype, (*t.shape[:2], *spatial(i, t.shape[2:])))]

    return rule


def _windowed(i: Infer, sizes: Sequence[Dim]) -> Shape:
    return output_sizes(i, window(i, kernel_shape(i, len(sizes))), sizes)


def _ones(i: Infer, sizes: Sequence[Dim]) -> Shape:
    return (1,) * len(sizes)


register(Op("QLinearSigmoid", same_as_first, _unary(_sigmoid), domain=MS))
register(Op("QLinearLeakyRelu", same_as_first, _unary(_leaky), domain=MS))
register(Op("QLinearSoftmax", same_as_first, _unary(_softmax), domain=MS))
register(Op("QLinearGlobalAveragePool", _infer_pool(_ones), _unary(_mean), domain=MS))
register(Op("QLinearAveragePool", _infer_pool(_windowed), _unary(_average), domain=MS))


def _infer_concat(i: Infer) -> list[ValueType]:
    """Inputs come in threes, value, scale and zero point, after the output's scale and zero point."""
    dtype = i.tensor(1).dtype
    if len(i.types) < 5 or (len(i.types) - 2) % 3:
        i.fail("triples of value, scale and zero point", len(i.types) - 2)
    shapes = [i.shape(n) for n in range(2, len(i.types), 3)]
    first = shapes[0]
    if first is None:
        return [TensorType(dtype, None)]
    axis = axis_of(i, int(i.attr("axis", 0)), len(first))
    total: Dim = 0
    out = list(first)
    for shape in shapes:
        if shape is None:
            return [TensorType(dtype, None)]
        if len(shape) != len(first):
            i.fail(f"inputs with {len(first)} axes", shape)
        total = total + shape[axis]
        out = [same_dim(i, a, b, "input") if n != axis else a for n, (a, b) in enumerate(zip(out, shape))]
    out[axis] = total
    return [TensorType(dtype, tuple(out))]


def _ref_concat(r: Ref) -> list[Any]:
    scale, zero = r.inputs[:2]
    parts = [codes(real(*r.inputs[n : n + 3]), scale, zero, zero.dtype) for n in range(2, len(r.inputs), 3)]
    return [np.concatenate(parts, axis=int(r.attr("axis", 0)))]


register(Op("QLinearConcat", _infer_concat, _ref_concat, domain=MS))


def _infer_gemm(i: Infer) -> list[ValueType]:
    a, b = i.shape(0), i.shape(3)
    dtype = i.tensor(8).dtype if i.has(8) else i.tensor(0).dtype if i.has(7) else DType.F32
    if a is None or b is None:
        return [TensorType(dtype, None)]
    if len(a) != 2 or len(b) != 2:
        i.fail("two matrices", f"{a} and {b}")
    a, b = (a[::-1] if i.attr("transA", 0) else a), (b[::-1] if i.attr("transB", 0) else b)
    same_dim(i, a[1], b[0], "the summed axis")
    return [TensorType(dtype, (a[0], b[1]))]


def _whole(x: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """Codes minus their zero point; a vector of zero points runs along the last axis."""
    wide = x.astype(np.int64)
    if zero is None:
        return wide
    z = np.asarray(zero).astype(np.int64)
    return wide - (z.reshape(()) if z.size == 1 else z)


def _ref_gemm(r: Ref) -> list[Any]:
    a, sa, za, b, sb, zb, c, sy, zy = (r.get(n) for n in range(9))
    a, b = (a.T if r.attr("transA", 0) else a), (b.T if r.attr("transB", 0) else b)
    total = _whole(a, za) @ _whole(b, zb)
    if c is not None:
        total = total + c
    factor = np.float32(r.attr("alpha", 1.0)) * np.asarray(sa).reshape(()) * np.asarray(sb)
    if sy is None:
        return [total.astype(np.float32) * factor]
    steps = total.astype(np.float32) * (factor / np.asarray(sy, np.float32).reshape(()))
    return [codes(steps, np.ones((), np.float32), zy, a.dtype if zy is None else zy.dtype)]


register(Op("QGemm", _infer_gemm, _ref_gemm, domain=MS))


def _infer_product(i: Infer) -> list[ValueType]:
    return [TensorType(DType.F32, matmul_shape(i, i.shape(0), i.shape(1)))]


def _ref_integer_to_float(r: Ref) -> list[Any]:
    a, b, sa, sb, za, zb, bias = (r.get(n) for n in range(7))
    y = (_whole(a, za) @ _whole(b, zb)).astype(np.float32) * (np.asarray(sa).reshape(()) * sb)
    return [(y if bias is None else y + bias).astype(np.float32)]


def _ref_dynamic(r: Ref) -> list[Any]:
    a, b, sb, zb, bias = (r.get(n) for n in range(5))
    low, high = np.minimum(a.min(initial=0), 0), np.maximum(a.max(initial=0), 0)
    scale = np.float32((high - low) / 255) if high > low else np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8)
    codes_a = to_quantized(a / scale, zero, DType.U8)
    y = (_whole(codes_a, zero) @ _whole(b, zb)).astype(np.float32) * (scale * sb)
    return [(y if bias is None else y + bias).astype(np.float32)]


register(Op("MatMulIntegerToFloat", _infer_product, _ref_integer_to_float, domain=MS))
register(Op("DynamicQuantizeMatMul", _infer_product, _ref_dynamic, domain=MS))

for _name in ("QuantizeLinear", "DequantizeLinear"):
    _op = find(ONNX, _name)
    assert _op is not None, f"ops/quantize did not register {_name}"
    register(replace(_op, domain=MS))
