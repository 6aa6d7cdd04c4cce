"""Windows over the blocked layout that keep channels apart: depthwise convolution and pools.

A block is some outputs of one row of one channel block. Taps outside the image are skipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.conv_finish import Finish
from skipjack.kernels.conv_shape import Segment
from skipjack.kernels.launch import generator
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.targets.target import Target

WORDS = (
    "blocks", "rows_d", "rows_h", "x_volume", "x_plane", "x_row", "y_volume", "y_row", "w_block", "maps",
    "pad_d", "pad_h", "depth", "height", "end_d", "end_h",
)  # fmt: skip


@dataclass(frozen=True)
class WindowSpec:
    """What is compiled in. combine: "conv" (weights packed [channel block][tap][vl]), "max", "mean", "l1" or "l2".

    segments carry, for "mean", how many columns each pixel's mean counts; padded: rows of pads count too. types: of the
    output and the extras, all f32 when empty.
    """

    combine: str
    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]
    dilations: tuple[int, int, int]
    pad_w: int
    segments: tuple[Segment, ...]
    clipped: tuple[bool, bool]
    padded: bool
    extras: str
    masked: bool
    epilogue: Expr | None
    types: tuple[DType, ...] = ()


class _Windows:
    def __init__(self, k: Kernel, target: Target, s: WindowSpec) -> None:
        self.k, self.s, self.a, self.vl = k, s, k.arg, target.vl
        self.vector = F32.vec(target.vl)
        self.pixel = 4 * target.vl

    def unit(self, unit: V) -> None:
        """One output row of one channel block."""
        k, s, a = self.k, self.s, self.a
        h, rest = unit % a.rows_h, unit // a.rows_h
        z, block = rest % a.rows_d, rest // a.rows_d
        channel = block % a.blocks
        d, e = z * s.strides[0] - a.pad_d, h * s.strides[1] - a.pad_h
        depth, height = self._inside(d, 0, a.depth, a.end_d), self._inside(e, 1, a.height, a.end_h)
        x = a.x.at(block * a.x_volume + d * a.x_plane + e * a.x_row)
        y = block * a.y_volume + (z * a.rows_h + h) * a.y_row
        w = a.w.at(channel * a.w_block) if s.combine == "conv" else None
        lines = (depth[2] * height[2]).to_float(F32)
        done = 0
        for seg in s.segments:
            with k.loop(seg.count) as b:
                first = b * seg.pixels + done
                acc = self._block(seg, x.at((first * s.strides[2] - s.pad_w) * self.pixel), w, depth, height)
                values = [self._result(seg, r, v.get(), lines) for r, v in enumerate(acc)]
                finish = Finish(k, self.vl, s.extras, s.masked, s.epilogue, types=s.types)
                finish.store(values, y + first * self.pixel, channel * self.vl, a.maps)
            done += seg.count * seg.pixels

    def _inside(self, start: V, axis: int, size: V, end: V) -> tuple[V, V, V]:
        """(first tap, stop, taps that a mean counts) of an axis."""
        k, n, step = self.k, self.s.kernel[axis], self.s.dilations[axis]
        if not self.s.clipped[axis]:
            return k.i64(0), k.i64(n), k.i64(n)
        low = k.max((step - 1 - start) // step, 0)
        high = k.max(k.min((size - start + (step - 1)) // step, n), low)
        counted = k.min((end - start + (step - 1)) // step, n) if self.s.padded else high - low
        return low, high, counted

    def _block(self, seg: Segment, x: V, w: V | None, depth: tuple[V, V, V], height: tuple[V, V, V]) -> list[Var]:
        k, s, a = self.k, self.s, self.a
        first = float("-inf") if s.combine == "max" else 0.0
        acc = [k.var(k.constant(self.vector, first)) for _ in range(seg.pixels)]
        row_bytes = s.kernel[2] * self.pixel
        with self._over(0, depth) as i, self._over(1, height) as j:
            xj = x.at(i * a.x_plane * s.dilations[0] + j * a.x_row * s.dilations[1])
            self._row(seg, acc, xj, w.at((i * s.kernel[1] + j) * row_bytes) if w is not None else None)
        return acc

    @contextlib.contextmanager
    def _over(self, axis: int, taps: tuple[V, V, V]) -> Generator[V]:
        if self.s.kernel[axis] == 1 and not self.s.clipped[axis]:
            yield self.k.i64(0)
        else:
            with self.k.loop(taps[1], taps[0]) as i:
                yield i

    def _row(self, seg: Segment, acc: list[Var], x: V, w: V | None) -> None:
        """Every column of the window row is loaded once and given to the pixels that use it."""
        s = self.s
        weights = [w.at(self.pixel * t).load(self.vector) if w is not None else None for t in range(s.kernel[2])]
        users: dict[int, list[tuple[int, int]]] = {}
        for t, (low, high) in enumerate(seg.valid):
            for r in range(low, high):
                users.setdefault(r * s.strides[2] + t * s.dilations[2], []).append((t, r))
        for column in sorted(users):
            value = x.at(column * self.pixel).load(self.vector)
            for t, r in users[column]:
                acc[r].set(self._combined(acc[r].get(), value, weights[t]))

    def _combined(self, acc: V, x: V, w: V | None) -> V:
        k, combine = self.k, self.s.combine
        if w is not None:
            return k.fma(x, w, acc)
        if combine == "max":
            return k.select(acc.ne(acc), acc, k.select(acc > x, acc, x))
        if combine == "l2":
            return k.fma(x, x, acc)
        return acc + (k.unary("fabs", x) if combine == "l1" else x)

    def _result(self, seg: Segment, r: int, total: V, lines: V) -> V:
        if self.s.combine == "mean":
            return total / (lines * float(seg.counts[r])).splat(self.vl)
        return self.k.unary("sqrt", total) if self.s.combine == "l2" else total


@generator("window")
def window(target: Target, symbol: str, s: WindowSpec) -> Program:
    """A unit is one output row of one channel block."""
    pointers = ["x", *(["w"] if s.combine == "conv" else []), "y", *[f"e{i}" for i in range(len(s.extras))]]
    k = Kernel(symbol, [*[(n, PTR) for n in pointers], *[(n, I64) for n in WORDS]], target.vector_bytes * 8)
    windows = _Windows(k, target, s)
    with k.units() as unit:
        windows.unit(unit)
    return k.finish()


@generator("global_pool")
def global_pool(target: Target, symbol: str, combine: str) -> Program:
    """A unit is one channel block: the mean or maximum of `pixels` vectors, summed in eight interleaved parts."""
    k = Kernel(symbol, [("x", PTR), ("y", PTR), ("pixels", I64)], target.vector_bytes * 8)
    vector, pixel, a, ways = F32.vec(target.vl), 4 * target.vl, k.arg, 8
    first = float("-inf") if combine == "max" else 0.0

    def joined(p: V, q: V) -> V:
        return k.select(p.ne(p), p, k.select(p > q, p, q)) if combine == "max" else p + q

    with k.units() as unit:
        x = a.x.at(unit * a.pixels * pixel)
        acc = [k.var(k.constant(vector, first)) for _ in range(ways)]
        whole = a.pixels // ways * ways
        with k.loop(whole, 0, ways) as i:
            for w in range(ways):
                acc[w].set(joined(acc[w].get(), x.at((i + w) * pixel).load(vector)))
        with k.loop(a.pixels, whole) as i:
            acc[0].set(joined(acc[0].get(), x.at(i * pixel).load(vector)))
        values = [v.get() for v in acc]
        while len(values) > 1:
            values = [joined(values[i], values[i + 1]) for i in range(0, len(values), 2)]
        result = values[0] if combine == "max" else values[0] / a.pixels.to_float(F32).splat(target.vl)
        a.y.at(unit * pixel).store(result)
    return k.finish()
