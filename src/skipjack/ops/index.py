"""Operators that read from places given by data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.core.limits import check_allocation
from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import TensorType, ValueType, tensor
from skipjack.ops.movement import follow
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axis_of, outputs, ref_axis


def index_tensor(i: Infer, n: int) -> TensorType:
    """The type of an input that holds indices; it must be an integer tensor."""
    t = i.tensor(n)
    if not t.dtype.is_int:
        i.fail(f"integer indices in input {n}", t.dtype.value)
    return t


def checked(r: Ref, indices: Any, size: int) -> np.ndarray:
    """Indices as 0 <= index < size; negative ones count from the end."""
    index = np.asarray(indices).astype(np.int64)
    outside = (index < -size) | (index >= size)
    if outside.any():
        r.fail(f"indices from {-size} to {size - 1}", int(index[outside].reshape(-1)[0]))
    return np.where(index < 0, index + size, index)


def _gather_rule(i: Infer) -> list[ValueType]:
    x, index = i.tensor(0), index_tensor(i, 1)
    if x.shape is None:
        return [TensorType(x.dtype, None)]
    axis = axis_of(i, i.attr("axis", 0), len(x.shape))
    if index.shape is None:
        return [TensorType(x.dtype, None)]
    return [TensorType(x.dtype, (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))]


def _gather(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    axis = ref_axis(r, r.attr("axis", 0), x.ndim)
    rest = math.prod(d for a, d in enumerate(x.shape) if a != axis)
    check_allocation(rest * np.size(r.get(1)), x.dtype.itemsize, str(r.node.origin))
    return [np.asarray(np.take(x, checked(r, r.get(1), x.shape[axis]), axis))]


def _gather_elements_rule(i: Infer) -> list[ValueType]:
    x, index = i.tensor(0), index_tensor(i, 1)
    if x.shape is not None:
        axis_of(i, i.attr("axis", 0), len(x.shape))
        if index.shape is not None and len(index.shape) != len(x.shape):
            i.fail(f"indices of rank {len(x.shape)}", f"rank {len(index.shape)}")
    return [TensorType(x.dtype, index.shape)]


def grid(r: Ref, index: np.ndarray, shape: tuple[int, ...], axis: int) -> tuple[np.ndarray, ...]:
    """Numpy indices that name, for each element of index, the place it stands for along axis."""
    if index.ndim != len(shape) or any(n > d for a, (n, d) in enumerate(zip(index.shape, shape)) if a != axis):
        r.fail(f"indices no larger than {list(shape)} outside axis {axis}", list(index.shape))
    places = list(np.ix_(*[np.arange(n) for n in index.shape]))
    places[axis] = checked(r, index, shape[axis])
    return tuple(places)


def _gather_elements(r: Ref) -> list[Any]:
    x, index = np.asarray(r.get(0)), np.asarray(r.get(1))
    axis = ref_axis(r, r.attr("axis", 0), x.ndim)
    return [x[grid(r, index, x.shape, axis)]]


def _gather_nd_rule(i: Infer) -> list[ValueType]:
    x, index = i.tensor(0), index_tensor(i, 1)
    batch = i.attr("batch_dims", 0)
    if x.shape is None or index.shape is None:
        return [TensorType(x.dtype, None)]
    depth = index.shape[-1] if index.shape else i.fail("indices of rank 1 or more", "rank 0")
    if not isinstance(depth, int):
        return [TensorType(x.dtype, None)]
    if not 0 <= batch < len(index.shape) or batch + depth > len(x.shape):
        i.fail(f"batch_dims and index tuples that fit rank {len(x.shape)}", (batch, depth))
    return [TensorType(x.dtype, (*index.shape[:-1], *x.shape[batch + depth :]))]


def places(r: Ref, index: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """One checked index array per leading axis of shape, from index tuples in the last axis."""
    if index.shape[-1] > len(shape):
        r.fail(f"index tuples of at most {len(shape)} numbers", index.shape[-1])
    return tuple(checked(r, index[..., n], shape[n]) for n in range(index.shape[-1]))


def _gather_nd(r: Ref) -> list[Any]:
    x, index = np.asarray(r.get(0)), np.asarray(r.get(1))
    batch = r.attr("batch_dims", 0)
    if batch and x.shape[:batch] != index.shape[:batch]:
        r.fail(f"equal sizes of the first {batch} axes", (list(x.shape), list(index.shape)))
    rest = math.prod(x.shape[batch + index.shape[-1] :]) * math.prod(index.shape[:-1])
    check_allocation(rest, x.dtype.itemsize, str(r.node.origin))
    found = places(r, index, x.shape[batch:])
    lead = np.ix_(*[np.arange(n) for n in x.shape[:batch]]) if batch else ()
    extra = index.ndim - 1 - batch
    rows = tuple(a.reshape(a.shape + (1,) * extra) for a in lead)
    return [np.array(x[rows + found], x.dtype)]


def _one_hot_rule(i: Infer) -> list[ValueType]:
    index, values = i.tensor(0), i.tensor(2)
    if index.shape is None:
        return [TensorType(values.dtype, None)]
    axis = axis_of(i, i.attr("axis", -1), len(index.shape) + 1)
    known = i.value(1)
    depth: Dim = i.fresh("depth") if known is None else _depth(i, known)
    return [TensorType(values.dtype, (*index.shape[:axis], depth, *index.shape[axis:]))]


def _depth(x: Infer | Ref, value: np.ndarray) -> Dim:
    if value.size != 1:
        x.fail("one number as depth", f"{value.size}")
    depth = value.reshape(-1)[0]
    depth = int(depth) if isinstance(depth, np.generic | int) else depth
    if isinstance(depth, int) and depth < 0:
        x.fail("a depth that is not negative", depth)
    return depth


def _one_hot(r: Ref) -> list[Any]:
    index = np.asarray(r.get(0)).astype(np.int64)
    off, on = np.asarray(r.get(2)).reshape(-1)
    depth = int(np.asarray(r.get(1)).reshape(-1)[0])
    if depth < 0:
        r.fail("a depth that is not negative", depth)
    axis = ref_axis(r, r.attr("axis", -1), index.ndim + 1)
    check_allocation(math.prod(index.shape) * depth, np.asarray(r.get(2)).itemsize, str(r.node.origin))
    classes = np.arange(depth).reshape([-1 if a == axis else 1 for a in range(index.ndim + 1)])
    wrapped = np.expand_dims(np.where(index < 0, index + depth, index), axis)
    return [np.where(wrapped == classes, on, off).astype(np.asarray(r.get(2)).dtype)]


def _non_zero_rule(i: Infer) -> list[ValueType]:
    rank = i.tensor(0).rank
    return [tensor(DType.I64, i.fresh("rank") if rank is None else max(rank, 1), i.fresh("nonzero"))]


def _non_zero(r: Ref) -> list[Any]:
    x = np.atleast_1d(np.asarray(r.get(0)))
    return [np.array(np.nonzero(x), np.int64).reshape(x.ndim, -1)]


def _counted_rule(i: Infer) -> list[ValueType]:
    count = i.ints(1)
    rank = i.tensor(0).rank
    return [tensor(DType.I64, i.fresh("rank") if rank is None else rank, count[0] if count else i.fresh("nonzero"))]


def _unique_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    count = i.fresh("unique")
    axis = i.attr("axis")
    total = x.elements if axis is None else None
    shape = (count,) if axis is None else None
    if axis is not None and x.shape is not None:
        axis = axis_of(i, axis, len(x.shape))
        total = x.shape[axis]
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    per_input = tensor(DType.I64, i.fresh("elements") if total is None else total)
    per_output = tensor(DType.I64, count)
    return outputs(i, TensorType(x.dtype, shape), per_output, per_input, per_output)


def _unique(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    axis = r.attr("axis")
    flat = x.reshape(-1) if axis is None else np.moveaxis(x, ref_axis(r, axis, x.ndim), 0)
    rows = [tuple(row) for row in flat.reshape(len(flat), math.prod(flat.shape[1:])).tolist()]
    first: dict[tuple[Any, ...], int] = {}
    for n, row in enumerate(rows):
        first.setdefault(row, n)
    found = sorted(first) if r.attr("sorted", 1) else list(first)
    rank = {row: n for n, row in enumerate(found)}
    indices = np.array([first[row] for row in found], np.int64)
    inverse = np.array([rank[row] for row in rows], np.int64)
    kept = flat[indices]
    y = kept if axis is None else np.moveaxis(kept, 0, axis)
    counts = np.bincount(inverse, minlength=len(found)).astype(np.int64)
    return [y, indices, inverse, counts][: r.n_outputs]


def _nms_rule(i: Infer) -> list[ValueType]:
    for n, what in ((0, "boxes"), (1, "scores")):
        shape = i.shape(n)
        if shape is not None and len(shape) != 3:
            i.fail(f"{what} of rank 3", f"rank {len(shape)}")
    return [tensor(DType.I64, i.fresh("boxes"), 3)]


def box_corners(boxes: np.ndarray, center_point: bool) -> np.ndarray:
    """Boxes as (low, low, high, high)."""
    if center_point:
        half = boxes[:, 2:] / 2
        return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)
    low = np.minimum(boxes[:, :2], boxes[:, 2:])
    return np.concatenate([low, np.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with others."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.maximum(high - low, 0), 1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], 1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def selected_boxes(boxes: np.ndarray, scores: np.ndarray, limit: int, iou: float, least: float | None) -> list[int]:
    """Indices of the boxes kept, the best first; of equal scores the earlier box is better."""
    order = np.argsort(-scores, kind="stable")
    if least is not None:
        order = order[scores[order] > least]
    chosen: list[int] = []
    while order.size and len(chosen) < limit:
        best = order[0]
        chosen.append(int(best))
        order = order[1:][_overlap(boxes[best], boxes[order[1:]]) <= iou]
    return chosen


def _nms(r: Ref) -> list[Any]:
    boxes, scores = np.asarray(r.get(0)), np.asarray(r.get(1))
    if boxes.shape[2:] != (4,) or (boxes.shape[0], boxes.shape[1]) != (scores.shape[0], scores.shape[2]):
        r.fail("boxes [N, B, 4] and scores [N, C, B]", (list(boxes.shape), list(scores.shape)))
    limit, iou, least = [None if r.get(n) is None else np.asarray(r.get(n)).reshape(-1)[0] for n in (2, 3, 4)]
    found = [
        (n, c, b)
        for n in range(scores.shape[0])
        for corners in [box_corners(boxes[n], bool(r.attr("center_point_box", 0)))]
        for c in range(scores.shape[1])
        for b in selected_boxes(corners, scores[n, c], int(limit or 0), float(iou or 0), least)
    ]
    return [np.array(found, np.int64).reshape(-1, 3)]


register(Op("Gather", _gather_rule, _gather, propagate=follow(_gather)))
register(Op("GatherElements", _gather_elements_rule, _gather_elements, propagate=follow(_gather_elements)))
register(Op("GatherND", _gather_nd_rule, _gather_nd, propagate=follow(_gather_nd)))
register(Op("OneHot", _one_hot_rule, _one_hot))
register(Op("NonZero", _non_zero_rule, _non_zero))
register(Op("NonZero", _counted_rule, _non_zero, domain=SKIPJACK))
register(Op("Unique", _unique_rule, _unique))
register(Op("NonMaxSuppression", _nms_rule, _nms))
