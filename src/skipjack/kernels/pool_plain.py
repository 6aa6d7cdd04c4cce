"""Pools on plain tensors: every element type, any norm, indices of maxima, windows over everything."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.conv_direct import CYCLES_PER_US
from skipjack.kernels.conv_shape import WindowShape, window_shape
from skipjack.kernels.emit import emit, register_type, store_as, supported_dtype
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.plain_window import SIZES, Tap, Walk, WindowSteps, lanes_of, size_words
from skipjack.kernels.pool import pool_ends
from skipjack.lang.expr import arg, binary, const, unary
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_TAP_CYCLES = 20
_WORDS = ("planes", "pixels_in", "pixels_out", "end_d", "end_h", "end_w")


@dataclass(frozen=True)
class PoolSpec:
    """What is compiled in. combine: "max", "mean" or "lp". indices: "" or their storage order, "rows" or "columns"."""

    steps: WindowSteps
    dtype: DType
    combine: str
    p: int = 0
    padded: bool = False
    indices: str = ""


class _Pool:
    """Traces the outputs of one row."""

    def __init__(self, k: Kernel, s: PoolSpec, lanes: int) -> None:
        self.k, self.s, self.a, self.lanes = k, s, k.arg, lanes
        self.ty = register_type(s.dtype).vec(lanes)
        self.power = binary("pow", arg(0, s.dtype), float(s.p)) if s.dtype.is_float else arg(0, s.dtype)

    def unit(self, unit: V) -> None:
        k, s, a = self.k, self.s, self.a
        h, rest = unit % a.out_h, unit // a.out_h
        d, plane = rest % a.out_d, rest // a.out_d
        x = a.x.at(plane * a.pixels_in * s.dtype.itemsize)
        with k.loop(a.out_w, 0, max(self.lanes, 1)) as w:
            total, count = k.var(k.constant(self.ty, self._first())), k.var(k.zero(self.ty))
            where = k.var(k.constant(I64.vec(self.lanes), -1))
            walk = Walk(k, s.steps, s.dtype, self.lanes)
            walk.visit(x, (d, h, w), lambda tap, t=total, c=count, p=where: self._tap(tap, t, c, p))
            element = ((plane * a.out_d + d) * a.out_h + h) * a.out_w + w
            mask = k.below(a.out_w - w, self.lanes) if self.lanes else None
            result = self._result(total.get(), count.get(), (d, h, w))
            store_as(k, a.y.at(element * s.dtype.itemsize), result, s.dtype, mask)
            if s.indices:
                store_as(k, a.indices.at(element, 8), self._index(where.get(), plane), DType.I64, mask)

    def _first(self) -> int | float:
        if self.s.combine != "max":
            return 0
        if self.s.dtype.is_float:
            return float("-inf")
        return -(2 ** (8 * self.s.dtype.itemsize - 1)) if self.s.dtype.is_signed else 0

    def _tap(self, tap: Tap, total: Var, count: Var, where: Var) -> None:
        k, s = self.k, self.s
        if s.combine == "max":
            better = self._better(tap.value, total.get()) | (where.get() < 0)
            better = better & tap.exists
            total.set(k.select(better, tap.value, total.get()))
            where.set(k.select(better, tap.position, where.get()))
            return
        value = tap.value
        if s.combine == "lp":
            size = emit(k, unary("abs", arg(0, s.dtype)), [value], self.lanes)
            value = {1: size, 2: size * size}.get(s.p) or emit(k, self.power, [size], self.lanes)
        total.set(k.select(tap.exists, total.get() + value, total.get()))
        count.set(k.select(tap.exists, count.get() + 1, count.get()))

    def _better(self, value: V, best: V) -> V:
        x, y = arg(0, self.s.dtype), arg(1, self.s.dtype)
        larger = emit(self.k, x > y, [value, best], self.lanes)
        return larger | value.ne(value) if value.ty.is_float else larger

    def _result(self, total: V, count: V, at: tuple[V, V, V]) -> V:
        k, s = self.k, self.s
        if s.combine == "mean":
            return total / (self._with_pads(at) if s.padded else count)
        if s.combine == "max" or s.p == 1:
            return total
        root = arg(0, s.dtype)
        rooted = unary("sqrt", root) if s.p == 2 else binary("pow", root, const(1.0 / s.p, s.dtype))
        return emit(k, rooted, [total], self.lanes)

    def _with_pads(self, at: tuple[V, V, V]) -> V:
        """Taps before the end of the pads; the beginning is never passed."""
        k, a, s, lanes = self.k, self.a, self.s, self.lanes

        def taps(out: V, axis: int, pad: V, end: V) -> V:
            start, step = out * s.steps.strides[axis] - pad, s.steps.dilations[axis]
            return k.min((end - start + (step - 1)) // step, s.steps.kernel[axis])

        columns = at[2].splat(lanes) + k.iota(I64.vec(lanes)) if lanes else at[2]
        pads, ends = (v.splat(lanes) for v in (a.pad_w, a.end_w))
        rows = taps(at[0], 0, a.pad_d, a.end_d) * taps(at[1], 1, a.pad_h, a.end_h)
        return (taps(columns, 2, pads, ends) * rows.splat(lanes)).to_float(self.ty.scalar)

    def _index(self, position: V, plane: V) -> V:
        """The number ONNX gives to a position: over all planes, in rows or in columns."""
        a = self.a

        def wide(v: V) -> V:
            return v.splat(self.lanes)

        number = position
        if self.s.indices == "columns":
            w, rest = position % wide(a.in_w), position // wide(a.in_w)
            h, d = rest % wide(a.in_h), rest // wide(a.in_h)
            number = (w * wide(a.in_h) + h) * wide(a.in_d) + d
        return self.k.select(position < 0, position, number + wide(plane * a.pixels_in))


@generator("pool_plain")
def pool_plain(target: Target, symbol: str, s: PoolSpec) -> Program:
    """A unit is one output row."""
    pointers = ["x", "y", *(["indices"] if s.indices else [])]
    k = Kernel(symbol, [*[(n, PTR) for n in pointers], *[(n, I64) for n in (*SIZES, *_WORDS)]], target.vector_bytes * 8)
    pool = _Pool(k, s, lanes_of(target, s.steps, s.dtype, (s.dtype, *([DType.I64] if s.indices else []))))
    with k.units() as unit:
        pool.unit(unit)
    return k.finish()


def _launch(work: Work, s: WindowShape, spec: PoolSpec, ends: tuple[int, int, int]) -> list[Launch]:
    x, y = work.input(0), work.output()
    outs: list[Bound] = [y, *([work.output(1)] if spec.indices else [])]
    words = [*size_words(s), s.batch * s.channels, prod(s.size), s.pixels, *ends]
    units = s.batch * s.channels * s.out[0] * s.out[1]
    places = tuple(b.place for b in outs)
    return [Launch(KernelSpec("pool_plain", (spec,)), units, (x.place, *places, *words), (x.place,), places)]


def _lower(work: Work) -> list[Launch]:
    s = window_shape(work, work.attr("kernel_shape"), work.input(0).shape[1])
    asked = len(work.outputs) > 1 and work.outputs[1] is not None
    order = "columns" if work.attr("storage_order", 0) else "rows"
    combine = {"MaxPool": "max", "AveragePool": "mean"}.get(work.node.op, "lp")
    spec = PoolSpec(
        WindowSteps(s.kernel, s.strides, s.dilations),
        work.input(0).dtype,
        combine,
        int(work.attr("p", 2)) if combine == "lp" else 0,
        bool(work.attr("count_include_pad", 0)),
        order if asked else "",
    )
    d, h, w = (1, 1, *pool_ends(work))[-3:]
    return _launch(work, s, spec, (d, h, w))


def _lower_global(work: Work) -> list[Launch]:
    """One window as large as the image."""
    x = work.input(0)
    pixels, ones, zeros = prod(x.shape[2:]), (1, 1, 1), (0, 0, 0)
    s = WindowShape(x.shape[0], x.shape[1], x.shape[1], 1, (1, 1, pixels), ones, ones, zeros, (1, 1, pixels), ones)
    combine = {"GlobalMaxPool": "max", "GlobalAveragePool": "mean"}.get(work.node.op, "lp")
    p = int(work.attr("p", 2)) if combine == "lp" else 0
    return _launch(work, s, PoolSpec(WindowSteps(s.kernel, ones, ones), x.dtype, combine, p), (1, 1, pixels))


def _accepts(site: Site) -> str:
    t = site.inputs[0]
    if t is None or not supported_dtype(t.dtype) or t.dtype is DType.BOOL:
        return "an element type that kernels do not compute with"
    if site.node.op not in ("MaxPool", "GlobalMaxPool") and not t.dtype.is_float:
        return "not a float"
    return "" if t.rank is not None and 3 <= t.rank <= 5 else "one to three spatial axes"


def _pool_us(work: Work) -> float:
    y = work.output()
    return _TAP_CYCLES * y.elements * prod(work.attr("kernel_shape")) / work.target.vl / CYCLES_PER_US


def _global_us(work: Work) -> float:
    return _TAP_CYCLES * work.input(0).elements / work.target.vl / CYCLES_PER_US


for _op in ("MaxPool", "AveragePool", "LpPool"):
    lowering(Lowering("pool_plain", ONNX, _op, _accepts, _lower, cost=_pool_us))
for _op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
    lowering(Lowering("global_pool_plain", ONNX, _op, _accepts, _lower_global, cost=_global_us))
