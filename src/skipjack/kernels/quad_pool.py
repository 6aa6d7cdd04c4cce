"""MaxPool and nearest Resize of one-byte images in quads: lanes are words of four channels of one pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.conv_shape import WindowShape, window_shape
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.quad_band import Words
from skipjack.kernels.resize_blocked import axis_taps
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import I8, I32, I64, PTR, Program
from skipjack.targets.target import Target

_BYTES = (DType.U8, DType.I8)
_WORDS = (
    "in_height", "in_width", "out_height", "out_width", "kernel_h", "kernel_w", "stride_h", "dilation_h", "dilation_w",
    "pad_h", "pad_w",
)  # fmt: skip


@dataclass(frozen=True)
class PoolSpec:
    """What is compiled in; stride: of the columns."""

    signed: bool
    stride: int


class _Pool:
    """Traces one output row of four channels."""

    def __init__(self, k: Kernel, lanes: int, s: PoolSpec) -> None:
        self.k, self.lanes, self.s, self.a = k, lanes, s, k.arg
        self.vector, self.bytes = I32.vec(lanes), I8.vec(4 * lanes)
        self.least = k.constant(self.vector, -0x7F7F7F80 if s.signed else 0)

    def trace(self, unit: V) -> None:
        k, a = self.k, self.a
        row, plane = unit % a.out_height, unit // a.out_height
        x = a.x.at(plane * a.in_height * a.in_width * 4)
        y = a.y.at(unit * a.out_width * 4)
        top = row * a.stride_h - a.pad_h
        words = Words(k, self.lanes, self.s.stride, a.in_width, self.least)
        with k.loop(a.out_width, 0, self.lanes) as o:
            best = k.var(self.least.bitcast(self.bytes))
            left = o * self.s.stride - a.pad_w
            inside = words.inside(left) & words.inside(left + (a.kernel_w - 1) * a.dilation_w)
            k.branch(
                inside,
                lambda best=best, left=left: self._window(words, x, top, left, best, False),
                lambda best=best, left=left: self._window(words, x, top, left, best, True),
            )
            y.at(o, 4).store_masked(best.get().bitcast(self.vector), k.below(a.out_width - o, self.lanes))

    def _window(self, words: Words, x: V, top: V, left: V, best: Var, masked: bool) -> None:
        """The largest of all taps."""
        k, a, op = self.k, self.a, "smax" if self.s.signed else "umax"
        with k.loop(a.kernel_w) as j:
            first = left + j * a.dilation_w
            masks = words.masks(first) if masked else None
            with k.loop(a.kernel_h) as i:
                line = top + i * a.dilation_h
                with k.when((line > -1) & (line < a.in_height)):
                    value = words.load(x.at(line * a.in_width * 4), first, masks).bitcast(self.bytes)
                    best.set(k.emit(op, self.bytes, (best.get(), value)))


@generator("quad_max_pool")
def quad_max_pool(target: Target, symbol: str, s: PoolSpec) -> Program:
    """A unit is one output row of four channels."""
    k = Kernel(symbol, [("x", PTR), ("y", PTR), *((n, I64) for n in _WORDS)], 8 * target.vector_bytes)
    pool = _Pool(k, target.vl, s)
    with k.units() as unit:
        pool.trace(unit)
    return k.finish()


def _pool_words(s: WindowShape) -> list[int]:
    words = {
        "in_height": s.size[1], "in_width": s.size[2], "out_height": s.out[1], "out_width": s.out[2],
        "kernel_h": s.kernel[1], "kernel_w": s.kernel[2], "stride_h": s.strides[1], "dilation_h": s.dilations[1],
        "dilation_w": s.dilations[2], "pad_h": s.before[1], "pad_w": s.before[2],
    }  # fmt: skip
    return [words[n] for n in _WORDS]


def _lower_pool(work: Work) -> list[Launch]:
    x, y = work.input(0), work.output()
    s = window_shape(work, work.attr("kernel_shape"), x.shape[1])
    spec = KernelSpec("quad_max_pool", (PoolSpec(x.dtype is DType.I8, s.strides[2]),))
    units = s.batch * -(-s.channels // 4) * s.out[1]
    return [Launch(spec, units, (x.place, y.place, *_pool_words(s)), (x.place,), (y.place,))]


def _image(site: Site) -> str:
    x, y = site.inputs[0], site.outputs[0]
    if x is None or y is None or x.dtype not in _BYTES:
        return "no elements of one byte"
    return "" if x.rank in (3, 4) and site.constants[0] is None else "one or two spatial axes"


def _accepts_pool(site: Site) -> str:
    return "indices are asked for" if len([o for o in site.node.outputs if o]) > 1 else _image(site)


def _pool_us(work: Work) -> float:
    s = window_shape(work, work.attr("kernel_shape"), work.input(0).shape[1])
    return s.batch * -(-s.channels // 4) * s.out[1] * -(-s.out[2] // work.target.vl) * (4 * s.taps + 20) / 3500


@generator("quad_resize")
def quad_resize(target: Target, symbol: str) -> Program:
    """A unit is one output row of four channels. rows and columns: the byte offset that each output comes from."""
    names = ("out_height", "out_width", "in_bytes")
    pointers = ("x", "y", "rows", "columns")
    k = Kernel(symbol, [*((n, PTR) for n in pointers), *((n, I64) for n in names)], 8 * target.vector_bytes)
    a, lanes = k.arg, target.vl
    with k.units() as unit:
        row, plane = unit % a.out_height, unit // a.out_height
        source = a.x.at(plane * a.in_bytes + a.rows.at(row, 8).load(I64))
        out = a.y.at(unit * a.out_width * 4)
        with k.loop(a.out_width, 0, lanes) as o:
            mask = k.below(a.out_width - o, lanes)
            at = a.columns.at(o, 8).load_masked(I64.vec(lanes), mask)
            out.at(o, 4).store_masked(source.gather(I32.vec(lanes), at, mask), mask)
    return k.finish()


def _lower_resize(work: Work) -> list[Launch]:
    x, y = work.input(0), work.output()
    rank, width = len(x.shape), x.shape[-1]
    rows = axis_taps(work, 2)[0] if rank == 4 else np.zeros((1, 1), np.int64)
    columns = axis_taps(work, rank - 1)[0]
    height, out_height = (x.shape[2], y.shape[2]) if rank == 4 else (1, 1)
    tables = [work.memory.constant((t[:, 0] * n).astype(np.int64)) for t, n in ((rows, width * 4), (columns, 4))]
    units = x.shape[0] * -(-x.shape[1] // 4) * out_height
    words = (x.place, y.place, *tables, out_height, y.shape[-1], height * width * 4)
    return [Launch(KernelSpec("quad_resize"), units, words, (x.place,), (y.place,))]


def _accepts_resize(site: Site) -> str:
    if reason := _image(site):
        return reason
    x, y, attrs = site.inputs[0], site.outputs[0], site.node.attrs
    if x is None or y is None or x.shape is None or y.shape is None or x.shape[:2] != y.shape[:2]:
        return "not only the spatial axes are resized"
    if attrs.get("mode", "nearest") != "nearest" or attrs.get("antialias", 0):
        return "not the nearest pixel"
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return "a crop"
    return "the aspect ratio is kept" if attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch" else ""


lowering(Lowering("max_pool_quads", ONNX, "MaxPool", _accepts_pool, _lower_pool, "quads", 10, cost=_pool_us))
lowering(Lowering("resize_quads", ONNX, "Resize", _accepts_resize, _lower_resize, "quads", 10, parameters=(2,)))
