"""Conv with one channel and one map per group on plain f32 images: a unit is one plane, lanes are output columns."""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_direct import CYCLES_PER_US
from skipjack.kernels.conv_shape import conv_shape
from skipjack.kernels.epilogue import accepts_epilogue, extras_of
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.plain_rows import LARGEST_WINDOW, RowBlock, RowWalk, Tap, plain_misfit, row_block, window_cycles
from skipjack.kernels.positions import FULL, Rows, RowsEpilogue, Words, rows_epilogue
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.targets.target import Target


@dataclass(frozen=True)
class DepthwiseSpec:
    """What is compiled in: all but the numbers of images and channels."""

    block: RowBlock
    epilogue: RowsEpilogue


class _Plane:
    """Traces one channel of one image."""

    def __init__(self, k: Kernel, spec: DepthwiseSpec) -> None:
        self.k, self.b, self.e, self.s = k, spec.block, spec.epilogue, spec.block.s
        self.walk = RowWalk(k, spec.block)

    def trace(self, unit: V) -> None:
        k, a, s, lanes = self.k, self.k.arg, self.s, self.b.lanes
        channel = unit % a.channels
        x = a.x.at(unit * (s.size[1] * s.size[2] * 4))
        w = a.w.at(channel * (s.taps * 4))
        self.weights = [w.at(4 * t).load(F32).splat(lanes) for t in range(s.taps)]
        self.rows = Rows(k, self.e, lanes, channel, a.channels, False)
        self.y = unit * (s.pixels * 4)
        self.walk.blocks(lambda first, rows: self.walk.across(lambda v: self._block(x, first, rows, v)))

    def _block(self, x: V, first: V | int, rows: int, v: V | int) -> None:
        k, s, a = self.k, self.s, self.k.arg
        acc = [k.var(k.zero(self.walk.vector)) for _ in range(rows)]

        def add(tap: Tap) -> None:
            weight = self.weights[tap.i * s.kernel[2] + tap.j]
            acc[tap.row].set(k.fma(tap.value, weight, acc[tap.row].get()))

        self.walk.visit(x, first, rows, v, add)
        mask = self.walk.mask(v)
        for r, total in enumerate(acc):
            at = self.y + (first + r) * (s.out[2] * 4) + v * (self.b.lanes * 4)
            pointers = [getattr(a, f"e{i}").at(at) for i, (kind, _) in enumerate(self.e.extras) if kind == FULL]
            self.rows.store([total.get()], Words(a.y.at(at), 0), [Words(p, 0) for p in pointers], mask)


@generator("depthwise_plain")
def depthwise_plain(target: Target, symbol: str, spec: DepthwiseSpec) -> Program:
    """A unit is one channel of one image."""
    fields = [("x", PTR), ("w", PTR), *spec.epilogue.fields(), ("channels", I64)]
    k = Kernel(symbol, fields, target.vector_bytes * 8)
    plane = _Plane(k, spec)
    with k.units() as unit:
        plane.trace(unit)
    return k.finish()


def _lower(work: Work) -> list[Launch]:
    s, x, w, y = conv_shape(work), work.input(0), work.input(1), work.output()
    if not y.elements:
        return []
    extras = [b.place for b in extras_of(work)]
    spec = DepthwiseSpec(row_block(s, work.target), rows_epilogue(work))
    words = (x.place, w.place, y.place, *extras, s.channels)
    reads = (x.place, w.place, *extras)
    return [Launch(KernelSpec("depthwise_plain", (spec,)), s.batch * s.channels, words, reads, (y.place,))]


def _accepts(site: Site) -> str:
    if reason := plain_misfit(site, 2):
        return reason
    w = site.constants[1]
    if w is None:
        return "the weights are not constant"
    if w.shape[:2] != (int(site.node.attrs.get("group", 1)), 1):  # type: ignore[arg-type]
        return "not one channel and one map per group"
    return accepts_epilogue(site) if w[0].size <= LARGEST_WINDOW else f"a window of more than {LARGEST_WINDOW} taps"


def _depthwise_us(work: Work) -> float:
    s = conv_shape(work)
    return s.batch * s.channels * window_cycles(s, work.target) / CYCLES_PER_US


lowering(Lowering("depthwise_plain", SKIPJACK, "Conv", _accepts, _lower, "plain", 20, cost=_depthwise_us))
