"""Reorder: plain [N, C, pixels] to blocked [N][C/vl][pixels][vl] and back; tiles of vl x vl turn in registers."""

from __future__ import annotations

from math import prod

from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import PLAIN, Layout
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.targets.target import Target


def transpose(rows: list[V]) -> list[V]:
    """The transpose of as many vectors as a vector has lanes (a power of two)."""
    n, step = len(rows), 1
    while step < n:
        low = [j if not j & step else n + j - step for j in range(n)]
        high = [j + step if not j & step else n + j for j in range(n)]
        out = list(rows)
        for i in range(n):
            if not i & step:
                out[i] = rows[i].shuffle(low, rows[i + step])
                out[i + step] = rows[i].shuffle(high, rows[i + step])
        rows, step = out, 2 * step
    return rows


class _Tile:
    """One tile: vl channels of vl pixels. channels and pixels say how many of them exist; None when all do."""

    def __init__(self, k: Kernel, vl: int, plain: V, blocked: V, plane: V) -> None:
        self.k, self.vl, self.plain, self.blocked, self.plane = k, vl, plain, blocked, plane
        self.vector = F32.vec(vl)

    def to_blocked(self, channels: V | None, pixels: V | None) -> None:
        k, vl = self.k, self.vl
        mask = k.below(pixels, vl) if pixels is not None else None
        rows = list[V]()
        for c in range(vl):
            p = self.plain.at(self.plane * c)
            if mask is None or channels is None:
                rows.append(p.load(self.vector))
            else:
                rows.append(p.load_masked(self.vector, mask & (channels > c).splat(vl)))
        for i, v in enumerate(transpose(rows)):
            p = self.blocked.at(4 * vl * i)
            if pixels is None:
                p.store(v)
            else:
                p.store_masked(v, (pixels > i).splat(vl))

    def to_plain(self, channels: V | None, pixels: V | None) -> None:
        k, vl = self.k, self.vl
        rows = list[V]()
        for i in range(vl):
            p = self.blocked.at(4 * vl * i)
            everything = None if pixels is None else (pixels > i).splat(vl)
            rows.append(p.load(self.vector) if everything is None else p.load_masked(self.vector, everything))
        mask = None if pixels is None else k.below(pixels, vl)
        for c, v in enumerate(transpose(rows)):
            p = self.plain.at(self.plane * c)
            if mask is None or channels is None:
                p.store(v)
            else:
                p.store_masked(v, mask & (channels > c).splat(vl))


@generator("reorder")
def reorder(target: Target, symbol: str, to: str) -> Program:
    """A unit is `chunk` pixels of one channel block."""
    k = Kernel(
        symbol,
        [("x", PTR), ("y", PTR), *[(n, I64) for n in ("channels", "blocks", "pixels", "chunks", "chunk")]],
        target.vector_bytes * 8,
    )
    a, vl = k.arg, target.vl
    with k.units() as unit:
        part, rest = unit % a.chunks, unit // a.chunks
        block, image = rest % a.blocks, rest // a.blocks
        left = a.channels - block * vl
        first = part * a.chunk
        with k.loop(k.min(first + a.chunk, a.pixels), first, vl) as pixel:
            plain, blocked = (a.x, a.y) if to == "blocked" else (a.y, a.x)
            plain = plain.at(((image * a.channels + block * vl) * a.pixels + pixel) * 4)
            tile = _Tile(k, vl, plain, blocked.at((rest * a.pixels + pixel) * (4 * vl)), a.pixels * 4)
            move = tile.to_blocked if to == "blocked" else tile.to_plain
            here = a.pixels - pixel
            k.branch((left >= vl) & (here >= vl), lambda m=move: m(None, None), lambda m=move, n=here: m(left, n))
    return k.finish()


def _lower(work: Work) -> list[Launch]:
    x, y, vl = work.input(0), work.output(), work.target.vl
    n, c, *spatial = x.shape
    pixels, blocks, chunk = prod(spatial), -(-c // vl), 16 * vl
    chunks = max(-(-pixels // chunk), 1)
    words = (x.place, y.place, c, blocks, pixels, chunks, chunk)
    to = "plain" if y.layout.kind == "plain" else "blocked"
    return [Launch(KernelSpec("reorder", (to,)), n * blocks * chunks, words, (x.place,), (y.place,))]


def _accepts(site: Site) -> str:
    x, y = site.inputs[0], site.outputs[0]
    if x is None or y is None or x.dtype.itemsize != 4:
        return "only elements of four bytes"
    block = Layout("blocked", site.target.vl)
    if (x.layout, y.layout) not in ((PLAIN, block), (block, PLAIN)):
        return f"between plain and {block} only"
    return ""


lowering(Lowering("reorder", SKIPJACK, "Reorder", _accepts, _lower, "any"))
