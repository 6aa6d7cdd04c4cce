"""Linear layers summed in f32: row-major activations times constant weights packed in panels.

W is packed [panel][K][T * vl], the last panel filled up with zeros. A unit is a group of row blocks times a group of
panels. Within a unit K advances in steps of a fixed size; where rows of X would meet in the same cache sets, those of
one step are first copied to scratch. Accumulators wait in scratch between steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.emit import load_as
from skipjack.kernels.epilogue import Epilogue, Tile, accepts_epilogue, epilogue_of, extras_of, finish_tile
from skipjack.kernels.gemm_block import Operand, Shape, Terms, block_shape, multiply_block
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Place, Site, Work, generator, lowering
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

STEP_K = 512
_LINE_BYTES = 64
_GROUP_BLOCKS = 10
_GROUP_PANELS = 32
_UNITS_PER_THREAD = 4
_CYCLES_PER_US = 3000.0
_WEIGHTS_PER_US = 5000.0
_FLOATS = (DType.F32, DType.F16, DType.BF16)
_WORDS = ("rows", "k", "columns", "blocks", "row_groups", "panels", "panel_groups")


@dataclass(frozen=True)
class Cut:
    """How rows and columns are cut: blocks of rows in row groups, panels of columns in panel groups."""

    blocks: int
    row_groups: int
    panels: int
    panel_groups: int

    @property
    def units(self) -> int:
        return self.row_groups * self.panel_groups


def cut(rows: int, columns: int, s: Shape, threads: int) -> Cut:
    """Few enough rows that their X stays in L2, few enough panels for scratch, and units enough for threads."""
    blocks, panels = -(-rows // s.rows), -(-columns // s.columns)
    row_groups = -(-blocks // _GROUP_BLOCKS)
    if blocks == 1:
        return Cut(blocks, row_groups, panels, panels)
    panel_groups = -(-panels // _GROUP_PANELS)
    units = 1 if threads == 1 else _UNITS_PER_THREAD * threads
    while row_groups * panel_groups < units and panels >= 8 * panel_groups:
        panel_groups += 1
    while row_groups * panel_groups < units and blocks >= 6 * row_groups:
        row_groups += 1
    return Cut(blocks, row_groups, panels, panel_groups)


def pack_panels(w: np.ndarray, columns: int) -> np.ndarray:
    """[K, M] as f32 [panel][K][columns], zeros behind the last column."""
    depth, m = w.shape
    panels = -(-m // columns)
    full = w
    if w.dtype != np.float32 or m % columns:
        full = np.zeros((depth, panels * columns), np.float32)
        full[:, :m] = w
    return full.reshape(depth, panels, columns).transpose(1, 0, 2)


def part(k: Kernel, index: V, of: V, total: V) -> tuple[V, V]:
    """(first, end) of near-equal part `index` of `of` parts of range(total)."""
    return index * total // of, (index + 1) * total // of


def conflicting(row_bytes: int, rows: int) -> bool:
    """Whether rows this far apart compete for the same sets of an L1 cache of 64 sets and 8 ways."""
    lines = max(row_bytes // 64, 1)
    sets = 64 // int(np.gcd(lines, 64))
    return row_bytes % 64 == 0 and sets * 8 < 2 * rows


@dataclass(frozen=True)
class GemmSpec:
    """What is compiled in. copied: X is copied to scratch first. batched: tables say where X and W of a batch start.

    An x_type of I32 stands for pairs of bf16: K, and the depth of W, count pairs then.
    """

    x_type: DType
    copied: bool
    epilogue: Epilogue
    batched: bool = False

    def shape(self, target: Target) -> Shape:
        """The block that is multiplied."""
        return replace(block_shape(target), pairs=self.x_type is DType.I32)


class _Unit:
    """Traces one unit of work."""

    def __init__(self, k: Kernel, s: Shape, spec: GemmSpec) -> None:
        self.k, self.s, self.batched = k, s, spec.batched
        self.x_type, self.copied, self.e = spec.x_type, spec.copied, spec.epilogue
        self.pitch = 4 * (STEP_K + 16)
        self.c_pitch = 4 * s.columns
        self.group_rows = s.rows * _GROUP_BLOCKS

    @property
    def x_bytes(self) -> int:
        return self.group_rows * self.pitch if self.copied else 0

    @property
    def scratch_bytes(self) -> int:
        return self.x_bytes + _GROUP_PANELS * self.group_rows * self.c_pitch

    def trace(self, unit: V) -> None:
        k, a = self.k, self.k.arg
        panel_lo, panel_hi = part(k, unit % a.panel_groups, a.panel_groups, a.panels)
        group, x, w = unit // a.panel_groups, a.x, a.w
        self.batch_row = k.i64(0)
        if self.batched:
            batch, group = group // a.row_groups, group % a.row_groups
            x, w = x.at(a.x_offsets.at(batch, 8).load(I64, 8)), w.at(a.w_offsets.at(batch, 8).load(I64, 8))
            self.batch_row = batch * a.rows
        block_lo, block_hi = part(k, group, a.row_groups, a.blocks)
        first_row = block_lo * a.rows // a.blocks
        last_row = block_hi * a.rows // a.blocks
        steps = k.max((a.k + (STEP_K - 1)) // STEP_K, 1)
        with k.loop(steps) as step:
            k_lo = step * STEP_K
            count = k.min(a.k - k_lo, STEP_K)
            step_x = self._x(x, first_row, last_row - first_row, k_lo, count)
            with k.loop(panel_hi, panel_lo) as panel:
                panel_w = Operand(w.at((panel * a.k + k_lo) * self.c_pitch), self.c_pitch)
                c = k.scratch.at(self.x_bytes).at((panel - panel_lo) * (self.group_rows * self.c_pitch))
                with k.loop(block_hi, block_lo) as block:
                    row_lo, row_hi = part(k, block, a.blocks, a.rows)
                    rows, at = row_hi - row_lo, row_lo - first_row
                    out = Operand(c.at(at * self.c_pitch), self.c_pitch)
                    block_x = Operand(step_x.pointer.at(at * step_x.pitch), step_x.pitch)
                    ahead = w.at(((panel + 1) * a.k + k_lo) * self.c_pitch).at(self._fetched(block - block_lo, count))
                    multiply_block(k, self.s, rows, Terms(block_x, panel_w, out, count, step.eq(0), ahead))
                    with k.when(step.eq(steps - 1)):
                        self._finish(out.pointer, rows, self.batch_row + row_lo, panel)

    def _fetched(self, block: V, count: V) -> V:
        """The bytes of the next panel's part that earlier blocks asked for: each block asks for one line per k."""
        lines = self.c_pitch // _LINE_BYTES
        return self.k.select(block < lines, block * count * _LINE_BYTES, self.k.i64(0))

    def _x(self, x: V, first: V, rows: V, k_lo: V, count: V) -> Operand:
        """The rows of X from column k_lo on, as f32."""
        k, a, size = self.k, self.k.arg, self.x_type.itemsize
        source = x.at((first * a.k + k_lo) * size)
        if not self.copied:
            return Operand(source, a.k * size)
        lanes = self.s.vl
        whole = count // lanes * lanes
        mask = k.below(count - whole, lanes)
        with k.loop(rows) as r:
            start, target = source.at(r * a.k * size), k.scratch.at(r * self.pitch)
            with k.loop(whole, 0, lanes) as i:
                target.at(i, 4).store(load_as(k, start.at(i, size), self.x_type, lanes))
            with k.when(whole < count):
                target.at(whole, 4).store(load_as(k, start.at(whole, size), self.x_type, lanes, mask))
        return Operand(k.scratch, self.pitch)

    def _finish(self, acc: V, rows: V, first_row: V, panel: V) -> None:
        k, s = self.k, self.s
        with k.loop(s.vectors) as t:
            column = panel * s.columns + t * s.vl
            with k.when(column < k.arg.columns):
                tile = Tile(acc.at(t * (4 * s.vl)), self.c_pitch, rows, first_row, column, k.arg.columns)
                finish_tile(k, self.e, tile, s.vl)


