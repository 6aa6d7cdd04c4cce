"""Products of matrices of small integers with zero points, summed in 32 bits."""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import load_as, store_as
from skipjack.kernels.launch import KernelSpec, Launch, Place, generator
from skipjack.kernels.span import maskable, span
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I32, I64, PTR, Program
from skipjack.targets.target import Target

_COLUMNS = 256
_EXACT = 256
BYTES = (DType.I8, DType.U8)


@dataclass(frozen=True)
class Operand:
    """Matrices of bytes, or of i16 from -255 to 255, `step` bytes apart (0: one for all), and their zero points.

    zero_step is 1 when there is a zero point per row (left operand) or column (right operand), else 0.
    """

    place: Place
    dtype: DType
    step: int
    zero: Place
    zero_step: int


def integer_product(
    a: Operand, b: Operand, out: Place, batch: int, m: int, k: int, n: int, target: Target
) -> list[Launch]:
    """out[i] = (a[i] - zero) @ (b[i] - zero) as i32, for a of m x k and b of k x n."""
    if batch * m * n == 0:
        return []
    columns = min(n, _COLUMNS)
    row_blocks, chunks = -(-m // _rows(target)), -(-n // columns)
    words = (
        a.place, b.place, out, a.zero, b.zero, row_blocks, chunks, columns, m, k, n,
        a.step, b.step, a.zero_step, b.zero_step,
    )  # fmt: skip
    spec = KernelSpec("integer_product", (a.dtype, b.dtype))
    reads = (a.place, b.place, a.zero, b.zero)
    return [Launch(spec, batch * row_blocks * chunks, words, reads, (out,), _rows(target) * k * 4)]


_WORDS = ("row_blocks", "chunks", "columns", "m", "k", "n", "a_step", "b_step", "a_zero_step", "b_zero_step")


def _rows(target: Target) -> int:
    """Rows of one unit: as many as leave registers for their sums in two vectors."""
    return 8 if target.registers >= 32 else 4


@generator("integer_product")
def kernel(target: Target, name: str, a_dtype: DType, b_dtype: DType) -> Program:
    """A unit is a few rows of one product over a block of columns; lanes run over columns.

    Sums of up to 256 products are exact in f32, which multiplies faster than integers do.
    """
    pointers = [(n, PTR) for n in ("a", "b", "out", "a_zero", "b_zero")]
    k = Kernel(name, [*pointers, *((n, I64) for n in _WORDS)], 8 * target.vector_bytes)
    g = k.arg
    count = _rows(target)
    masked = maskable(target, [a_dtype, b_dtype])
    with k.units() as u:
        chunk, rest = u.urem(g.chunks), u.udiv(g.chunks)
        block, i = rest.urem(g.row_blocks), rest.udiv(g.row_blocks)
        # Rows beyond the last are the last one again.
        rows = [k.min(block * count + r, g.m - 1) for r in range(count)]
        unit = _Unit(k, target, (a_dtype, b_dtype), rows, g.b.at(i * g.b_step), i * g.m)
        unit.widen(g.a.at(i * g.a_step), masked)
        start = chunk * g.columns
        stop = k.min(start + g.columns, g.n)
        pairs = start + ((stop - start) // (2 * target.vl)) * (2 * target.vl)
        with k.loop(pairs, start, 2 * target.vl) as j:
            unit.columns([j, j + target.vl], target.vl, None)
        span(k, pairs, stop, target.vl, masked, lambda j, lanes, mask: unit.columns([j], lanes, mask))
    return k.finish()


class _Unit:
    """Writes the sums of a few rows."""

    def __init__(
        self, k: Kernel, target: Target, dtypes: tuple[DType, DType], rows: list[V], b: V, first_row: V
    ) -> None:
        self.k, self.target, self.rows, self.b, self.first_row = k, target, rows, b, first_row
        self.a_dtype, self.b_dtype = dtypes

    def widen(self, a: V, masked: bool) -> None:
        """The rows of the left operand less their zero points, as f32, into scratch."""
        k, g = self.k, self.k.arg
        for r, row in enumerate(self.rows):
            zero = _wide(g.a_zero.at(row * g.a_zero_step, self.a_dtype.itemsize), self.a_dtype, 0, None)
            source, to = a.at(row * g.k, self.a_dtype.itemsize), k.scratch.at(g.k * r, 4)

            def body(p: V, lanes: int, mask: V | None, zero: V = zero, source: V = source, to: V = to) -> None:
                at = source.at(p, self.a_dtype.itemsize)
                value = (_wide(at, self.a_dtype, lanes, mask) - zero).to_float(F32)
                store_as(k, to.at(p, 4), value, DType.F32, mask)

            span(k, k.i64(0), g.k, self.target.vl, masked, body)

    def columns(self, at: list[V], lanes: int, mask: V | None) -> None:
        """The sums of all rows for the vectors of columns that begin at `at`."""
        k, g = self.k, self.k.arg
        zeros = [self.zero(j, lanes, mask) for j in at]
        sums = [[k.var(k.constant(I32.vec(lanes), 0)) for _ in at] for _ in self.rows]
        with k.loop(g.k, step=_EXACT) as first:
            parts = [[k.var(k.constant(F32.vec(lanes), 0.0)) for _ in at] for _ in self.rows]
            with k.loop(k.min(first + _EXACT, g.k), first) as p:
                line = self.b.at(p * g.n, self.b_dtype.itemsize)
                right = [
                    (_wide(line.at(j, self.b_dtype.itemsize), self.b_dtype, lanes, mask) - zero).to_float(F32)
                    for j, zero in zip(at, zeros, strict=True)
                ]
                for r, row in enumerate(parts):
                    left = k.scratch.at(g.k * r + p, 4).load(F32).splat(lanes)
                    for x, part in zip(right, row, strict=True):
                        part.set(k.fma(left, x, part))
            for totals, row in zip(sums, parts, strict=True):
                for total, part in zip(totals, row, strict=True):
                    total += part.get().to_int(I32)
        for row, totals in zip(self.rows, sums, strict=True):
            for j, total in zip(at, totals, strict=True):
                store_as(k, g.out.at((self.first_row + row) * g.n + j, 4), total.get(), DType.I32, mask)

    def zero(self, j: V, lanes: int, mask: V | None) -> V:
        """The zero points of columns from j on."""
        k, g = self.k, self.k.arg
        p = g.b_zero.at(j * g.b_zero_step, self.b_dtype.itemsize)
        found = k.var(k.constant(I32.vec(lanes), 0))

        def one() -> None:
            found.set(_wide(p, self.b_dtype, 0, None).splat(lanes))

        k.branch(g.b_zero_step.eq(0), one, lambda: found.set(_wide(p, self.b_dtype, lanes, mask)))
        return found.get()


def _wide(p: V, dtype: DType, lanes: int, mask: V | None) -> V:
    """Small integers as 32-bit ones."""
    x = load_as(p.k, p, dtype, lanes, mask)
    return x.sext(I32) if dtype.is_signed else x.zext(I32)
