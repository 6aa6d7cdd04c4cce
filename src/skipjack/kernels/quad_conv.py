"""Conv of unsigned bytes with constant integer weights over quads: lanes are positions, sums are exact.

A block is four maps times a few vectors of positions. Dense weights are [maps / 4][terms][4 maps][4 channels], sparse
ones rows of (offset, four weights). Terms advance in steps whose inputs stay in L1; sums wait in scratch in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_shape import WindowShape, conv_shape
from skipjack.kernels.dot import broadcast4, dot4
from skipjack.kernels.epilogue import accepts_epilogue, extras_of
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Place, Site, Work, generator, lowering
from skipjack.kernels.positions import FULL, Rows, RowsEpilogue, Words, pack_of, rows_epilogue
from skipjack.kernels.quad_band import BAND_WORDS, Band, BandSpec, copy_band
from skipjack.kernels.quad_conv_pack import (
    Block,
    Geometry,
    TermRows,
    geometry,
    joined,
    live_terms,
    pack_dense,
    parts_of,
    side_by_side,
    sparse_rows,
    summands,
)
from skipjack.kernels.sparsity import zeros_of
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program, Ty
from skipjack.targets.target import Target

_WORDS = (
    "bands", "band_rows", "positions", "out_pixels", "x_image", "x_group", "maps", "map_groups", "terms", "step",
    "steps", "parts", "sum_pitch", "x_scratch", "joined_maps", "joined_bytes", "joined_fours", "fours",
)  # fmt: skip
_CYCLES_PER_US = 3500
_DENSE_BYTES, _SPARSE_BYTES = 24 * 1024, 40 * 1024


@dataclass(frozen=True)
class QuadConvSpec:
    """What is compiled in. band: how inputs are copied, None where they are read in place. apart: several groups.

    sizes: in how many vectors blocks come; the last block of an image has `tail` positions more, at most four.
    """

    sparse: bool
    band: BandSpec | None
    flat: bool
    apart: bool
    ragged: bool
    sizes: tuple[int, ...]
    tail: int
    epilogue: RowsEpilogue


def block_of(target: Target, sparse: bool) -> Block:
    """Accumulators, inputs and four weights fill at most the registers.

    Without an instruction for four products each input takes two registers.
    """
    if sparse:
        return Block(8 if target.registers >= 32 else 6, _SPARSE_BYTES, target.vl)
    if target.registers < 32:
        return Block(2, _DENSE_BYTES, target.vl)
    return Block(6 if target.has("avx512vnni") else 4, _DENSE_BYTES, target.vl)


def sum_bytes(b: Block) -> int:
    """Sums of one map: a block and the positions that are more."""
    return (b.vectors + 1) * b.lanes * 4


@dataclass(frozen=True)
class Tile:
    """Some vectors of positions of a band, from `position` on; the band has `count` of them. last: of the band."""

    position: V
    vectors: V
    count: V
    last: V


@dataclass(frozen=True)
class _Step:
    """One step of the terms of four maps: inputs of the tile, number of the step, of the four maps, where sums wait."""

    x: V
    step: V
    group: V
    sums: V


class _Unit:
    """Traces one part of the maps over one band of one image."""

    def __init__(self, k: Kernel, target: Target, s: QuadConvSpec) -> None:
        self.k, self.target, self.s, self.a = k, target, s, k.arg
        self.block = block_of(target, s.sparse)
        self.lanes = target.vl
        self.vector = I32.vec(self.lanes)
        self.vector_bytes = 4 * self.lanes
        self.pitch = sum_bytes(self.block)

    def trace(self, unit: V) -> None:
        k, a = self.k, self.a
        part, rest = unit % a.parts, unit // a.parts
        band, self.image = rest % a.bands, rest // a.bands
        self.group_lo, self.group_hi = (a.cuts.at(part + i, 8).load(I64, 8) for i in range(2))
        self.first = band * a.positions
        count = k.min(a.positions, a.out_pixels - self.first)
        x = a.x.at(self.image * a.x_image)
        if self.s.band is None:
            x = x.at(self.first, 4)
        else:
            row = self.first if self.s.flat else band * a.band_rows
            x = self._copied(self.s.band, x, row)
        vectors = count // self.lanes if self.s.tail else (count + (self.lanes - 1)) // self.lanes
        most = self.block.most(self.s.tail)
        tiles = (vectors + (most - 1)) // most
        with k.loop(tiles) as tile:
            low = tile * vectors // tiles
            t = Tile(low * self.lanes, (tile + 1) * vectors // tiles - low, count, tile.eq(tiles - 1))
            self._tile(x.at(low * self.vector_bytes), t)

    def _copied(self, band: BandSpec, x: V, row: V) -> V:
        """Where the copy of the first channels would lie; only those that this part reads are copied."""
        k, a, scratch = self.k, self.a, self.k.scratch.at(self.a.x_scratch)
        if not self.s.apart:
            copy_band(k, self.lanes, band, Band(x, row, scratch, k.i64(0), a.fours))
            return scratch
        first = self.group_lo // a.joined_maps
        last = (self.group_hi + a.joined_maps - 1) // a.joined_maps
        fours = k.min(last * a.joined_fours, a.fours)
        copy_band(k, self.lanes, band, Band(x, row, scratch, first * a.joined_fours, fours))
        return scratch.at(0 - first * a.joined_bytes)

    def _tile(self, x: V, tile: Tile) -> None:
        k, a = self.k, self.a
        with k.loop(a.steps) as step, k.loop(self.group_hi, self.group_lo) as group:
            sums = k.scratch.at((group - self.group_lo) * a.sum_pitch)
            own = x.at(group // a.joined_maps * a.joined_bytes) if self.s.apart else x
            block = _Step(own, step, group, sums)
            if self.s.tail:
                k.branch(
                    tile.last,
                    lambda block=block: self._choose(tile.vectors, block, True),
                    lambda block=block: self._choose(tile.vectors, block, False),
                )
            else:
                self._choose(tile.vectors, block, False)
            with k.when(step.eq(a.steps - 1)):
                self._finish(sums, group * 4, tile)

    def _choose(self, vectors: V, block: _Step, tail: bool) -> None:
        """The block of as many vectors as there are."""

        def one(low: int, high: int) -> None:
            middle = (low + high) // 2
            if low < high:
                self.k.branch(vectors <= sizes[middle], lambda: one(low, middle), lambda: one(middle + 1, high))
            elif self.s.sparse:
                self._sparse(sizes[low], block)
            else:
                self._dense(sizes[low], block, tail)

        # The last block is never smaller than another one.
        sizes = self.s.sizes[-1:] if tail else self.s.sizes
        one(0, len(sizes) - 1)

    def _dense(self, count: int, b: _Step, tail: bool) -> None:
        k, a, wide = self.k, self.a, self.vector_bytes
        rows = [b.sums.at(r * self.pitch) for r in range(4)]
        acc = [[k.var(k.zero(self.vector)) for _ in range(count)] for _ in rows]
        places = [[p.at(t * wide) for t in range(count)] for p in rows]
        if tail:
            # Four positions of four maps: neighbouring lanes are maps.
            acc[0].append(k.var(k.zero(self.vector)))
            places[0].append(rows[0].at(count * wide))
        held = [pair for row in zip(acc, places, strict=True) for pair in zip(*row, strict=True)]
        with k.when(b.step > 0):
            for total, p in held:
                total.set(p.load(self.vector))
        first = b.step * a.step
        with k.loop(k.min(first + a.step, a.terms), first) as term:
            inputs = b.x.at(a.offsets.at(term, 4).load(I32))
            weights_at = a.w.at((b.group * a.terms + term) * 16)
            weights = [broadcast4(weights_at.at(4 * r), self.lanes) for r in range(4)]
            for t in range(count):
                value = inputs.at(t * wide).load(self.vector)
                for r, w in enumerate(weights):
                    acc[r][t].set(dot4(k, self.target, acc[r][t].get(), value, w))
            if tail:
                value = inputs.at(count * wide).load(I32.vec(4)).shuffle([i // 4 for i in range(16)])
                four = weights_at.load(I32.vec(4)).shuffle([i % 4 for i in range(16)])
                acc[0][count].set(dot4(k, self.target, acc[0][count].get(), value, four))
        for total, p in held:
            p.store(total.get())
        if tail:
            with k.when(b.step.eq(a.steps - 1)):
                for r, p in enumerate(rows):
                    p.at(count * wide).store(acc[0][count].get().shuffle([4 * (i % 4) + r for i in range(16)]))

    def _sparse(self, count: int, b: _Step) -> None:
        k, a = self.k, self.a
        with k.loop(4) as r:
            place = b.sums.at(r * self.pitch)
            acc = [k.var(k.zero(self.vector)) for _ in range(count)]
            with k.when(b.step > 0):
                for t, total in enumerate(acc):
                    total.set(place.at(t * self.vector_bytes).load(self.vector))
            starts = a.starts.at((b.step * a.map_groups + b.group) * 4 + r, 4)
            with k.loop(starts.at(4).load(I32).sext(I64), starts.load(I32).sext(I64)) as entry:
                at = a.w.at(entry, 8)
                inputs, w = b.x.at(at.load(I32)), broadcast4(at.at(4), self.lanes)
                for t, total in enumerate(acc):
                    value = inputs.at(t * self.vector_bytes).load(self.vector)
                    total.set(dot4(k, self.target, total.get(), value, w))
            for t, total in enumerate(acc):
                place.at(t * self.vector_bytes).store(total.get())

    def _finish(self, sums: V, row: V, tile: Tile) -> None:
        """The epilogue of four maps."""
        k, a, e = self.k, self.a, self.s.epilogue
        for r in range(0, 4, e.wide):
            end = Rows(k, e, self.lanes, row + r, a.maps, self.s.ragged)

            def store(t: V, here: V, mask: V | None, r: int = r, end: Rows = end) -> None:
                acc = [sums.at((r + i) * self.pitch + t * self.vector_bytes).load(self.vector) for i in range(e.wide)]
                at = self.first + here
                places = [self._words(getattr(a, f"e{i}"), d, row + r, at) for i, (_, d) in _full(e)]
                end.store(acc, self._words(a.y, e.output, row + r, at), places, mask)

            vectors = tile.vectors + k.select(tile.last, k.i64(1), 0) if self.s.tail else tile.vectors
            with k.loop(vectors) as t:
                here = tile.position + t * self.lanes
                k.branch(
                    here + self.lanes <= tile.count,
                    lambda t=t, here=here, store=store: store(t, here, None),
                    lambda t=t, here=here, store=store: store(t, here, k.below(tile.count - here, self.lanes)),
                )

    def _words(self, p: V, dtype: DType, row: V, position: V) -> Words:
        """Where a position of a map lies in an image of the output's shape."""
        a, pack = self.a, pack_of(dtype)
        planes = a.map_groups if pack == 4 else a.maps
        plane = self.image * planes + (row.sar(2) if pack == 4 else row)
        return Words(p.at((plane * a.out_pixels + position) * 4), a.out_pixels * 4)


