"""Conv on plain images that skips zero weights: lanes are output positions, a weight is one entry of a stream.

A unit is a tile (pointwise) or a band of tiles of one image, times a part of the maps. Blocks of channels advance
outside, maps inside; accumulators wait in scratch between blocks. Every output is one chain of fused multiply-adds in
the order of channels, so its bits depend on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_direct import CYCLES_PER_US
from skipjack.kernels.conv_shape import WindowShape, conv_shape
from skipjack.kernels.epilogue import accepts_epilogue, extras_of
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.plain_rows import plain_misfit
from skipjack.kernels.positions import FULL, Rows, RowsEpilogue, Words, rows_epilogue
from skipjack.kernels.sparse_conv_pack import (
    BAND,
    DIRECT,
    ENTRY_BYTES,
    TILE,
    Geometry,
    choose,
    fits_offsets,
    pack,
    pointwise_row,
    streams,
)
from skipjack.kernels.sparsity import zeros_of
from skipjack.kernels.window_copy import WindowCopy
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F32, I32, I64, PTR, Program
from skipjack.targets.target import Target

_WORDS = ("channels", "maps", "parts")
_INLINE_FUNCTIONS = 6
_BYTES_PER_US = 45_000.0
_UNITS_PER_THREAD = 4


@dataclass(frozen=True)
class SparseConvSpec:
    """What is compiled in: everything but the numbers of images, maps and channels."""

    geometry: Geometry
    epilogue: RowsEpilogue


@dataclass(frozen=True)
class _Tile:
    """Where a tile lies: its inputs for this block, its first output byte in a map, its accumulators."""

    x: V
    y: V
    kept: V
    rows: int
    columns: int


@dataclass(frozen=True)
class _Part:
    """The maps [first, stop) and, for one block of channels, their entries and counts."""

    block: V
    first: V
    stop: V
    entries: V
    counts: V


class _Unit:
    """Traces one unit of work."""

    def __init__(self, k: Kernel, spec: SparseConvSpec) -> None:
        self.k, self.a, self.g, self.e = k, k.arg, spec.geometry, spec.epilogue
        self.vector = F32.vec(self.g.lanes)
        self.plane_in = self.g.s.size[1] * self.g.s.size[2] * 4
        self.plane_out = self.g.height * self.g.columns * 4
        self.inline = functions(self.e.expr) <= _INLINE_FUNCTIONS

    def trace(self, unit: V) -> None:
        k, a, g = self.k, self.a, self.g
        part, rest = unit % a.parts, unit // a.parts
        at, image = rest % g.units, rest // g.units
        image_x = a.x.at(image * a.channels * self.plane_in)
        self.image_y = image * a.maps * self.plane_out
        self.down, self.across = at // g.units_across * g.down, at % g.units_across * g.across
        first, stop = (a.firsts.at(part + i, 8).load(I64) for i in range(2))
        with k.loop(a.blocks) as block:
            start = a.starts.at(block * a.parts + part, 8).load(I64)
            entries = a.entries.at(start, ENTRY_BYTES)
            here = _Part(block, first, stop, entries, a.counts.at(block * a.maps, 4))
            channel = block * g.block
            channels = k.min(a.channels - channel, g.block)
            if g.source == BAND:
                self._band(image_x.at(channel * self.plane_in), channels, here)
            else:
                self._pointwise(image_x, channel, channels, here)

    def _pointwise(self, image: V, channel: V, channels: V, part: _Part) -> None:
        k, g = self.k, self.g
        with k.loop(k.min(self.across + g.across, g.tiles_across), self.across) as at:
            place = at * (g.width * 4)
            x, kept = image.at(place), self._kept(at - self.across, part)

            def tile(columns: int, x: V = x, place: V = place, kept: V = kept) -> None:
                source = x
                if g.source == TILE:
                    self._copied(x.at(channel * self.plane_in), channels, columns)
                    source = k.scratch
                self._maps(_Tile(source, place, kept, 1, columns), part)

            self._either(at, g.columns, g.width, tile)

    def _copied(self, x: V, channels: V, columns: int) -> None:
        """The tile's positions of a block of channels, next to each other in scratch."""
        k, g, lanes = self.k, self.g, self.g.lanes
        with k.loop(channels) as c:
            source, to = x.at(c * self.plane_in), k.scratch.at(c * g.channel_bytes)
            for first in range(0, columns, lanes):
                mask = self._mask(columns - first)
                p = source.at(4 * first)
                to.at(4 * first).store(p.load(self.vector) if mask is None else p.load_masked(self.vector, mask))

    def _band(self, x: V, channels: V, part: _Part) -> None:
        k, g = self.k, self.g
        stop = k.min(self.down + g.down, g.tiles_down)
        rows = (k.min(stop * g.rows, g.height) - self.down * g.rows - 1) * g.tile_row_step + g.copied_rows(1)
        first_row = self.down * (g.rows * g.s.strides[1]) - g.s.before[1]
        WindowCopy(k, g).copy(x, channels, first_row, rows, self.across if g.units_across > 1 else None)
        end = k.min(self.across + g.across, g.tiles_across)
        with k.loop(stop, self.down) as down, k.loop(end, self.across) as across:
            self._band_tile(down, across, part)

    def _band_tile(self, down: V, across: V, part: _Part) -> None:
        k, g = self.k, self.g
        below, beside = down - self.down, across - self.across
        x = k.scratch.at(below * (g.rows * g.tile_row_step * g.row_bytes)).at(beside * g.across_bytes)
        y = (down * (g.rows * g.columns) + across * g.width) * 4
        kept = self._kept(below * g.across + beside, part)

        def tall(rows: int) -> None:
            self._either(across, g.columns, g.width, lambda n: self._maps(_Tile(x, y, kept, rows, n), part))

        self._either(down, g.height, g.rows, tall)

    def _kept(self, tile: V, part: _Part) -> V:
        """The accumulators of a tile of the unit."""
        return self.k.scratch.at(self.g.copy_bytes).at(tile * (part.stop - part.first) * self.g.tile_bytes)

    def _either(self, index: V, total: int, step: int, body: Callable[[int], None]) -> None:
        """body(how many of `total` the piece `index` of `step` holds)."""
        whole, rest = total // step, total % step
        if whole and rest:
            self.k.branch(index < whole, lambda: body(step), lambda: body(rest))
        else:
            body(step if whole else rest)

    def _mask(self, columns: int) -> V | None:
        """The mask of a vector of which only the first `columns` lanes are wanted."""
        return None if columns >= self.g.lanes else self.k.below(self.k.i64(columns), self.g.lanes)

    def _maps(self, tile: _Tile, part: _Part) -> None:
        """All maps of a part on one tile for one block of channels."""
        k, g = self.k, self.g
        places = [(r, c) for r in range(tile.rows) for c in range(0, tile.columns, g.lanes)]
        entry = k.var(part.entries)
        with k.loop(part.stop, part.first) as m:
            kept = tile.kept.at((m - part.first) * g.tile_bytes)
            acc = [k.var(k.zero(self.vector)) for _ in places]
            with k.when(part.block.ne(0)):
                for total, (r, c) in zip(acc, places):
                    total.set(kept.at((r * g.width + c) * 4).load(self.vector))
            with k.loop(part.counts.at(m, 4).load(I32).sext(I64)):
                self._entry(tile, entry, acc, places)
            done = part.block.eq(self.a.blocks - 1)
            if self.inline:
                finish = lambda: self._finish(tile, m, [v.get() for v in acc], places)  # noqa: E731
                k.branch(done, finish, lambda: self._keep(kept, acc, places))
            else:
                self._keep(kept, acc, places)
                with k.when(done):
                    self._finish_kept(tile, m, kept)

    def _entry(self, tile: _Tile, entry: Var, acc: list[Var], places: list[tuple[int, int]]) -> None:
        k, g = self.k, self.g
        x = tile.x.at(entry.get().load(I32))
        weight = entry.get().at(4).load(F32).splat(g.lanes)
        for total, (r, c) in zip(acc, places):
            at = x.at(r * g.tile_row_step * g.row_bytes + c * 4)
            mask = self._mask(tile.columns - c) if g.source == DIRECT else None
            v = at.load(self.vector) if mask is None else at.load_masked(self.vector, mask)
            total.set(k.fma(weight, v, total.get()))
        entry.set(entry.get().at(ENTRY_BYTES))

    def _keep(self, kept: V, acc: list[Var], places: list[tuple[int, int]]) -> None:
        for total, (r, c) in zip(acc, places):
            kept.at((r * self.g.width + c) * 4).store(total.get())

    def _finish(self, tile: _Tile, m: V, acc: list[V], places: list[tuple[int, int]]) -> None:
        rows = Rows(self.k, self.e, self.g.lanes, m, self.a.maps, False)
        start = self._output(tile, m)
        for value, (r, c) in zip(acc, places):
            self._store(rows, value, start + (r * self.g.columns + c) * 4, self._mask(tile.columns - c))

    def _finish_kept(self, tile: _Tile, m: V, kept: V) -> None:
        """The same from scratch, in a loop: for long epilogues, which would fill registers and code."""
        k, g, lanes = self.k, self.g, self.g.lanes
        rows = Rows(k, self.e, lanes, m, self.a.maps, False)
        start, whole = self._output(tile, m), tile.columns // lanes * lanes
        with k.loop(tile.rows) as r:
            line, to = kept.at(r * (g.width * 4)), start + r * (g.columns * 4)
            with k.loop(whole, 0, lanes) as c:
                self._store(rows, line.at(c, 4).load(self.vector), to + c * 4, None)
            if whole < tile.columns:
                value = line.at(whole * 4).load(self.vector)
                self._store(rows, value, to + whole * 4, self._mask(tile.columns - whole))

    def _output(self, tile: _Tile, m: V) -> V:
        """The byte of the output at which the tile begins in map m."""
        return self.image_y + m * self.plane_out + tile.y

    def _store(self, rows: Rows, value: V, offset: V, mask: V | None) -> None:
        a = self.a
        full = [Words(getattr(a, f"e{i}").at(offset), 0) for i, (kind, _) in enumerate(self.e.extras) if kind == FULL]
        rows.store([value], Words(a.y.at(offset), 0), full, mask)


