"""RotaryEmbedding: pairs of features turned by angles of their position."""

from __future__ import annotations

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.launch import Bound, Launch, Lowering, Site, Work, lowering
from skipjack.kernels.strided import View, apply, at_place, contiguous, copy, spread, whole
from skipjack.kernels.take import INDEX_TYPES, take_axis
from skipjack.lang.expr import arg, cast, compute_dtype

_FLOATS = (DType.F32, DType.F16, DType.BF16, DType.F64)


def _accepts(site: Site) -> str:
    x, cos, _, positions = (*site.inputs, None)[:4]
    if any(t is not None and t.dtype not in _FLOATS for t in site.inputs[:3]):
        return "elements that are no floats kernels compute with"
    if positions is not None and (positions.dtype not in INDEX_TYPES or positions.rank != 2):
        return "positions that are no matrix of i32 or i64"
    if cos is None or cos.rank != (3 if positions is None else 2):
        return "caches of another rank"
    return "" if x is not None else "no input"


def _heads_view(b: Bound, heads: int) -> tuple[tuple[int, ...], View]:
    """(sizes, view) of [B, H, S, D], however the value orders its axes."""
    if len(b.shape) == 4:
        return b.shape, whole(b)
    batch, steps, features = b.shape
    size = features // heads
    s = contiguous((batch, steps, heads, size), b.dtype.itemsize)
    return (batch, heads, steps, size), View(b.place, b.dtype, (s[0], s[2], s[1], s[3]))


def _cache(work: Work, index: int, launches: list[Launch]) -> tuple[tuple[int, ...], View]:
    """(sizes, view) over [B, 1, S, pairs] of the cosines or sines of every position."""
    cache, positions = work.input(index), work.maybe(3)
    if positions is None:
        shape = (cache.shape[0], 1, *cache.shape[1:])
        return shape, whole(cache, shape)
    shape = (positions.shape[0], 1, positions.shape[1], cache.shape[1])
    place = work.memory.temporary(positions.elements * cache.shape[1] * cache.dtype.itemsize)
    launches += take_axis(
        cache.place, cache.shape, 0, cache.dtype.itemsize, positions.place, positions.dtype, positions.elements, place,
        work.target,
    )  # fmt: skip
    return shape, at_place(place, cache.dtype, shape)


def _lower(work: Work) -> list[Launch]:
    x, out = work.input(0), work.output()
    heads = int(work.attr("num_heads", 0)) or 1
    sizes, source = _heads_view(x, heads)
    _, target = _heads_view(out, heads)
    dim = int(work.attr("rotary_embedding_dim", 0)) or sizes[3]
    half = dim // 2
    shape = (*sizes[:3], half)
    launches: list[Launch] = []
    caches = [spread(view, own, shape) for own, view in (_cache(work, i, launches) for i in (1, 2))]
    step = 2 if work.attr("interleaved", 0) else 1
    second = 1 if step == 2 else half
    kind = compute_dtype(x.dtype)
    a, b = (cast(arg(i, x.dtype), kind) for i in (0, 1))
    cos, sin = (cast(arg(i + 2, v.dtype), kind) for i, v in enumerate(caches))
    inputs = [_every(source.at(3, n), step) for n in (0, second)]
    for n, turned in ((0, cos * a - sin * b), (second, sin * a + cos * b)):
        to = _every(target.at(3, n), step)
        launches += apply(cast(turned, x.dtype), shape, [*inputs, *caches], to, work.target)
    tail = (*sizes[:3], sizes[3] - dim)
    return launches + copy(tail, source.at(3, dim), target.at(3, dim), work.target)


def _every(view: View, step: int) -> View:
    """The view with `step` times the stride of its last axis."""
    return View(view.place, view.dtype, (*view.strides[:-1], view.strides[-1] * step))


lowering(Lowering("pointwise", ONNX, "RotaryEmbedding", _accepts, _lower))
