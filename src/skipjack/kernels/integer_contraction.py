"""Integer Linear and Conv of any shape: sums in memory, then the epilogue. For what no faster kernel takes."""

from __future__ import annotations

import math

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.epilogue import accepts_epilogue, extras_of
from skipjack.kernels.integer_product import BYTES, Operand, integer_product
from skipjack.kernels.launch import Launch, Lowering, Place, Site, Work, lowering
from skipjack.kernels.quantise import along, zero_point
from skipjack.kernels.quantised_conv import sums_of_windows
from skipjack.kernels.strided import View, apply, at_place, whole

_WEIGHTS = (DType.I8, DType.I16)
_PRODUCTS_PER_US = 1000.0
_PASSES_US = 3.0


def _accepts(site: Site) -> str:
    x, w = site.inputs[0], site.inputs[1]
    if x is None or w is None or x.dtype not in BYTES or w.dtype not in _WEIGHTS or x.rank is None:
        return "operands that are not small integers"
    pads = site.node.attrs.get("pads")
    if isinstance(pads, tuple) and any(int(p) < 0 for p in pads):  # type: ignore[arg-type]
        return "negative pads"
    return accepts_epilogue(site)


def _linear(work: Work) -> list[Launch]:
    x, w = work.input(0), work.input(1)
    k, n = w.shape
    sums = _place(work)
    zeros = [zero_point(work, None, b.dtype) for b in (x, w)]
    left, right = Operand(x.place, x.dtype, 0, *zeros[0]), Operand(w.place, w.dtype, 0, *zeros[1])
    rows = work.output().elements // n if n else 0
    return [*integer_product(left, right, sums, 1, rows, k, n, work.target), *_finish(work, sums, -1)]


def _conv(work: Work) -> list[Launch]:
    x, w, sums = work.input(0), work.input(1), _place(work)
    zeros = (zero_point(work, None, x.dtype), zero_point(work, None, w.dtype))
    padding = work.memory.constant(np.full(1, work.attr("pad_code", 0), x.dtype.np))
    launches = sums_of_windows(work, x, w, zeros, padding, work.output(), sums)
    return [*launches, *_finish(work, sums, 1)]


def _place(work: Work) -> Place:
    """Where the sums go: the output itself when nothing follows."""
    out = work.output()
    return out.place if work.attr("epilogue") is None else work.memory.temporary(out.elements * 4)


def _finish(work: Work, sums: Place, channel: int) -> list[Launch]:
    expr, out = work.attr("epilogue"), work.output()
    if expr is None:
        return []
    rank = len(out.shape)
    views: list[View] = [at_place(sums, DType.I32, out.shape)]
    for b in extras_of(work):
        views.append(whole(b) if b.shape == out.shape and rank != 1 else along(b, channel % rank, rank))
    return apply(expr, out.shape, views, whole(out), work.target)


def _cost(work: Work) -> float:
    taps = math.prod(work.input(1).shape[:-1] if work.node.op == "Linear" else work.input(1).shape[1:])
    return _PASSES_US + work.output().elements * taps / _PRODUCTS_PER_US


lowering(Lowering("integer_sums", SKIPJACK, "Linear", _accepts, _linear, rank=-1, cost=_cost))
lowering(Lowering("integer_sums", SKIPJACK, "Conv", _accepts, _conv, rank=-1, cost=_cost))
