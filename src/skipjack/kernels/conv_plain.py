"""Conv and ConvTranspose on plain tensors: every float type, any groups, weights that are computed by the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_shape import WindowShape, conv_shape
from skipjack.kernels.conv_transpose import pads_before, transposed_steps
from skipjack.kernels.emit import load_as, register_type, store_as
from skipjack.kernels.epilogue import Epilogue, accepts_epilogue, epilogue_of, extras_of, finished
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.plain_window import SIZES, Tap, Walk, WindowSteps, lanes_of, size_words
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_WORDS = ("maps", "group_maps", "group_channels", "channels", "pixels_in", "pixels_out")
_MAPS_TOGETHER = 4
_SLOWNESS = 12


@dataclass(frozen=True)
class PlainSpec:
    """What is compiled in; together: maps of one group that a unit computes."""

    steps: WindowSteps
    dtype: DType
    together: int
    epilogue: Epilogue


class _Row:
    """Traces one output row of `together` maps."""

    def __init__(self, k: Kernel, s: PlainSpec, lanes: int) -> None:
        self.k, self.s, self.a, self.lanes = k, s, k.arg, lanes
        self.taps = s.steps.kernel[0] * s.steps.kernel[1] * s.steps.kernel[2]
        self.item = s.dtype.itemsize

    def unit(self, unit: V) -> None:
        k, s, a = self.k, self.s, self.a
        h, rest = unit % a.out_h, unit // a.out_h
        d, rest = rest % a.out_d, rest // a.out_d
        parts = a.maps // s.together
        first, image = rest % parts * s.together, rest // parts
        group = first // a.group_maps
        x = a.x.at((image * a.channels + group * a.group_channels) * a.pixels_in * self.item)
        ty = register_type(s.dtype)
        with k.loop(a.out_w, 0, max(self.lanes, 1)) as w:
            acc = [k.var(k.zero(ty.vec(self.lanes))) for _ in range(s.together)]
            walk = Walk(k, s.steps, s.dtype, self.lanes)
            with k.loop(a.group_channels) as c:
                weights = self._weights(group, first, c)

                def add(tap: Tap, acc: list[Any] = acc, weights: list[V] = weights) -> None:
                    for total, p in zip(acc, weights):
                        weight = load_as(k, p.at(tap.number * self.item), s.dtype, 0)
                        product = k.fma(tap.value, weight.splat(self.lanes), total)
                        total.set(k.select(tap.exists, product, total.get()))

                walk.visit(x.at(c * a.pixels_in * self.item), (d, h, w), add)
            for i, total in enumerate(acc):
                row = ((image * a.maps + first + i) * a.out_d + d) * a.out_h + h
                self._store(total.get(), first + i, row * a.out_w + w, w)

    def _weights(self, group: V, first: V, channel: V) -> list[V]:
        """Where the taps of each map of the unit start for one channel of its group."""
        a, found = self.a, list[V]()
        for i in range(self.s.together):
            if self.s.steps.transposed:
                row = (group * a.group_channels + channel) * a.group_maps + (first + i - group * a.group_maps)
            else:
                row = (first + i) * a.group_channels + channel
            found.append(a.w.at(row * (self.taps * self.item)))
        return found

    def _store(self, value: V, channel: V, element: V, w: V) -> None:
        k, e, lanes = self.k, self.s.epilogue, self.lanes
        mask = k.below(self.a.out_w - w, lanes) if lanes else None
        inputs = [value]
        for i, (kind, dtype) in enumerate(e.extras):
            p = getattr(k.arg, f"e{i}")
            if kind == "full":
                inputs.append(load_as(k, p.at(element * dtype.itemsize), dtype, lanes, mask))
            else:
                at = p.at(channel * dtype.itemsize) if kind == "channel" else p
                inputs.append(load_as(k, at, dtype, 0).splat(lanes))
        store_as(k, k.arg.y.at(element * e.output.itemsize), finished(k, e, inputs), e.output, mask)


@generator("conv_plain")
def conv_plain(target: Target, symbol: str, s: PlainSpec) -> Program:
    """A unit is one output row of `together` maps."""
    fields = [("x", PTR), ("w", PTR), *s.epilogue.fields(), *[(n, I64) for n in (*SIZES, *_WORDS)]]
    k = Kernel(symbol, fields, target.vector_bytes * 8)
    types = tuple(t for _, t in s.epilogue.extras)
    row = _Row(k, s, lanes_of(target, s.steps, s.dtype, (*types, s.epilogue.output)))
    with k.units() as unit:
        row.unit(unit)
    return k.finish()


def _launch(work: Work, s: WindowShape, transposed: bool) -> list[Launch]:
    x, w, y, extras = work.input(0), work.input(1), work.output(), extras_of(work)
    group_maps, group_channels = s.maps // s.group, s.channels // s.group
    together = _MAPS_TOGETHER if group_maps % _MAPS_TOGETHER == 0 else 1
    steps = WindowSteps(s.kernel, s.strides, s.dilations, transposed)
    spec = PlainSpec(steps, x.dtype, together, epilogue_of(work))
    size = s.size[0] * s.size[1] * s.size[2]
    words = [*size_words(s), s.maps, group_maps, group_channels, s.channels, size, s.pixels]
    places = [e.place for e in extras]
    units = s.batch * (s.maps // together) * s.out[0] * s.out[1]
    return [
        Launch(
            KernelSpec("conv_plain", (spec,)),
            units,
            (x.place, w.place, y.place, *places, *words),
            (x.place, w.place, *places),
            (y.place,),
        )
    ]


def _transposed_shape(work: Work) -> WindowShape:
    x, y, w = work.input(0).shape, work.output().shape, work.input(1).shape
    rank = len(x) - 2
    kernel, size, out = ((*[1] * (3 - rank), *v[2:]) for v in (w, x, y))
    strides, dilations = transposed_steps(work)
    return WindowShape(
        x[0], x[1], y[1], int(work.attr("group", 1)), (kernel[0], kernel[1], kernel[2]), strides, dilations,
        pads_before(work), (size[0], size[1], size[2]), (out[0], out[1], out[2]),
    )  # fmt: skip


def _accepts(site: Site) -> str:
    x, w = site.inputs[0], site.inputs[1]
    if x is None or w is None or not x.dtype.is_float or x.dtype is not w.dtype:
        return "input and weights of one float type"
    if x.rank is None or not 3 <= x.rank <= 5:
        return "one to three spatial axes"
    return accepts_epilogue(site)


def _plain_us(work: Work) -> float:
    return _SLOWNESS * conv_shape(work).macs / work.target.vl / 3500


lowering(
    Lowering(
        "conv_plain", SKIPJACK, "Conv", _accepts, lambda w: _launch(w, conv_shape(w), False), rank=-1, cost=_plain_us
    )
)
lowering(
    Lowering(
        "conv_transpose_plain",
        SKIPJACK,
        "ConvTranspose",
        _accepts,
        lambda w: _launch(w, _transposed_shape(w), True),
        cost=lambda w: _SLOWNESS * _transposed_shape(w).macs / w.target.vl / 3500,
    )
)
