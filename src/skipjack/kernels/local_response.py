"""LRN: every element over a power of the sum of squares of the channels around it."""

from __future__ import annotations

import math

from skipjack.ir.graph import ONNX
from skipjack.kernels.emit import supported
from skipjack.kernels.launch import Launch, Lowering, Site, Work, lowering
from skipjack.kernels.strided import View, apply, at_place, whole
from skipjack.lang.expr import arg, binary, cast, compute_dtype, const

_WIDEST = 16


def _accepts(site: Site) -> str:
    t = site.inputs[0]
    if t is None or not t.dtype.is_float or supported(arg(0, t.dtype)):
        return "not a float kernels compute with"
    size = int(site.node.attrs.get("size", 1))  # type: ignore[arg-type]
    return f"a window of {size} channels" if size > _WIDEST else ""


def _lower(work: Work) -> list[Launch]:
    """Squares between zeros for the channels that are missing at both ends, then sums of neighbours."""
    x, out, size = work.input(0), work.output(), int(work.attr("size"))
    kind = compute_dtype(x.dtype)
    shape = (x.shape[0], x.shape[1] + size - 1, *x.shape[2:])
    place = work.memory.temporary(math.prod(shape) * kind.itemsize)
    squares, before = at_place(place, kind, shape), (size - 1) // 2
    launches: list[Launch] = []
    for first, channels in ((0, before), (before + x.shape[1], size - 1 - before)):
        slab = (x.shape[0], channels, *x.shape[2:])
        launches += apply(const(0.0, kind), slab, [], squares.at(1, first), work.target)
    value = cast(arg(0, x.dtype), kind)
    launches += apply(value * value, x.shape, [whole(x)], squares.at(1, before), work.target)
    total = arg(1, kind)
    for n in range(1, size):
        total = total + arg(1 + n, kind)
    alpha, beta = float(work.attr("alpha", 1e-4)), float(work.attr("beta", 0.75))
    base = const(float(work.attr("bias", 1.0)), kind) + total * (alpha / size)
    result = cast(value / binary("pow", base, beta), x.dtype)
    views: list[View | None] = [whole(x), *(squares.at(1, n) for n in range(size))]
    return launches + apply(result, out.shape, views, whole(out), work.target)


lowering(Lowering("neighbours", ONNX, "LRN", _accepts, _lower))
