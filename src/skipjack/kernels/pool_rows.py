"""Pools on plain f32 images with lanes over output columns: maxima and means over windows, means over everything."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from skipjack.ir.graph import ONNX
from skipjack.kernels.conv_direct import CYCLES_PER_US
from skipjack.kernels.conv_shape import WindowShape, window_shape
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.plain_rows import LARGEST_WINDOW, RowBlock, RowWalk, Tap, plain_misfit, row_block, window_cycles
from skipjack.kernels.pool import pool_ends
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.targets.target import Target

_WAYS = 4


@dataclass(frozen=True)
class PoolRowsSpec:
    """What is compiled in; a mean counts the rows [counted[0], counted[1]) and columns [counted[2], counted[3])."""

    block: RowBlock
    combine: str
    counted: tuple[int, int, int, int]


class _Plane:
    """Traces one channel of one image."""

    def __init__(self, k: Kernel, spec: PoolRowsSpec) -> None:
        self.k, self.spec, self.b, self.s = k, spec, spec.block, spec.block.s
        self.first = float("-inf") if spec.combine == "max" else 0.0
        self.walk = RowWalk(k, spec.block, self.first)

    def trace(self, unit: V) -> None:
        s, a = self.s, self.k.arg
        x, y = a.x.at(unit * (s.size[1] * s.size[2] * 4)), a.y.at(unit * (s.pixels * 4))
        self.walk.blocks(lambda first, rows: self.walk.across(lambda v: self._block(x, y, first, rows, v)))

    def _block(self, x: V, y: V, first: V | int, rows: int, v: V | int) -> None:
        k, s = self.k, self.s
        acc = [k.var(k.constant(self.walk.vector, self.first)) for _ in range(rows)]

        def add(tap: Tap) -> None:
            acc[tap.row].set(self._combined(acc[tap.row].get(), tap.value))

        self.walk.visit(x, first, rows, v, add, self._combined)
        mask = self.walk.mask(v)
        for r, total in enumerate(acc):
            value = total.get()
            if self.spec.combine == "mean":
                value = value / (self._lines(first + r).splat(self.b.lanes) * self._columns(v))
            to = y.at((first + r) * (s.out[2] * 4)).at(v * (self.b.lanes * 4))
            if mask is None:
                to.store(value)
            else:
                to.store_masked(value, mask)

    def _combined(self, acc: V, value: V) -> V:
        if self.spec.combine == "mean":
            return acc + value
        k = self.k
        return k.select(acc.ne(acc), acc, k.max(acc, value))

    def _lines(self, row: V | int) -> V:
        """Window rows that a mean counts for an output row."""
        k, s, (begin, end) = self.k, self.s, self.spec.counted[:2]
        start, step = row * s.strides[1] - s.before[1], s.dilations[1]
        if isinstance(start, int):
            return k.f32(sum(begin <= start + t * step < end for t in range(s.kernel[1])))
        low = k.max((begin - start + (step - 1)) // step, 0)
        high = k.min((end - start + (step - 1)) // step, s.kernel[1])
        return (high - low).to_float(F32)

    def _columns(self, v: V | int) -> V:
        """Window columns that a mean counts for each output of a vector; 1 where there is no output."""
        k, s, (begin, end) = self.k, self.s, self.spec.counted[2:]
        if not isinstance(v, int):
            return k.constant(self.walk.vector, s.kernel[2])
        found: list[int] = []
        for i in range(self.b.lanes):
            start = (v * self.b.lanes + i) * s.strides[2] - s.before[2]
            found.append(max(sum(begin <= start + t * s.dilations[2] < end for t in range(s.kernel[2])), 1))
        return k.lanes(self.walk.vector, found)


@generator("pool_rows")
def pool_rows(target: Target, symbol: str, spec: PoolRowsSpec) -> Program:
    """A unit is one channel of one image."""
    k = Kernel(symbol, [("x", PTR), ("y", PTR)], target.vector_bytes * 8)
    plane = _Plane(k, spec)
    with k.units() as unit:
        plane.trace(unit)
    return k.finish()


@generator("plane_means")
def plane_means(target: Target, symbol: str) -> Program:
    """A unit is one plane of `pixels` elements: its mean, summed in lanes of a few vectors."""
    k = Kernel(symbol, [("x", PTR), ("y", PTR), ("pixels", I64), ("share", F32)], target.vector_bytes * 8)
    vl, a = target.vl, k.arg
    vector, wide = F32.vec(vl), vl * _WAYS
    with k.units() as unit:
        x = a.x.at(unit * a.pixels, 4)
        acc = [k.var(k.zero(vector)) for _ in range(_WAYS)]
        whole = a.pixels // wide * wide
        with k.loop(whole, 0, wide) as i:
            for n, total in enumerate(acc):
                total.set(total.get() + x.at(i + n * vl, 4).load(vector))
        for n, total in enumerate(acc):
            first = whole + n * vl
            with k.when(first < a.pixels):
                mask = k.below(a.pixels - first, vl)
                total.set(total.get() + x.at(first, 4).load_masked(vector, mask))
        values = [v.get() for v in acc]
        while len(values) > 1:
            values = [p + q for p, q in zip(values[::2], values[1::2])]
        a.y.at(unit, 4).store(k.reduce("add", values[0]) * a.share)
    return k.finish()


def _shape(work: Work) -> WindowShape:
    return window_shape(work, work.attr("kernel_shape"), work.input(0).shape[1])


def _lower(work: Work) -> list[Launch]:
    s, x, y = _shape(work), work.input(0), work.output()
    if not y.elements:
        return []
    ends = (1, 1, *pool_ends(work))[-2:]
    padded = bool(work.attr("count_include_pad", 0))
    counted = (-s.before[1], ends[0], -s.before[2], ends[1]) if padded else (0, s.size[1], 0, s.size[2])
    combine = "max" if work.node.op == "MaxPool" else "mean"
    spec = PoolRowsSpec(row_block(s, work.target), combine, counted if combine == "mean" else (0, 0, 0, 0))
    units = s.batch * s.channels
    return [Launch(KernelSpec("pool_rows", (spec,)), units, (x.place, y.place), (x.place,), (y.place,))]


def _lower_global(work: Work) -> list[Launch]:
    x, y = work.input(0), work.output()
    pixels = prod(x.shape[2:])
    words = (x.place, y.place, pixels, 1.0 / pixels)
    return [Launch(KernelSpec("plane_means"), y.elements, words, (x.place,), (y.place,))] if y.elements else []


def _accepts(site: Site) -> str:
    if reason := plain_misfit(site, 1):
        return reason
    if len([o for o in site.node.outputs if o]) > 1:
        return "indices are asked for"
    kernel = site.node.attrs.get("kernel_shape")
    if not isinstance(kernel, tuple) or prod(int(n) for n in kernel) > LARGEST_WINDOW:  # type: ignore[arg-type]
        return f"a window of more than {LARGEST_WINDOW} taps"
    return ""


def _accepts_global(site: Site) -> str:
    x = site.inputs[0]
    if reason := plain_misfit(site, 1):
        return reason
    assert x is not None, "a pool has an input"
    sizes = x.shape[2:] if x.shape is not None else ()
    return "" if all(d != 0 for d in sizes) else "no pixels"


def _pool_us(work: Work) -> float:
    s = _shape(work)
    joined = 3.0 if work.node.op == "MaxPool" else 1.0
    return s.batch * s.channels * window_cycles(s, work.target, joined) / CYCLES_PER_US


def _mean_us(work: Work) -> float:
    x = work.input(0)
    planes = x.shape[0] * x.shape[1]
    return (planes * 30 + x.elements / work.target.vl * 1.3) / CYCLES_PER_US


for _op in ("MaxPool", "AveragePool"):
    lowering(Lowering("pool_rows", ONNX, _op, _accepts, _lower, "plain", 10, cost=_pool_us))
lowering(Lowering("plane_means", ONNX, "GlobalAveragePool", _accepts_global, _lower_global, "plain", 10, cost=_mean_us))
