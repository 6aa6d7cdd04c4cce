"""Elementwise expressions over images in quads: bytes as words of four channels of a pixel, the rest as planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.ir.types import TensorType
from skipjack.kernels.emit import emit, load_as, store_as, to_compute, to_memory
from skipjack.kernels.kinds import QUAD
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.pointwise import accepts_expression, expression
from skipjack.kernels.quantise import quantised
from skipjack.kernels.span import lanes_for, maskable, span
from skipjack.lang.expr import Expr, arg, cast
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I8, I32, I64, PTR, Program
from skipjack.ops.registry import registered
from skipjack.targets.target import Target

_CHUNK = 2048
WORD, FIRST, PLANE, VALUE = "word", "first", "plane", "value"


@dataclass(frozen=True)
class QuadSpec:
    """What is compiled in. ragged: channels are no multiple of four; output: WORD or PLANE.

    An input is a WORD of four channels, the FIRST byte of a word for every channel, a PLANE of pixels or one VALUE per
    channel; None when it is absent.
    """

    expr: Expr
    inputs: tuple[tuple[str, DType] | None, ...]
    output: tuple[str, DType]
    ragged: bool


class _Group:
    """Traces some pixels of four channels of one image."""

    def __init__(self, k: Kernel, target: Target, s: QuadSpec) -> None:
        self.k, self.s, self.a = k, s, k.arg
        self.present = [(i, *given) for i, given in enumerate(s.inputs) if given is not None]
        widths = [DType.I32 if kind in (WORD, FIRST) else dtype for _, kind, dtype in self.present if kind != VALUE]
        out = DType.I32 if s.output[0] == WORD else s.output[1]
        self.lanes, self.masked = lanes_for(target, [*widths, out]), maskable(target, [*widths, out])

    def trace(self, unit: V) -> None:
        k, a = self.k, self.a
        part, rest = unit % a.chunks, unit // a.chunks
        self.channel, image = rest % a.groups * 4, rest // a.groups
        self.rows = [k.min(self.channel + j, a.channels - 1) if self.s.ragged else self.channel + j for j in range(4)]
        self.starts = {i: getattr(a, f"p{i}").at(image * getattr(a, f"n{i}")) for i, _, _ in self.present}
        self.fixed = {
            (i, j): load_as(k, self.starts[i].at(row * getattr(a, f"c{i}")), dtype, 0)
            for i, kind, dtype in self.present
            if kind == VALUE
            for j, row in enumerate(self.rows)
        }
        self.y = a.y.at(image * a.y_image)
        first = part * _CHUNK
        span(k, first, k.min(first + _CHUNK, a.pixels), self.lanes, self.masked, self._pixels)

    def _pixels(self, pixel: V, lanes: int, mask: V | None) -> None:
        k, s = self.k, self.s
        words = {i: self._word(i, pixel, lanes, mask) for i, kind, _ in self.present if kind in (WORD, FIRST)}
        values = [
            emit(k, s.expr, [self._input(i, j, pixel, lanes, mask, words) for i in range(len(s.inputs))], lanes)
            for j in range(4)
        ]
        kind, dtype = s.output
        if kind == WORD:
            self._store(self.y.at(self.channel * self.a.y_channel + pixel * 4), self._packed(values), mask)
            return
        for j, value in enumerate(values):
            row = self.channel + j
            place = self.y.at(row * self.a.y_channel + pixel * dtype.itemsize)
            with k.when(row < self.a.channels):
                store_as(k, place, value, dtype, mask)

    def _word(self, i: int, pixel: V, lanes: int, mask: V | None) -> V:
        place = self.starts[i].at(self.channel * getattr(self.a, f"c{i}") + pixel * 4)
        return place.load(I32.vec(lanes)) if mask is None else place.load_masked(I32.vec(lanes), mask)

    def _input(self, i: int, j: int, pixel: V, lanes: int, mask: V | None, words: dict[int, V]) -> V:
        """Input i of channel j of the four."""
        k, given = self.k, self.s.inputs[i]
        if given is None:
            return k.constant(I64, 0)
        kind, dtype = given
        if kind == VALUE:
            return self.fixed[i, j].splat(lanes)
        if kind == PLANE:
            place = self.starts[i].at(self.rows[j] * getattr(self.a, f"c{i}") + pixel * dtype.itemsize)
            return load_as(k, place, dtype, lanes, mask)
        word = words[i] >> (8 * j) if kind == WORD and j else words[i]
        return to_compute(k, word.trunc(I8), dtype)

    def _packed(self, values: Sequence[V]) -> V:
        """Four channels as words; those that only fill up are 0."""
        k, total = self.k, None
        for j, value in enumerate(values):
            word = to_memory(k, value, self.s.output[1]).zext(I32)
            if self.s.ragged:
                word = k.select(self.channel + j < self.a.channels, word, 0)
            total = word << (8 * j) if total is None else total | word << (8 * j)
        assert total is not None, "a word holds four channels"
        return total

    def _store(self, place: V, word: V, mask: V | None) -> None:
        if mask is None:
            place.store(word)
        else:
            place.store_masked(word, mask)


@generator("quad_pointwise")
def quad_pointwise(target: Target, symbol: str, s: QuadSpec) -> Program:
    """A unit is some pixels of four channels of one image."""
    present = [i for i, given in enumerate(s.inputs) if given is not None]
    fields = [(f"p{i}", PTR) for i in present] + [("y", PTR)]
    fields += [(f"{letter}{i}", I64) for i in present for letter in "nc"]
    fields += [(name, I64) for name in ("y_image", "y_channel", "channels", "pixels", "groups", "chunks")]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    group = _Group(k, target, s)
    with k.units() as unit:
        group.trace(unit)
    return k.finish()


def _view(b: Bound, out: Bound) -> tuple[str, int, int]:
    """How an input is read: its kind, bytes from image to image, bytes from channel to channel."""
    rank, item = len(out.shape), b.dtype.itemsize
    n, c, *spatial = (1,) * (rank - len(b.shape)) + b.shape
    pixels = prod(spatial)
    quads = b.layout == QUAD
    image = 0 if n == 1 else (-(-c // 4) * 4 if quads else c) * pixels * item
    channel = 0 if c == 1 else pixels * item
    if all(d == 1 for d in spatial):
        return VALUE, image, channel
    if quads:
        return (FIRST if c == 1 else WORD), image, channel
    return PLANE, image, channel


def apply_quads(work: Work, expr: Expr, inputs: Sequence[Bound | None]) -> list[Launch]:
    """The expression for every element of the node's output; inputs[i] is arg i."""
    out = work.output()
    if not out.elements:
        return []
    n, c, *spatial = out.shape
    pixels, item = prod(spatial), out.dtype.itemsize
    quads = out.layout == QUAD
    views = [None if b is None else (b, *_view(b, out)) for b in inputs]
    present = [v for v in views if v is not None]
    kinds = tuple(None if v is None else (v[1], v[0].dtype) for v in views)
    spec = QuadSpec(expr, kinds, (WORD if quads else PLANE, out.dtype), c % 4 != 0)
    groups, chunks = -(-c // 4), -(-pixels // _CHUNK)
    steps = [step for _, _, image, channel in present for step in (image, channel)]
    sizes = ((4 * groups if quads else c) * pixels * item, pixels * item, c, pixels, groups, chunks)
    places = tuple(b.place for b, *_ in present)
    words = (*places, out.place, *steps, *sizes)
    return [Launch(KernelSpec("quad_pointwise", (spec,)), n * groups * chunks, words, places, (out.place,))]


def has_bytes(site: Site) -> bool:
    """Whether an image of the node holds elements of one byte, so that quads mean anything for it."""
    given = [t for t, value in zip(site.inputs, site.constants, strict=True) if value is None]
    return any(t is not None and t.dtype.itemsize == 1 and (t.rank or 0) >= 3 for t in (*given, *site.outputs))


def _spread(t: TensorType, value: object, shape: Sequence[Dim]) -> str:
    """Empty when an input has every pixel of the output, or one value for all of them."""
    assert t.shape is not None, "select asks for tensors of known rank only"
    rank, own = len(shape), (1,) * (len(shape) - len(t.shape)) + tuple(t.shape)
    if len(own) > rank or (value is None and t.dtype.itemsize == 1 and 3 <= len(t.shape) < rank):
        return "an input's channels are not on axis 1"
    if any(d != 1 for d in own[2:]) and own[2:] != tuple(shape[2:]):
        return "an input spreads along some spatial axes only"
    return ""


def _accepts(site: Site) -> str:
    out = site.outputs[0]
    if out is None or out.shape is None or len(out.shape) < 3:
        return "no image: rank below 3"
    if not has_bytes(site):
        return "no elements of one byte"
    for t, value in zip(site.inputs, site.constants, strict=True):
        if t is not None and (reason := _spread(t, value, out.shape)):
            return reason
    return accepts_expression(site)


def _lower(work: Work) -> list[Launch]:
    types = [None if b is None else TensorType(b.dtype, b.shape) for b in work.inputs]
    return apply_quads(work, expression(types, work), work.inputs)


for _op in registered():
    if _op.expression is not None:
        lowering(Lowering("pointwise-quads", _op.domain, _op.name, _accepts, _lower, layouts="quads"))


_F32, _BYTES = DType.F32, (DType.U8, DType.I8)


def _accepts_linear(site: Site) -> str:
    x, out = site.inputs[0], site.outputs[0]
    if x is None or out is None or {x.dtype, out.dtype} not in ({_F32, DType.U8}, {_F32, DType.I8}):
        return "not between bytes and f32"
    if (out.rank or 0) < 3:
        return "no image: rank below 3"
    for t in site.inputs[1:]:
        if t is not None and (t.dtype not in (_F32, *_BYTES) or t.elements != 1 or (t.rank or 0) > 1):
            return "more than one scale"
    return ""


def _quantise(work: Work) -> list[Launch]:
    inputs = [b for b in work.inputs if b is not None]
    zero = arg(2, inputs[2].dtype) if len(inputs) > 2 else None
    return apply_quads(work, quantised(arg(0, _F32) / arg(1, _F32), zero, work.output().dtype), inputs)


def _dequantise(work: Work) -> list[Launch]:
    inputs = [b for b in work.inputs if b is not None]
    code = cast(arg(0, inputs[0].dtype), DType.I32)
    if len(inputs) > 2:
        code = code - cast(arg(2, inputs[2].dtype), DType.I32)
    return apply_quads(work, cast(code, _F32) * arg(1, _F32), inputs)


lowering(Lowering("quantise-quads", ONNX, "QuantizeLinear", _accepts_linear, _quantise, "quads"))
lowering(Lowering("dequantise-quads", ONNX, "DequantizeLinear", _accepts_linear, _dequantise, "quads"))
