"""Kernels of Winograd convolution F(m x m, 3 x 3), stride 1 or 2, in the blocked layout.

A tile is m x m outputs; tiles of all images are numbered together and `pixels` of them form a group. Both kernels work
on the groups of one band of tiles, from `first_tile` on; the word tiles is the number one past its last. The input
transform leaves V [group][position][channel block][tile][vl], each position one cache line longer than its data. The
second kernel multiplies a group with weights [map group][weight][channel block][lane][vectors * vl] and transforms
back; positions of odd samples share weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.conv_finish import Finish
from skipjack.kernels.emit import load_as
from skipjack.kernels.launch import generator
from skipjack.kernels.winograd_matrices import Scheme, apply_input, apply_output
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.targets.target import Target

INPUT_WORDS = ("first_tile", "tiles_h", "tiles_w", "blocks", "height", "width", "pad_h", "pad_w")
OUTPUT_WORDS = (
    "first_tile",
    "groups",
    "tiles",
    "tiles_h",
    "tiles_w",
    "blocks",
    "height",
    "width",
    "maps",
    "map_vectors",
)


@dataclass(frozen=True)
class WinogradSpec:
    """What is compiled in: the tiles, tiles per group, channel vectors per block, how outputs end.

    types: of the input (first kernel), or of the output and the extras (second kernel); all f32 when empty.
    """

    scheme: Scheme
    pixels: int
    vectors: int = 1
    extras: str = ""
    masked: bool = False
    epilogue: Expr | None = None
    types: tuple[DType, ...] = ()


def _group_bytes(blocks: V, s: WinogradSpec, vl: int) -> tuple[V, V]:
    """(bytes of one position, bytes of one group) of V."""
    position = blocks * (s.pixels * vl * 4) + 64
    return position, position * s.scheme.samples**2


@generator("winograd_input")
def winograd_input(target: Target, symbol: str, s: WinogradSpec) -> Program:
    """A unit is one tile, all channels."""
    k = Kernel(symbol, [("x", PTR), ("v", PTR), *[(n, I64) for n in INPUT_WORDS]], target.vector_bytes * 8)
    a, vl, n, half = k.arg, target.vl, s.scheme.samples, s.scheme.filtered
    vector, pixel, dtype = F32.vec(vl), 4 * vl, s.types[0] if s.types else DType.F32
    nothing = k.local(pixel)
    nothing.store(k.zero(vector), pixel)
    x_pixel = dtype.itemsize * vl
    with k.units() as unit:
        tile = unit + a.first_tile
        column, rest = tile % a.tiles_w, tile // a.tiles_w
        row, image = rest % a.tiles_h, rest // a.tiles_h
        top, left = row * s.scheme.step - a.pad_h, column * s.scheme.step - a.pad_w
        position, group = _group_bytes(a.blocks, s, vl)
        v = a.v.at((unit // s.pixels) * group + (unit % s.pixels) * pixel)
        plane, row_bytes = a.height * a.width * x_pixel, a.width * x_pixel
        corner = a.x.at(image * a.blocks * plane + top * row_bytes + left * x_pixel)
        rows = [(top + i >= 0) & (top + i < a.height) for i in range(n)]
        columns = [(left + j >= 0) & (left + j < a.width) for j in range(n)]
        whole = rows[0] & rows[-1] & columns[0] & columns[-1]

        def blocks(inside: bool) -> None:
            with k.loop(a.blocks) as b:
                x = corner.at(b * plane)
                out = v.at(b * (s.pixels * pixel))
                d = list[list[V]]()
                for i in range(n):
                    line = x.at(row_bytes * i)
                    places = [line.at(x_pixel * j) for j in range(n)]
                    if not inside:
                        places = [
                            k.emit("select", p.ty, (rows[i] & columns[j], p, nothing)) for j, p in enumerate(places)
                        ]
                    d.append(apply_input(k, s.scheme, [load_as(k, p, dtype, vl) for p in places]))
                    if s.scheme.stride == 2 and i % 2:
                        for j, value in enumerate(d[-1]):
                            out.at(position * ((half + i // 2) * n + j)).store(value)
                for j in range(n):
                    for i, value in enumerate(apply_input(k, s.scheme, [d[i][j] for i in range(n)])[:half]):
                        out.at(position * (i * n + j)).store(value)

        k.branch(whole, lambda: blocks(True), lambda: blocks(False))
    return k.finish()


class _Output:
    """Traces one unit of the second kernel: a group of tiles times one group of maps."""

    def __init__(self, k: Kernel, target: Target, s: WinogradSpec) -> None:
        self.k, self.s, self.a, self.vl = k, s, k.arg, target.vl
        self.vector, self.pixel, self.n = F32.vec(target.vl), 4 * target.vl, s.scheme.samples
        self.m = s.scheme.m
        self.scratch_position = s.vectors * s.pixels * self.pixel + 64

    def multiply(self, v: V, w: V) -> None:
        """Products of all positions to scratch [position][vector][tile][vl]."""
        k, s, a = self.k, self.s, self.a
        w_block = self.vl * s.vectors * self.pixel
        position, _ = _group_bytes(a.blocks, s, self.vl)
        with k.loop(self.n * self.n) as p:
            vp, wp = v.at(p * position), w.at(self._weight(p) * a.blocks * w_block)
            acc = [[k.var(k.zero(self.vector)) for _ in range(s.vectors)] for _ in range(s.pixels)]
            with k.loop(a.blocks) as b:
                vb, wb = vp.at(b * (s.pixels * self.pixel)), wp.at(b * w_block)
                with k.loop(self.vl, 0, 4) as lane:
                    vi, wi = vb.at(lane, 4), wb.at(lane * (s.vectors * self.pixel))
                    for u in range(4):
                        weights = [wi.at((u * s.vectors + t) * self.pixel).load(self.vector) for t in range(s.vectors)]
                        for r in range(s.pixels):
                            x = vi.at(r * self.pixel + 4 * u).load(F32, 4).splat(self.vl)
                            for t in range(s.vectors):
                                acc[r][t].set(k.fma(x, weights[t], acc[r][t]))
            out = k.scratch.at(p * self.scratch_position)
            for r in range(s.pixels):
                for t in range(s.vectors):
                    out.at((t * s.pixels + r) * self.pixel).store(acc[r][t].get())

    def _weight(self, position: V) -> V:
        """The number of a position's weights."""
        if self.s.scheme.stride == 1:
            return position
        k, n, last = self.k, self.n, self.s.scheme.weights - 1
        return k.min(position // n, last) * (last + 1) + k.min(position % n, last)

    def finish(self, group: V, first_vector: V) -> None:
        """Transform scratch back and store what lies inside the image."""
        k, s, a = self.k, self.s, self.a
        first_tile = a.first_tile + group * s.pixels
        with k.loop(k.min(a.tiles - first_tile, s.pixels)) as r:
            tile = first_tile + r
            column, rest = tile % a.tiles_w, tile // a.tiles_w
            row, image = rest % a.tiles_h, rest // a.tiles_h
            with k.loop(k.min(a.map_vectors - first_vector, s.vectors)) as t:
                self._inverse(k.scratch.at((t * s.pixels + r) * self.pixel))
                vector = first_vector + t
                y = ((image * a.map_vectors + vector) * a.height + row * self.m) * a.width + column * self.m
                self._store(y * self.pixel, vector * self.vl, a.height - row * self.m, a.width - column * self.m)

    def _inverse(self, p: V) -> None:
        """One tile's m x m outputs to the start of the local buffer."""
        k, s, n = self.k, self.s, self.n
        half = list[list[V]]()
        for i in range(n):
            line = [p.at((i * n + j) * self.scratch_position).load(self.vector) for j in range(n)]
            half.append(apply_output(k, s.scheme, line))
        for j in range(self.m):
            for i, value in enumerate(apply_output(k, s.scheme, [h[j] for h in half])):
                self._result().at((i * self.m + j) * self.pixel).store(value)

    def _result(self) -> V:
        return self.k.scratch.at(self.n * self.n * self.scratch_position)

    def _store(self, y_bytes: V, first_map: V, rows: V, columns: V) -> None:
        k, s, a = self.k, self.s, self.a
        done = Finish(k, self.vl, s.extras, s.masked, s.epilogue, types=s.types)
        with k.loop(k.min(rows, self.m)) as i:
            at, values = y_bytes + i * a.width * self.pixel, self._result().at(i * (self.m * self.pixel))

            def whole() -> None:
                loaded = [values.at(self.pixel * j).load(self.vector) for j in range(self.m)]
                done.store(loaded, at, first_map, a.maps)

            def part() -> None:
                with k.loop(columns) as j:
                    done.store([values.at(j * self.pixel).load(self.vector)], at + j * self.pixel, first_map, a.maps)

            k.branch(columns >= self.m, whole, part)


@generator("winograd_output")
def winograd_output(target: Target, symbol: str, s: WinogradSpec) -> Program:
    """A unit is one group of tiles times one group of maps; all groups of tiles follow each other."""
    pointers = ["v", "w", "y", *[f"e{i}" for i in range(len(s.extras))]]
    k = Kernel(symbol, [*[(n, PTR) for n in pointers], *[(n, I64) for n in OUTPUT_WORDS]], target.vector_bytes * 8)
    a, out = k.arg, _Output(k, target, s)
    with k.units() as unit:
        group, part = unit % a.groups, unit // a.groups
        _, group_bytes = _group_bytes(a.blocks, s, target.vl)
        w_bytes = a.blocks * (target.vl * s.vectors * 4 * target.vl * s.scheme.weights**2)
        out.multiply(a.v.at(group * group_bytes), a.w.at(part * w_bytes))
        out.finish(group, part * s.vectors)
    positions = s.scheme.samples**2
    return k.finish(positions * out.scratch_position + s.scheme.m**2 * 4 * target.vl)
