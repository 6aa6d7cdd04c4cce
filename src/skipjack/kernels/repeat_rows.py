"""Plain images with every column and row repeated: nearest-neighbour enlargement by whole factors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from skipjack.kernels.launch import KernelSpec, Launch, Work, generator
from skipjack.kernels.span import span
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program
from skipjack.targets.target import Target

_MOST_COLUMNS = 4


def repeat_rows(work: Work, tables: Sequence[tuple[int, np.ndarray]]) -> list[Launch]:
    """The launch that reads the indices `tables` names per axis; none unless they repeat the last two axes evenly."""
    x, y = work.input(0), work.output()
    rank, factors = len(x.shape), {}
    for axis, table in tables:
        size = x.shape[axis]
        if not size or table.size % size or not np.array_equal(table, np.arange(table.size) // (table.size // size)):
            return []
        factors[axis] = table.size // size
    columns, rows = factors.pop(rank - 1, 1), factors.pop(rank - 2, 1)
    if factors or x.dtype.itemsize != 4 or columns > _MOST_COLUMNS or not y.elements:
        return []
    words = (x.place, y.place, x.shape[-1], rows)
    units = prod(x.shape[:-1])
    return [Launch(KernelSpec("repeat_rows", (columns,)), units, words, (x.place,), (y.place,))]


@generator("repeat_rows")
def repeat_rows_kernel(target: Target, symbol: str, columns: int) -> Program:
    """A unit is one input row: each element `columns` times, the row `rows` times."""
    k = Kernel(symbol, [("x", PTR), ("y", PTR), ("width", I64), ("rows", I64)], target.vector_bytes * 8)
    a = k.arg
    with k.units() as unit:
        x, y = a.x.at(unit * a.width, 4), a.y.at(unit * a.width * a.rows * (4 * columns))

        def body(i: V, lanes: int, mask: V | None) -> None:
            assert mask is None, "what is left of a row is repeated one by one"
            value = x.at(i, 4).load(I32.vec(lanes))
            if lanes:
                parts = [value.shuffle([(n * lanes + j) // columns for j in range(lanes)]) for n in range(columns)]
            else:
                parts = [value] * columns
            with k.loop(a.rows) as r:
                to = y.at((r * a.width + i) * (4 * columns))
                for n, part in enumerate(parts):
                    to.at(n * 4 * max(lanes, 1)).store(part)

        span(k, k.i64(0), a.width, target.vl, False, body)
    return k.finish()