def _full(e: RowsEpilogue) -> list[tuple[int, tuple[str, DType]]]:
    return [(i, extra) for i, extra in enumerate(e.extras) if extra[0] == FULL]


@generator("quad_conv")
def quad_conv(target: Target, symbol: str, s: QuadConvSpec) -> Program:
    """A unit is one part of the maps over one band of one image."""
    table = "starts" if s.sparse else "offsets"
    fields: list[tuple[str, Ty]] = [("x", PTR), ("w", PTR), (table, PTR), ("cuts", PTR), *s.epilogue.fields()]
    names = (*_WORDS, *(BAND_WORDS if s.band is not None else ()))
    k = Kernel(symbol, [*fields, *((name, I64) for name in names)], 8 * target.vector_bytes)
    one = _Unit(k, target, s)
    with k.units() as unit:
        one.trace(unit)
    return k.finish()


def _lower(sparse: bool) -> Callable[[Work], list[Launch]]:
    def lower(work: Work) -> list[Launch]:
        s = conv_shape(work)
        if not work.output().elements:
            return []
        g = geometry(s, block_of(work.target, sparse), work.threads)
        return [_launch(work, g, sparse)]

    return lower


def _tables(work: Work, g: Geometry, sparse: bool) -> tuple[Place, Place]:
    """Packed weights and the table beside them."""
    w, memory, offsets, group = work.input(1), work.memory, g.offsets(), g.s.group
    assert w.value is not None, "only constant weights are accepted"
    if not sparse:
        table = memory.constant(np.repeat(offsets, summands(w.value)))
        return memory.packed(w, f"quads {group}", lambda v: pack_dense(side_by_side(v, g.joined, group))), table
    made: list[TermRows] = []

    def rows(v: np.ndarray) -> TermRows:
        if not made:
            made.append(sparse_rows(v, offsets, g.step))
        return made[0]

    key = f"{g.step} {g.group_bytes} {g.width} {g.phase_rows}"
    entries = memory.packed(w, f"quad rows {key}", lambda v: rows(v).entries)
    return entries, memory.packed(w, f"quad starts {g.step}", lambda v: rows(v).starts)


