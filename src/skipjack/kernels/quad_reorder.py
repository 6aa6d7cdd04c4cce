"""Reorder of one-byte images: plain [N, C, pixels] to words of four channels [N][C/4][pixels][4] and back."""

from __future__ import annotations

from math import prod

from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import PLAIN
from skipjack.kernels.kinds import QUAD
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.span import span
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I8, I32, I64, PTR, Program
from skipjack.targets.target import Target

_CHUNK = 2048


@generator("quad_reorder")
def quad_reorder(target: Target, symbol: str, to_quads: bool) -> Program:
    """A unit is some pixels of four channels of one image; channels that do not exist are written as 0, never read."""
    fields = [("x", PTR), ("y", PTR), *((n, I64) for n in ("channels", "pixels", "groups", "chunks"))]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    a, masked = k.arg, target.has("avx512bw")
    with k.units() as unit:
        part, rest = unit % a.chunks, unit // a.chunks
        group, image = rest % a.groups, rest // a.groups
        left = a.channels - group * 4
        plain, quads = (a.x, a.y) if to_quads else (a.y, a.x)
        plain = plain.at((image * a.channels + group * 4) * a.pixels)
        quads = quads.at(rest * a.pixels * 4)

        def pack(i: V, lanes: int, mask: V | None, plain: V = plain, quads: V = quads, left: V = left) -> None:
            total: V | None = None
            for j in range(4):
                byte = k.var(k.zero(I8.vec(lanes)))
                with k.when(left > j):
                    p, ty = plain.at(a.pixels * j + i), I8.vec(lanes)
                    byte.set(p.load(ty) if mask is None else p.load_masked(ty, mask))
                word = byte.get().zext(I32) << (8 * j)
                total = word if total is None else total | word
            assert total is not None, "a word holds four channels"
            _store(quads.at(i, 4), total, mask)

        def unpack(i: V, lanes: int, mask: V | None, plain: V = plain, quads: V = quads, left: V = left) -> None:
            p, ty = quads.at(i, 4), I32.vec(lanes)
            word = p.load(ty) if mask is None else p.load_masked(ty, mask)
            for j in range(4):
                with k.when(left > j):
                    _store(plain.at(a.pixels * j + i), (word >> (8 * j)).trunc(I8), mask)

        first = part * _CHUNK
        span(k, first, k.min(first + _CHUNK, a.pixels), target.vl, masked, pack if to_quads else unpack)
    return k.finish()


def _store(place: V, value: V, mask: V | None) -> None:
    if mask is None:
        place.store(value)
    else:
        place.store_masked(value, mask)


def _lower(work: Work) -> list[Launch]:
    x, y = work.input(0), work.output()
    n, c, *spatial = x.shape
    pixels, groups = prod(spatial), -(-c // 4)
    chunks = -(-pixels // _CHUNK)
    words = (x.place, y.place, c, pixels, groups, chunks)
    spec = KernelSpec("quad_reorder", (y.layout == QUAD,))
    return [Launch(spec, n * groups * chunks, words, (x.place,), (y.place,))]


def _accepts(site: Site) -> str:
    x, y = site.inputs[0], site.outputs[0]
    if x is None or y is None or x.dtype.itemsize != 1:
        return "only elements of one byte"
    return "" if {x.layout, y.layout} == {PLAIN, QUAD} else f"between plain and {QUAD} only"


lowering(Lowering("reorder_quads", SKIPJACK, "Reorder", _accepts, _lower, "any"))
