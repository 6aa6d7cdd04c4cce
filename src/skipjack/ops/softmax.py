"""Softmax and its kin."""

from __future__ import annotations

import numpy as np

from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.reduce import log_sum_exp, widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axis_of, ref_axis


def infer_axis(i: Infer) -> list[ValueType]:
    """The type of the input; its axis attribute, by default the last, must exist."""
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


register(Op("Softmax", infer_axis, _softmax))
register(Op("LogSoftmax", infer_axis, _softmax))
register(Op("Hardmax", infer_axis, _hardmax))