def _amounts(work: Work, g: Geometry, sparse: bool) -> np.ndarray:
    """How much every group of four maps takes."""
    w = work.input(1).value
    assert w is not None, "only constant weights are accepted"
    return live_terms(w) + 1 if sparse else np.ones(-(-g.s.maps // 4))


def _sizes(g: Geometry, terms: int, parts: np.ndarray) -> dict[str, int]:
    """The argument words of the kernel."""
    s, j = g.s, g.joined
    size, steps = s.size[1] * s.size[2] * 4, -(-terms // g.step)
    pitch = 4 * sum_bytes(g.block)
    most = int(np.diff(parts).max()) if steps > 1 else 1
    fours = -(-s.channels // 4)
    return {
        "bands": g.bands, "band_rows": g.rows, "positions": g.positions, "out_pixels": s.pixels,
        "x_image": fours * size, "x_group": size, "maps": s.maps, "map_groups": -(-s.maps // 4),
        "terms": terms, "step": g.step, "steps": steps, "parts": len(parts) - 1,
        "sum_pitch": pitch if steps > 1 else 0, "x_scratch": -(-most * pitch // 64) * 64,
        "joined_maps": -(-j.maps // 4), "joined_bytes": j.fours * g.group_bytes, "joined_fours": j.fours,
        "fours": fours,
    }  # fmt: skip


def _launch(work: Work, g: Geometry, sparse: bool) -> Launch:
    x, y, w = work.input(0), work.output(), work.input(1)
    packed, table = _tables(work, g, sparse)
    parts = parts_of(g, lambda: _amounts(work, g, sparse), work.threads)
    assert w.value is not None, "only constant weights are accepted"
    sizes = _sizes(g, g.terms * (1 if sparse else summands(w.value)), parts)
    tail = 0 if sparse else g.tail
    spec = QuadConvSpec(sparse, _band(g), g.flat, g.apart, g.s.maps % 4 != 0, g.sizes(tail), tail, rows_epilogue(work))
    extras = [b.place for b in extras_of(work)]
    words = [sizes[name] for name in _WORDS]
    if spec.band is not None:
        words += _band_words(g, int(work.attr("pad_code", 0)))
    cuts = work.memory.constant(parts)
    reads = (x.place, packed, table, cuts, *extras)
    units = g.s.batch * g.bands * (len(parts) - 1)
    places = (x.place, packed, table, cuts, y.place, *extras)
    scratch = sizes["x_scratch"] + g.copy_bytes
    return Launch(KernelSpec("quad_conv", (spec,)), units, (*places, *words), reads, (y.place,), scratch)


def _band(g: Geometry) -> BandSpec | None:
    if not g.copied:
        return None
    return BandSpec(1, (0,), True) if g.flat else BandSpec(g.s.strides[2], g.phases, False)


def _band_words(g: Geometry, pad_code: int) -> list[int]:
    s = g.s
    height, width = (1, s.pixels) if g.flat else s.size[1:]
    words = {
        "columns": g.kernel[1], "phase_rows": g.phase_rows, "width": g.width,
        "in_height": height, "in_width": width, "row_step": 1 if g.flat else s.strides[1],
        "column_step": 0 if g.flat else s.dilations[2], "pad_top": 0 if g.flat else s.before[1],
        "pad_left": 0 if g.flat else s.before[2], "copy_group": g.group_bytes, "pad_word": pad_code * 0x01010101,
    }  # fmt: skip
    return [words[name] for name in BAND_WORDS]


def integer_conv(site: Site) -> str:
    """Empty when a node convolves unsigned bytes with constant integers over at most two spatial axes."""
    x, w, y = site.inputs[0], site.inputs[1], site.outputs[0]
    if x is None or w is None or y is None or x.dtype is not DType.U8 or w.dtype not in (DType.I8, DType.I16):
        return "not unsigned bytes with integer weights"
    if site.constants[1] is None or not site.constants[1].size:
        return "its weight is not constant"
    if x.rank not in (3, 4):
        return "one or two spatial axes"
    if not isinstance(site.node.attrs.get("epilogue"), Expr):
        return "no epilogue says what becomes of the sums"
    for t, value in ((y, None), *zip(site.inputs[2:], site.constants[2:], strict=True)):
        if t is not None and t.dtype.itemsize not in (1, 4):
            return f"elements of {t.dtype.value} beside the sums"
        if value is not None and value.ndim > 1 and value.itemsize == 1:
            return "a constant image of bytes beside the sums"
    return accepts_epilogue(site)


def _accepts(site: Site) -> str:
    if reason := integer_conv(site):
        return reason
    w, group = site.constants[1], int(site.node.attrs.get("group", 1))  # type: ignore[arg-type]
    assert w is not None, "integer_conv lets only constant weights pass"
    return "" if joined(w.shape[1] * group, w.shape[0], group) else "groups that do not fill fours of maps"


def _accepts_sparse(site: Site) -> str:
    return "more than one group" if site.node.attrs.get("group", 1) != 1 else _accepts(site)


@dataclass(frozen=True)
class _Rates:
    """Cycles: one vector's four products with dense and with sparse weights."""

    dense: float
    sparse: float


def _rates(target: Target) -> _Rates:
    if target.has("avx512vnni"):
        return _Rates(1.02, 1.4)
    return _Rates(2.6, 3.3) if target.vl >= 16 else _Rates(2.0, 2.4)


def _copy_cycles(s: WindowShape, lanes: int) -> float:
    """Copying the bands of an image."""
    if s.is_pointwise():
        return 0.0
    phases = len({t * s.dilations[1] % s.strides[1] for t in range(s.kernel[1])})
    rows = -(-s.channels // 4) * s.kernel[2] * phases * (s.out[1] + 2)
    return rows * -(-s.out[2] // lanes) * (8.0 if s.strides[2] == 1 else 20.0)


def _cost(sparse: bool) -> Callable[[Work], float]:
    def cost(work: Work) -> float:
        s, target, w = conv_shape(work), work.target, work.input(1).value
        j = joined(s.channels, s.maps, s.group)
        if w is None or j is None:
            return float("inf")
        lanes, rates, groups = target.vl, _rates(target), -(-s.maps // 4)
        ends = 28.0 * groups + 12.0 * groups * sum(len(b.shape) > 1 for b in extras_of(work))
        vectors = -(-s.pixels // lanes)
        if sparse:
            tile = min(max(vectors, 1), block_of(target, True).vectors)
            steps = -(-j.fours * s.taps * tile * lanes * 4 // _SPARSE_BYTES)
            per_vector = zeros_of(w).live_quads * rates.sparse + 4 * groups * steps * (20 / tile + 2) + ends
            cycles = vectors * per_vector
        else:
            terms = j.fours * s.taps * summands(w)
            cycles = vectors * ends + (s.pixels / lanes + 0.1) * groups * 4 * terms * rates.dense
        return s.batch * (cycles + _copy_cycles(s, lanes)) / _CYCLES_PER_US

    return cost


lowering(Lowering("quad_conv_dense", SKIPJACK, "Conv", _accepts, _lower(False), "quads", 20, cost=_cost(False)))
lowering(
    Lowering(
        "quad_conv_sparse", SKIPJACK, "Conv", _accepts_sparse, _lower(True), "quads", 19, _cost(True), encoding="fours"
    )
)
