"""Operators that cut a part out of a tensor or put a border around it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from skipjack.core.bounds import always_negative, never_below, never_negative
from skipjack.core.dims import Dim, ceildiv, dim_max, dim_min
from skipjack.core.limits import check_allocation
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.movement import follow, small_outputs
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axes_of, axis_of, fresh_shape, is_symbolic, ref_axis, same_as_first

FAR = 2**31 - 1
"""Starts and ends at or beyond this stand for `all the way`."""


def _slice_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    if x.shape is None:
        return [TensorType(x.dtype, None)]
    starts, ends = i.ints(1), i.ints(2)
    axes = _slice_axes(i, len(x.shape))
    if axes is None:
        return [TensorType(x.dtype, fresh_shape(i, len(x.shape)))]
    steps = i.ints(4) if i.has(4) else [1] * len(axes)
    for what, given in (("starts", starts), ("ends", ends), ("steps", steps)):
        if given is not None and len(given) != len(axes):
            i.fail(f"as many {what} as axes, {len(axes)}", len(given))
    out = list(x.shape)
    for n, axis in enumerate(axes):
        size = None
        if starts is not None and ends is not None and steps is not None:
            size = _slice_size(i, starts[n], ends[n], steps[n], x.shape[axis])
        out[axis] = i.fresh(f"slice{axis}") if size is None else size
    return [TensorType(x.dtype, tuple(out))]


def _slice_axes(i: Infer, rank: int) -> tuple[int, ...] | None:
    if i.has(3):
        axes = i.ints(3)
        return None if axes is None else axes_of(i, axes, rank)
    count = i.tensor(1).elements
    if isinstance(count, int) and count > rank:
        i.fail(f"at most {rank} starts", count)
    return tuple(range(count)) if isinstance(count, int) else None


def _slice_size(i: Infer, start: Dim, end: Dim, step: Dim, size: Dim) -> Dim | None:
    """The number of elements Slice takes along one axis; None when symbols hide it."""
    if not isinstance(step, int):
        return None
    if step == 0:
        i.fail("steps other than 0", step)
    if isinstance(start, int) and isinstance(end, int) and isinstance(size, int):
        return len(range(*slice(start, end, step).indices(size)))
    if step > 0:
        length = _forward_length(start, end, size)
        return None if length is None else ceildiv(length, step)
    whole = isinstance(start, int) and (start >= FAR or start == -1) and isinstance(end, int) and end <= -FAR
    return ceildiv(size, -step) if whole else None


def _forward_length(start: Dim, end: Dim, size: Dim) -> Dim | None:
    to_the_end = end == size or (isinstance(end, int) and end >= FAR)
    if to_the_end and isinstance(start, int) and -FAR < start < 0:
        return _at_most(-start, size)
    if to_the_end and isinstance(start, int) and start >= 0:
        return _not_negative(size - start)
    first, last = _clamped(start, size), size if to_the_end else _clamped(end, size)
    return None if first is None or last is None else _not_negative(last - first)


def _clamped(position: Dim, size: Dim) -> Dim | None:
    """A start or end as 0 <= position <= size; None when its sign is not certain."""
    if isinstance(position, int) and abs(position) >= FAR:
        return size if position > 0 else 0
    if never_negative(position):
        return _at_most(position, size)
    return _not_negative(position + size) if always_negative(position) else None


def _at_most(d: Dim, size: Dim) -> Dim:
    return d if never_below(size, d) else dim_min(d, size)


def _not_negative(d: Dim) -> Dim:
    return d if never_negative(d) else dim_max(d, 0)


def _slice(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    starts, ends = [[int(v) for v in r.get(n).reshape(-1)] for n in (1, 2)]
    axes = range(len(starts)) if r.get(3) is None else [int(a) for a in r.get(3).reshape(-1)]
    steps = [1] * len(starts) if r.get(4) is None else [int(s) for s in r.get(4).reshape(-1)]
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        r.fail("as many starts, ends, axes and non-zero steps", (starts, ends, list(axes), steps))
    cut = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps):
        cut[ref_axis(r, axis, x.ndim)] = slice(start, end, step)
    return [x[tuple(cut)]]


PAD_MODES = ("constant", "reflect", "edge", "wrap")


def _pad_axes(i: Infer, rank: int) -> tuple[int, ...] | None:
    if not i.has(3):
        return tuple(range(rank))
    axes = i.ints(3)
    return None if axes is None else axes_of(i, axes, rank)


def _pad_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    if i.attr("mode", "constant") not in PAD_MODES:
        i.fail(f"mode among {PAD_MODES}", i.attr("mode"))
    if x.shape is None:
        return [TensorType(x.dtype, None)]
    axes, pads = _pad_axes(i, len(x.shape)), i.ints(1)
    if axes is None:
        return [TensorType(x.dtype, fresh_shape(i, len(x.shape)))]
    if pads is not None and len(pads) != 2 * len(axes):
        i.fail(f"{2 * len(axes)} pads", pads)
    out = list(x.shape)
    for n, axis in enumerate(axes):
        size = i.fresh(f"padded{axis}") if pads is None else out[axis] + pads[n] + pads[n + len(axes)]
        if isinstance(size, int) and size < 0:
            i.fail(f"pads that cut at most the {out[axis]} elements of axis {axis}", pads)
        out[axis] = size
    return [TensorType(x.dtype, tuple(out))]


def _pad(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    pads = [int(p) for p in r.get(1).reshape(-1)]
    axes = range(x.ndim) if r.get(3) is None else [ref_axis(r, int(a), x.ndim) for a in r.get(3).reshape(-1)]
    if len(pads) != 2 * len(axes):
        r.fail(f"{2 * len(axes)} pads", pads)
    widths = [(0, 0)] * x.ndim
    for n, axis in enumerate(axes):
        widths[axis] = (pads[n], pads[n + len(axes)])
    sizes = [d + before + after for d, (before, after) in zip(x.shape, widths)]
    if any(s < 0 for s in sizes):
        r.fail(f"pads that leave something of the shape {list(x.shape)}", pads)
    check_allocation(math.prod(sizes), x.dtype.itemsize, str(r.node.origin))
    x = x[tuple(slice(max(0, -b), d - max(0, -a)) for d, (b, a) in zip(x.shape, widths))]
    widths = [(max(0, b), max(0, a)) for b, a in widths]
    mode = r.attr("mode", "constant")
    if mode == "constant":
        return [_constant_border(r, x, widths)]
    if any(d == 0 and b + a for d, (b, a) in zip(x.shape, widths)):
        r.fail(f"elements to repeat with mode {mode}", f"the shape {list(x.shape)}")
    return [np.pad(x, widths, mode=mode)]


def _constant_border(r: Ref, x: np.ndarray, widths: list[tuple[int, int]]) -> np.ndarray:
    given = r.get(2)
    blank = "" if x.dtype == object and not is_symbolic(x) else 0
    fill = blank if given is None else np.asarray(given).reshape(-1)[0]
    out = np.full([d + b + a for d, (b, a) in zip(x.shape, widths)], fill, x.dtype)
    out[tuple(slice(b, b + d) for d, (b, _) in zip(x.shape, widths))] = x
    return out


def _crop_axes(x: Infer | Ref, rank: int) -> list[int]:
    axes = x.attr("axes")
    if axes is None:
        return list(range(rank))
    return list(axes_of(x, axes, rank)) if isinstance(x, Infer) else [ref_axis(x, a, rank) for a in axes]


def _center_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    if x.shape is None:
        return [TensorType(x.dtype, None)]
    axes, target = _crop_axes(i, len(x.shape)), i.ints(1)
    if target is not None and len(target) != len(axes):
        i.fail(f"{len(axes)} sizes in shape", target)
    out = list(x.shape)
    for n, axis in enumerate(axes):
        out[axis] = i.fresh(f"crop{axis}") if target is None else target[n]
    return [TensorType(x.dtype, tuple(out))]


def _center(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    target = [int(d) for d in r.get(1).reshape(-1)]
    axes = _crop_axes(r, x.ndim)
    if len(target) != len(axes) or any(d < 0 for d in target):
        r.fail(f"{len(axes)} sizes that are not negative in shape", target)
    shape = list(x.shape)
    source, place = [slice(None)] * x.ndim, [slice(None)] * x.ndim
    for axis, size in zip(axes, target):
        shape[axis], extra = size, x.shape[axis] - size
        source[axis] = slice(max(extra, 0) // 2, max(extra, 0) // 2 + min(size, x.shape[axis]))
        place[axis] = slice(max(-extra, 0) // 2, max(-extra, 0) // 2 + min(size, x.shape[axis]))
    check_allocation(math.prod(shape), x.dtype.itemsize, str(r.node.origin))
    out = np.zeros(shape, x.dtype)
    out[tuple(place)] = x[tuple(source)]
    return [out]


def _compress_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    axis = i.attr("axis")
    if axis is None:
        return [TensorType(x.dtype, (i.fresh("kept"),))]
    if x.shape is None:
        return [TensorType(x.dtype, None)]
    axis = axis_of(i, axis, len(x.shape))
    return [TensorType(x.dtype, (*x.shape[:axis], i.fresh("kept"), *x.shape[axis + 1 :]))]


def _compress(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    axis = r.attr("axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    axis = ref_axis(r, axis, x.ndim)
    condition = np.asarray(r.get(1), bool).reshape(-1)
    kept = np.flatnonzero(condition)
    if kept.size and kept[-1] >= x.shape[axis]:
        r.fail(f"no true value after the {x.shape[axis]} elements of axis {axis}", f"one at {kept[-1]}")
    return [np.take(x, kept, axis)]


def _reverse(r: Ref) -> list[Any]:
    x = np.array(r.get(0))
    batch, time = r.attr("batch_axis", 1), r.attr("time_axis", 0)
    if x.ndim < 2 or sorted((batch, time)) != [0, 1]:
        r.fail("rank 2 or more, batch_axis and time_axis 0 and 1", (x.ndim, batch, time))
    lengths = np.asarray(r.get(1)).reshape(-1)
    view = x if batch == 0 else np.swapaxes(x, 0, 1)
    if len(lengths) != view.shape[0] or (lengths < 0).any() or (lengths > view.shape[1]).any():
        r.fail(f"{view.shape[0]} lengths up to {view.shape[1]}", lengths.tolist())
    for row, n in zip(view, lengths):
        row[:n] = row[:n][::-1].copy()
    return [x]


register(Op("Slice", _slice_rule, _slice, propagate=follow(_slice)))
register(Op("Pad", _pad_rule, _pad, propagate=small_outputs(_pad_rule, follow(_pad, (0, 2)))))
register(Op("CenterCropPad", _center_rule, _center))
register(Op("Compress", _compress_rule, _compress, propagate=follow(_compress)))
register(Op("ReverseSequence", same_as_first, _reverse))
