"""Many rows times weights of 2, 4 or 8 bits: each part of a panel is unpacked to scratch once for a group of rows.

A unit is a group of rows and a panel. K advances in parts of at most PART codes that do not cross a group; a part of W
is unpacked to a byte per code, and blocks of rows are multiplied with it, plane by plane of X. Sums become numbers as
they do for few rows (kernels/nbits_few.py), so the number of rows changes no bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.kernels.dot import dot4
from skipjack.kernels.epilogue import Epilogue, Tile, finish_tile
from skipjack.kernels.gemm_block import Operand, Shape, Terms, block_shape, multiply_block
from skipjack.kernels.gemv import panel_vectors
from skipjack.kernels.launch import generator
from skipjack.kernels.nbits_codes import Codes, Decoder, group_added
from skipjack.kernels.nbits_few import X_FIELDS
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I32, I64, Program, Ty
from skipjack.targets.target import AVX2, Target

PART = 128
_BLOCKS = 6
WORDS = ("rows", "columns", "groups", "group_size", "part", "row_bytes", "plane_bytes", "row_groups")


@dataclass(frozen=True)
class CodesShape(Shape):
    """A block whose K counts fours of codes (W) and signed bytes (X), summed in i32."""

    target: Target = AVX2

    @property
    def vector(self) -> Ty:
        return I32.vec(self.vl)

    @property
    def element(self) -> Ty:
        return I32

    def multiplied(self, k: Kernel, x: V, w: V, total: V) -> V:
        return dot4(k, self.target, total, w, x)


def shape_of(target: Target) -> CodesShape:
    """As many rows as leave registers for what the product of bytes takes."""
    s = block_shape(target)
    exact = target.vector_bytes == 64 and target.has("avx512vnni")
    return CodesShape(s.rows - 2 if exact else s.rows // 2, s.vectors, s.vl, target=target)


def rows_of_group(target: Target) -> int:
    """The most rows that a unit multiplies with a panel."""
    return _BLOCKS * shape_of(target).rows


@dataclass(frozen=True)
class ManySpec:
    """What is compiled in. planes: of X."""

    codes: Codes
    planes: int
    epilogue: Epilogue


class _Unit:
    """Traces one unit of work. Scratch: W, then sums by plane and totals, each by group of block-wide columns."""

    def __init__(self, k: Kernel, target: Target, spec: ManySpec) -> None:
        self.k, self.target, self.s = k, target, spec
        self.shape = shape_of(target)
        self.vl, self.vectors = target.vl, panel_vectors(target)
        self.parts = self.vectors // self.shape.vectors
        self.pitch = 4 * self.shape.columns
        self.w_bytes = PART // 4 * self.pitch
        self.c_bytes = rows_of_group(target) * self.pitch
        self.sums_at = self.parts * self.w_bytes
        self.totals_at = self.sums_at + spec.planes * self.parts * self.c_bytes

    @property
    def scratch_bytes(self) -> int:
        return self.totals_at + self.parts * self.c_bytes

    def trace(self, unit: V) -> None:
        k, a = self.k, self.k.arg
        panel, share = unit // a.row_groups, unit % a.row_groups
        first, last = share * a.rows // a.row_groups, (share + 1) * a.rows // a.row_groups
        rows, per = last - first, self.s.codes.per_lane
        group_steps = a.group_size // per
        weights = Decoder(k, self.target, self.s.codes, panel, a.groups * group_steps, a.groups)
        with k.loop(self.parts) as part, k.loop(rows * self.pitch, 0, self.target.vector_bytes) as i:
            self._totals(part).at(i).store(k.zero(F32.vec(self.vl)))
        with k.loop(a.groups) as group:
            weights.begin_group(group)
            with k.loop(a.group_size, 0, a.part) as offset:
                with k.loop(a.part // per) as i:
                    self._unpack(weights, group * group_steps + offset // per + i, i)
                self._multiply(first, rows, group * a.group_size + offset, offset.eq(0))
            self._add(first, rows, group, weights)
        self._finish(first, rows, panel)

    def _sums(self, plane: V, part: V) -> V:
        return self.k.scratch.at(self.sums_at).at((plane * self.parts + part) * self.c_bytes)

    def _totals(self, part: V) -> V:
        return self.k.scratch.at(self.totals_at).at(part * self.c_bytes)

    def _unpack(self, weights: Decoder, index: V, i: V) -> None:
        """Step `index` of the panel as rows of fours of codes, from step i of scratch on."""
        for t, fields in enumerate(weights.step(index)):
            part, vector = divmod(t, self.shape.vectors)
            to = self.k.scratch.at(part * self.w_bytes + vector * self.target.vector_bytes)
            for f, codes in enumerate(fields):
                to.at((i * len(fields) + f) * self.pitch).store(codes)

    def _multiply(self, first: V, rows: V, at: V, fresh: V) -> None:
        k, a, high = self.k, self.k.arg, self.shape.rows
        blocks = (rows + (high - 1)) // high
        with k.loop(self.parts) as part, k.loop(self.s.planes) as plane:
            w = Operand(k.scratch.at(part * self.w_bytes), self.pitch)
            x_at = a.x.at(plane * a.plane_bytes).at(at)
            with k.loop(blocks) as block:
                lo, hi = block * rows // blocks, (block + 1) * rows // blocks
                x = Operand(x_at.at((first + lo) * a.row_bytes), a.row_bytes)
                c = Operand(self._sums(plane, part).at(lo * self.pitch), self.pitch)
                multiply_block(k, self.shape, hi - lo, Terms(x, w, c, a.part // 4, fresh))

    def _add(self, first: V, rows: V, group: V, weights: Decoder) -> None:
        """totals += the group's sums times its scales."""
        k, a, planes = self.k, self.k.arg, self.s.planes
        scales = weights.scales(group)
        with k.loop(rows) as r:
            at = (first + r) * a.groups + group
            x_scale = a.x_scales.at(at, 4).load(F32)
            x_sums = [a.x_sums.at(at * planes + p, 4).load(I32) for p in range(planes)]
            for t, scale in enumerate(scales):
                part, vector = (k.i64(n) for n in divmod(t, self.shape.vectors))
                place = r * self.pitch + vector * self.target.vector_bytes
                sums = [self._sums(k.i64(p), part).at(place).load(I32.vec(self.vl)) for p in range(planes)]
                total = self._totals(part).at(place)
                before, zero = total.load(F32.vec(self.vl)), weights.zeros[t]
                total.store(group_added(k, self.s.codes, sums, x_sums, zero, scale * x_scale, before))

    def _finish(self, first: V, rows: V, panel: V) -> None:
        k, a = self.k, self.k.arg
        with k.loop(self.vectors) as t:
            column = (panel * self.vectors + t) * self.vl
            with k.when(column < a.columns):
                part, vector = t // self.shape.vectors, t % self.shape.vectors
                acc = self._totals(part).at(vector * self.target.vector_bytes)
                finish_tile(k, self.s.epilogue, Tile(acc, self.pitch, rows, first, column, a.columns), self.vl)


@generator("nbits_many")
def nbits_many(target: Target, symbol: str, spec: ManySpec) -> Program:
    """A unit is a group of rows and a panel of outputs; the units of a panel follow each other."""
    fields = [*X_FIELDS, *spec.codes.arguments(), *spec.epilogue.fields(), *((name, I64) for name in WORDS)]
    k = Kernel(symbol, fields, target.vector_bytes * 8)
    unit = _Unit(k, target, spec)
    with k.units() as index:
        unit.trace(index)
    return k.finish(unit.scratch_bytes)
