"""The dense convolution kernel: a block is some outputs of one row times some channel vectors, all in registers.

Weights are packed [map group][channel block][kd][kh][kw][lane][vectors * vl]. A tap outside the image is skipped, never
multiplied, so nothing is padded in memory. Every output is summed over channel block, kd, kh, kw, lane in that order,
however rows are cut into blocks.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.conv_finish import Finish
from skipjack.kernels.conv_shape import Segment
from skipjack.kernels.gemm_block import Shape
from skipjack.kernels.launch import generator
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F32, I64, PTR, Program, Ty
from skipjack.targets.target import Target

LANES_UNROLLED = 2
_TAPS_UNROLLED = 8

WORDS = (
    "groups", "rows_d", "rows_h", "groups_per_part", "part_bytes", "x_image", "x_block", "x_plane", "x_row",
    "y_image", "y_block", "y_plane", "y_row", "blocks", "last_lanes", "first_vector", "maps", "w_group",
    "pad_d", "pad_h", "depth", "height",
)  # fmt: skip


@dataclass(frozen=True)
class ConvSpec:
    """What is compiled in.

    x_lanes: channels per block of the input (1: a plain image). extras: "c" per map, "r" like the output. clipped: taps
    of depth and height may lie outside. masked: the maps do not fill their last vector. rows_outer: all groups of a row
    follow each other, else all rows of a group. y_step: the distance of neighbouring outputs of a row in pixels. pairs:
    a "lane" is a pair of bf16. types: of the output and the extras.
    """

    vectors: int
    x_lanes: int
    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]
    dilations: tuple[int, int, int]
    pad_w: int
    segments: tuple[Segment, ...]
    clipped: tuple[bool, bool]
    extras: str
    masked: bool
    rows_outer: bool
    y_step: int
    epilogue: Expr | None
    pairs: bool = False
    types: tuple[DType, ...] = ()


@dataclass(frozen=True)
class _Row:
    """Where one output row of one group reads and writes; x is what tap (0, 0, 0) of its first pixel meets."""

    x: V
    w: V
    y_bytes: V
    first_map: V
    depth_taps: tuple[V, V]
    height_taps: tuple[V, V]


class _Blocks:
    """Traces the blocks of one row."""

    def __init__(self, k: Kernel, target: Target, s: ConvSpec) -> None:
        self.k, self.s, self.a = k, s, k.arg
        self.vl = target.vl
        self.vector: Ty = F32.vec(target.vl)
        self.terms = Shape(1, s.vectors, target.vl, s.pairs)
        self.x_pixel = 4 * s.x_lanes
        self.w_lane = s.vectors * self.vl * 4

    def row(self, unit: V) -> _Row:
        a, s = self.a, self.s
        if s.rows_outer:
            group, rest = unit % a.groups, unit // a.groups
            h, rest = rest % a.rows_h, rest // a.rows_h
            z, n = rest % a.rows_d, rest // a.rows_d
        else:
            h, rest = unit % a.rows_h, unit // a.rows_h
            z, rest = rest % a.rows_d, rest // a.rows_d
            group, n = rest % a.groups, rest // a.groups
        vector = a.first_vector + group * s.vectors
        x = a.x.at(n * a.x_image + (group // a.groups_per_part) * a.part_bytes)
        d, e = z * s.strides[0] - a.pad_d, h * s.strides[1] - a.pad_h
        y = n * a.y_image + vector * a.y_block + z * a.y_plane + h * a.y_row
        return _Row(
            x.at(d * a.x_plane + e * a.x_row), a.w.at(group * a.w_group), y, vector * self.vl,
            self._taps_inside(d, 0, a.depth), self._taps_inside(e, 1, a.height),
        )  # fmt: skip

    def _taps_inside(self, start: V, axis: int, size: V) -> tuple[V, V]:
        k, n, step = self.k, self.s.kernel[axis], self.s.dilations[axis]
        if not self.s.clipped[axis]:
            return k.i64(0), k.i64(n)
        low = k.max((step - 1 - start) // step, 0)
        return low, k.min((size - start + (step - 1)) // step, n)

    def trace(self, unit: V) -> None:
        """All blocks of one unit."""
        row, done = self.row(unit), 0
        for seg in self.s.segments:
            with self.k.loop(seg.count) as b:
                first = b * seg.pixels + done
                x = row.x.at((first * self.s.strides[2] - self.s.pad_w) * self.x_pixel)
                self._block(seg, row, x, row.y_bytes + first * (4 * self.vl * self.s.y_step))
            done += seg.count * seg.pixels

    def _block(self, seg: Segment, row: _Row, x: V, y_bytes: V) -> None:
        k, s, a = self.k, self.s, self.a
        acc = [[k.var(k.zero(self.vector)) for _ in range(s.vectors)] for _ in range(seg.pixels)]
        kd, kh, kw = s.kernel
        w_row = kw * s.x_lanes * self.w_lane
        with k.loop(a.blocks) as c:
            lanes = k.select(c.eq(a.blocks - 1), a.last_lanes, s.x_lanes) if s.x_lanes > 1 else None
            xc, wc = x.at(c * a.x_block), row.w.at(c * (kd * kh * w_row))
            with self._over(0, row.depth_taps) as i:
                xd, wd = xc.at(i * a.x_plane * s.dilations[0]), wc.at(i * (kh * w_row))
                with self._over(1, row.height_taps) as j:
                    self._taps(seg, acc, xd.at(j * a.x_row * s.dilations[1]), wd.at(j * w_row), lanes)
        finish = Finish(k, self.vl, s.extras, s.masked, s.epilogue, s.y_step, s.types)
        for t in range(s.vectors):
            values = [pixel[t].get() for pixel in acc]
            finish.store(values, y_bytes + a.y_block * t, row.first_map + t * self.vl, a.maps)

    @contextlib.contextmanager
    def _over(self, axis: int, taps: tuple[V, V]) -> Generator[V]:
        if self.s.kernel[axis] == 1 and not self.s.clipped[axis]:
            yield self.k.i64(0)
        else:
            with self.k.loop(taps[1], taps[0]) as i:
                yield i

    def _taps(self, seg: Segment, acc: list[list[Var]], x: V, w: V, lanes: V | None) -> None:
        s, kw = self.s, self.s.kernel[2]
        x_step, w_step = s.dilations[2] * self.x_pixel, s.x_lanes * self.w_lane
        if seg.inside and kw > 1 and (s.x_lanes > 1 or kw > _TAPS_UNROLLED):
            with self.k.loop(kw) as t:
                self._lanes(acc, range(seg.pixels), x.at(t * x_step), w.at(t * w_step), lanes)
            return
        first = 0
        for (low, high), run in itertools.groupby(seg.valid):
            count = len(list(run))
            start, first = first, first + count
            if low >= high:
                continue
            if count > _TAPS_UNROLLED:
                with self.k.loop(first, start) as t:
                    self._lanes(acc, range(low, high), x.at(t * x_step), w.at(t * w_step), lanes)
                continue
            for t in range(start, first):
                self._lanes(acc, range(low, high), x.at(t * x_step), w.at(t * w_step), lanes)

    def _lanes(self, acc: list[list[Var]], pixels: Sequence[int], x: V, w: V, lanes: V | None) -> None:
        """acc += x[pixel][lane] * w[lane] over the lanes of one channel block at one tap."""
        if lanes is None:
            self._lane(acc, pixels, x, w)
            return
        unrolled = LANES_UNROLLED if self.s.kernel[2] <= _TAPS_UNROLLED else 1
        with self.k.loop(lanes, 0, unrolled) as i:
            xi, wi = x.at(i, 4), w.at(i * self.w_lane)
            for u in range(unrolled):
                self._lane(acc, pixels, xi.at(4 * u), wi.at(u * self.w_lane))

    def _lane(self, acc: list[list[Var]], pixels: Sequence[int], x: V, w: V) -> None:
        k, s = self.k, self.s
        weights = [w.at(4 * self.vl * t).load(self.terms.element.vec(self.vl)) for t in range(s.vectors)]
        for r in pixels:
            value = x.at(r * s.strides[2] * self.x_pixel).load(self.terms.element, 4).splat(self.vl)
            for t in range(s.vectors):
                acc[r][t].set(self.terms.multiplied(k, value, weights[t], acc[r][t].get()))


@generator("conv")
def conv(target: Target, symbol: str, s: ConvSpec) -> Program:
    """A unit is one output row of one group of maps."""
    fields = [("x", PTR), ("w", PTR), ("y", PTR), *[(f"e{i}", PTR) for i in range(len(s.extras))]]
    k = Kernel(symbol, [*fields, *[(name, I64) for name in WORDS]], target.vector_bytes * 8)
    blocks = _Blocks(k, target, s)
    with k.units() as unit:
        blocks.trace(unit)
    return k.finish()
