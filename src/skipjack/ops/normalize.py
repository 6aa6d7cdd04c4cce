"""Operators that rescale along axes: Softmax and its kin, norms, and TopK."""

from __future__ import annotations

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.reduce import log_sum_exp, widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axis_of, outputs, ref_axis, same_as_first


def _infer_axis(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    if t.shape is not None:
        axis_of(i, i.attr("axis", -1), len(t.shape))
    return [TensorType(t.dtype, t.shape)]


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) over its sum along axis; a row that is -inf throughout gives NaN."""
    if x.shape[axis] == 0:
        return x
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """The logarithm of softmax, without its underflow."""
    return x - log_sum_exp(x, (axis,))


def _softmax(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    axis = ref_axis(r, r.attr("axis", -1), x.ndim)
    function = softmax if r.node.op == "Softmax" else log_softmax
    return [function(widened(x), axis).astype(x.dtype)]


def _hardmax(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    axis = ref_axis(r, r.attr("axis", -1), x.ndim)
    y = np.zeros(x.shape, x.dtype)
    top = np.expand_dims(np.argmax(widened(x), axis=axis), axis)
    np.put_along_axis(y, top, x.dtype.type(1), axis)
    return [y]


def _lp_normalization(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    axis = ref_axis(r, r.attr("axis", -1), x.ndim)
    wide = widened(x)
    if r.attr("p", 2) == 1:
        norm = np.sum(np.abs(wide), axis=axis, keepdims=True)
    else:
        norm = np.sqrt(np.sum(np.square(wide), axis=axis, keepdims=True))
    return [np.where(norm == 0, 0, wide / norm).astype(x.dtype)]


def _mean_variance(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    axes = tuple(ref_axis(r, a, x.ndim) for a in r.attr("axes", (0, 2, 3)))
    wide = widened(x)
    mean = np.mean(wide, axis=axes, keepdims=True)
    variance = np.mean(np.square(wide), axis=axes, keepdims=True) - np.square(mean)
    return [((wide - mean) / (np.sqrt(variance) + wide.dtype.type(1e-9))).astype(x.dtype)]


def _infer_top_k(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    if t.shape is None:
        return outputs(i, TensorType(t.dtype, None), TensorType(DType.I64, None))
    axis = axis_of(i, i.attr("axis", -1), len(t.shape))
    k = i.ints(1)
    count = i.fresh("k") if k is None else k[0]
    shape = (*t.shape[:axis], count, *t.shape[axis + 1 :])
    return outputs(i, TensorType(t.dtype, shape), TensorType(DType.I64, shape))


def _top_k(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    axis = ref_axis(r, r.attr("axis", -1), x.ndim)
    k = int(np.asarray(r.inputs[1]).reshape(-1)[0])
    if not 0 <= k <= x.shape[axis]:
        r.fail(f"k from 0 to {x.shape[axis]}", k)
    wide = widened(x)
    if r.attr("largest", 1):
        # A stable ascending sort of the reversed axis, read backwards, keeps the lowest index first among equals.
        order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(wide, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(wide, axis=axis, kind="stable")
    chosen = np.take(order, range(k), axis=axis)
    return [np.take_along_axis(x, chosen, axis), chosen.astype(np.int64)]


register(Op("Softmax", _infer_axis, _softmax))
register(Op("LogSoftmax", _infer_axis, _softmax))
register(Op("Hardmax", _infer_axis, _hardmax))
register(Op("LpNormalization", _infer_axis, _lp_normalization))
register(Op("MeanVarianceNormalization", same_as_first, _mean_variance))
register(Op("TopK", _infer_top_k, _top_k))
