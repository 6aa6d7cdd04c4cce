"""Reductions over axes: an expression per element, a fold, an expression of the total."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.emit import binary, emit, load_as, register_type, store_as, supported, supported_dtype
from skipjack.kernels.emit import cast as convert
from skipjack.kernels.fold import fold
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Place, Site, Work, generator, lowering
from skipjack.kernels.span import lanes_for, maskable, span
from skipjack.kernels.strided import apply, at_place, broadcast, spread, whole
from skipjack.lang.expr import Expr, arg, cast, compute_dtype, const, select, unary
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_UNIT = 8192
_INF = math.inf


@dataclass(frozen=True)
class Fold:
    """first(element) folded by op; last(total, count) is the result. None stands for the value itself."""

    op: str
    first: Expr | None
    last: Expr | None


def recipe(name: str, dtype: DType) -> Fold:
    """What a Reduce operator does to elements of a type."""
    total_type = compute_dtype(dtype)
    x = cast(arg(0, dtype), total_type)
    total, count = arg(0, total_type), arg(1, total_type)
    wide = total if total_type.is_float else cast(total, DType.F64)
    match name.removeprefix("Reduce"):
        case "Sum":
            return Fold("add", None, None)
        case "Mean":
            return Fold("add", None, total / count)
        case "Max" | "Min":
            return Fold(name.removeprefix("Reduce").lower(), None, None)
        case "Prod":
            return Fold("mul", None, None)
        case "L1":
            return Fold("add", unary("abs", x), None)
        case "L2":
            return Fold("add", x * x, unary("sqrt", wide))
        case "SumSquare":
            return Fold("add", x * x, None)
        case _:
            return Fold("add", None, unary("log", wide))


def identity(op: str, dtype: DType) -> float:
    """The number that op leaves alone, as a constant of the type."""
    if op in ("add", "mul"):
        return 0 if op == "add" else 1
    if dtype.is_float:
        return -_INF if op == "max" else _INF
    if dtype is DType.BOOL or not dtype.is_signed:
        return 0 if op == "max" else (1 if dtype is DType.BOOL else -1)
    bits = 8 * dtype.itemsize
    return -(1 << (bits - 1)) if op == "max" else (1 << (bits - 1)) - 1


def groups(shape: Sequence[int], axes: Sequence[int]) -> list[tuple[int, bool]]:
    """(size, reduced) of runs of neighbouring axes of one kind."""
    out: list[tuple[int, bool]] = []
    for a, n in enumerate(shape):
        gone = a in axes
        if n == 1:
            continue
        if out and out[-1][1] == gone:
            out[-1] = (out[-1][0] * n, gone)
        else:
            out.append((n, gone))
    return out


def reduce_axes(
    work: Work, x: Place, dtype: DType, shape: Sequence[int], axes: Sequence[int], how: Fold, out: Place, result: DType
) -> list[Launch]:
    """Launches that fold a contiguous tensor over axes, one run of axes at a time."""
    runs = groups(shape, axes)
    count = math.prod(shape[a] for a in axes)
    inner_type = compute_dtype(dtype)
    launches: list[Launch] = []
    place, source, first = x, dtype, how.first
    while True:
        at = max((i for i, (_, gone) in enumerate(runs) if gone), default=None)
        before = runs if at is None else runs[:at]
        outer = math.prod(n for n, _ in before)
        n, inner = (1, 1) if at is None else (runs[at][0], math.prod(m for m, _ in runs[at + 1 :]))
        if at is None:
            outer, inner = 1, outer
        left = [] if at is None else runs[:at] + runs[at + 1 :]
        final = not any(gone for _, gone in left)
        kind = result if final else inner_type
        to = out if final else work.memory.temporary(outer * inner * kind.itemsize)
        steps = (first, how.last if final else None)
        launches += _one_run((place, source), (to, kind), (outer, n, inner), how.op, steps, count)
        if final:
            return launches
        place, source, first, runs = to, inner_type, None, left


def _one_run(
    source: tuple[Place, DType], to: tuple[Place, DType], sizes: tuple[int, int, int], op: str,
    steps: tuple[Expr | None, Expr | None], count: int,
) -> list[Launch]:  # fmt: skip
    outer, n, inner = sizes
    if outer * inner == 0:
        return []
    params = (source[1], to[1], op, *steps)
    if inner == 1:
        block = max(1, min(outer, _UNIT // max(n, 1)))
        words = (source[0], to[0], outer, block, n, count)
        return [Launch(KernelSpec("reduce_rows", params), -(-outer // block), words, (source[0],), (to[0],))]
    block = min(inner, max(64, -(-_UNIT // max(n, 1) // 64) * 64))
    chunks = -(-inner // block)
    words = (source[0], to[0], chunks, block, n, inner, count)
    return [Launch(KernelSpec("reduce_columns", params), outer * chunks, words, (source[0],), (to[0],))]


class _Parts:
    """What both kernels share: how an element is read, folded and finished."""

    def __init__(
        self, k: Kernel, target: Target, source: DType, result: DType, op: str, steps: tuple[Expr | None, Expr | None]
    ) -> None:
        self.k, self.source, self.result, self.op = k, source, result, op
        self.first, self.last = steps
        self.kind = compute_dtype(source)
        self.ty = register_type(self.kind)
        self.lanes = lanes_for(target, [source, result])
        self.masked = maskable(target, [source, result])

    def combine(self, a: V, b: V) -> V:
        return binary(self.k, self.op, a, b, self.kind)

    def element(self, p: V, lanes: int, mask: V | None) -> V:
        raw = load_as(self.k, p, self.source, lanes, mask)
        return raw if self.first is None else emit(self.k, self.first, [raw], lanes)

    def store(self, p: V, total: V, lanes: int, mask: V | None) -> None:
        k = self.k
        if self.last is not None:
            count = convert(k, k.arg.count, DType.I64, self.kind)
            total = emit(k, self.last, [total, count], lanes)
            total = convert(k, total, self.last.dtype, self.result)
        store_as(k, p, total, self.result, mask)


@generator("reduce_rows")
def rows(
    target: Target, name: str, source: DType, result: DType, op: str, first: Expr | None, last: Expr | None
) -> Program:
    """Each contiguous row of n elements folded to one. A unit is a block of rows."""
    words = ("rows", "block", "n", "count")
    k = Kernel(name, [("x", PTR), ("y", PTR), *((n, I64) for n in words)], 8 * target.vector_bytes)
    a = k.arg
    p = _Parts(k, target, source, result, op, (first, last))
    with k.units() as u:
        start = u * a.block
        with k.loop(k.min(start + a.block, a.rows), start) as r:
            x = a.x.at(r * a.n, source.itemsize)

            def at(i: V, lanes: int, mask: V | None, x: V = x) -> V:
                return p.element(x.at(i, source.itemsize), lanes, mask)

            total = fold(k, a.n, p.ty, p.lanes, p.masked, p.combine, identity(op, p.kind), at)
            p.store(a.y.at(r, result.itemsize), total, 0, None)
    return k.finish()


@generator("reduce_columns")
def columns(
    target: Target, name: str, source: DType, result: DType, op: str, first: Expr | None, last: Expr | None
) -> Program:
    """[outer, n, inner] folded over n, in order: lanes over the inner axis. A unit is a block of it."""
    words = ("chunks", "block", "n", "inner", "count")
    k = Kernel(name, [("x", PTR), ("y", PTR), *((n, I64) for n in words)], 8 * target.vector_bytes)
    a = k.arg
    p = _Parts(k, target, source, result, op, (first, last))
    part = k.var(k.i64(0))

    def column(i: V, lanes: int, mask: V | None) -> None:
        total = k.var(k.constant(p.ty.vec(lanes), identity(op, p.kind)))
        with k.loop(a.n) as j:
            at = (part.get() * a.n + j) * a.inner + i
            total.set(p.combine(total.get(), p.element(a.x.at(at, source.itemsize), lanes, mask)))
        p.store(a.y.at(part.get() * a.inner + i, result.itemsize), total.get(), lanes, mask)

    with k.units() as u:
        part.set(u.udiv(a.chunks))
        start = u.urem(a.chunks) * a.block
        span(k, start, k.min(start + a.block, a.inner), p.lanes, p.masked, column, 0 if p.masked else 1)
    return k.finish()


def _accepts(site: Site) -> str:
    t = site.inputs[0]
    if t is None or not supported_dtype(t.dtype):
        return "elements kernels do not compute with"
    how = recipe(site.node.op, t.dtype)
    if t.dtype is DType.BOOL and how.op not in ("min", "max"):
        return "sums of booleans"
    if site.node.op == "ReduceLogSumExp" and not t.dtype.is_float:
        return "logarithms of integers"
    return next((r for e in (how.first, how.last) if e is not None and (r := supported(e))), "")


def axes_of(work: Work) -> list[int]:
    """The axes a Reduce operator folds."""
    rank = len(work.input(0).shape)
    given = work.maybe(1)
    axes = [] if given is None else [int(a) % rank for a in np.asarray(given.value).reshape(-1)]
    if not axes and not work.attr("noop_with_empty_axes", 0):
        return list(range(rank))
    return axes


def _lower(work: Work) -> list[Launch]:
    x, out = work.input(0), work.output()
    how = recipe(work.node.op, x.dtype)
    return reduce_axes(work, x.place, x.dtype, x.shape, axes_of(work), how, out.place, out.dtype)


def _log_sum_exp(work: Work) -> list[Launch]:
    """log(sum(exp(x - top))) + top with the maximum as top, or 0 where that is infinite."""
    x, out = work.input(0), work.output()
    axes = axes_of(work)
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    kind = compute_dtype(x.dtype)
    size = math.prod(kept) * kind.itemsize
    top, total = work.memory.temporary(size), work.memory.temporary(size)
    powers = work.memory.temporary(x.elements * kind.itemsize)
    launches = reduce_axes(work, x.place, x.dtype, x.shape, axes, Fold("max", None, None), top, kind)
    tops = at_place(top, kind, kept)
    highest = arg(0, kind)
    finite = select(unary("abs", highest) < _INF, highest, const(0, kind))
    launches += apply(finite, kept, [tops], tops, work.target)
    e = unary("exp", cast(arg(0, x.dtype), kind) - arg(1, kind))
    views = [whole(x), spread(tops, kept, x.shape)]
    launches += apply(e, x.shape, views, at_place(powers, kind, x.shape), work.target)
    launches += reduce_axes(work, powers, kind, x.shape, axes, Fold("add", None, None), total, kind)
    result = cast(unary("log", arg(0, kind)) + arg(1, kind), x.dtype)
    end = at_place(out.place, out.dtype, kept)
    return launches + apply(result, kept, [at_place(total, kind, kept), tops], end, work.target)


def _unit_norm(work: Work) -> list[Launch]:
    """LpNormalization: x over its norm along an axis, 0 where the norm is 0."""
    x, out = work.input(0), work.output()
    axis = int(work.attr("axis", -1)) % len(x.shape)
    kind = compute_dtype(x.dtype)
    kept = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    norm = work.memory.temporary(math.prod(kept) * kind.itemsize)
    how = recipe("ReduceL1" if int(work.attr("p", 2)) == 1 else "ReduceL2", x.dtype)
    launches = reduce_axes(work, x.place, x.dtype, x.shape, [axis], how, norm, kind)
    size, value = arg(1, kind), cast(arg(0, x.dtype), kind)
    expr = cast(select(size.eq(0.0), const(0, kind), value / size), x.dtype)
    views = [whole(x), spread(at_place(norm, kind, kept), kept, x.shape)]
    return launches + apply(expr, out.shape, views, whole(out), work.target)


def _mean_variance(work: Work) -> list[Launch]:
    """MeanVarianceNormalization: (x - mean) / (sqrt(mean of squares - mean squared) + 1e-9)."""
    x, out = work.input(0), work.output()
    axes = [int(a) % len(x.shape) for a in work.attr("axes", (0, 2, 3))]
    kind = compute_dtype(x.dtype)
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    places = [work.memory.temporary(math.prod(kept) * kind.itemsize) for _ in range(2)]
    value = cast(arg(0, x.dtype), kind)
    last = arg(0, kind) / arg(1, kind)
    launches: list[Launch] = []
    for place, first in zip(places, (None, value * value), strict=True):
        launches += reduce_axes(work, x.place, x.dtype, x.shape, axes, Fold("add", first, last), place, kind)
    mean, square = arg(1, kind), arg(2, kind)
    expr = cast((value - mean) / (unary("sqrt", square - mean * mean) + 1e-9), x.dtype)
    views = [whole(x), *(spread(at_place(p, kind, kept), kept, x.shape) for p in places)]
    return launches + apply(expr, out.shape, views, broadcast(out, out.shape), work.target)


def _floats(site: Site) -> str:
    t = site.inputs[0]
    return "" if t is not None and t.dtype.is_float and supported_dtype(t.dtype) else "not a float kernels compute with"


for _name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum"):
    lowering(Lowering("fold", ONNX, f"Reduce{_name}", _accepts, _lower, parameters=(1,)))
lowering(Lowering("fold", ONNX, "ReduceLogSumExp", _accepts, _log_sum_exp, parameters=(1,)))
lowering(Lowering("fold", ONNX, "LpNormalization", _floats, _unit_norm))
lowering(Lowering("fold", ONNX, "MeanVarianceNormalization", _floats, _mean_variance))
