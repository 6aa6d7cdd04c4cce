"""Operators that read and write places given by data. Indices outside an axis are moved to its end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.copy import copy_whole, held
from skipjack.kernels.emit import supported_dtype
from skipjack.kernels.launch import Launch, Lowering, Site, Work, lowering
from skipjack.kernels.put import put_blocks, put_rows
from skipjack.kernels.rows import gather_rows
from skipjack.kernels.strided import View, apply, at_place, contiguous, copy, spread, whole
from skipjack.kernels.take import INDEX_TYPES, take, take_axis
from skipjack.lang.expr import arg, cast, select


def _accepts(site: Site) -> str:
    index = site.inputs[1]
    if index is None or index.dtype not in INDEX_TYPES:
        return "indices that are neither i32 nor i64"
    wide = [t for t in (site.inputs[0], site.outputs[0]) if t is not None and t.dtype.itemsize > 8]
    return held(site) or (f"elements of {wide[0].dtype.value}" if wide else "")


def _gather(work: Work) -> list[Launch]:
    x, index = work.input(0), work.input(1)
    axis = int(work.attr("axis", 0)) % len(x.shape)
    item, count = x.dtype.itemsize, index.elements
    return take_axis(x.place, x.shape, axis, item, index.place, index.dtype, count, work.output().place, work.target)


def _gather_nd(work: Work) -> list[Launch]:
    x, index, out = work.input(0), work.input(1), work.output()
    batch, depth = int(work.attr("batch_dims", 0)), index.shape[-1]
    outer = math.prod(x.shape[:batch])
    if depth == 0:
        shape = (*x.shape[:batch], math.prod(index.shape[batch:-1]), *x.shape[batch:])
        own = (*x.shape[:batch], 1, *x.shape[batch:])
        return copy(shape, spread(whole(x, own), own, shape), whole(out, shape), work.target)
    strides = contiguous(x.shape, x.dtype.itemsize)
    axes = list(zip(x.shape[batch : batch + depth], strides[batch : batch + depth], strict=True))
    count = math.prod(index.shape[batch:-1])
    nbytes = math.prod(x.shape[batch + depth :]) * x.dtype.itemsize
    step = math.prod(x.shape[batch:]) * x.dtype.itemsize
    index_step = count * depth * index.dtype.itemsize
    return take(x.place, index.place, index.dtype, out.place, outer, count, axes, nbytes, step, index_step)


def _three_axes(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """Sizes before, at and behind an axis."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _cropped(work: Work, axis: int) -> tuple[tuple[int, ...], View]:
    """(sizes, view) of the part of the data that indices of another shape can reach."""
    x, index = work.input(0), work.input(1)
    sizes = tuple(x.shape[a] if a == axis else n for a, n in enumerate(index.shape))
    return sizes, whole(x)


def _gather_elements(work: Work) -> list[Launch]:
    x, index, out = work.input(0), work.input(1), work.output()
    axis = int(work.attr("axis", 0)) % len(x.shape)
    sizes, view = _cropped(work, axis)
    launches: list[Launch] = []
    place = x.place
    if sizes != x.shape:
        place = work.memory.temporary(math.prod(sizes) * x.dtype.itemsize)
        launches += copy(sizes, view, at_place(place, x.dtype, sizes), work.target)
    outer, size, inner = _three_axes(sizes, axis)
    found = gather_rows(place, index, out.place, x.dtype.itemsize, outer, size, inner)
    return launches + found


def _reductions(site: Site) -> str:
    t = site.inputs[0]
    if site.node.attrs.get("reduction", "none") == "none" or t is None:
        return ""
    return "" if supported_dtype(t.dtype) else f"reductions of {t.dtype.value}"


def _accepts_scatter(site: Site) -> str:
    return _accepts(site) or _reductions(site)


def _scatter_nd(work: Work) -> list[Launch]:
    x, index, updates, out = work.input(0), work.input(1), work.input(2), work.output()
    launches = copy_whole(x, out, work.target)
    depth = index.shape[-1]
    strides = contiguous(out.shape, out.dtype.itemsize)
    axes = list(zip(out.shape[:depth], strides[:depth], strict=True))
    block = math.prod(out.shape[depth:])
    count = math.prod(index.shape[:-1])
    way = str(work.attr("reduction", "none"))
    return launches + put_blocks(out.place, out.dtype, index, updates.place, count, axes, block, way)


def _scatter_elements(work: Work) -> list[Launch]:
    x, index, updates, out = work.input(0), work.input(1), work.input(2), work.output()
    axis = int(work.attr("axis", 0)) % len(x.shape)
    launches = copy_whole(x, out, work.target)
    sizes, _ = _cropped(work, axis)
    place, way = out.place, str(work.attr("reduction", "none"))
    outer, size, inner = _three_axes(sizes, axis)
    if index.elements == 0:
        return launches
    if sizes == x.shape:
        return launches + put_rows(place, out.dtype, index, updates.place, (outer, size, inner), way)
    place = work.memory.temporary(math.prod(sizes) * x.dtype.itemsize)
    part = at_place(place, x.dtype, sizes)
    launches += copy(sizes, whole(out), part, work.target)
    launches += put_rows(place, out.dtype, index, updates.place, (outer, size, inner), way)
    return launches + copy(sizes, part, whole(out), work.target)


def _accepts_one_hot(site: Site) -> str:
    types = [t for t in (site.inputs[0], site.inputs[2]) if t is not None]
    strange = [t.dtype.value for t in types if not supported_dtype(t.dtype)]
    return f"kernels do not compute with {strange[0]}" if strange else ""


def _one_hot(work: Work) -> list[Launch]:
    index, depth, values, out = work.input(0), work.input(1), work.input(2), work.output()
    assert depth.value is not None, "the depth of a OneHot is a parameter"
    axis = int(work.attr("axis", -1)) % len(out.shape)
    classes = int(np.asarray(depth.value).reshape(-1)[0])
    own = [1 if a == axis else n for a, n in enumerate(out.shape)]
    none = (0,) * len(out.shape)
    line = tuple(8 if a == axis else 0 for a in range(len(out.shape)))
    table = work.memory.constant(np.arange(classes, dtype=np.int64))
    count = work.memory.constant(np.array([classes], np.int64))
    views = [
        spread(whole(index, own), own, out.shape),
        View(table, DType.I64, line),
        View(count, DType.I64, none),
        View(values.place, values.dtype, none),
        View(values.place.at(values.dtype.itemsize), values.dtype, none),
    ]
    at = cast(arg(0, index.dtype), DType.I64)
    at = select(at < 0, at + arg(2, DType.I64), at)
    chosen = at.eq(arg(1, DType.I64))
    expr = select(chosen, arg(4, values.dtype), arg(3, values.dtype))
    return apply(expr, out.shape, views, whole(out), work.target)


lowering(Lowering("take", ONNX, "Gather", _accepts, _gather))
lowering(Lowering("take", ONNX, "GatherND", _accepts, _gather_nd))
lowering(Lowering("gather-rows", ONNX, "GatherElements", _accepts, _gather_elements))
lowering(Lowering("put", ONNX, "ScatterND", _accepts_scatter, _scatter_nd))
lowering(Lowering("put-rows", ONNX, "ScatterElements", _accepts_scatter, _scatter_elements))
lowering(Lowering("compare", ONNX, "OneHot", _accepts_one_hot, _one_hot, parameters=(1,)))
