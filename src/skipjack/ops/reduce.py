"""Reductions along axes: Reduce*, ArgMax and ArgMin, cumulative sums and products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, dim_max, dim_min
from skipjack.core.dtypes import DType
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axes_of, axis_of, is_symbolic, ref_axis, settle

Axes = tuple[int, ...]
Reduction = Callable[[np.ndarray, Axes], np.ndarray]


def widened(x: np.ndarray) -> np.ndarray:
    """x in the type its sums are kept in: half precision as f32, small integers as they are."""
    half = x.dtype.itemsize <= 2 and x.dtype.kind in "fV"
    return x.astype(np.float32) if half else x


def _lowest(dtype: np.dtype, sign: int) -> Any:
    """The value that every other replaces in a maximum (sign -1) or a minimum (sign 1)."""
    if dtype == np.bool_:
        return sign > 0
    if dtype.kind in "iu":
        return np.iinfo(dtype).min if sign < 0 else np.iinfo(dtype).max
    return dtype.type(sign * np.inf)


def _max(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.max(x, axis=axes, keepdims=True, initial=_lowest(x.dtype, -1))


def _min(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.min(x, axis=axes, keepdims=True, initial=_lowest(x.dtype, 1))


def _sum(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.sum(x, axis=axes, keepdims=True, dtype=x.dtype)


def _prod(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.prod(x, axis=axes, keepdims=True, dtype=x.dtype)


def _mean(x: np.ndarray, axes: Axes) -> np.ndarray:
    count = int(np.prod([x.shape[a] for a in axes]))
    total = _sum(x, axes)
    if x.dtype.kind in "iu":
        return np.sign(total) * (np.abs(total) // count)
    return total / x.dtype.type(count)


def _l1(x: np.ndarray, axes: Axes) -> np.ndarray:
    return _sum(np.abs(x), axes)


def _l2(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.sqrt(_sum(np.square(x), axes))


def _log_sum(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.log(_sum(x, axes))


def _sum_square(x: np.ndarray, axes: Axes) -> np.ndarray:
    return _sum(np.square(x), axes)


def log_sum_exp(x: np.ndarray, axes: Axes) -> np.ndarray:
    """log(sum(exp(x))) along axes, which stay with size 1, without overflow."""
    top = np.max(x, axis=axes, keepdims=True, initial=_lowest(x.dtype, -1))
    top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    return np.log(_sum(np.exp(x - top), axes)) + top


REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": log_sum_exp,
    "ReduceMax": _max,
    "ReduceMean": _mean,
    "ReduceMin": _min,
    "ReduceProd": _prod,
    "ReduceSum": _sum,
    "ReduceSumSquare": _sum_square,
}
_FOLDS: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "ReduceMax": (dim_max, None),
    "ReduceMin": (dim_min, None),
    "ReduceProd": (lambda a, b: a * b, 1),
    "ReduceSum": (lambda a, b: a + b, 0),
}


def reduced_shape(shape: Shape, axes: Axes, keep: bool) -> Shape:
    """shape with the axes made 1, or dropped."""
    if keep:
        return tuple(1 if n in axes else d for n, d in enumerate(shape))
    return tuple(d for n, d in enumerate(shape) if n not in axes)


def _infer(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    keep = bool(i.attr("keepdims", 1))
    if t.shape is None:
        return [TensorType(t.dtype, None)]
    axes = i.ints(1) if i.has(1) else []
    if axes is None:
        return [TensorType(t.dtype, _unknown_axes(i, t.shape, keep))]
    if not axes:
        axes = [] if i.attr("noop_with_empty_axes", 0) else list(range(len(t.shape)))
    return [TensorType(t.dtype, reduced_shape(t.shape, axes_of(i, axes, len(t.shape)), keep))]


def _unknown_axes(i: Infer, shape: Shape, keep: bool) -> Shape | None:
    """Axes known only when the node runs: each size stays or becomes 1."""
    if keep:
        return tuple(i.fresh(f"reduced{n}") for n in range(len(shape)))
    count = (i.shape(1) or (None,))[0]
    return tuple(i.fresh(f"reduced{n}") for n in range(len(shape) - count)) if isinstance(count, int) else None


def _reference(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    given = r.get(1)
    axes = tuple(ref_axis(r, int(a), x.ndim) for a in np.asarray(given).reshape(-1)) if given is not None else ()
    if not axes and not r.attr("noop_with_empty_axes", 0):
        axes = tuple(range(x.ndim))
    y = REDUCTIONS[r.node.op](widened(x), axes)
    if not r.attr("keepdims", 1):
        y = np.squeeze(y, axis=axes)
    return [np.asarray(y).astype(x.dtype, copy=False)]


def _propagate(i: Infer) -> list[np.ndarray | None]:
    """Sums, products, maxima and minima of a whole 1-D shape value."""
    value = i.value(0)
    fold = _FOLDS.get(i.node.op)
    whole = not i.has(1) or (i.ints(1) or [None])[0] in (0, -1)
    if fold is None or value is None or not is_symbolic(value) or value.ndim != 1 or not whole:
        return [None]
    if i.attr("noop_with_empty_axes", 0) and not i.has(1):
        return [None]
    combine, start = fold
    items = list(value)
    total: Dim = items[0] if start is None else start
    for item in items:
        total = combine(total, item)
    out = np.empty((1,) if i.attr("keepdims", 1) else (), object)
    out[...] = total
    return [settle(out, i.tensor(0).dtype)]


for _name in REDUCTIONS:
    register(Op(_name, _infer, _reference, propagate=_propagate))


def _infer_arg(i: Infer) -> list[ValueType]:
    shape = i.shape(0)
    if shape is None:
        return [TensorType(DType.I64, None)]
    axis = axis_of(i, i.attr("axis", 0), len(shape))
    return [TensorType(DType.I64, reduced_shape(shape, (axis,), bool(i.attr("keepdims", 1))))]


def _arg_reference(r: Ref) -> list[np.ndarray]:
    x = widened(np.asarray(r.inputs[0]))
    axis = ref_axis(r, r.attr("axis", 0), x.ndim)
    pick = np.argmax if r.node.op == "ArgMax" else np.argmin
    if r.attr("select_last_index", 0):
        found = x.shape[axis] - 1 - pick(np.flip(x, axis), axis=axis)
    else:
        found = pick(x, axis=axis)
    found = np.asarray(found, np.int64)
    return [np.expand_dims(found, axis) if r.attr("keepdims", 1) else found]


for _name in ("ArgMax", "ArgMin"):
    register(Op(_name, _infer_arg, _arg_reference))


def _infer_cumulative(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    return [TensorType(t.dtype, t.shape)]


def _cumulative(scan: np.ufunc, start: int) -> Callable[[Ref], list[np.ndarray]]:
    def reference(r: Ref) -> list[np.ndarray]:
        x = np.asarray(r.inputs[0])
        axis = ref_axis(r, int(np.asarray(r.inputs[1]).reshape(())), x.ndim)
        work = widened(np.flip(x, axis) if r.attr("reverse", 0) else x)
        y = scan.accumulate(work, axis=axis, dtype=work.dtype)
        if r.attr("exclusive", 0):
            head = np.full_like(np.take(y, [0], axis=axis), start) if x.shape[axis] else y
            y = np.concatenate([head, np.take(y, range(x.shape[axis] - 1), axis=axis)], axis=axis)
        return [(np.flip(y, axis) if r.attr("reverse", 0) else y).astype(x.dtype)]

    return reference


register(Op("CumSum", _infer_cumulative, _cumulative(np.add, 0)))
register(Op("CumProd", _infer_cumulative, _cumulative(np.multiply, 1)))
