"""Pools in the blocked layout: maxima, means and norms over windows, maxima and means over everything."""

from __future__ import annotations

from math import prod

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.conv_depthwise import row_block, window_words
from skipjack.kernels.conv_shape import clipped, segments, window_shape
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, lowering
from skipjack.kernels.window_block import WindowSpec


def pool_ends(work: Work) -> list[int]:
    """Per spatial axis, one past the last input position that a mean with count_include_pad counts."""
    size = work.input(0).shape[2:]
    pads = work.attr("pads")
    if str(work.attr("auto_pad", "NOTSET")).startswith("SAME"):
        return [n + max(work.attr("kernel_shape")) * max(work.attr("dilations") or (1,)) for n in size]
    if not pads or work.attr("auto_pad", "NOTSET") == "VALID":
        return list(size)
    return [n + p for n, p in zip(size, pads[len(size) :])]


def _combine(work: Work) -> str:
    return {"MaxPool": "max", "AveragePool": "mean"}.get(work.node.op) or f"l{int(work.attr('p', 2))}"


def _lower(work: Work) -> list[Launch]:
    s, vl, combine = (
        window_shape(work, work.attr("kernel_shape"), work.input(0).shape[1]),
        work.target.vl,
        _combine(work),
    )
    ends = (1, 1, *pool_ends(work))[-3:]
    padded = bool(work.attr("count_include_pad", 0))
    counted = (-s.before[2], ends[2]) if padded else (0, s.size[2])
    cut = segments(s, row_block(work.target, s.out[2], s.kernel[2]), counted if combine == "mean" else None)
    spec = WindowSpec(
        combine, s.kernel, s.strides, s.dilations, s.before[2], cut, (clipped(s, 0), clipped(s, 1)), padded, "",
        s.channels % vl != 0, None,
    )  # fmt: skip
    x, y = work.input(0), work.output()
    words = (x.place, y.place, *window_words(s, vl, (ends[0], ends[1])))
    units = s.batch * -(-s.channels // vl) * s.out[0] * s.out[1]
    return [Launch(KernelSpec("window", (spec,)), units, words, (x.place,), (y.place,))]


def _lower_global(work: Work) -> list[Launch]:
    x, y = work.input(0), work.output()
    combine = "max" if work.node.op == "GlobalMaxPool" else "mean"
    units = x.shape[0] * -(-x.shape[1] // work.target.vl)
    words = (x.place, y.place, prod(x.shape[2:]))
    return [Launch(KernelSpec("global_pool", (combine,)), units, words, (x.place,), (y.place,))]


def _not_f32(site: Site) -> str:
    t = site.inputs[0]
    if t is None or t.dtype is not DType.F32:
        return "not f32"
    return "" if t.rank is not None and 3 <= t.rank <= 5 else "one to three spatial axes"


def _accepts(site: Site) -> str:
    if reason := _not_f32(site):
        return reason
    if len([o for o in site.node.outputs if o]) > 1:
        return "indices are asked for"
    if site.node.op == "LpPool" and site.node.attrs.get("p", 2) not in (1, 2):
        return "a norm other than 1 and 2"
    kernel = site.node.attrs.get("kernel_shape")
    return "" if isinstance(kernel, tuple) and kernel[-1] in range(1, 34) else "a very wide window"


for _op in ("MaxPool", "AveragePool", "LpPool"):
    lowering(Lowering("pool_blocked", ONNX, _op, _accepts, _lower, "blocked", 10))
for _op in ("GlobalAveragePool", "GlobalMaxPool"):
    lowering(Lowering("global_pool_blocked", ONNX, _op, _not_f32, _lower_global, "blocked", 10))
