"""Quantised elementwise operators of com.microsoft: real numbers in between, codes in memory."""

from __future__ import annotations

from collections.abc import Callable

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS
from skipjack.kernels.integer_product import BYTES
from skipjack.kernels.launch import Bound, Launch, Lowering, Site, Work, lowering
from skipjack.kernels.quantise import quantised
from skipjack.kernels.strided import View, apply, broadcast, spread, whole
from skipjack.lang.expr import Expr, arg, cast, select, sigmoid

_F32, _I32 = DType.F32, DType.I32


class _Terms:
    """The views of an expression, numbered as they are added."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.views: list[View] = []

    def add(self, view: View) -> Expr:
        self.views.append(view)
        return arg(len(self.views) - 1, view.dtype)

    def number(self, b: Bound) -> Expr:
        """The only element of a scale or zero point."""
        return self.add(View(b.place, b.dtype, (0,) * len(self.shape)))

    def real(self, codes: View, scale: Bound, zero: Bound | None) -> Expr:
        """The numbers that codes stand for."""
        x = cast(self.add(codes), _I32)
        if zero is not None:
            x = x - cast(self.number(zero), _I32)
        return cast(x, _F32) * self.number(scale)

    def codes(self, y: Expr, scale: Bound, zero: Bound | None, dtype: DType) -> Expr:
        """The codes of numbers."""
        steps = y / self.number(scale)
        return quantised(steps, None if zero is None else self.number(zero), dtype)


def _binary(function: Callable[[Expr, Expr], Expr]) -> Callable[[Work], list[Launch]]:
    def lower(work: Work) -> list[Launch]:
        a, b, out = work.input(0), work.input(3), work.output()
        terms = _Terms(out.shape)
        x = terms.real(broadcast(a, out.shape), work.input(1), work.maybe(2))
        y = terms.real(broadcast(b, out.shape), work.input(4), work.maybe(5))
        expr = terms.codes(function(x, y), work.input(6), work.maybe(7), out.dtype)
        return apply(expr, out.shape, terms.views, whole(out), work.target)

    return lower


def _unary(function: Callable[[Work, Expr], Expr]) -> Callable[[Work], list[Launch]]:
    def lower(work: Work) -> list[Launch]:
        x, out = work.input(0), work.output()
        terms = _Terms(out.shape)
        value = function(work, terms.real(whole(x), work.input(1), work.maybe(2)))
        expr = terms.codes(value, work.input(3), work.maybe(4), out.dtype)
        return apply(expr, out.shape, terms.views, whole(out), work.target)

    return lower


def _leaky(work: Work, x: Expr) -> Expr:
    return select(x >= 0.0, x, x * float(work.attr("alpha", 0.01)))


def _concat(work: Work) -> list[Launch]:
    scale, zero, out = work.input(0), work.input(1), work.output()
    axis = int(work.attr("axis", 0)) % len(out.shape)
    part = whole(out)
    launches: list[Launch] = []
    for n in range(2, len(work.inputs), 3):
        x = work.input(n)
        terms = _Terms(x.shape)
        value = terms.real(spread(whole(x), x.shape, x.shape), work.input(n + 1), work.maybe(n + 2))
        expr = terms.codes(value, scale, zero, out.dtype)
        launches += apply(expr, x.shape, terms.views, part, work.target)
        part = part.at(axis, x.shape[axis])
    return launches


def _accepts(site: Site) -> str:
    out = site.outputs[0]
    if out is None or out.dtype not in BYTES:
        return "codes that are not bytes"
    first = 2 if site.node.op == "QLinearConcat" else 0
    for i, t in enumerate(site.inputs):
        if t is None or (t.dtype in BYTES and t.elements == 1):
            continue
        if t.dtype not in (*BYTES, _F32):
            return f"elements of {t.dtype.value}"
        if t.dtype is _F32 and t.elements != 1:
            return "more than one scale"
        if t.dtype in BYTES and (i - first) % 3 and t.elements != 1:
            return "more than one zero point"
    return ""


lowering(Lowering("pointwise", MS, "QLinearAdd", _accepts, _binary(lambda a, b: a + b)))
lowering(Lowering("pointwise", MS, "QLinearMul", _accepts, _binary(lambda a, b: a * b)))
lowering(Lowering("pointwise", MS, "QLinearSigmoid", _accepts, _unary(lambda work, x: sigmoid(x))))
lowering(Lowering("pointwise", MS, "QLinearLeakyRelu", _accepts, _unary(_leaky)))
lowering(Lowering("pointwise", MS, "QLinearConcat", _accepts, _concat))
