"""Conv of unsigned bytes over quads on matrix tiles: windows are gathered into a column tile, which is multiplied.

A unit is 64 positions of an image times a group of blocks of maps. The depth runs over taps, and over channels within a
tap. A tap outside the image reads the code that padding counts as.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels import vector_math as vm
from skipjack.kernels.amx_products import (
    DENSE,
    DOTS,
    PITCH,
    STEP_BYTES,
    Products,
    Shape,
    Terms,
    groups_of,
    pack,
    parts_of,
    products_us,
    sums_bytes,
)
from skipjack.kernels.conv_shape import WindowShape, conv_shape
from skipjack.kernels.epilogue import extras_of
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.positions import FULL, Rows, RowsEpilogue, Words, pack_of, rows_epilogue
from skipjack.kernels.quad_conv import integer_conv
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program
from skipjack.lang.tiles import TILE_ROWS
from skipjack.targets.target import Target

_UNITS_PER_THREAD = 3
_GATHERED_US, _COPIED_US = 0.025, 0.003
_WORDS = (
    "tiles", "groups", "blocks", "parts", "maps", "out_pixels", "fours", "x_four", "height", "width", "pad_word",
)  # fmt: skip


@dataclass(frozen=True)
class AmxConvSpec:
    """What is compiled in. steps between taps are (down, right) in pixels; in_line: neighbouring positions may be
    neighbouring pixels. ragged: maps are no multiple of what is finished together.
    """

    shape: Shape
    kernel: tuple[int, int]
    dilations: tuple[int, int]
    in_line: bool
    ragged: bool
    epilogue: RowsEpilogue


def window_matrix(w: np.ndarray) -> np.ndarray:
    """[M, C, taps...] as [taps * C / 4 * 4, M], channels filled up with zeros."""
    m, c = w.shape[:2]
    full = np.zeros((m, -(-c // 4) * 4, int(np.prod(w.shape[2:]))), w.dtype)
    full[:, :c] = w.reshape(m, c, -1)
    return np.ascontiguousarray(full.transpose(2, 1, 0).reshape(-1, m))


def origins(s: WindowShape) -> np.ndarray:
    """The row and the column that the first tap of every output position reads, [2][positions up to whole tiles].

    Positions that only fill a tile up lie far outside the image.
    """
    tiles = -(-s.pixels // TILE)
    found = np.full((2, tiles * TILE), -(1 << 30), np.int32)
    rows, columns = np.divmod(np.arange(s.pixels), s.out[2])
    found[0, : s.pixels] = rows * s.strides[1] - s.before[1]
    found[1, : s.pixels] = columns * s.strides[2] - s.before[2]
    return found


class _Unit:
    """Traces one unit of work."""

    def __init__(self, k: Kernel, target: Target, s: AmxConvSpec) -> None:
        self.k, self.a, self.s, self.lanes = k, k.arg, s, target.vl
        self.products = Products(k, DOTS[DType.U8], s.shape)
        self.block_bytes = s.shape.height * PITCH
        self.windows_at = sums_bytes(s.shape)
        self.vector = I32.vec(self.lanes)

    def trace(self, unit: V) -> None:
        k, a = self.k, self.a
        group, rest = unit % a.groups, unit // a.groups
        index, self.image = rest % a.tiles, rest // a.tiles
        self.first = index * TILE
        windows = k.scratch.at(self.windows_at)
        with k.loop(TILE, 0, self.lanes) as position:
            self._gather(position, windows)
        low, high = group * a.blocks // a.groups, (group + 1) * a.blocks // a.groups
        with k.loop(a.parts) as part, k.loop(high, low) as block:
            sums = k.scratch.at((block - low) * self.block_bytes)
            self.products.add(Terms(a.w, windows, a.parts, part, block, sums))
            with k.when(part.eq(a.parts - 1)):
                self._finish(block, sums)

    def _gather(self, position: V, windows: V) -> None:
        """One vector of positions of every tap and four channels."""
        k, a, ty = self.k, self.a, self.vector
        at = a.origins.at(self.first + position, 4)
        top, left = at.load(ty), at.at(a.tiles * (4 * TILE)).load(ty)
        height, width = (n.trunc(I32).splat(self.lanes) for n in (a.height, a.width))
        pad = a.pad_word.trunc(I32).splat(self.lanes)
        x = a.x.at(self.image * a.fours * a.x_four)
        for tap in np.ndindex(*self.s.kernel):
            row, column = top + tap[0] * self.s.dilations[0], left + tap[1] * self.s.dilations[1]
            inside = row.ult(height) & column.ult(width)
            offsets = (k.select(inside, row * width + column, 0) << 2).sext(I64)
            number = tap[0] * self.s.kernel[1] + tap[1]
            out = windows.at(a.fours * (number * PITCH) + position * 4)

            def gathered(offsets: V = offsets, inside: V = inside, out: V = out) -> None:
                with k.loop(a.fours) as four:
                    value = x.at(four * a.x_four).gather(ty, offsets, inside)
                    out.at(four * PITCH).store(k.select(inside, value, pad))

            def copied(offsets: V = offsets, out: V = out) -> None:
                line = x.at(offsets.extract(0))
                with k.loop(a.fours) as four:
                    out.at(four * PITCH).store(line.at(four * a.x_four).load(ty))

            if self.s.in_line:
                whole = vm.any_lane(k, inside ^ 1).eq(0)
                neighbours = (offsets.extract(self.lanes - 1) - offsets.extract(0)).eq(4 * (self.lanes - 1))
                k.branch(whole & neighbours, copied, gathered)
            else:
                gathered()

    def _finish(self, block: V, sums: V) -> None:
        """The epilogue of a block."""
        k, a, e = self.k, self.a, self.s.epilogue
        first = block * self.s.shape.height
        full = [(getattr(a, f"e{i}"), dtype) for i, (kind, dtype) in enumerate(e.extras) if kind == FULL]
        with k.loop(k.min(a.maps - first, self.s.shape.height), 0, e.wide) as r:
            row = first + r
            end = Rows(k, e, self.lanes, row, a.maps, self.s.ragged)

            def store(position: V, mask: V | None, r: V = r, row: V = row, end: Rows = end) -> None:
                values = [sums.at((r + i) * PITCH + position * 4).load(self.vector) for i in range(e.wide)]
                places = [self._words(p, dtype, row, position) for p, dtype in full]
                end.store(values, self._words(a.y, e.output, row, position), places, mask)

            count = k.min(a.out_pixels - self.first, TILE)
            with k.loop(count, 0, self.lanes) as position:
                k.branch(
                    position + self.lanes <= count,
                    lambda position=position, store=store: store(position, None),
                    lambda position=position, store=store: store(position, k.below(count - position, self.lanes)),
                )

    def _words(self, p: V, dtype: DType, row: V, position: V) -> Words:
        """Where a position of a map lies in an image of the output's shape."""
        a, packed = self.a, pack_of(dtype)
        planes = (a.maps + (packed - 1)) // packed
        plane = self.image * planes + row // packed
        return Words(p.at((plane * a.out_pixels + self.first + position) * 4), a.out_pixels * 4)


