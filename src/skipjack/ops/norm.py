"""Normalisation over batches, channels, groups and trailing axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.conv import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import attr_dtype, axis_of, broadcast_shapes, outputs, ref_axis, same_dim


def per_channel(v: np.ndarray, rank: int) -> np.ndarray:
    """A vector over channels, shaped to broadcast over [N, C, spatial...]."""
    return v.reshape(1, -1, *[1] * (rank - 2))


def standardised(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x - mean) / sqrt(variance + epsilon) over axes, the mean, and the inverse deviation."""
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + x.dtype.type(epsilon))
    return centred * inverse, mean, inverse


def _check_channels(i: Infer, x: Shape | None, inputs: Sequence[int]) -> None:
    """Inputs that hold one number per channel fit the channels of x."""
    for n in inputs:
        shape = i.shape(n)
        if shape is not None and len(shape) != 1:
            i.fail(f"input {n} with one axis", shape)
        if shape is not None and x is not None:
            same_dim(i, x[1] if len(x) > 1 else 1, shape[0], "channels")


def _infer_batch(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    _check_channels(i, t.shape, (1, 2, 3, 4))
    statistics = TensorType(i.tensor(3).dtype, i.shape(3))
    return outputs(i, TensorType(t.dtype, t.shape), statistics, statistics)


def _ref_batch(r: Ref) -> list[Any]:
    x, scale, bias, mean, variance = (widened(a) for a in r.inputs[:5])
    if any(v.shape != (x.shape[1] if x.ndim > 1 else 1,) for v in (scale, bias, mean, variance)):
        r.fail("one scale, bias, mean and variance per channel", [v.shape for v in (scale, bias, mean, variance)])
    epsilon, momentum = float(r.attr("epsilon", 1e-5)), float(r.attr("momentum", 0.9))
    used_mean, used_variance = mean, variance
    if r.attr("training_mode", 0):
        axes = tuple(a for a in range(x.ndim) if a != 1)
        used_mean, used_variance = x.mean(axis=axes), x.var(axis=axes)
        mean = mean * momentum + used_mean * (1 - momentum)
        variance = variance * momentum + used_variance * (1 - momentum)
    factor = scale / np.sqrt(used_variance + np.float32(epsilon))
    y = (x - per_channel(used_mean, x.ndim)) * per_channel(factor, x.ndim) + per_channel(bias, x.ndim)
    kind = r.inputs[3].dtype
    return [y.astype(r.inputs[0].dtype), mean.astype(kind), variance.astype(kind)][: r.n_outputs]


register(Op("BatchNormalization", _infer_batch, _ref_batch))


def _infer_per_channel(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    if t.shape is not None and len(t.shape) < 3:
        i.fail("an input with at least three axes", t.shape)
    _check_channels(i, t.shape, (1, 2))
    return [TensorType(t.dtype, t.shape)]


def _ref_instance(r: Ref) -> list[Any]:
    x, scale, bias = (widened(a) for a in r.inputs)
    y, _, _ = standardised(x, tuple(range(2, x.ndim)), float(r.attr("epsilon", 1e-5)))
    return [(y * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)).astype(r.inputs[0].dtype)]


register(Op("InstanceNormalization", _infer_per_channel, _ref_instance))


def _infer_group(i: Infer) -> list[ValueType]:
    out = _infer_per_channel(i)
    groups = int(i.attr("num_groups", 0))
    shape = i.shape(0)
    if groups < 1 or (shape is not None and isinstance(shape[1], int) and shape[1] % groups):
        i.fail("num_groups that divides the channels", f"{groups} with input {shape}")
    return out


def _ref_group(r: Ref) -> list[Any]:
    x, scale, bias = (widened(a) for a in r.inputs)
    groups = int(r.attr("num_groups"))
    if x.shape[1] % groups:
        r.fail("num_groups that divides the channels", f"{groups} with input {x.shape}")
    precision = DType.from_onnx(int(r.attr("stash_type", 1))).np
    parts = x.astype(precision).reshape(x.shape[0], groups, -1)
    y, _, _ = standardised(parts, (2,), float(r.attr("epsilon", 1e-5)))
    y = y.reshape(x.shape).astype(r.inputs[0].dtype).astype(x.dtype)
    return [(y * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)).astype(r.inputs[0].dtype)]


