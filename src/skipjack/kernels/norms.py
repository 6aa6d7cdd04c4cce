"""Normalisation of rows: layer, root-mean-square, instance and group norms, and batch norms as expressions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.emit import load_as, register_type, rounded_to, store_as
from skipjack.kernels.fold import add, fold
from skipjack.kernels.launch import (
    Bound,
    KernelSpec,
    Launch,
    Lowering,
    Place,
    Site,
    Word,
    Work,
    double_word,
    generator,
    lowering,
)
from skipjack.kernels.pointwise import apply_blocked, blocked_view
from skipjack.kernels.span import lanes_for, maskable, span
from skipjack.kernels.strided import View, apply, spread, whole
from skipjack.lang.expr import Expr, arg, cast, compute_dtype, const, unary
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_UNIT = 8192
_FLOATS = (DType.F32, DType.F16, DType.BF16)
_WORDS = ("rows", "block", "n", "groups", "channels", "spatial")


def normalise(
    way: str, x: Bound, scale: Bound | None, bias: Bound | None, outs: Sequence[Bound | None], rows: int,
    epsilon: float, groups: tuple[int, int, int] | None = None,
) -> list[Launch]:  # fmt: skip
    """Rows of x, each with mean 0 (way "layer") and mean square 1, then scaled and shifted.

    outs: the result, the means and the inverse deviations. groups = (groups, channels of one, elements of a channel): a
    row is one group and scale and bias hold a number per channel; without it they hold one per element of a row.
    """
    out = outs[0]
    assert out is not None, "a norm has an output"
    if x.elements == 0:
        return []
    n = x.elements // rows
    block = max(1, min(rows, _UNIT // n))
    stats = [o for o in outs[1:] if o is not None]
    places = [b.place for b in (x, out, scale, bias, *outs[1:]) if b is not None]
    dtypes = (x.dtype, *(None if b is None else b.dtype for b in (scale, bias)))
    kept = tuple(None if o is None else o.dtype for o in (*outs[1:], None, None)[:2])
    spec = KernelSpec("normalise", (way, dtypes, kept, groups is not None))
    least: Word = double_word(epsilon) if x.dtype is DType.F64 else float(epsilon)
    words = (*places, rows, block, n, *(groups or (1, 1, n)), least)
    reads = tuple(b.place for b in (x, scale, bias) if b is not None)
    return [Launch(spec, -(-rows // block), words, reads, (out.place, *(o.place for o in stats)))]


@generator("normalise")
def kernel(
    target: Target, name: str, way: str, dtypes: tuple[DType, DType | None, DType | None],
    kept: tuple[DType | None, DType | None], grouped: bool,
) -> Program:  # fmt: skip
    """The kernel of `normalise`. A unit is a block of rows; lanes run over the elements of a row."""
    names = [n for n, d in zip(("scale", "bias", "mean", "inverse"), (*dtypes[1:], *kept), strict=True) if d]
    epsilon = ("epsilon", register_type(compute_dtype(dtypes[0])))
    fields = [("x", PTR), ("y", PTR), *((n, PTR) for n in names), *((n, I64) for n in _WORDS), epsilon]
    k = Kernel(name, fields, 8 * target.vector_bytes)
    row = _Row(k, target, way, dtypes, grouped)
    a = k.arg
    with k.units() as u:
        first = u * a.block
        with k.loop(k.min(first + a.block, a.rows), first) as r:
            mean, inverse = row.statistics(a.x.at(r * a.n, dtypes[0].itemsize))
            for stat, value, dtype in (("mean", mean, kept[0]), ("inverse", inverse, kept[1])):
                if dtype is not None:
                    store_as(k, getattr(a, stat).at(r, dtype.itemsize), value, dtype)
            row.finish(r, mean, inverse)
    return k.finish()


class _Row:
    """Writes what happens to one row."""

    def __init__(
        self, k: Kernel, target: Target, way: str, dtypes: tuple[DType, DType | None, DType | None], grouped: bool
    ) -> None:
        self.k, self.way, self.grouped = k, way, grouped
        self.dtype, self.scale, self.bias = dtypes
        self.lanes = lanes_for(target, [self.dtype])
        self.masked = maskable(target, [d for d in dtypes if d is not None])

    def load(self, p: V, i: V, lanes: int, mask: V | None) -> V:
        return load_as(self.k, p.at(i, self.dtype.itemsize), self.dtype, lanes, mask)

    def statistics(self, x: V) -> tuple[V, V]:
        """(mean, 1 / sqrt(mean square + epsilon)) of the row at x; the mean is 0 for root-mean-square norms."""
        k = self.k
        n = k.arg.n
        kind = register_type(compute_dtype(self.dtype))
        count = n.to_float(kind)
        mean = k.constant(kind, 0.0)
        if self.way == "layer":
            mean = fold(k, n, kind, self.lanes, self.masked, add, 0.0, lambda i, w, m: self.load(x, i, w, m)) / count

        def square(i: V, lanes: int, mask: V | None) -> V:
            centred = self.load(x, i, lanes, mask) - mean
            return centred * centred

        total = fold(k, n, kind, self.lanes, self.masked, add, 0.0, square)
        return mean, 1.0 / k.unary("sqrt", total / count + k.arg.epsilon)

    def finish(self, r: V, mean: V, inverse: V) -> None:
        k, a = self.k, self.k.arg
        if not self.grouped:
            self.stretch(r * a.n, a.n, mean, inverse, None)
            return
        with k.loop(a.channels) as c:
            channel = r.urem(a.groups) * a.channels + c
            self.stretch(r * a.n + c * a.spatial, a.spatial, mean, inverse, channel)

    def stretch(self, first: V, count: V, mean: V, inverse: V, channel: V | None) -> None:
        """Store `count` elements from index `first` on; scale and bias are those of a channel, or one per element."""
        k, a, size = self.k, self.k.arg, self.dtype.itemsize
        pairs = [(n, d) for n, d in (("scale", self.scale), ("bias", self.bias)) if d is not None]
        fixed = (
            {} if channel is None else {n: load_as(k, getattr(a, n).at(channel, d.itemsize), d, 0) for n, d in pairs}
        )
        x, y = a.x.at(first, size), a.y.at(first, size)

        def body(i: V, lanes: int, mask: V | None) -> None:
            value = rounded_to(k, (self.load(x, i, lanes, mask) - mean) * inverse, self.dtype)
            for n, d in pairs:
                other = fixed[n].splat(lanes) if fixed else load_as(k, getattr(a, n).at(i, d.itemsize), d, lanes, mask)
                value = value * other if n == "scale" else value + other
            store_as(k, y.at(i, size), value, self.dtype, mask)

        span(k, k.i64(0), count, self.lanes, self.masked, body, 2)


def _accepts(site: Site) -> str:
    x = site.inputs[0]
    types = {t.dtype for t in site.inputs if t is not None}
    if x is None or x.rank is None or not (types <= set(_FLOATS) or types == {DType.F64}):
        return f"norms of {sorted(t.value for t in types)}"
    if any(t is not None and (t.dtype is DType.F64) is not (x.dtype is DType.F64) for t in site.outputs):
        return "statistics kept in a wider or a narrower type"
    return ""


def _accepts_rows(site: Site) -> str:
    x = site.inputs[0]
    if reason := _accepts(site):
        return reason
    if x is None or x.rank is None:
        return "an unknown rank"
    axis = int(site.node.attrs.get("axis", -1)) % x.rank  # type: ignore[arg-type]
    if x.dtype is not DType.F64 and int(site.node.attrs.get("stash_type", 1)) == DType.F64.onnx:  # type: ignore[arg-type]
        return "computes in f64"
    for t in site.inputs[1:]:
        if t is None or t.shape is None:
            continue
        if any(d != 1 for d in t.shape[: max(0, len(t.shape) - (x.rank - axis))]):
            return "a scale that differs from row to row"
    return ""


def _whole_row(work: Work, b: Bound | None, shape: Sequence[int], launches: list[Launch]) -> Bound | None:
    """Scale or bias with one element per element of a row; repeated into a temporary when it has fewer."""
    n = math.prod(shape)
    if b is None or b.elements == n:
        return b
    own = b.shape[max(0, len(b.shape) - len(shape)) :]
    place = work.memory.temporary(n * b.dtype.itemsize)
    made = Bound(b.name, b.dtype, tuple(shape), place)
    launches += apply(arg(0, b.dtype), shape, [spread(whole(b, own), own, shape)], whole(made), work.target)
    return made


def _rows(work: Work, way: str) -> list[Launch]:
    x = work.input(0)
    axis = int(work.attr("axis", -1)) % len(x.shape)
    launches: list[Launch] = []
    scale = _whole_row(work, work.input(1), x.shape[axis:], launches)
    bias = _whole_row(work, work.maybe(2), x.shape[axis:], launches)
    rows = math.prod(x.shape[:axis])
    return launches + normalise(way, x, scale, bias, work.outputs, rows, float(work.attr("epsilon", 1e-5)))


def _layer(work: Work) -> list[Launch]:
    return _rows(work, "layer")


def _rms(work: Work) -> list[Launch]:
    return _rows(work, "rms")


def _groups(work: Work, groups: int) -> list[Launch]:
    x = work.input(0)
    channels = x.shape[1] // max(groups, 1)
    sizes = (groups, channels, math.prod(x.shape[2:]))
    epsilon = float(work.attr("epsilon", 1e-5))
    rows = x.shape[0] * groups
    return normalise("layer", x, work.input(1), work.input(2), work.outputs, rows, epsilon, sizes)


def _instance(work: Work) -> list[Launch]:
    return _groups(work, work.input(0).shape[1])


def _group(work: Work) -> list[Launch]:
    return _groups(work, int(work.attr("num_groups")))


def _batch_expression(work: Work) -> Expr:
    dtypes = [work.input(i).dtype for i in range(5)]
    kind = compute_dtype(dtypes[0])
    x, scale, bias, mean, variance = (cast(arg(i, d), kind) for i, d in enumerate(dtypes))
    factor = scale / unary("sqrt", variance + const(float(work.attr("epsilon", 1e-5)), kind))
    return cast((x - mean) * factor + bias, dtypes[0])


def _accepts_batch(site: Site) -> str:
    if site.node.attrs.get("training_mode", 0):
        return "training mode"
    return _accepts(site)


def _accepts_batch_blocked(site: Site) -> str:
    x = site.inputs[0]
    if x is None or x.rank is None or x.rank < 3 or any(c is None for c in site.constants[1:5]):
        return "needs an image and constant statistics"
    return _accepts_batch(site)


def _batch(work: Work) -> list[Launch]:
    x, out = work.input(0), work.output()
    rank = len(x.shape)
    views: list[View | None] = [whole(x)]
    for i in range(1, 5):
        b = work.input(i)
        step = b.dtype.itemsize
        views.append(View(b.place, b.dtype, tuple(step if a == 1 and rank > 1 else 0 for a in range(rank))))
    return apply(_batch_expression(work), out.shape, views, whole(out), work.target)


def _batch_blocked(work: Work) -> list[Launch]:
    x = work.input(0)
    rank, block = len(x.shape), x.layout.block
    views: list[View | None] = [blocked_view(work, x, rank, block)]
    for i in range(1, 5):
        views.append(blocked_view(work, _as_channels(work.input(i), rank), rank, block))
    return apply_blocked(work, _batch_expression(work), views, keeps_zero=False)


def _as_channels(b: Bound, rank: int) -> Bound:
    """A vector over channels as [C, 1, ...]."""
    shape = (b.elements, *[1] * (rank - 2))
    return Bound(b.name, b.dtype, shape, Place(b.place.buffer, b.place.offset_bytes), b.layout, b.value)


lowering(Lowering("rows", ONNX, "LayerNormalization", _accepts_rows, _layer))
lowering(Lowering("rows", ONNX, "RMSNormalization", _accepts_rows, _rms))
lowering(Lowering("rows", ONNX, "InstanceNormalization", _accepts, _instance))
lowering(Lowering("rows", ONNX, "GroupNormalization", _accepts, _group))
lowering(Lowering("pointwise", ONNX, "BatchNormalization", _accepts_batch, _batch))
lowering(Lowering("pointwise", ONNX, "BatchNormalization", _accepts_batch_blocked, _batch_blocked, layouts="blocked"))
