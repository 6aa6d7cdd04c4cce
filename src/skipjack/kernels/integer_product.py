"""Products of 8-bit matrices with zero points, summed in 32 bits."""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import load_as
from skipjack.kernels.launch import KernelSpec, Launch, Place, generator
from skipjack.kernels.span import maskable, span
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program
from skipjack.targets.target import Target

_ROWS = 4
_COLUMNS = 256
BYTES = (DType.I8, DType.U8)


@dataclass(frozen=True)
class Operand:
    """Matrices of bytes that follow each other, `step` bytes apart (0: one for all), and their zero points.

    zero_step is 1 when there is a zero point per row (left operand) or column (right operand), else 0.
    """

    place: Place
    dtype: DType
    step: int
    zero: Place
    zero_step: int


def integer_product(a: Operand, b: Operand, out: Place, batch: int, m: int, k: int, n: int) -> list[Launch]:
    """out[i] = (a[i] - zero) @ (b[i] - zero) as i32, for a of m x k and b of k x n."""
    if batch * m * n == 0:
        return []
    columns = min(n, _COLUMNS)
    row_blocks, chunks = -(-m // _ROWS), -(-n // columns)
    words = (
        a.place, b.place, out, a.zero, b.zero, row_blocks, chunks, columns, m, k, n,
        a.step, b.step, a.zero_step, b.zero_step,
    )  # fmt: skip
    spec = KernelSpec("integer_product", (a.dtype, b.dtype))
    reads = (a.place, b.place, a.zero, b.zero)
    return [Launch(spec, batch * row_blocks * chunks, words, reads, (out,))]


_WORDS = ("row_blocks", "chunks", "columns", "m", "k", "n", "a_step", "b_step", "a_zero_step", "b_zero_step")


@generator("integer_product")
def kernel(target: Target, name: str, a_dtype: DType, b_dtype: DType) -> Program:
    """A unit is four rows of one product over a block of columns; lanes run over columns."""
    pointers = [(n, PTR) for n in ("a", "b", "out", "a_zero", "b_zero")]
    k = Kernel(name, [*pointers, *((n, I64) for n in _WORDS)], 8 * target.vector_bytes)
    g = k.arg
    with k.units() as u:
        chunk, rest = u.urem(g.chunks), u.udiv(g.chunks)
        block, i = rest.urem(g.row_blocks), rest.udiv(g.row_blocks)
        # Rows beyond the last are the last one again.
        rows = [k.min(block * _ROWS + r, g.m - 1) for r in range(_ROWS)]
        a = g.a.at(i * g.a_step)
        b = g.b.at(i * g.b_step)
        lines = [a.at(r * g.k) for r in rows]
        zeros = [_wide(k, g.a_zero.at(r * g.a_zero_step), a_dtype, 0, None) for r in rows]

        def columns(
            j: V, lanes: int, mask: V | None, i: V = i, b: V = b, rows: list[V] = rows, lines: list[V] = lines,
            zeros: list[V] = zeros,
        ) -> None:  # fmt: skip
            sums = [k.var(k.constant(I32.vec(lanes), 0)) for _ in rows]
            at = g.b_zero.at(j * g.b_zero_step)
            shift = k.var(k.constant(I32.vec(lanes), 0))

            def one() -> None:
                shift.set(_wide(k, at, b_dtype, 0, None).splat(lanes))

            k.branch(g.b_zero_step.eq(0), one, lambda: shift.set(_wide(k, at, b_dtype, lanes, mask)))
            with k.loop(g.k) as p:
                right = _wide(k, b.at(p * g.n + j), b_dtype, lanes, mask) - shift.get()
                for line, zero, total in zip(lines, zeros, sums, strict=True):
                    left = _wide(k, line.at(p), a_dtype, 0, None) - zero
                    total += left.splat(lanes) * right
            for row, total in zip(rows, sums, strict=True):
                p = g.out.at((i * g.m + row) * g.n + j, 4)
                if mask is None:
                    p.store(total.get())
                else:
                    p.store_masked(total.get(), mask)

        start = chunk * g.columns
        masked = maskable(target, [a_dtype, b_dtype])
        span(k, start, k.min(start + g.columns, g.n), target.vl, masked, columns, 1)
    return k.finish()


def _wide(k: Kernel, p: V, dtype: DType, lanes: int, mask: V | None) -> V:
    """Bytes as 32-bit integers."""
    x = load_as(k, p, dtype, lanes, mask)
    return x.sext(I32) if dtype is DType.I8 else x.zext(I32)
