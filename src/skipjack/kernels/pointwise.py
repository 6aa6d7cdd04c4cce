"""Elementwise operators: the expression of the operator over broadcast views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import skipjack.ops.all  # noqa: F401  # pyright: ignore[reportUnusedImport]  every operator must be registered
from skipjack.core.dtypes import DType
from skipjack.ir.types import TensorType
from skipjack.kernels.emit import supported
from skipjack.kernels.launch import Bound, Launch, Lowering, Site, Work, lowering
from skipjack.kernels.strided import View, apply, broadcast, contiguous, spread
from skipjack.lang.expr import Expr, arg, const, evaluate, select
from skipjack.ops.registry import lookup, registered

_NOTHING = TensorType(DType.F32, ())


def expression(node_types: Sequence[TensorType | None], site: Site | Work) -> Expr:
    """The scalar expression of a node; absent inputs keep their number."""
    op = lookup(site.node)
    assert op.expression is not None, f"{site.node.op} is not elementwise"
    return op.expression(site.node, [t if t is not None else _NOTHING for t in node_types])


def _of_work(work: Work) -> Expr:
    types = [None if b is None else TensorType(b.dtype, b.shape) for b in work.inputs]
    return expression(types, work)


def accepts_expression(site: Site) -> str:
    """Empty when kernels can compute the node's expression."""
    present = [t for t in site.inputs if t is not None]
    if any(t.dtype is DType.STRING for t in present):
        return "strings"
    expr = expression(site.inputs, site)
    for t in (*present, *(t for t in site.outputs if t is not None)):
        if reason := supported(arg(0, t.dtype)):
            return reason
    out = site.outputs[0]
    if out is not None and out.dtype is not expr.dtype:
        return f"the expression gives {expr.dtype.value}, the output is {out.dtype.value}"
    return supported(expr)


def _lower_plain(work: Work) -> list[Launch]:
    out = work.output()
    views = [None if b is None else broadcast(b, out.shape) for b in work.inputs]
    return apply(_of_work(work), out.shape, views, broadcast(out, out.shape), work.target)


def _accepts_blocked(site: Site) -> str:
    out = site.outputs[0]
    if out is None or out.rank is None or out.rank < 3:
        return "no image: rank below 3"
    for t, constant in zip(site.inputs, site.constants, strict=True):
        if t is None or constant is not None:
            continue
        if t.rank is None or (3 <= t.rank < out.rank):
            return "an input's channels are not on axis 1"
        if 0 < t.rank < 3 and t.rank >= out.rank - 1:
            return "a vector over channels that is no constant"
    return accepts_expression(site)


def blocked_shape(shape: Sequence[int], block: int) -> tuple[int, ...]:
    """[N, C, spatial] as the axes of the blocked layout: [N, C / block, spatial, block]."""
    return (shape[0], -(-shape[1] // block), *shape[2:], block)


def blocked_view(work: Work, b: Bound, rank: int, block: int) -> View:
    """An input of a blocked kernel over the axes [N, C / block, spatial, block], broadcast where its sizes are 1."""
    if b.layout.kind == "blocked":
        own = blocked_shape(b.shape, block)
        view = View(b.place, b.dtype, contiguous(own, b.dtype.itemsize))
        if b.shape[1] == 1:
            own = (*own[:-1], 1)
        return spread(view, own, own)
    shape = (1,) * (rank - len(b.shape)) + b.shape
    steps = contiguous(shape, b.dtype.itemsize)
    if shape[1] == 1:
        own = (*shape, 1)
        return spread(View(b.place, b.dtype, (*steps, 0)), own, own)
    place = work.memory.packed(b, f"channels{block}:{shape}", lambda x: pack_channels(x.reshape(shape), block))
    own = blocked_shape(shape, block)
    return spread(View(place, b.dtype, contiguous(own, b.dtype.itemsize)), own, own)


def pack_channels(x: np.ndarray, block: int) -> np.ndarray:
    """[N, C, spatial] as [N, C / block, spatial, block], padded with zeros."""
    n, c, *spatial = x.shape
    padded = np.zeros((n, -(-c // block) * block, *spatial), x.dtype)
    padded[:, :c] = x
    return np.ascontiguousarray(np.moveaxis(padded.reshape(n, -1, block, *spatial), 2, -1))


def apply_blocked(work: Work, expr: Expr, inputs: Sequence[View | None], keeps_zero: bool) -> list[Launch]:
    """The expression over blocked views; channels that only pad are stored as 0."""
    out = work.output()
    block = out.layout.block
    shape = blocked_shape(out.shape, block)
    target = View(out.place, out.dtype, contiguous(shape, out.dtype.itemsize))
    if out.shape[1] % block and not keeps_zero:
        real = np.arange(shape[1] * block) < out.shape[1]
        place = work.memory.constant(real)
        steps = (0, block, *[0] * (len(shape) - 3), 1)
        inputs = [*inputs, View(place, DType.BOOL, steps)]
        expr = select(arg(len(inputs) - 1, DType.BOOL), expr, const(0, expr.dtype))
    return apply(expr, shape, inputs, target, work.target)


def _keeps_zero(work: Work, expr: Expr) -> bool:
    """Whether padded channels, where every input holds 0, stay 0; inputs without channels may hold anything there."""
    rank = len(work.output().shape)
    for b in work.inputs:
        if b is not None and (len(b.shape) < rank - 1 or b.shape[1 - rank] == 1):
            return False
    zeros = [np.zeros(1, np.float32 if b is None else b.dtype.np) for b in work.inputs]
    value = np.asarray(evaluate(expr, zeros)).reshape(-1)[0]
    return bool(value == 0)


def _lower_blocked(work: Work) -> list[Launch]:
    out = work.output()
    expr = _of_work(work)
    rank = len(out.shape)
    views = [None if b is None else blocked_view(work, b, rank, out.layout.block) for b in work.inputs]
    return apply_blocked(work, expr, views, _keeps_zero(work, expr))


for _op in registered():
    if _op.expression is not None:
        lowering(Lowering("pointwise", _op.domain, _op.name, accepts_expression, _lower_plain))
        lowering(
            Lowering("pointwise-blocked", _op.domain, _op.name, _accepts_blocked, _lower_blocked, layouts="blocked")
        )
