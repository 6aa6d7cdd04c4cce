"""The end of a contraction whose lanes are positions: the epilogue per row (output feature), rows packed into words.

`pack` rows share 32-bit words in memory: 4 rows of bytes, 2 of half precision, 1 of anything wider; so a vector of
positions is always a whole vector of memory, for the output and for every extra of the output's shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.codes import Requantised, can_pack, pack_codes, requantised
from skipjack.kernels.emit import load_as, memory_type, to_compute, to_memory
from skipjack.kernels.epilogue import Epilogue, extras_of, finished
from skipjack.kernels.launch import Bound, Work
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I32, PTR, Ty

CHANNEL, SCALAR, FULL = "channel", "scalar", "full"


def pack_of(dtype: DType) -> int:
    """How many rows share a 32-bit word."""
    return max(4 // dtype.itemsize, 1)


@dataclass(frozen=True)
class Words:
    """Rows in memory: the word that holds row r starts at pointer + r // pack * pitch (bytes)."""

    pointer: V
    pitch: V | int

    def of(self, r: int, pack: int) -> V:
        """Where the word of row r begins."""
        return self.pointer.at(self.pitch * (r // pack))


@dataclass(frozen=True)
class RowsEpilogue:
    """What is compiled in: the expression, the kind and type of each extra, the output's type.

    Argument words: y, then e0, e1, ... (`fields`). arg 0 of the expression is the accumulator: i32 for integer
    operands, else f32.
    """

    expr: Expr | None
    extras: tuple[tuple[str, DType], ...]
    output: DType

    @property
    def pack(self) -> int:
        """How many rows of the output share its 32-bit words."""
        return pack_of(self.output)

    @property
    def wide(self) -> int:
        """How many rows are finished together: as many as share a word of the output or of any extra."""
        return max(self.pack, *(pack_of(d) for kind, d in self.extras if kind == FULL), 1)

    def fields(self) -> list[tuple[str, Ty]]:
        """The argument words."""
        return [("y", PTR), *((f"e{i}", PTR) for i in range(len(self.extras)))]


def rows_epilogue(work: Work, own: int = 2) -> RowsEpilogue:
    """The epilogue of a node whose extras start at input `own`."""
    kinds = tuple((_kind(b), b.dtype) for b in extras_of(work, own))
    return RowsEpilogue(work.attr("epilogue"), kinds, work.output().dtype)


def _kind(b: Bound) -> str:
    if b.elements == 1 and len(b.shape) <= 1:
        return SCALAR
    return CHANNEL if len(b.shape) == 1 else FULL


class Rows:
    """Finishes neighbouring rows of one contraction: `wide` of them at a time, from a multiple of `wide` on.

    Values per row are loaded once, at `row`. Rows at `rows` and beyond exist only to fill words up: they are stored as
    zeros where they share a word with a row that exists, and else not at all. ragged: rows is no multiple of wide.
    """

    def __init__(self, k: Kernel, e: RowsEpilogue, lanes: int, row: V, rows: V, ragged: bool) -> None:
        self.k, self.e, self.lanes = k, e, lanes
        self.row, self.rows, self.ragged = row, rows, ragged
        self.per_row = [self._values_of(r) for r in range(e.wide)]
        self.codes = self._codes()
        self.zero = self._zero_point()

    def _codes(self) -> Requantised | None:
        """The epilogue as packed codes, where instructions pack and the zero point is one number."""
        found = requantised(self.e.expr) if can_pack(self.lanes) and self.e.wide == pack_of(DType.U8) else None
        if found is None or found.zero is None or found.zero.op == "const":
            return found
        kind, dtype = self.e.extras[int(found.zero.value) - 1] if found.zero.value else (FULL, DType.F32)
        return found if kind == SCALAR and dtype is DType.F32 else None

    def _values_of(self, r: int) -> dict[int, V]:
        k = self.k
        at = k.min(self.row + r, self.rows - 1) if self.ragged else self.row + r
        found: dict[int, V] = {}
        for i, (kind, dtype) in enumerate(self.e.extras):
            if kind == FULL:
                continue
            p = getattr(k.arg, f"e{i}")
            p = p if kind == SCALAR else p.at(at * dtype.itemsize)
            found[i] = load_as(k, p, dtype, 0).splat(self.lanes)
        return found

    def store(self, accumulators: Sequence[V], y: Words, full: Sequence[Words], mask: V | None = None) -> None:
        """One vector of positions of `wide` rows.

        y and full say where these positions of `row` lie in the output and in each extra of kind "full", in order.
        """
        words = self._loaded(full, mask)
        if self.codes is not None:
            self._store_codes(self.codes, accumulators, words, y, mask)
            return
        values = [self._one(self.e.expr, r, acc, words) for r, acc in enumerate(accumulators)]
        for first in range(0, self.e.wide, self.e.pack):
            there = mask if not self.ragged else self._exists(first, mask)
            place = y.of(first, self.e.pack)
            out = self._packed(first, values[first : first + self.e.pack])
            if there is None:
                place.store(out)
            else:
                place.store_masked(out, there)

    def _store_codes(
        self, codes: Requantised, accumulators: Sequence[V], words: dict[tuple[int, int], V], y: Words, mask: V | None
    ) -> None:
        """Four rows of unsigned codes by packing instructions."""
        k = self.k
        steps = [self._one(codes.steps, r, acc, words) for r, acc in enumerate(accumulators)]
        exists = [self.row + r < self.rows for r in range(len(steps))] if self.ragged else None
        out = pack_codes(k, steps, self.zero, exists)
        if mask is None:
            y.pointer.store(out)
        else:
            y.pointer.store_masked(out, mask)

    def _zero_point(self) -> V | None:
        """The zero point of codes in i32 lanes; it is one number for all rows."""
        zero = None if self.codes is None else self.codes.zero
        if zero is None:
            return None
        vector = self.k.constant(F32.vec(self.lanes), zero.value) if zero.op == "const" else None
        value = vector if vector is not None else self.per_row[0][int(zero.value) - 1]
        return value.to_int(I32)

    def _exists(self, r: int, mask: V | None) -> V:
        """Where a word that begins with row r is stored or loaded."""
        there = (self.row + r < self.rows).splat(self.lanes)
        return there if mask is None else mask & there

    def _loaded(self, full: Sequence[Words], mask: V | None) -> dict[tuple[int, int], V]:
        """The words of extras of the output's shape: by extra and first row."""
        found: dict[tuple[int, int], V] = {}
        places = iter(full)
        for i, (kind, dtype) in enumerate(self.e.extras):
            if kind != FULL:
                continue
            place, pack = next(places), pack_of(dtype)
            ty = (I32 if pack > 1 else memory_type(dtype)).vec(self.lanes)
            for r in range(0, self.e.wide, pack):
                there = mask if not self.ragged else self._exists(r, mask)
                p = place.of(r, pack)
                found[i, r] = p.load(ty) if there is None else p.load_masked(ty, there)
        return found

    def _one(self, expr: Expr | None, r: int, acc: V, words: dict[tuple[int, int], V]) -> V:
        """An expression of row + r, in the form it is computed in."""
        k = self.k
        inputs = [acc]
        for i, (kind, dtype) in enumerate(self.e.extras):
            if kind != FULL:
                inputs.append(self.per_row[r][i])
                continue
            pack = pack_of(dtype)
            word = words[i, r // pack * pack]
            if pack > 1:
                bits = 8 * dtype.itemsize
                word = (word >> (bits * (r % pack))).trunc(Ty(f"i{bits}")).bitcast(memory_type(dtype).vec(self.lanes))
            inputs.append(to_compute(k, word, dtype))
        return finished(k, Epilogue(expr, (), self.e.output if expr is None else expr.dtype), inputs)

    def _packed(self, first: int, values: Sequence[V]) -> V:
        k, dtype = self.k, self.e.output
        if len(values) == 1:
            return to_memory(k, values[0], dtype)
        bits = 8 * dtype.itemsize
        total: V | None = None
        for r, value in enumerate(values):
            word = to_memory(k, value, dtype).bitcast(Ty(f"i{bits}", self.lanes)).zext(I32)
            if self.ragged:
                word = k.select(self.row + (first + r) < self.rows, word, 0)
            word = word << (bits * r) if r else word
            total = word if total is None else total | word
        assert total is not None, "a word of the output holds at least one row"
        return total


def accumulator_type(x: DType, lanes: int) -> Ty:
    """The vector type of sums of products of x."""
    return (F32 if x.is_float else I32).vec(lanes)