@generator("gemm_f32")
def gemm(target: Target, symbol: str, spec: GemmSpec) -> Program:
    """A unit is one group of row blocks times one group of panels, of one batch."""
    tables = [("x_offsets", PTR), ("w_offsets", PTR)] if spec.batched else []
    fields = [("x", PTR), ("w", PTR), *spec.epilogue.fields(), *tables, *((name, I64) for name in _WORDS)]
    k = Kernel(symbol, fields, target.vector_bytes * 8)
    unit = _Unit(k, spec.shape(target), spec)
    with k.units() as index:
        unit.trace(index)
    return k.finish(unit.scratch_bytes)


def _accepts(site: Site) -> str:
    x, w = site.inputs[0], site.inputs[1]
    assert x is not None, "a Linear node lacks its input"
    assert w is not None, "a Linear node lacks its weight"
    if site.constants[1] is None:
        return "its weight is not constant"
    if x.dtype not in _FLOATS or w.dtype not in _FLOATS:
        return f"computes in f32, the operands are {x.dtype.value} and {w.dtype.value}"
    return accepts_epilogue(site)


def _lower(work: Work) -> list[Launch]:
    x, w, y = work.input(0), work.input(1), work.output()
    s = block_shape(work.target)
    depth, columns = w.shape
    rows = y.elements // columns if columns else 0
    if not rows or not columns:
        return []
    panels = work.memory.packed(w, f"panels{s.columns}", lambda a: pack_panels(a, s.columns))
    return [launch(work, Matrices(x.place, x.dtype, panels, rows, depth, columns), epilogue_of(work))]


@dataclass(frozen=True)
class Matrices:
    """X [rows, depth] times packed W [depth, columns], once or for every batch of the offset tables (bytes).

    x_type I32: X and W hold pairs of bf16, and depth counts them.
    """

    x: Place
    x_type: DType
    w: Place
    rows: int
    depth: int
    columns: int
    offsets: tuple[np.ndarray, np.ndarray] | None = None


def launch(work: Work, m: Matrices, e: Epilogue) -> Launch:
    """The gemm of m, finished by e, into the node's output."""
    s, y = block_shape(work.target), work.output()
    c = cut(m.rows, m.columns, s, work.threads)
    copied = m.x_type not in (DType.F32, DType.I32) or conflicting(4 * m.depth, s.rows)
    extras = [b.place for b in extras_of(work)]
    tables = [work.memory.constant(t.astype(np.int64)) for t in m.offsets or ()]
    batches = 1 if m.offsets is None else m.offsets[0].size
    words = (m.rows, m.depth, m.columns, c.blocks, c.row_groups, c.panels, c.panel_groups)
    spec = KernelSpec("gemm_f32", (GemmSpec(m.x_type, copied, e, m.offsets is not None),))
    reads = (m.x, m.w, *extras, *tables)
    return Launch(spec, batches * c.units, (m.x, m.w, y.place, *extras, *tables, *words), reads, (y.place,))


def gemm_us(work: Work) -> float:
    """One multiply-add of a vector per cycle, unless the panels come from memory."""
    depth, columns = work.input(1).shape
    return max(work.output().elements * depth / (_CYCLES_PER_US * work.target.vl), depth * columns / _WEIGHTS_PER_US)


GEMM = lowering(Lowering("gemm_f32", SKIPJACK, "Linear", _accepts, _lower, rank=10, cost=gemm_us))
