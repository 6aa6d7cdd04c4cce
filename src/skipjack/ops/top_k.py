"""TopK: the largest or smallest elements along an axis, and where they are."""

from __future__ import annotations

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.reduce import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axis_of, outputs, ref_axis


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


register(Op("TopK", _infer_top_k, _top_k))
