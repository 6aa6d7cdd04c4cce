"""Linear layers on matrix tiles, positions in columns: u8 or s8 times s8 in i32, bf16 in f32.

A unit is one column tile times a group of blocks. A bf16 sum adds its steps in ascending depth; a step that is left out
would have added zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.amx_products import (
    DENSE,
    DOTS,
    PITCH,
    SKIPPING,
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
from skipjack.kernels.epilogue import Epilogue, accepts_epilogue, extras_of
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.positions import RowsEpilogue, accumulator_type, pack_of
from skipjack.kernels.quad_finish import Sums, epilogue_for, finish, not_in_columns, to_rows_us
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program
from skipjack.lang.tiles import ROW_BYTES, TILE_ROWS
from skipjack.targets.target import Target

_UNITS_PER_THREAD = 3
_WORDS = ("words", "features", "positions", "blocks", "groups", "parts", "last_step")
_FEATURES = {DType.U8: "amx-int8", DType.I8: "amx-int8", DType.BF16: "amx-bf16"}
_WEIGHTS = {DType.U8: DType.I8, DType.I8: DType.I8, DType.BF16: DType.BF16}


@dataclass(frozen=True)
class AmxSpec:
    """What is compiled in. tail: the last step is not whole, and its words are copied to scratch."""

    x_type: DType
    shape: Shape
    tail: bool
    ragged: bool
    epilogue: RowsEpilogue | Epilogue


class _Unit:
    """Traces one unit of work."""

    def __init__(self, k: Kernel, target: Target, s: AmxSpec) -> None:
        self.k, self.s, self.vl = k, s, target.vl
        self.products = Products(k, DOTS[s.x_type], s.shape)
        self.height, self.block_bytes = s.shape.height, s.shape.height * PITCH
        self.sums_at = STEP_BYTES if s.tail else 0
        self.scratch_bytes = self.sums_at + sums_bytes(s.shape)

    def trace(self, unit: V) -> None:
        k, a = self.k, self.k.arg
        group, index = unit % a.groups, unit // a.groups
        x = a.x.at(index * a.words * PITCH)
        first, last = group * a.blocks // a.groups, (group + 1) * a.blocks // a.groups
        if self.s.tail:
            self._copy_tail(x)
        with k.loop(a.parts) as part, k.loop(last, first) as block:
            sums = k.scratch.at(self.sums_at).at((block - first) * self.block_bytes)
            tail = k.scratch if self.s.tail else None
            self.products.add(Terms(a.w, x, a.parts, part, block, sums, tail, a.last_step))
            with k.when(part.eq(a.parts - 1)):
                self._finish(index, block, sums)

    def _copy_tail(self, x: V) -> None:
        """The words of the last step, and zeros behind them."""
        k, a = self.k, self.k.arg
        first = a.last_step * TILE_ROWS
        vector = I32.vec(self.vl)
        with k.loop(TILE_ROWS) as r, k.loop(PITCH, 0, vector.nbytes) as i:
            to = k.scratch.at(r * PITCH + i)
            there = (first + r < a.words).splat(self.vl)
            to.store(x.at((first + r) * PITCH + i).load_masked(vector, there))

    def _finish(self, index: V, block: V, sums: V) -> None:
        k, a, lanes = self.k, self.k.arg, self.vl
        vectors = k.min((a.positions - index * TILE + (lanes - 1)) // lanes, TILE // lanes)
        element = accumulator_type(self.s.x_type, 0)
        with k.loop(self.s.shape.rows) as r:
            row = block * self.height + r * TILE_ROWS
            rows = k.min(a.features - row, TILE_ROWS)
            with k.when(rows > 0):
                at = sums.at(r * (TILE_ROWS * PITCH))
                done = Sums(at, PITCH, row, rows, index, k.i64(0), vectors, element)
                finish(k, self.s.epilogue, done, lanes, self.s.ragged)


@generator("amx_linear")
def amx_linear(target: Target, symbol: str, s: AmxSpec) -> Program:
    """A unit is one column tile times one group of blocks."""
    fields = [("x", PTR), ("w", PTR), *s.epilogue.fields(), *((name, I64) for name in _WORDS)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    unit = _Unit(k, target, s)
    with unit.products.tiles.configured(), k.units() as index:
        unit.trace(index)
    return k.finish(unit.scratch_bytes)


def _accepts_to_rows(site: Site) -> str:
    x, w = site.inputs[0], site.constants[1]
    assert x is not None, "a Linear node lacks its input"
    if x.dtype not in _FEATURES or not site.target.has(_FEATURES[x.dtype]):
        return f"this CPU has no tile products of {x.dtype.value}"
    if w is None or DType.from_numpy(w.dtype) is not _WEIGHTS[x.dtype]:
        return "its weight is not a constant of a type that tiles multiply"
    if not isinstance(site.node.attrs.get("epilogue"), Expr):
        return "no epilogue that says what the sums become"
    return "a single position" if (x.rank or 0) < 2 else accepts_epilogue(site)


def _accepts(site: Site) -> str:
    return not_in_columns(site) or _accepts_to_rows(site)


def _lowered(shape: Shape, skipped: bool) -> Callable[[Work], list[Launch]]:
    def lower(work: Work) -> list[Launch]:
        x, w, y = work.input(0), work.input(1), work.output()
        depth, rows = w.shape
        positions, (e, ragged) = prod(y.shape[:-1]), epilogue_for(work)
        if not positions or not rows:
            return []
        per = ROW_BYTES // w.dtype.itemsize
        steps, tiles = -(-depth // per), -(-positions // TILE)
        blocks = -(-rows // shape.height)
        words = -(-depth // pack_of(x.dtype))
        groups = groups_of(blocks, shape, tiles, 1 if work.threads == 1 else _UNITS_PER_THREAD * work.threads)
        packed = work.memory.packed(w, f"amx{shape.rows}{skipped}", lambda a: pack(a, shape.rows, skipped))
        extras = [b.place for b in extras_of(work)]
        tail = words % TILE_ROWS != 0
        spec = KernelSpec("amx_linear", (AmxSpec(x.dtype, shape, tail, ragged, e),))
        numbers = (words, rows, positions, blocks, groups, parts_of(steps), steps - 1)
        reads = (x.place, packed, *extras)
        return [Launch(spec, tiles * groups, (x.place, packed, y.place, *extras, *numbers), reads, (y.place,))]

    return lower


def _cost(skipped: bool) -> Callable[[Work], float]:
    def cost(work: Work) -> float:
        w, y = work.input(1).value, work.output()
        assert w is not None, "accepts lets only constant weights pass"
        return products_us(-(-prod(y.shape[:-1]) // TILE_ROWS), w, skipped)

    return cost


def _ways(name: str, shape: Shape, skipped: bool, rank: int) -> tuple[Lowering, Lowering]:
    """The lowering to column tiles and the one to plain rows."""
    lower, cost = _lowered(shape, skipped), _cost(skipped)

    def cost_to_rows(work: Work) -> float:
        return cost(work) + to_rows_us(work)

    made = (
        Lowering(name, SKIPJACK, "Linear", _accepts, lower, "columns", rank, cost),
        Lowering(name, SKIPJACK, "Linear", _accepts_to_rows, lower, "columns>plain", rank, cost_to_rows),
    )
    return lowering(made[0]), lowering(made[1])


AMX_DENSE, AMX_DENSE_TO_ROWS = _ways("amx_linear", DENSE, False, 30)
AMX_SKIPPING, AMX_SKIPPING_TO_ROWS = _ways("amx_linear_skip", SKIPPING, True, 29)
