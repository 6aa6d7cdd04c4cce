"""Blocks of memory named by index tuples, copied one after the other: what Gather and GatherND do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import load_as, memory_type, store_as
from skipjack.kernels.launch import KernelSpec, Launch, Place, generator
from skipjack.kernels.span import maskable, span
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program, Ty
from skipjack.targets.target import Target

_UNIT_BYTES = 1 << 15
INDEX_TYPES = (DType.I32, DType.I64)


def take_axis(
    source: Place,
    shape: Sequence[int],
    axis: int,
    itemsize: int,
    index: Place,
    index_dtype: DType,
    count: int,
    out: Place,
    target: Target,
) -> list[Launch]:
    """out[..., i, ...] = source[..., index[i], ...] along one axis, count indices."""
    block = math.prod(shape[axis + 1 :]) * itemsize
    size = shape[axis]
    return take(
        source, index, index_dtype, out, math.prod(shape[:axis]), count, [(size, block)], block, size * block, 0
    )


def take(
    source: Place,
    index: Place,
    index_dtype: DType,
    out: Place,
    outer: int,
    count: int,
    axes: Sequence[tuple[int, int]],
    nbytes: int,
    source_step: int,
    index_step: int,
) -> list[Launch]:
    """For each of outer parts, count index tuples name blocks of nbytes; axes: (size, stride) per number of a tuple.

    The steps lead, in bytes, from one part's source and indices to the next's. An index outside its axis is moved to
    the nearest end.
    """
    if outer * count * nbytes == 0 or any(size == 0 for size, _ in axes):
        return []
    per_unit = max(1, min(count, _UNIT_BYTES // nbytes))
    chunks = -(-count // per_unit)
    words = (
        source,
        index,
        out,
        count,
        per_unit,
        chunks,
        nbytes,
        source_step,
        index_step,
        *(w for a in axes for w in a),
    )
    way = "one" if nbytes in (1, 2, 4, 8) else "words" if nbytes % 4 == 0 else "bytes"
    spec = KernelSpec("take", (index_dtype, len(axes), way, nbytes if way == "one" else 0))
    return [Launch(spec, outer * chunks, words, (source, index), (out,))]


def wrapped(k: Kernel, index: V, size: V) -> V:
    """An index (i64) counted from the end when negative, moved into [0, size)."""
    at = k.select(index < 0, index + size, index)
    return k.max(k.min(at, size - 1), 0)


def load_index(k: Kernel, p: V, dtype: DType, lanes: int = 0, mask: V | None = None) -> V:
    """An index as i64."""
    v = load_as(k, p, dtype, lanes, mask)
    return v if dtype is DType.I64 else v.sext(I64)


def tuple_offset(k: Kernel, p: V, dtype: DType, depth: int) -> V:
    """The byte offset that the index tuple at p stands for; the axes are the words size0, stride0, ..."""
    total = k.i64(0)
    for j in range(depth):
        at = wrapped(k, load_index(k, p.at(j * dtype.itemsize), dtype), getattr(k.arg, f"size{j}"))
        total = total + at * getattr(k.arg, f"stride{j}")
    return total


def axis_fields(depth: int) -> list[tuple[str, Ty]]:
    """The words of the axes of index tuples."""
    return [(f"{name}{j}", I64) for j in range(depth) for name in ("size", "stride")]


_FIXED = ("count", "per_unit", "chunks", "nbytes", "source_step", "index_step")


@generator("take")
def kernel(target: Target, name: str, index: DType, depth: int, way: str, item: int) -> Program:
    """The kernel of `take`; way: blocks of one element of `item` bytes, of 4-byte words, or of bytes."""
    fields: list[tuple[str, Ty]] = [("source", PTR), ("index", PTR), ("out", PTR), *((n, I64) for n in _FIXED)]
    k = Kernel(name, [*fields, *axis_fields(depth)], 8 * target.vector_bytes)
    a = k.arg
    with k.units() as u:
        chunk, part = u.urem(a.chunks), u.udiv(a.chunks)
        source, indices = a.source.at(part * a.source_step), a.index.at(part * a.index_step)
        first = chunk * a.per_unit
        with k.loop(k.min(first + a.per_unit, a.count), first) as t:
            at = tuple_offset(k, indices.at(t * (depth * index.itemsize)), index, depth)
            _copy_block(k, target, source.at(at), a.out.at((part * a.count + t) * a.nbytes), way, item)
    return k.finish()


def _copy_block(k: Kernel, target: Target, source: V, out: V, way: str, item: int) -> None:
    if way == "one":
        ty = memory_type({1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}[item])
        out.store(source.load(ty))
        return
    dtype = DType.U32 if way == "words" else DType.U8
    size = dtype.itemsize

    def body(i: V, lanes: int, mask: V | None) -> None:
        store_as(k, out.at(i, size), load_as(k, source.at(i, size), dtype, lanes, mask), dtype, mask)

    count = k.arg.nbytes.udiv(size)
    span(k, k.i64(0), count, target.lanes(size), maskable(target, [dtype]), body, 1)
