"""Resize of plain tensors, axis by axis: an output index is a weighted sum of the input indices in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.copy import copy_whole, held
from skipjack.kernels.emit import cast as convert
from skipjack.kernels.emit import load_as, memory_type, register_type, store_as, supported_dtype, to_compute
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Place, Site, Work, generator, lowering
from skipjack.kernels.movement import take_tables
from skipjack.kernels.repeat_rows import repeat_rows
from skipjack.kernels.span import lanes_for, maskable, span
from skipjack.kernels.strided import View, apply, at_place, whole
from skipjack.lang.expr import Expr, arg, cast, const, maximum, minimum, select, unary
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.ops.image import axis_weights, resize_plan, source_positions
from skipjack.ops.registry import Ref
from skipjack.targets.target import Target


@dataclass(frozen=True)
class _Axis:
    """One resized axis: weights [out, in], and which outputs lie outside of the input."""

    axis: int
    weights: np.ndarray
    outside: np.ndarray


def _axes(work: Work) -> list[_Axis]:
    x = work.input(0)
    given = [None if (b := work.maybe(i)) is None else b.value for i in (1, 2, 3)]
    image = np.broadcast_to(np.zeros((), np.float32), x.shape)
    r = Ref(work.node, [image, *given])
    rank = len(x.shape)
    chosen = [int(a) % rank for a in (work.attr("axes") or range(rank))]
    kind = str(work.attr("coordinate_transformation_mode", "half_pixel"))
    found: list[_Axis] = []
    for n, (axis, (scale, out)) in enumerate(zip(chosen, resize_plan(r, chosen), strict=True)):
        size = x.shape[axis]
        region = (0.0, 1.0)
        if kind == "tf_crop_and_resize":
            roi = given[0]
            assert roi is not None, "checked by the rule of Resize"
            region = (float(roi[n]), float(roi[n + len(chosen)]))
        elif scale == 1 and out == size:
            continue
        at = source_positions(kind, size, out, scale, region)
        found.append(_Axis(axis, axis_weights(r, at, size, scale), (at < 0) | (at > size - 1)))
    return found


def _taps(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(indices, weights) [out, taps] of the inputs that count."""
    count = max(1, int((weights != 0).sum(axis=1).max(initial=0)))
    order = np.argsort(weights == 0, axis=1, kind="stable")[:, :count]
    return order.astype(np.int64), np.take_along_axis(weights, order, axis=1)


def _lower(work: Work) -> list[Launch]:
    x, out = work.input(0), work.output()
    axes = _axes(work)
    crop = str(work.attr("coordinate_transformation_mode", "half_pixel")) == "tf_crop_and_resize"
    if not axes:
        return copy_whole(x, out, work.target)
    if str(work.attr("mode", "nearest")) == "nearest" and not crop:
        tables = [(a.axis, a.weights.argmax(axis=1)) for a in axes]
        return repeat_rows(work, tables) or take_tables(work, x, tables)
    compute = DType.F32 if x.dtype in (DType.F32, DType.F16, DType.BF16) else DType.F64
    direct = not crop and x.dtype.is_float
    launches: list[Launch] = []
    place, dtype, shape = x.place, x.dtype, list(x.shape)
    for n, a in enumerate(axes):
        made = [len(a.weights) if i == a.axis else d for i, d in enumerate(shape)]
        last = direct and n == len(axes) - 1
        kind = out.dtype if last else compute
        to = out.place if last else work.memory.temporary(math.prod(made) * kind.itemsize)
        launches += _resample(work, (place, dtype), (to, kind), shape, a, compute)
        place, dtype, shape = to, kind, made
    return launches if direct else launches + _finish(work, at_place(place, dtype, shape), axes if crop else [])


def _finish(work: Work, y: View, axes: Sequence[_Axis]) -> list[Launch]:
    """Outputs outside of the image replaced, integers rounded and saturated."""
    out = work.output()
    views: list[View] = [y]
    value = arg(0, y.dtype)
    for a in axes:
        steps = tuple(1 if i == a.axis else 0 for i in range(len(out.shape)))
        views.append(View(work.memory.constant(a.outside), DType.BOOL, steps))
        beyond = const(float(work.attr("extrapolation_value", 0.0)), y.dtype)
        value = select(arg(len(views) - 1, DType.BOOL), beyond, value)
    return apply(_stored(value, out.dtype), out.shape, views, whole(out), work.target)


def _stored(value: Expr, dtype: DType) -> Expr:
    if dtype.is_float:
        return cast(value, dtype)
    bounds = np.iinfo(dtype.np)
    return cast(minimum(maximum(unary("round", value), float(bounds.min)), float(bounds.max)), dtype)


