"""Elementwise operators on token matrices in column tiles: positions in lanes, rows (features) of a word at once.

Inputs are whole matrices of the output's shape, a number per feature, or one number for all.
"""

from __future__ import annotations

from collections.abc import Sequence

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.types import TensorType
from skipjack.kernels.emit import supported_dtype
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.pointwise import accepts_expression, expression
from skipjack.kernels.positions import CHANNEL, FULL, SCALAR, Rows, RowsEpilogue, Words, pack_of
from skipjack.lang.expr import Expr, arg
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, Program
from skipjack.ops.registry import registered
from skipjack.targets.target import Target

PITCH_BYTES = 4 * TILE
_CHUNK_ROWS = 64
_BYTES_PER_US = 20_000.0


def renumbered(e: Expr, numbers: dict[int, int], made: dict[int, Expr] | None = None) -> Expr:
    """The expression with input i called numbers[i]; what was shared stays shared."""
    memo: dict[int, Expr] = {} if made is None else made
    if id(e) not in memo:
        if e.op == "input":
            memo[id(e)] = arg(numbers[int(e.value)], e.dtype) if int(e.value) in numbers else e
        else:
            memo[id(e)] = Expr(e.op, tuple(renumbered(a, numbers, memo) for a in e.args), e.dtype, e.value)
    return memo[id(e)]


def kind_in_columns(shape: Sequence[Dim], out: Sequence[Dim], constant: bool) -> str | None:
    """How an input is spread over an output [..., F] in columns; None when kernels cannot read it so."""
    lead, last = shape[:-1], shape[-1:] or (1,)
    if (constant or len(shape) < 2) and all(d == 1 for d in lead):
        if last[0] == 1:
            return SCALAR
        return CHANNEL if last[0] == out[-1] else None
    return FULL if not constant and tuple(shape) == tuple(out) else None


def accepts_columns(site: Site) -> str:
    """Empty when every input can be read beside an output in columns."""
    out = site.outputs[0]
    if out is None or out.shape is None or len(out.shape) < 2:
        return "no token matrix"
    if out.dtype.itemsize > 4 or out.dtype is DType.BOOL:
        return f"elements of {out.dtype.value} in columns"
    matrices = 0
    for i, (t, constant) in enumerate(zip(site.inputs, site.constants, strict=True)):
        if t is None:
            continue
        kind = None if t.shape is None else kind_in_columns(t.shape, out.shape, constant is not None)
        if kind is None:
            return f"input {i} is neither of the output's shape, nor a number per feature, nor one for all"
        if kind == FULL and (t.dtype.itemsize > 4 or t.dtype is DType.BOOL or not supported_dtype(t.dtype)):
            return f"elements of {t.dtype.value} in columns"
        matrices += kind == FULL
    return "" if matrices else "no token matrix among its inputs"


def column_terms(work: Work) -> tuple[list[Bound], tuple[tuple[str, DType], ...], dict[int, int]]:
    """Inputs that are there, their kinds and types, and which extra (from 1 on) each input number is."""
    out = work.output()
    present = [(i, b) for i, b in enumerate(work.inputs) if b is not None]
    kinds: list[tuple[str, DType]] = []
    for _, b in present:
        kind = kind_in_columns(b.shape, out.shape, b.value is not None or len(b.shape) < 2)
        assert kind is not None, f"{work.node.origin}: an input that column kernels do not read"
        kinds.append((kind, b.dtype))
    return [b for _, b in present], tuple(kinds), {i: n + 1 for n, (i, _) in enumerate(present)}


@generator("column_pointwise")
def column_pointwise(target: Target, symbol: str, e: RowsEpilogue, ragged: bool) -> Program:
    """A unit is a tile times a chunk of rows; y and every full extra lie in column tiles. Arg 0 of e.expr is unused."""
    fields = [*e.fields(), ("features", I64), ("chunks", I64), ("positions", I64)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    a, vl = k.arg, target.vl
    nothing = k.zero(I32.vec(vl))

    def wide_rows(tile: V, row: V, vectors: V, partial: bool) -> None:
        rows = Rows(k, e, vl, row, a.features, partial)

        def words(p: V, dtype: DType) -> Words:
            groups = (a.features + (pack_of(dtype) - 1)) // pack_of(dtype)
            return Words(p.at((tile * groups + row // pack_of(dtype)) * PITCH_BYTES), PITCH_BYTES)

        y = words(a.y, e.output)
        full = [words(getattr(a, f"e{i}"), d) for i, (kind, d) in enumerate(e.extras) if kind == FULL]
        with k.loop(vectors) as t:
            at = [Words(w.pointer.at(t * (4 * vl)), w.pitch) for w in (y, *full)]
            rows.store([nothing] * e.wide, at[0], at[1:])

    with k.units() as unit:
        tile, first = unit // a.chunks, unit % a.chunks * _CHUNK_ROWS
        vectors = k.min((a.positions - tile * TILE + (vl - 1)) // vl, TILE // vl)
        last = k.min(first + _CHUNK_ROWS, a.features)
        whole = last - last % e.wide if ragged else last
        with k.loop(whole, first, e.wide) as row:
            wide_rows(tile, row, vectors, False)
        if ragged:
            with k.when(whole < last):
                wide_rows(tile, whole, vectors, True)
    return k.finish()


def apply_columns(
    work: Work, expr: Expr, operands: Sequence[Bound], kinds: tuple[tuple[str, DType], ...]
) -> list[Launch]:
    """expr (operand i is arg i + 1) into the node's output."""
    out = work.output()
    features = out.shape[-1]
    if not out.elements:
        return []
    positions = out.elements // features
    e = RowsEpilogue(expr, kinds, out.dtype)
    places = tuple(b.place for b in operands)
    chunks, tiles = -(-features // _CHUNK_ROWS), -(-positions // TILE)
    spec = KernelSpec("column_pointwise", (e, features % e.wide != 0))
    return [Launch(spec, tiles * chunks, (out.place, *places, features, chunks, positions), places, (out.place,))]


def moved_in_columns_us(work: Work) -> float:
    """Microseconds to read and write whole tiles."""
    total = 0
    for b in (*work.inputs, *work.outputs):
        if b is None or b.value is not None:
            continue
        positions = b.elements // b.shape[-1] if b.shape and b.elements else 0
        tiles = len(b.shape) > 1 and positions % TILE
        total += b.nbytes // positions * (positions - positions % TILE + TILE) if tiles else b.nbytes
    return total / _BYTES_PER_US


def _accepts(site: Site) -> str:
    return accepts_columns(site) or accepts_expression(site)


def _lower(work: Work) -> list[Launch]:
    operands, kinds, numbers = column_terms(work)
    types = [None if b is None else TensorType(b.dtype, b.shape) for b in work.inputs]
    return apply_columns(work, renumbered(expression(types, work), numbers), operands, kinds)


for _op in registered():
    if _op.expression is not None:
        lowering(
            Lowering(
                "pointwise-columns", _op.domain, _op.name, _accepts, _lower, layouts="columns", cost=moved_in_columns_us
            )
        )