@generator("amx_conv")
def amx_conv(target: Target, symbol: str, s: AmxConvSpec) -> Program:
    """A unit is 64 positions of an image times one group of blocks."""
    fields = [("x", PTR), ("w", PTR), ("origins", PTR), *s.epilogue.fields(), *((name, I64) for name in _WORDS)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    unit = _Unit(k, target, s)
    with unit.products.tiles.configured(), k.units() as index:
        unit.trace(index)
    return k.finish()


def _lower(work: Work) -> list[Launch]:
    s, e, shape = conv_shape(work), rows_epilogue(work), DENSE
    x, w, y = work.input(0), work.input(1), work.output()
    if not y.elements:
        return []
    fours, tiles = -(-s.channels // 4), -(-s.pixels // TILE)
    steps = -(-fours * s.taps // TILE_ROWS)
    blocks = -(-s.maps // shape.height)
    wanted = 1 if work.threads == 1 else _UNITS_PER_THREAD * work.threads
    groups = groups_of(blocks, shape, s.batch * tiles, wanted)
    packed = work.memory.packed(w, "amx windows", lambda a: pack(window_matrix(a), shape.rows, False))
    table = work.memory.constant(origins(s))
    extras = [b.place for b in extras_of(work)]
    kernel, dilations = (s.kernel[1], s.kernel[2]), (s.dilations[1], s.dilations[2])
    spec = AmxConvSpec(shape, kernel, dilations, s.strides[2] == 1, s.maps % e.wide != 0, e)
    pad_word = int(work.attr("pad_code", 0)) * 0x01010101
    pixels = s.size[1] * s.size[2]
    numbers = (
        tiles, groups, blocks, parts_of(steps), s.maps, s.pixels, fours, 4 * pixels, s.size[1], s.size[2], pad_word,
    )  # fmt: skip
    words = (x.place, packed, table, y.place, *extras, *numbers)
    scratch = sums_bytes(shape) + steps * STEP_BYTES
    reads = (x.place, packed, table, *extras)
    return [Launch(KernelSpec("amx_conv", (spec,)), s.batch * tiles * groups, words, reads, (y.place,), scratch)]


def _accepts(site: Site) -> str:
    if not site.target.has("amx-int8"):
        return "this CPU has no tile products of bytes"
    if reason := integer_conv(site):
        return reason
    w = site.constants[1]
    assert w is not None, "integer_conv lets only constant weights pass"
    if w.dtype != np.int8:
        return "weights wider than a byte"
    return "more than one group" if site.node.attrs.get("group", 1) != 1 else ""


def _us(work: Work) -> float:
    s, w = conv_shape(work), work.input(1).value
    assert w is not None, "only constant weights are accepted"
    tiles = s.batch * -(-s.pixels // TILE)
    copied = _COPIED_US if s.strides[2] == 1 else _GATHERED_US
    products = products_us(tiles * (TILE // TILE_ROWS), w.reshape(len(w), -1).T, False)
    return products + tiles * s.taps * -(-s.channels // 4) * copied


AMX_CONV = lowering(Lowering("amx_conv", SKIPJACK, "Conv", _accepts, _lower, "quads", 30, _us))