register(Op("GroupNormalization", _infer_group, _ref_group))


def _fits(i: Infer, shape: Shape | None, of: Shape | None) -> None:
    """A scale or bias broadcasts to the normalised input without growing it."""
    if shape is None or of is None:
        return
    both = broadcast_shapes(i, (of, shape))
    if both is None or len(both) != len(of) or any(isinstance(b, int) and a == 1 and b > 1 for a, b in zip(of, both)):
        i.fail(f"a scale that broadcasts to {of}", shape)


def _infer_layer(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    stash = attr_dtype(i, "stash_type", DType.F32)
    for n in (1, 2):
        if i.has(n):
            _fits(i, i.shape(n), t.shape)
    kept: tuple[Dim, ...] | None = None
    if t.shape is not None:
        axis = axis_of(i, int(i.attr("axis", -1)), len(t.shape))
        kept = (*t.shape[:axis], *[1] * (len(t.shape) - axis))
    return outputs(i, TensorType(t.dtype, t.shape), TensorType(stash, kept), TensorType(stash, kept))


def _ref_layer(r: Ref) -> list[Any]:
    x, scale, bias = r.inputs[0], r.inputs[1], r.get(2)
    precision = DType.from_onnx(int(r.attr("stash_type", 1))).np
    compute = np.result_type(widened(x).dtype, np.float32) if precision.itemsize < 4 else precision
    axes = tuple(range(ref_axis(r, int(r.attr("axis", -1)), x.ndim), x.ndim))
    y, mean, inverse = standardised(x.astype(compute), axes, float(r.attr("epsilon", 1e-5)))
    y = y.astype(x.dtype).astype(widened(x).dtype) * widened(scale)
    if bias is not None:
        y = y + widened(bias)
    return [y.astype(x.dtype), mean.astype(precision), inverse.astype(precision)][: r.n_outputs]


register(Op("LayerNormalization", _infer_layer, _ref_layer))


def _infer_rms(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    if t.shape is not None:
        axis_of(i, int(i.attr("axis", -1)), len(t.shape))
    _fits(i, i.shape(1), t.shape)
    return [TensorType(t.dtype, t.shape)]


def _ref_rms(r: Ref) -> list[Any]:
    x, scale = r.inputs[0], r.inputs[1]
    precision = DType.from_onnx(int(r.attr("stash_type", 1))).np
    compute = np.dtype(np.float32) if precision.itemsize < 4 else precision
    axes = tuple(range(ref_axis(r, int(r.attr("axis", -1)), x.ndim), x.ndim))
    v = x.astype(compute)
    square = (v * v).mean(axis=axes, keepdims=True)
    y = (v / np.sqrt(square + compute.type(float(r.attr("epsilon", 1e-5))))).astype(x.dtype)
    return [(widened(y) * widened(scale)).astype(x.dtype)]


register(Op("RMSNormalization", _infer_rms, _ref_rms))


def _infer_lrn(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    if int(i.attr("size", 0)) < 1:
        i.fail("a positive size", i.attr("size"))
    if t.shape is not None and len(t.shape) < 2:
        i.fail("an input with channels", t.shape)
    return [TensorType(t.dtype, t.shape)]


def _ref_lrn(r: Ref) -> list[Any]:
    x = widened(r.inputs[0])
    size, bias = int(r.attr("size")), float(r.attr("bias", 1.0))
    alpha, beta = float(r.attr("alpha", 1e-4)), float(r.attr("beta", 0.75))
    square = np.zeros_like(x)
    for c in range(x.shape[1]):
        low, high = max(0, c - (size - 1) // 2), min(x.shape[1], c + size // 2 + 1)
        square[:, c] = (x[:, low:high] ** 2).sum(axis=1)
    return [(x / (bias + alpha / size * square) ** beta).astype(r.inputs[0].dtype)]


register(Op("LRN", _infer_lrn, _ref_lrn))
