"""Rows times packed weights plus a bias, for every direction of a recurrent network."""

from __future__ import annotations

from skipjack.kernels.launch import KernelSpec, Launch, Place, generator
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.targets.target import Target

_ROWS = 4


def project(
    x: Place, w: Place, bias: Place, out: Place, directions: int, rows: int, features: int, columns: int
) -> list[Launch]:
    """out[d, row] = x[row] @ w[d] + bias[d]; w is packed [d, column block, feature, lanes], two blocks at a time."""
    if rows == 0:
        return []
    blocks = -(-rows // _ROWS)
    words = (x, w, bias, out, blocks, rows, features, columns)
    return [Launch(KernelSpec("rnn_project"), directions * blocks, words, (x, w, bias), (out,))]


@generator("rnn_project")
def kernel(target: Target, name: str) -> Program:
    """A unit is four rows of one direction; rows beyond the last are the last one again."""
    words = ("blocks", "rows", "features", "columns")
    pointers = [(n, PTR) for n in ("x", "w", "bias", "out")]
    k = Kernel(name, [*pointers, *((n, I64) for n in words)], 8 * target.vector_bytes)
    g, vl = k.arg, target.vl
    vector = F32.vec(vl)
    with k.units() as u:
        d, block = u.udiv(g.blocks), u.urem(g.blocks)
        rows = [k.min(block * _ROWS + r, g.rows - 1) for r in range(_ROWS)]
        lines = [g.x.at(r * g.features, 4) for r in rows]
        with k.loop(g.columns, step=2 * vl) as c:
            at = d * g.columns + c
            bias = [g.bias.at(at + n * vl, 4).load(vector) for n in range(2)]
            sums = [[k.var(b) for b in bias] for _ in rows]
            weights: list[V] = [g.w.at((at + n * vl) * g.features, 4) for n in range(2)]
            with k.loop(g.features) as i:
                column = [w.at(i * vl, 4).load(vector) for w in weights]
                for line, totals in zip(lines, sums, strict=True):
                    value = line.at(i, 4).load(F32).splat(vl)
                    for w, total in zip(column, totals, strict=True):
                        total.set(k.fma(value, w, total))
            for row, totals in zip(rows, sums, strict=True):
                for n, total in enumerate(totals):
                    g.out.at((d * g.rows + row) * g.columns + c + n * vl, 4).store(total.get())
    return k.finish()