def functions(expr: Expr | None) -> int:
    """How many functions an expression applies, those that take many instructions counted as ten."""
    if expr is None or expr.op in ("input", "const"):
        return 0
    long = expr.op in ("exp", "sigmoid", "tanh", "erf", "log", "pow", "div", "softplus")
    return (10 if long else 1) + sum(functions(a) for a in expr.args)


@generator("sparse_conv")
def sparse_conv(target: Target, symbol: str, spec: SparseConvSpec) -> Program:
    """A unit is one tile or band of an image times one part of the maps."""
    tables = [(name, PTR) for name in ("starts", "firsts", "counts", "entries")]
    words = [(name, I64) for name in (*_WORDS, "blocks")]
    k = Kernel(symbol, [("x", PTR), *tables, *spec.epilogue.fields(), *words], target.vector_bytes * 8)
    unit = _Unit(k, spec)
    with k.units() as index:
        unit.trace(index)
    return k.finish(spec.geometry.copy_bytes)


def _lower(work: Work) -> list[Launch]:
    s, x, y, w = conv_shape(work), work.input(0), work.output(), work.input(1)
    if not y.elements:
        return []
    assert w.value is not None, "accepted only with constant weights"
    flat = pointwise_row(replace(s, batch=1))
    g, _ = choose(flat, _density(s, w.value), work.target, work.threads)
    parts = _parts(g, s, work.threads)
    packed = work.memory.packed(w, g.recipe(parts), lambda a: pack(a, g, parts))
    place = streams(g, parts)
    tables = [packed.at(n) for n in (place.starts, place.firsts, place.counts, place.entries)]
    extras = [b.place for b in extras_of(work)]
    # A part may hold all maps when the others have no entries.
    scratch = g.copy_bytes + g.tiles * s.maps * g.tile_bytes
    return [
        Launch(
            KernelSpec("sparse_conv", (SparseConvSpec(g.compiled(), rows_epilogue(work)),)),
            s.batch * g.units * parts,
            (x.place, *tables, y.place, *extras, s.channels, s.maps, parts, g.blocks),
            (x.place, packed, *extras),
            (y.place,),
            scratch,
        )
    ]


