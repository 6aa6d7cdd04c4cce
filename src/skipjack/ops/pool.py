"""Pooling: maxima, means and norms over windows or over everything, their inverse, and pooling of regions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, Sym
from skipjack.core.dtypes import DType
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.conv import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import outputs, same_dim
from skipjack.ops.window import kernel_shape, known, output_sizes, padded, taps, window


def _pooled(i: Infer, x: Shape) -> Shape:
    if len(x) < 3:
        i.fail("an input with at least three axes", x)
    w = window(i, kernel_shape(i, len(x) - 2))
    return (x[0], x[1], *output_sizes(i, w, x[2:]))


def _infer_pool(i: Infer) -> list[ValueType]:
    x = i.shape(0)
    return [TensorType(i.tensor(0).dtype, None if x is None else _pooled(i, x))]


def _infer_max(i: Infer) -> list[ValueType]:
    shape = None if i.shape(0) is None else _pooled(i, i.shape(0) or ())
    return outputs(i, TensorType(i.tensor(0).dtype, shape), TensorType(DType.I64, shape))


def lowest(dtype: np.dtype) -> Any:
    """The value no other of the type is below."""
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def _ref_max(r: Ref) -> list[Any]:
    x = r.inputs[0]
    w = window(r, kernel_shape(r, x.ndim - 2))
    sizes = [known(s) for s in output_sizes(r, w, x.shape[2:])]
    spatial = x.shape[2:]
    order = "F" if r.attr("storage_order", 0) else "C"
    numbers = np.arange(int(np.prod(spatial))).reshape(spatial, order=order)
    index = padded(np.broadcast_to(numbers, (1, 1, *spatial)), w, sizes, -1)
    values = padded(x, w, sizes, lowest(x.dtype))
    best = np.full((*x.shape[:2], *sizes), lowest(x.dtype), x.dtype)
    where = np.full(best.shape, -1, np.int64)
    for (_, v), (_, n) in zip(taps(values, w, sizes), taps(index, w, sizes)):
        better = (n >= 0) & ((v > best) | (where < 0) | (np.isnan(v) if v.dtype.kind == "f" else False))
        best = np.where(better, v, best)
        where = np.where(better, n, where)
    plane = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * len(sizes))
    where = np.where(where >= 0, where + plane * numbers.size, -1)
    return [best, where][: r.n_outputs]


register(Op("MaxPool", _infer_max, _ref_max))


def _ref_average(r: Ref) -> list[Any]:
    x = widened(r.inputs[0])
    w = window(r, kernel_shape(r, x.ndim - 2))
    sizes = [known(s) for s in output_sizes(r, w, x.shape[2:])]
    counted = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if r.attr("count_include_pad", 0):
        pads = [(known(a), known(b)) for a, b in w.pads_for(x.shape[2:])]
        ones = np.ones([1, 1, *[a + n + b for (a, b), n in zip(pads, x.shape[2:])]], x.dtype)
        grown = padded(counted, w, sizes, 0)
        grown[tuple(slice(0, n) for n in ones.shape)] = 1
    else:
        grown = padded(counted, w, sizes, 0)
    total = sum(v for _, v in taps(padded(x, w, sizes, 0), w, sizes))
    count = sum(v for _, v in taps(grown, w, sizes))
    with np.errstate(all="ignore"):
        return [np.asarray(total / count).astype(r.inputs[0].dtype)]


register(Op("AveragePool", _infer_pool, _ref_average))


def _ref_lp(r: Ref) -> list[Any]:
    x = widened(r.inputs[0])
    p = int(r.attr("p", 2))
    w = window(r, kernel_shape(r, x.ndim - 2))
    sizes = [known(s) for s in output_sizes(r, w, x.shape[2:])]
    total = np.asarray(sum(np.abs(v) ** p for _, v in taps(padded(x, w, sizes, 0), w, sizes)))
    return [(total ** (1.0 / p)).astype(r.inputs[0].dtype)]


register(Op("LpPool", _infer_pool, _ref_lp))


def _infer_global(i: Infer) -> list[ValueType]:
    x = i.shape(0)
    if x is not None and len(x) < 3:
        i.fail("an input with at least three axes", x)
    return [TensorType(i.tensor(0).dtype, None if x is None else (*x[:2], *[1] * (len(x) - 2)))]


def _over_everything(reduce: Callable[[Ref, np.ndarray, tuple[int, ...]], Any]) -> Callable[[Ref], list[Any]]:
    def reference(r: Ref) -> list[Any]:
        x = widened(r.inputs[0])
        return [np.asarray(reduce(r, x, tuple(range(2, x.ndim)))).astype(r.inputs[0].dtype)]

    return reference


def _mean(_: Ref, x: np.ndarray, axes: tuple[int, ...]) -> Any:
    return x.mean(axis=axes, keepdims=True)


def _max(_: Ref, x: np.ndarray, axes: tuple[int, ...]) -> Any:
    return x.max(axis=axes, keepdims=True)


def _norm(r: Ref, x: np.ndarray, axes: tuple[int, ...]) -> Any:
    p = int(r.attr("p", 2))
    return (np.abs(x) ** p).sum(axis=axes, keepdims=True) ** (1.0 / p)


register(Op("GlobalAveragePool", _infer_global, _over_everything(_mean)))
register(Op("GlobalMaxPool", _infer_global, _over_everything(_max)))
register(Op("GlobalLpPool", _infer_global, _over_everything(_norm)))


def _unpool_sizes(x: Infer | Ref, sizes: Sequence[Dim]) -> tuple[Dim, ...]:
    """The spatial sizes a pool of these attributes would have read."""
    w = window(x, kernel_shape(x, len(sizes)))
    return tuple((n - 1) * w.strides[a] + w.extent(a) - w.pads[a] - w.pads[a + w.rank] for a, n in enumerate(sizes))


def _infer_unpool(i: Infer) -> list[ValueType]:
    x = i.shape(0)
    dtype = i.tensor(0).dtype
    if x is None:
        return [TensorType(dtype, None)]
    if i.has(2):
        wanted = i.ints(2)
        if wanted is None:
            return [TensorType(dtype, tuple(i.fresh(f"size{n}") for n in range(len(x))))]
        return [TensorType(dtype, tuple(wanted))]
    return [TensorType(dtype, (*x[:2], *_unpool_sizes(i, x[2:])))]


def _ref_unpool(r: Ref) -> list[Any]:
    x, index = r.inputs[0], np.asarray(r.inputs[1])
    given = r.get(2)
    natural = (*x.shape[:2], *[known(n) for n in _unpool_sizes(r, x.shape[2:])])
    shape = natural if given is None else tuple(int(n) for n in given)
    if x.shape != index.shape:
        r.fail(f"indices of shape {x.shape}", index.shape)
    flat = np.zeros(int(np.prod(natural)), x.dtype)
    if index.size and (index.min() < 0 or index.max() >= flat.size):
        r.fail(f"indices below {flat.size}", (int(index.min()), int(index.max())))
    flat[index.reshape(-1)] = x.reshape(-1)
    y = np.zeros(shape, x.dtype)
    part = tuple(slice(0, min(a, b)) for a, b in zip(shape, natural))
    y[part] = flat.reshape(natural)[part]
    return [y]


register(Op("MaxUnpool", _infer_unpool, _ref_unpool))


def _infer_max_roi(i: Infer) -> list[ValueType]:
    x, rois = i.shape(0), i.shape(1)
    dtype = i.tensor(0).dtype
    size = i.attr("pooled_shape")
    if size is None or len(size) != 2:
        i.fail("pooled_shape with two sizes", size)
    count: Dim | None = rois[0] if rois is not None else None
    channels: Dim | None = x[1] if x is not None else None
    if count is None or channels is None:
        return [TensorType(dtype, (i.fresh("rois"), i.fresh("channels"), *size))]
    if x is not None and len(x) != 4:
        i.fail("an input with four axes", x)
    return [TensorType(dtype, (count, channels, *size))]


def _bin(start: int, length: int, bins: int, index: int, size: int) -> slice:
    step = max(length, 1) / bins
    low = int(np.floor(index * step)) + start
    high = int(np.ceil((index + 1) * step)) + start
    return slice(min(max(low, 0), size), min(max(high, 0), size))


def _ref_max_roi(r: Ref) -> list[Any]:
    x, rois = r.inputs[0], r.inputs[1]
    h, w = (int(s) for s in r.attr("pooled_shape"))
    scale = float(r.attr("spatial_scale", 1.0))
    y = np.zeros((rois.shape[0], x.shape[1], h, w), x.dtype)
    for n, roi in enumerate(rois):
        batch = int(roi[0])
        if not 0 <= batch < x.shape[0]:
            r.fail(f"batch indices below {x.shape[0]}", batch)
        left, top, right, bottom = (int(np.floor(v * scale + 0.5)) for v in roi[1:5].astype(np.float64))
        for a, b in itertools.product(range(h), range(w)):
            rows = _bin(top, bottom - top + 1, h, a, x.shape[2])
            columns = _bin(left, right - left + 1, w, b, x.shape[3])
            part = x[batch, :, rows, columns]
            y[n, :, a, b] = part.max(axis=(1, 2)) if part.size else 0
    return [y]


register(Op("MaxRoiPool", _infer_max_roi, _ref_max_roi))


def _infer_roi_align(i: Infer) -> list[ValueType]:
    x, rois, batch = i.shape(0), i.shape(1), i.shape(2)
    size = (int(i.attr("output_height", 1)), int(i.attr("output_width", 1)))
    if str(i.attr("mode", "avg")) not in ("avg", "max"):
        i.fail("mode avg or max", i.attr("mode"))
    if x is not None and len(x) != 4:
        i.fail("an input with four axes", x)
    count: Dim | Sym = rois[0] if rois is not None else i.fresh("rois")
    if batch is not None and len(batch) == 1:
        count = same_dim(i, count, batch[0], "rois and batch indices")
    return [TensorType(i.tensor(0).dtype, (count, x[1] if x is not None else i.fresh("channels"), *size))]


def _axis_samples(start: float, end: float, bins: int, ratio: int, malformed_to_one: bool) -> tuple[np.ndarray, int]:
    """Sample positions [bins, samples] along one axis of a region."""
    length = max(end - start, 1.0) if malformed_to_one else end - start
    step = length / bins
    count = ratio if ratio > 0 else max(int(np.ceil(step)), 1)
    inner = (np.arange(count) + 0.5) * step / count
    return start + np.arange(bins)[:, None] * step + inner[None, :], count


def _clamped(position: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(lower index, upper index, weight of upper, inside) of fractional positions; one beyond the edge still counts."""
    inside = (position >= -1.0) & (position <= size)
    p = np.clip(position, 0, size - 1)
    low = np.floor(p).astype(np.int64)
    return low, np.minimum(low + 1, size - 1), p - low, inside


