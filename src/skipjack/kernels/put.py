"""Blocks and elements stored to places named by indices, one update after the other: ScatterND and ScatterElements."""

from __future__ import annotations

from collections.abc import Sequence

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import binary, load_as, store_as
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Place, generator
from skipjack.kernels.span import lanes_for, maskable, span
from skipjack.kernels.take import axis_fields, load_index, tuple_offset, wrapped
from skipjack.lang.expr import compute_dtype
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_RAW = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}


def _element(dtype: DType, way: str) -> DType:
    """Stored as they are, only the size of elements matters."""
    return _RAW[dtype.itemsize] if way == "none" else dtype


def put_blocks(
    out: Place,
    dtype: DType,
    index: Bound,
    updates: Place,
    count: int,
    axes: Sequence[tuple[int, int]],
    block: int,
    way: str,
) -> list[Launch]:
    """count index tuples name blocks of `block` elements in out that updates replace, or are combined with (way)."""
    if count * block == 0 or any(size == 0 for size, _ in axes):
        return []
    words = (out, index.place, updates, count, block, *(w for a in axes for w in a))
    spec = KernelSpec("put_blocks", (index.dtype, len(axes), _element(dtype, way), way))
    return [Launch(spec, 1, words, (out, index.place, updates), (out,))]


@generator("put_blocks")
def blocks_kernel(target: Target, name: str, index: DType, depth: int, dtype: DType, way: str) -> Program:
    """The kernel of `put_blocks`; it is one unit because tuples may name one place twice."""
    fields = [("out", PTR), ("index", PTR), ("updates", PTR), ("count", I64), ("block", I64), *axis_fields(depth)]
    k = Kernel(name, fields, 8 * target.vector_bytes)
    a = k.arg
    size = dtype.itemsize
    with k.units(), k.loop(a.count) as t:
        to = a.out.at(tuple_offset(k, a.index.at(t * (depth * index.itemsize)), index, depth))
        source = a.updates.at(t * a.block, size)

        def body(i: V, lanes: int, mask: V | None, to: V = to, source: V = source) -> None:
            value = load_as(k, source.at(i, size), dtype, lanes, mask)
            _store(k, to.at(i, size), value, dtype, way, mask)

        span(k, k.i64(0), a.block, lanes_for(target, [dtype]), maskable(target, [dtype]), body, 1)
    return k.finish()


def _store(k: Kernel, p: V, value: V, dtype: DType, way: str, mask: V | None) -> None:
    if way != "none":
        value = binary(k, way, load_as(k, p, dtype, value.ty.lanes, mask), value, compute_dtype(dtype))
    store_as(k, p, value, dtype, mask)


def put_rows(
    out: Place, dtype: DType, index: Bound, updates: Place, sizes: tuple[int, int, int], way: str
) -> list[Launch]:
    """out[o, index[o, j, i], i] takes updates[o, j, i], for out of the sizes given."""
    outer, size, inner = sizes
    if index.elements == 0 or size == 0:
        return []
    count = index.elements // (outer * inner)
    words = (out, index.place, updates, count, size, inner)
    spec = KernelSpec("put_rows", (index.dtype, _element(dtype, way), way))
    return [Launch(spec, outer, words, (out, index.place, updates), (out,))]


@generator("put_rows")
def rows_kernel(target: Target, name: str, index: DType, dtype: DType, way: str) -> Program:
    """The kernel of `put_rows`. A unit is one index of the axes before the indexed one; no two units share a place."""
    words = ("count", "size", "inner")
    k = Kernel(name, [("out", PTR), ("index", PTR), ("updates", PTR), *((n, I64) for n in words)])
    a = k.arg
    item = dtype.itemsize
    with k.units() as o:
        base = a.out.at(o * a.size * a.inner, item)
        with k.loop(a.count) as j, k.loop(a.inner) as i:
            at = (o * a.count + j) * a.inner + i
            where = wrapped(k, load_index(k, a.index.at(at, index.itemsize), index), a.size)
            value = load_as(k, a.updates.at(at, item), dtype, 0)
            _store(k, base.at(where * a.inner + i, item), value, dtype, way, None)
    return k.finish()
