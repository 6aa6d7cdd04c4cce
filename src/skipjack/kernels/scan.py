"""Running totals along an axis: CumSum and CumProd, and the index of the largest or smallest element."""

from __future__ import annotations

import math

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.emit import binary, compare, load_as, register_type, store_as, supported_dtype
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.movement import ints
from skipjack.kernels.span import lanes_for, maskable, span
from skipjack.kernels.strided import View, apply, broadcast, whole
from skipjack.kernels.vector_math import is_nan
from skipjack.lang.expr import arg, cast, compute_dtype
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_UNIT = 8192
_WORDS = ("chunks", "block", "n", "inner")


def _launch(spec: KernelSpec, x: Bound, out: Bound, axis: int) -> list[Launch]:
    """A launch over [outer, n, inner] whose units are blocks of the inner axis."""
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    if outer * inner == 0:
        return []
    block = min(inner, max(64, -(-_UNIT // max(n, 1) // 64) * 64))
    chunks = -(-inner // block)
    words = (x.place, out.place, chunks, block, n, inner)
    return [Launch(spec, outer * chunks, words, (x.place,), (out.place,))]


def _cumulate(work: Work) -> list[Launch]:
    x, out = work.input(0), work.output()
    axis = (ints(work, 1) or [0])[0] % len(x.shape)
    op = "add" if work.node.op == "CumSum" else "mul"
    params = (x.dtype, op, bool(work.attr("exclusive", 0)), bool(work.attr("reverse", 0)))
    return [] if x.elements == 0 else _launch(KernelSpec("cumulate", params), x, out, axis)


@generator("cumulate")
def cumulate(target: Target, name: str, dtype: DType, op: str, exclusive: bool, backwards: bool) -> Program:
    """Totals of the elements up to each one, in order: lanes over the axes behind."""
    k = Kernel(name, [("x", PTR), ("y", PTR), *((n, I64) for n in _WORDS)], 8 * target.vector_bytes)
    a, size = k.arg, dtype.itemsize
    kind = compute_dtype(dtype)
    part = k.var(k.i64(0))

    def column(i: V, lanes: int, mask: V | None) -> None:
        total = k.var(k.constant(register_type(kind).vec(lanes), 0 if op == "add" else 1))
        with k.loop(a.n) as j:
            row = a.n - 1 - j if backwards else j
            at = (part.get() * a.n + row) * a.inner + i
            before = total.get()
            total.set(binary(k, op, before, load_as(k, a.x.at(at, size), dtype, lanes, mask), kind))
            store_as(k, a.y.at(at, size), before if exclusive else total.get(), dtype, mask)

    with k.units() as u:
        part.set(u.udiv(a.chunks))
        start = u.urem(a.chunks) * a.block
        masked = maskable(target, [dtype])
        span(k, start, k.min(start + a.block, a.inner), lanes_for(target, [dtype]), masked, column, 0 if masked else 1)
    return k.finish()


def _pick(work: Work) -> list[Launch]:
    x = work.input(0)
    axis = int(work.attr("axis", 0)) % len(x.shape)
    params = (x.dtype, work.node.op == "ArgMax", bool(work.attr("select_last_index", 0)))
    return _launch(KernelSpec("pick_index", params), x, work.output(), axis)


def _hardmax(work: Work) -> list[Launch]:
    """1 at the first largest element along the axis, 0 elsewhere."""
    x, out = work.input(0), work.output()
    if x.elements == 0:
        return []
    axis = int(work.attr("axis", -1)) % len(x.shape)
    kept = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    top = Bound(out.name, DType.I64, kept, work.memory.temporary(8 * math.prod(kept)))
    launches = _launch(KernelSpec("pick_index", (x.dtype, True, False)), x, top, axis)
    place = work.memory.constant(np.arange(x.shape[axis]))
    index = View(place, DType.I64, tuple(8 if a == axis else 0 for a in range(len(x.shape))))
    is_top = cast(arg(0, DType.I64).eq(arg(1, DType.I64)), x.dtype)
    return launches + apply(is_top, x.shape, [index, broadcast(top, x.shape)], whole(out), work.target)


@generator("pick_index")
def pick_index(target: Target, name: str, dtype: DType, largest: bool, last: bool) -> Program:
    """The index of the largest (or smallest) element, NaN first of all; of equal ones the first (or last)."""
    k = Kernel(name, [("x", PTR), ("y", PTR), *((n, I64) for n in _WORDS)], 8 * target.vector_bytes)
    a, size = k.arg, dtype.itemsize
    kind = compute_dtype(dtype)
    relation = ("g" if largest else "l") + ("e" if last else "t")
    part = k.var(k.i64(0))

    def better(x: V, best: V) -> V:
        wins = compare(relation, x, best, kind)
        if not kind.is_float:
            return wins
        # Nothing compares with NaN: it wins unless an earlier one must stay.
        return wins | is_nan(x) if last else wins | (is_nan(x) & best.eq(best))

    def column(i: V, lanes: int, mask: V | None) -> None:
        def at(j: V | int) -> V:
            p = a.x.at(((part.get() * a.n + j) * a.inner + i), size)
            return load_as(k, p, dtype, lanes, mask)

        best, found = k.var(at(0)), k.var(k.constant(I64.vec(lanes), 0))
        with k.loop(a.n, 1) as j:
            x = at(j)
            wins = better(x, best.get())
            best.set(k.select(wins, x, best.get()))
            found.set(k.select(wins, j.splat(lanes), found.get()))
        store_as(k, a.y.at(part.get() * a.inner + i, 8), found.get(), DType.I64, mask)

    with k.units() as u:
        part.set(u.udiv(a.chunks))
        start = u.urem(a.chunks) * a.block
        masked = maskable(target, [dtype])
        lanes = lanes_for(target, [dtype, DType.I64])
        span(k, start, k.min(start + a.block, a.inner), lanes, masked, column, 0 if masked else 1)
    return k.finish()


def _accepts(site: Site) -> str:
    t = site.inputs[0]
    return "" if t is not None and supported_dtype(t.dtype) else "elements kernels do not compute with"


def _accepts_numbers(site: Site) -> str:
    t = site.inputs[0]
    return "booleans" if t is not None and t.dtype is DType.BOOL else _accepts(site)


lowering(Lowering("scan", ONNX, "CumSum", _accepts_numbers, _cumulate, parameters=(1,)))
lowering(Lowering("scan", ONNX, "CumProd", _accepts_numbers, _cumulate, parameters=(1,)))
lowering(Lowering("scan", ONNX, "ArgMax", _accepts, _pick))
lowering(Lowering("scan", ONNX, "ArgMin", _accepts, _pick))
lowering(Lowering("scan", ONNX, "Hardmax", _accepts_numbers, _hardmax))
