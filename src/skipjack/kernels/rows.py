"""Elements named by an index each, along one axis: what GatherElements does."""

from __future__ import annotations

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import memory_type
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Place, generator
from skipjack.kernels.span import span
from skipjack.kernels.take import load_index, wrapped
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_UNIT = 8192
_RAW = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}


def gather_rows(
    source: Place, index: Bound, out: Place, itemsize: int, outer: int, size: int, inner: int
) -> list[Launch]:
    """out[o, j, i] = source[o, index[o, j, i], i] for a source of sizes [outer, size, inner]."""
    if index.elements == 0 or size == 0:
        return []
    count = index.elements // (outer * inner)
    # One row is what shares a base address: an axis line when it is innermost, else one index of the axis.
    rows, length, per_part = (outer, count, 1) if inner == 1 else (outer * count, inner, count)
    step = 0 if inner == 1 else itemsize
    block = max(1, min(rows, _UNIT // length))
    words = (
        source,
        index.place,
        out,
        rows,
        block,
        length,
        per_part,
        size * inner * itemsize,
        size,
        inner * itemsize,
        step,
    )
    spec = KernelSpec("gather_rows", (index.dtype, itemsize))
    return [Launch(spec, -(-rows // block), words, (source, index.place), (out,))]


_WORDS = ("rows", "block", "length", "per_part", "part_step", "size", "stride", "step")


@generator("gather_rows")
def kernel(target: Target, name: str, index: DType, itemsize: int) -> Program:
    """The kernel of `gather_rows`: lanes over the elements of a row."""
    k = Kernel(
        name, [("source", PTR), ("index", PTR), ("out", PTR), *((n, I64) for n in _WORDS)], 8 * target.vector_bytes
    )
    a = k.arg
    ty = memory_type(_RAW[itemsize])
    wide = target.vector_bytes // 8

    def body(i: V, lanes: int, mask: V | None) -> None:
        place = row.get() * a.length + i
        at = load_index(k, a.index.at(place, index.itemsize), index, lanes)
        offset = wrapped(k, at, a.size.splat(lanes)) * a.stride + i * a.step
        if lanes:
            value = base.gather(ty.vec(lanes), offset + k.iota(I64.vec(lanes)) * a.step)
        else:
            value = base.at(offset).load(ty)
        a.out.at(place, itemsize).store(value)

    row = k.var(k.i64(0))
    with k.units() as u:
        first = u * a.block
        with k.loop(k.min(first + a.block, a.rows), first) as r:
            row.set(r)
            base = a.source.at(r.udiv(a.per_part) * a.part_step)
            span(k, k.i64(0), a.length, wide, False, body, 1)
    return k.finish()
