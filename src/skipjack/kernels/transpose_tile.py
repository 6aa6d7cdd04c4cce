"""Square tiles of 4-byte elements transposed in registers: copies whose contiguous axes differ on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from skipjack.kernels.launch import KernelSpec, Launch, Place, Word, generator
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program, Ty
from skipjack.targets.target import Target

Axis = tuple[int, tuple[int, ...]]
_CLASSES = (1, 6)
_ITEM = 4


def transposed(axes: Sequence[Axis], source: Place, out: Place, target: Target) -> list[Launch] | None:
    """Launches that copy a 4-byte view over axes (size, (input stride, output stride)); None when tiles do not fit."""
    vl = target.vl
    along_out = [a for a in axes if a[1][1] == _ITEM and a[0] >= vl]
    along_in = [a for a in axes if a[1][0] == _ITEM and a[0] >= vl]
    if not along_out or not along_in or along_out[0] == along_in[0] or len(axes) > max(_CLASSES) + 2:
        return None
    (na, (in_a, _)), (nc, (_, out_c)) = along_out[0], along_in[0]
    rest = [a for a in axes if a not in (along_out[0], along_in[0])]
    depth = next(c for c in _CLASSES if c >= len(rest))
    rest = [(1, (0, 0))] * (depth - len(rest)) + rest
    strips = -(-nc // vl)
    words: list[Word] = [source, out, strips, na, nc, in_a, out_c]
    units = strips
    for size, steps in rest:
        units *= size
        words += [size, *steps]
    return [Launch(KernelSpec("transpose_tile", (depth,)), units, tuple(words), (source,), (out,))]


@generator("transpose_tile")
def kernel(target: Target, name: str, depth: int) -> Program:
    """A unit is one strip of vl rows of the output. The last tile of a line overlaps the one before it."""
    words: list[tuple[str, Ty]] = [(n, I64) for n in ("strips", "na", "nc", "in_a", "out_c")]
    for d in range(depth):
        words += [(f"e{d}", I64), (f"i{d}", I64), (f"o{d}", I64)]
    k = Kernel(name, [("source", PTR), ("out", PTR), *words], 8 * target.vector_bytes)
    g, vl = k.arg, target.vl
    with k.units() as u:
        strip, outer = u.urem(g.strips), u.udiv(g.strips)
        source, out = g.source, g.out
        for d in reversed(range(depth)):
            size = getattr(g, f"e{d}")
            at, outer = outer.urem(size), outer.udiv(size)
            source, out = source.at(at * getattr(g, f"i{d}")), out.at(at * getattr(g, f"o{d}"))
        c = k.min(strip * vl, g.nc - vl)
        source, out = source.at(c, _ITEM), out.at(c * g.out_c)
        with k.loop(g.na, step=vl) as at:
            a = k.min(at, g.na - vl)
            rows = [source.at((a + i) * g.in_a).load(I32.vec(vl)) for i in range(vl)]
            for i, row in enumerate(_exchanged(rows)):
                out.at(g.out_c * i).at(a, _ITEM).store(row)
    return k.finish()


def _exchanged(rows: list[V]) -> list[V]:
    """Rows as columns: blocks off the diagonal trade places, at half the size in each round."""
    n = len(rows)
    step = n // 2
    while step:
        for i in range(n):
            if i & step:
                continue
            a, b = rows[i], rows[i + step]
            rows[i] = a.shuffle([n + j - step if j & step else j for j in range(n)], b)
            rows[i + step] = a.shuffle([n + j if j & step else j + step for j in range(n)], b)
        step //= 2
    return rows