def _density(s: WindowShape, w: np.ndarray) -> float:
    """The share of non-zeros among weights between any map and any channel: there are none between groups."""
    return round(zeros_of(w).density / s.group, 4)


def _parts(g: Geometry, s: WindowShape, threads: int) -> int:
    """Groups of maps, so that threads have enough units of one image."""
    if threads == 1:
        return 1
    return max(min(-(-_UNITS_PER_THREAD * threads // g.units), s.maps // 16), 1)


def _accepts(site: Site) -> str:
    if reason := plain_misfit(site, 2):
        return reason
    w, group = site.constants[1], int(site.node.attrs.get("group", 1))  # type: ignore[arg-type]
    if w is None:
        return "the weights are not constant"
    return (
        "one channel and one map per group" if 1 < group == w.shape[0] and w.shape[1] == 1 else accepts_epilogue(site)
    )


def sparse_conv_us(work: Work) -> float:
    """Predicted microseconds on one thread."""
    s, w = conv_shape(work), work.input(1).value
    assert w is not None, "accepted only with constant weights"
    if not s.pixels or not s.maps or not fits_offsets(s):
        return float("inf") if s.pixels else 0.0
    _, cycles = choose(pointwise_row(replace(s, batch=1)), _density(s, w), work.target)
    long = functions(work.attr("epilogue"))
    cycles += s.maps * s.pixels / work.target.vl * long
    images = [b for b in (work.input(0), work.output(), *extras_of(work)) if len(b.shape) > 1]
    return s.batch * cycles / CYCLES_PER_US + sum(b.nbytes for b in images) / _BYTES_PER_US


lowering(Lowering("sparse_conv", SKIPJACK, "Conv", _accepts, _lower, "plain", 5, cost=sparse_conv_us, encoding="csr"))