def _ref_roi_align(r: Ref) -> list[Any]:
    x, rois, batches = widened(r.inputs[0]), widened(r.inputs[1]), r.inputs[2]
    half = str(r.attr("coordinate_transformation_mode", "half_pixel")) == "half_pixel"
    scale, ratio = float(r.attr("spatial_scale", 1.0)), int(r.attr("sampling_ratio", 0))
    h, w = int(r.attr("output_height", 1)), int(r.attr("output_width", 1))
    largest = str(r.attr("mode", "avg")) == "max"
    y = np.zeros((rois.shape[0], x.shape[1], h, w), np.float64)
    for n, (roi, batch) in enumerate(zip(rois, batches)):
        if not 0 <= batch < x.shape[0]:
            r.fail(f"batch indices below {x.shape[0]}", batch)
        left, top, right, bottom = roi.astype(np.float64) * scale - (0.5 if half else 0.0)
        rows, _ = _axis_samples(top, bottom, h, ratio, not half)
        columns, _ = _axis_samples(left, right, w, ratio, not half)
        y0, y1, fy, iy = (a[:, None, :, None] for a in _clamped(rows, x.shape[2]))
        x0, x1, fx, ix = (a[None, :, None, :] for a in _clamped(columns, x.shape[3]))
        image, inside = x[batch], iy & ix
        parts = [
            image[:, y0, x0] * ((1 - fy) * (1 - fx)) * inside,
            image[:, y0, x1] * ((1 - fy) * fx) * inside,
            image[:, y1, x0] * (fy * (1 - fx)) * inside,
            image[:, y1, x1] * (fy * fx) * inside,
        ]
        y[n] = np.maximum.reduce(parts).max(axis=(3, 4)) if largest else sum(parts).mean(axis=(3, 4))  # type: ignore[union-attr]
    return [y.astype(r.inputs[0].dtype)]


register(Op("RoiAlign", _infer_roi_align, _ref_roi_align))
