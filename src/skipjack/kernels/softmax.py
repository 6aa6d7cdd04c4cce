"""Softmax and LogSoftmax along any axis."""

from __future__ import annotations

import math

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.emit import load_as, register_type, store_as
from skipjack.kernels.fold import add, fold
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.span import lanes_for, maskable, span
from skipjack.kernels.vector_math import absolute, exp, log
from skipjack.lang.expr import compute_dtype
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_UNIT = 4096
_FLOATS = (DType.F32, DType.F64, DType.F16, DType.BF16)


def _accepts(site: Site) -> str:
    t = site.inputs[0]
    return "" if t is not None and t.dtype in _FLOATS else "no floats"


def _lower(work: Work) -> list[Launch]:
    x, out = work.input(0), work.output()
    if x.elements == 0:
        return []
    axis = int(work.attr("axis", -1)) % max(len(x.shape), 1)
    outer, n = math.prod(x.shape[:axis]), math.prod(x.shape[axis : axis + 1])
    inner = math.prod(x.shape[axis + 1 :])
    is_log = work.node.op == "LogSoftmax"
    if inner == 1:
        block = max(1, min(outer, _UNIT // n))
        spec = KernelSpec("softmax_rows", (x.dtype, is_log))
        return [Launch(spec, -(-outer // block), (x.place, out.place, outer, block, n), (x.place,), (out.place,))]
    block = max(1, min(inner, _UNIT // n))
    block = min(inner, -(-block // 64) * 64)
    chunks = -(-inner // block)
    words = (x.place, out.place, chunks, block, n, inner)
    spec = KernelSpec("softmax_columns", (x.dtype, is_log))
    return [Launch(spec, outer * chunks, words, (x.place,), (out.place,))]


def _finite(k: Kernel, top: V) -> V:
    """0 instead of an infinite maximum, which has no differences."""
    return k.select(absolute(k, top) < math.inf, top, 0.0)


@generator("softmax_rows")
def rows(target: Target, name: str, dtype: DType, is_log: bool) -> Program:
    """Softmax over contiguous rows. A unit is a block of rows."""
    k = Kernel(name, [("x", PTR), ("y", PTR), ("rows", I64), ("block", I64), ("n", I64)], 8 * target.vector_bytes)
    a = k.arg
    with k.units() as u:
        first = u * a.block
        with k.loop(k.min(first + a.block, a.rows), first) as r:
            at = r * a.n
            _row(k, target, dtype, is_log, a.x.at(at, dtype.itemsize), a.y.at(at, dtype.itemsize))
    return k.finish()


def _row(k: Kernel, target: Target, dtype: DType, is_log: bool, x: V, y: V) -> None:
    """Softmax of the n elements at x; powers of whole floats are kept in y until their sum is known."""
    n, size = k.arg.n, dtype.itemsize
    lanes, masked = lanes_for(target, [dtype]), maskable(target, [dtype])
    keep = dtype.itemsize > 2 and not is_log
    kind = register_type(compute_dtype(dtype))

    def at(i: V, w: int, m: V | None) -> V:
        return load_as(k, x.at(i, size), dtype, w, m)

    def power(i: V, w: int, m: V | None) -> V:
        e = exp(k, at(i, w, m) - top)
        if keep:
            store_as(k, y.at(i, size), e, dtype, m)
        return e

    def finish(i: V, w: int, m: V | None) -> None:
        if is_log:
            value = at(i, w, m) - last
        else:
            value = (load_as(k, y.at(i, size), dtype, w, m) if keep else exp(k, at(i, w, m) - top)) * last
        store_as(k, y.at(i, size), value, dtype, m)

    top = fold(k, n, kind, lanes, masked, k.max, -math.inf, at)
    top = _finite(k, top) if is_log else top
    total = fold(k, n, kind, lanes, masked, add, 0.0, power)
    last = top + log(k, total) if is_log else 1.0 / total
    span(k, k.i64(0), n, lanes, masked, finish, 2 if keep or is_log else 1)


@generator("softmax_columns")
def columns(target: Target, name: str, dtype: DType, is_log: bool) -> Program:
    """Softmax along an axis that is not innermost: lanes over the axes behind it."""
    words = ("chunks", "block", "n", "inner")
    k = Kernel(name, [("x", PTR), ("y", PTR), *((n, I64) for n in words)], 8 * target.vector_bytes)
    a, size = k.arg, dtype.itemsize
    lanes, masked = lanes_for(target, [dtype]), maskable(target, [dtype])
    kind = register_type(compute_dtype(dtype))

    def column(i: V, w: int, m: V | None) -> None:
        base = part.get() * a.n * a.inner + i
        at = lambda j: load_as(k, a.x.at(base + j * a.inner, size), dtype, w, m)  # noqa: E731
        top = k.var(k.constant(kind.vec(w), -math.inf))
        with k.loop(a.n) as j:
            top.set(k.max(top.get(), at(j)))
        highest = _finite(k, top.get()) if is_log else top.get()
        total = k.var(k.constant(kind.vec(w), 0.0))
        with k.loop(a.n) as j:
            total += exp(k, at(j) - highest)
        last = highest + log(k, total.get()) if is_log else 1.0 / total.get()
        with k.loop(a.n) as j:
            value = at(j) - last if is_log else exp(k, at(j) - highest) * last
            store_as(k, a.y.at(base + j * a.inner, size), value, dtype, m)

    part = k.var(k.i64(0))
    with k.units() as u:
        part.set(u.udiv(a.chunks))
        start = u.urem(a.chunks) * a.block
        span(k, start, k.min(start + a.block, a.inner), lanes, masked, column, 0)
    return k.finish()


lowering(Lowering("softmax", ONNX, "Softmax", _accepts, _lower))
lowering(Lowering("softmax", ONNX, "LogSoftmax", _accepts, _lower))