def _resample(
    work: Work, source: tuple[Place, DType], to: tuple[Place, DType], shape: Sequence[int], a: _Axis, compute: DType
) -> list[Launch]:
    outer, size, inner = math.prod(shape[: a.axis]), shape[a.axis], math.prod(shape[a.axis + 1 :])
    count = len(a.weights)
    if outer * count * inner == 0:
        return []
    index, weights = _taps(a.weights)
    taps = index.shape[1]
    if inner == 1:
        index, weights = index.T, weights.T
    tables = (
        work.memory.constant(np.ascontiguousarray(index)),
        work.memory.constant(np.ascontiguousarray(weights.astype(compute.np))),
    )
    params = (source[1], to[1], compute)
    words = (source[0], to[0], *tables, taps, size, count, inner)
    spec = KernelSpec("resample_line" if inner == 1 else "resample_rows", params)
    units = outer if inner == 1 else outer * count
    return [Launch(spec, units, words, (source[0], *tables), (to[0],))]


_FIELDS = [("x", PTR), ("y", PTR), ("index", PTR), ("weight", PTR)]
_WORDS = [("taps", I64), ("size", I64), ("count", I64), ("inner", I64)]


@generator("resample_rows")
def rows(target: Target, name: str, source: DType, result: DType, compute: DType) -> Program:
    """A unit is one index of the resized axis: a weighted sum of rows, lanes over the axes behind."""
    k = Kernel(name, [*_FIELDS, *_WORDS], 8 * target.vector_bytes)
    g = k.arg
    ty = register_type(compute)
    with k.units() as u:
        base, at = u.udiv(g.count) * g.size, u.urem(g.count) * g.taps

        def body(i: V, lanes: int, mask: V | None, u: V = u, base: V = base, at: V = at) -> None:
            total = k.var(k.constant(ty.vec(lanes), 0))
            with k.loop(g.taps) as t:
                row = base + g.index.at(at + t, 8).load(I64)
                x = load_as(k, g.x.at(row * g.inner + i, source.itemsize), source, lanes, mask)
                weight = g.weight.at(at + t, compute.itemsize).load(ty)
                total.set(k.fma(convert(k, x, source, compute), weight, total))
            value = convert(k, total.get(), compute, result)
            store_as(k, g.y.at(u * g.inner + i, result.itemsize), value, result, mask)

        dtypes = [source, result, compute]
        span(k, k.i64(0), g.inner, lanes_for(target, dtypes), maskable(target, dtypes), body, 1)
    return k.finish()


@generator("resample_line")
def line(target: Target, name: str, source: DType, result: DType, compute: DType) -> Program:
    """A unit is one line along the resized axis, which is innermost: lanes over its outputs."""
    k = Kernel(name, [*_FIELDS, *_WORDS], 8 * target.vector_bytes)
    g = k.arg
    ty, item = register_type(compute), source.itemsize
    with k.units() as u:
        x = g.x.at(u * g.size, item)

        def body(i: V, lanes: int, mask: V | None, u: V = u, x: V = x) -> None:
            total = k.var(k.constant(ty.vec(lanes), 0))
            with k.loop(g.taps) as t:
                at = t * g.count + i
                index = load_as(k, g.index.at(at, 8), DType.I64, lanes)
                if lanes:
                    raw = to_compute(k, x.gather(memory_type(source).vec(lanes), index * item), source)
                else:
                    raw = load_as(k, x.at(index, item), source, 0)
                weight = g.weight.at(at, compute.itemsize).load(ty.vec(lanes))
                total.set(k.fma(convert(k, raw, source, compute), weight, total))
            value = convert(k, total.get(), compute, result)
            store_as(k, g.y.at(u * g.count + i, result.itemsize), value, result)

        span(k, k.i64(0), g.count, lanes_for(target, [source, result, compute]), False, body, 1)
    return k.finish()


def _accepts(site: Site) -> str:
    t = site.inputs[0]
    if t is None or site.node.attrs.get("mode", "nearest") == "nearest":
        crop = site.node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        return held(site) if not crop else _accepts_numbers(site)
    return _accepts_numbers(site)


def _accepts_numbers(site: Site) -> str:
    t = site.inputs[0]
    fine = t is not None and supported_dtype(t.dtype) and t.dtype is not DType.BOOL
    if not fine or t is None or (t.dtype.is_int and t.dtype.itemsize > 4):
        return "elements that sums of weights do not fit"
    return ""


lowering(Lowering("resample", ONNX, "Resize", _accepts, _lower, parameters=(1, 2, 3)))
