"""The end of a linear layer in column tiles: accumulators in scratch through the epilogue to memory."""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.column_pointwise import PITCH_BYTES
from skipjack.kernels.epilogue import Ending, Epilogue, accepts_epilogue, epilogue_of
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import Site, Work
from skipjack.kernels.positions import FULL, Rows, RowsEpilogue, Words, pack_of, rows_epilogue
from skipjack.kernels.repack import transpose
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, Ty

WIDE = 4
_X, _W = (DType.U8,), (DType.I8, DType.I16)


@dataclass(frozen=True)
class Sums:
    """Accumulators of rows [row, row + rows) and some vectors of positions of a tile, from vector `vector` on.

    Row r lies at accumulators + r * pitch_bytes. Room is there for a multiple of as many rows as finish_rows says.
    """

    accumulators: V
    pitch_bytes: int
    row: V
    rows: V
    tile: V
    vector: V
    vectors: V
    element: Ty = I32


def finish(k: Kernel, e: RowsEpilogue | Epilogue, s: Sums, lanes: int, ragged: bool) -> None:
    """Store the epilogue of sums: to plain rows of positions, or to column tiles (RowsEpilogue).

    k.arg.features is the number of rows in all; row is a multiple of four. ragged: features is no multiple of what is
    finished together.
    """
    if isinstance(e, RowsEpilogue):
        _to_tiles(k, e, s, lanes, ragged)
    else:
        whole = s.rows.eq(lanes)
        k.branch(
            whole,
            lambda: _to_rows(k, e, s, lanes, None),
            lambda: _to_rows(k, e, s, lanes, k.below(s.rows, lanes)),
        )


def _to_rows(k: Kernel, e: Epilogue, s: Sums, lanes: int, mask: V | None) -> None:
    """Rows and positions exchanged in registers, so that the epilogue has features in lanes."""
    end = Ending(k, e, s.row, lanes, mask)
    with k.loop(s.vectors) as t:
        source = s.accumulators.at(t * (4 * lanes))
        sums = [source.at(i * s.pitch_bytes).load(s.element.vec(lanes)) for i in range(lanes)]
        first = s.tile * TILE + (s.vector + t) * lanes
        for i, one in enumerate(transpose(sums)):
            with k.when(first + i < k.arg.positions):
                end.store(one, (first + i) * k.arg.features + s.row)


def _to_tiles(k: Kernel, e: RowsEpilogue, s: Sums, lanes: int, ragged: bool) -> None:
    features = k.arg.features

    def some(r: V, partial: bool) -> None:
        row = s.row + r
        rows = Rows(k, e, lanes, row, features, partial)

        def words(p: V, dtype: DType) -> Words:
            groups = (features + (pack_of(dtype) - 1)) // pack_of(dtype)
            start = (s.tile * groups + row // pack_of(dtype)) * PITCH_BYTES + s.vector * (4 * lanes)
            return Words(p.at(start), PITCH_BYTES)

        y = words(k.arg.y, e.output)
        full = [words(getattr(k.arg, f"e{i}"), d) for i, (kind, d) in enumerate(e.extras) if kind == FULL]
        with k.loop(s.vectors) as t:
            step = t * (4 * lanes)
            source = s.accumulators.at(r * s.pitch_bytes).at(step)
            sums = [source.at(i * s.pitch_bytes).load(s.element.vec(lanes)) for i in range(e.wide)]
            at = [Words(w.pointer.at(step), w.pitch) for w in (y, *full)]
            rows.store(sums, at[0], at[1:])

    whole = s.rows - s.rows % e.wide if ragged else s.rows
    with k.loop(whole, 0, e.wide) as r:
        some(r, False)
    if ragged:
        with k.when(whole < s.rows):
            some(whole, True)


def finish_rows(e: RowsEpilogue | Epilogue, lanes: int) -> int:
    """How many rows are finished together at most."""
    return WIDE if isinstance(e, RowsEpilogue) else lanes


def epilogue_for(work: Work) -> tuple[RowsEpilogue | Epilogue, bool]:
    """The epilogue for the layout of the output, and whether its rows end within a group."""
    y = work.output()
    if y.layout.kind != "columns":
        return epilogue_of(work), False
    e = rows_epilogue(work)
    return e, y.shape[-1] % e.wide != 0


_TO_ROWS_NS = 1.4


def to_rows_us(work: Work) -> float:
    """What exchanging rows and positions adds."""
    return work.output().elements / work.target.vl * _TO_ROWS_NS / 1000.0


def accepts_to_rows(site: Site) -> str:
    """Empty when the node multiplies unsigned bytes by constant codes, else the reason why not."""
    x, w, out = site.inputs[0], site.inputs[1], site.outputs[0]
    if x is None or w is None or out is None or site.constants[1] is None:
        return "its weight is not constant"
    if x.dtype not in _X or w.dtype not in _W:
        return f"multiplies unsigned bytes by signed ones, the operands are {x.dtype.value} and {w.dtype.value}"
    if not isinstance(site.node.attrs.get("epilogue"), Expr):
        return "no epilogue that says what the sums become"
    if x.rank is None or x.rank < 2:
        return "no token matrices"
    return accepts_epilogue(site)


def accepts_integers(site: Site) -> str:
    """accepts_to_rows, for an output and extras in column tiles."""
    return not_in_columns(site) or accepts_to_rows(site)


def not_in_columns(site: Site) -> str:
    """Why the output and the extras cannot lie in column tiles; empty when they can."""
    out = site.outputs[0]
    if out is None or out.dtype.itemsize > 4 or out.dtype is DType.BOOL:
        return "an output that is not in columns"
    for t, constant in zip(site.inputs[2:], site.constants[2:], strict=True):
        if t is None or t.rank is None or (constant is not None and t.rank > 1):
            return "a constant extra with more than one axis"
        if t.rank > 1 and (t.dtype.itemsize > 4 or t.dtype is DType.BOOL):
            return f"an extra of {t.dtype.value} in columns"
    return ""
