"""Integer convolutions: windows laid out as a matrix, multiplied by the kernels of each group."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from skipjack.core.dims import evaluate
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.integer_product import BYTES, Operand, integer_product
from skipjack.kernels.launch import Bound, Launch, Lowering, Place, Site, Work, lowering
from skipjack.kernels.quantise import along, quantised, zero_point
from skipjack.kernels.strided import View, apply, at_place, contiguous, copy, whole
from skipjack.lang.expr import arg, cast
from skipjack.ops.conv import kernel_of, pads_in_order
from skipjack.ops.registry import Ref
from skipjack.ops.window import window

_I32, _F32 = DType.I32, DType.F32


@dataclass(frozen=True)
class _Geometry:
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    padded: tuple[int, ...]
    out: tuple[int, ...]


def _geometry(work: Work, x: Bound, w: Bound, out: Bound) -> _Geometry:
    r = Ref(work.node, [])
    win = window(r, kernel_of(r, w.shape))
    pads = [int(evaluate(p, {})) for p in pads_in_order(win, x.shape[2:])]
    spatial = x.shape[2:]
    rank = len(spatial)
    padded = tuple(n + pads[a] + pads[a + rank] for a, n in enumerate(spatial))
    numbers = [tuple(int(evaluate(v, {})) for v in part) for part in (win.strides, win.dilations)]
    return _Geometry(w.shape[2:], numbers[0], numbers[1], tuple(pads[:rank]), padded, out.shape[2:])


def _conv_sums(
    work: Work, x: Bound, w: Bound, zeros: tuple[Bound | None, Bound | None], shape: Bound, sums: Place
) -> list[Launch]:
    """Sums of (x - zero) * (w - zero) as i32, [N, M, spatial] at `sums`; padding counts as the zero point."""
    x_zero, w_zero = (zero_point(work, z, d.dtype) for z, d in zip(zeros, (x, w), strict=True))
    return sums_of_windows(work, x, w, (x_zero, w_zero), x_zero[0], shape, sums)


def sums_of_windows(
    work: Work,
    x: Bound,
    w: Bound,
    zeros: tuple[tuple[Place, int], tuple[Place, int]],
    padding: Place,
    shape: Bound,
    sums: Place,
) -> list[Launch]:
    """Sums of (x - zero) * (w - zero) as i32, [N, M, spatial] at `sums`; padding is the code at its place."""
    x_zero, w_zero = zeros
    g = _geometry(work, x, w, shape)
    group = int(work.attr("group", 1))
    place, launches = _padded(work, x, g, padding)
    channels, m = x.shape[1] // group, w.shape[0] // group
    rows, columns = channels * math.prod(g.kernel), math.prod(g.out)
    matrix = work.memory.temporary(group * rows * columns)
    # Channels of a group lead, then kernel positions, then output positions.
    sizes = (x.shape[1], *g.kernel, *g.out)
    steps = contiguous((x.shape[0], x.shape[1], *g.padded), 1)
    moves = [d * s for d, s in zip(g.dilations, steps[2:], strict=True)]
    slides = [d * s for d, s in zip(g.strides, steps[2:], strict=True)]
    to = at_place(matrix, DType.U8, sizes)
    for n in range(x.shape[0]):
        source = View(place.at(n * steps[0]), DType.U8, (steps[1], *moves, *slides))
        launches += copy(sizes, source, to, work.target)
        for i in range(group):
            zero = w_zero[0].at(i * m * w_zero[1])
            left = Operand(w.place.at(i * m * rows * w.dtype.itemsize), w.dtype, 0, zero, w_zero[1])
            right = Operand(matrix.at(i * rows * columns), x.dtype, 0, x_zero[0], 0)
            at = sums.at(4 * columns * (n * w.shape[0] + i * m))
            launches += integer_product(left, right, at, 1, m, rows, columns, work.target)
    return launches


def _padded(work: Work, x: Bound, g: _Geometry, zero: Place) -> tuple[Place, list[Launch]]:
    """x with its border filled with the zero point."""
    shape = (*x.shape[:2], *g.padded)
    if shape == x.shape:
        return x.place, []
    place = work.memory.temporary(math.prod(shape))
    target = at_place(place, DType.U8, shape)
    value = View(zero, DType.U8, (0,) * len(shape))
    launches = apply(arg(0, DType.U8), shape, [value], target, work.target)
    for axis, begin in enumerate(g.begins):
        target = target.at(axis + 2, max(begin, 0))
    source = View(x.place, DType.U8, contiguous(x.shape, 1))
    return place, launches + copy(x.shape, source, target, work.target)


def _accepts(x: int, w: int, zeros: tuple[int, int]) -> Callable[[Site], str]:
    def accepts(site: Site) -> str:
        for i in (x, w):
            t = site.inputs[i]
            if t is None or t.dtype not in BYTES or t.rank is None or t.rank < 3:
                return "operands that are not bytes"
        given = site.inputs[zeros[0]] if zeros[0] < len(site.inputs) else None
        if given is not None and given.elements != 1:
            return "more than one zero point of the input"
        pads = site.node.attrs.get("pads")
        return "negative pads" if isinstance(pads, tuple) and any(int(p) < 0 for p in pads) else ""  # type: ignore[arg-type]

    return accepts


def _conv_integer(work: Work) -> list[Launch]:
    x, w, out = work.input(0), work.input(1), work.output()
    return _conv_sums(work, x, w, (work.maybe(2), work.maybe(3)), out, out.place)


def _qlinear_conv(work: Work) -> list[Launch]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (work.input(i) for i in range(8))
    bias, out = work.maybe(8), work.output()
    sums = work.memory.temporary(out.elements * 4)
    launches = _conv_sums(work, x, w, (x_zero, w_zero), out, sums)
    rank = len(out.shape)
    views = [at_place(sums, _I32, out.shape), *(along(b, 1, rank) for b in (x_scale, w_scale, y_scale, y_zero))]
    total = arg(0, _I32)
    if bias is not None:
        views.append(along(bias, 1, rank))
        total = total + arg(5, _I32)
    scales = [cast(arg(i + 1, v.dtype), _F32) for i, v in enumerate(views[1:4])]
    steps = cast(total, _F32) * (scales[0] * scales[1] / scales[2])
    expr = quantised(steps, arg(4, y_zero.dtype), out.dtype)
    return launches + apply(expr, out.shape, views, whole(out), work.target)


def _accepts_qlinear(site: Site) -> str:
    out = site.outputs[0]
    return "an output that is not bytes" if out is None or out.dtype not in BYTES else _accepts_windows_of_bytes(site)


_accepts_windows_of_bytes = _accepts(0, 3, (2, 5))
lowering(Lowering("integer", ONNX, "ConvInteger", _accepts(0, 1, (2, 3)), _conv_integer))
lowering(Lowering("integer", ONNX, "QLinearConv", _accepts_qlinear, _qlinear_conv))
