"""TopK: a heap of the k best elements of a line, kept while the line is read once."""

from __future__ import annotations

import math

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.emit import load_as, memory_type, supported_dtype
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.vector_math import is_nan
from skipjack.lang.expr import compute_dtype
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F32, I32, I64, PTR, Program
from skipjack.targets.target import Target

_ENTRY = 16
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1


def _lower(work: Work) -> list[Launch]:
    x = work.input(0)
    values, indices = work.outputs[0], work.outputs[1] if len(work.outputs) > 1 else None
    made = values or indices
    if made is None or made.elements == 0:
        return []
    axis = int(work.attr("axis", -1)) % len(x.shape)
    count, n, inner = made.shape[axis], x.shape[axis], math.prod(x.shape[axis + 1 :])
    outs = [o.place for o in (values, indices) if o is not None]
    spec = KernelSpec("top_k", (x.dtype, bool(work.attr("largest", 1)), values is not None, indices is not None))
    words = (x.place, *outs, n, inner, count)
    return [Launch(spec, math.prod(x.shape[:axis]) * inner, words, (x.place,), tuple(outs), count * _ENTRY)]


def _key(k: Kernel, x: V, dtype: DType, largest: bool) -> V:
    """x as an integer such that better elements have larger ones; NaN counts as larger than all numbers."""
    kind = compute_dtype(dtype)
    if kind.is_float:
        ints = I32 if x.ty == F32 else I64
        bits = (x + 0.0).bitcast(ints)
        top = (1 << (ints.bits - 1)) - 1
        ordered = k.select(is_nan(x), k.constant(ints, top), bits ^ (bits.sar(ints.bits - 1) & top))
        key = ordered if ints == I64 else ordered.sext(I64)
    elif kind is DType.U64:
        key = x ^ _LOWEST
    elif x.ty.bits < 64:
        key = x.sext(I64) if kind.is_signed and kind is not DType.BOOL else x.zext(I64)
    else:
        key = x
    return key if largest else key ^ -1


class _Heap:
    """k entries (key, index) in scratch, the worst at the root; of equal keys the later index is worse."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.at = k.scratch

    def entry(self, i: V | int) -> tuple[V, V]:
        p = self.at.at(i * _ENTRY) if isinstance(i, int) else self.at.at(i, _ENTRY)
        return p.load(I64, 8), p.at(8).load(I64, 8)

    def put(self, i: V, key: V, index: V) -> None:
        p = self.at.at(i, _ENTRY)
        p.store(key, 8)
        p.at(8).store(index, 8)

    def worse(self, a: tuple[V, V], b: tuple[V, V]) -> V:
        return (a[0] < b[0]) | (a[0].eq(b[0]) & (a[1] > b[1]))

    def sink(self, key: V, index: V, size: V) -> None:
        """Put an entry in the place of the root of a heap of `size` entries."""
        k = self.k
        at: Var = k.var(k.i64(0))
        going: Var = k.var(k.i64(1))
        with k.while_(lambda: going.get().ne(0) & (at.get() * 2 + 1 < size)):
            child = at.get() * 2 + 1
            other = k.min(child + 1, size - 1)
            chosen = k.select(self.worse(self.entry(other), self.entry(child)), other, child)
            found = self.entry(chosen)

            def rise(found: tuple[V, V] = found, chosen: V = chosen) -> None:
                self.put(at.get(), *found)
                at.set(chosen)

            k.branch(self.worse(found, (key, index)), rise, lambda: going.set(0))
        self.put(at.get(), key, index)


@generator("top_k")
def kernel(target: Target, name: str, dtype: DType, largest: bool, values: bool, indices: bool) -> Program:
    """A unit is one line along the axis; results are in order, best first, equal ones by index."""
    outs = [n for n, wanted in (("values", values), ("indices", indices)) if wanted]
    k = Kernel(name, [("x", PTR), *((n, PTR) for n in outs), ("n", I64), ("inner", I64), ("count", I64)])
    a, size = k.arg, dtype.itemsize
    heap = _Heap(k)
    with k.units() as u:
        outer, lane = u.udiv(a.inner), u.urem(a.inner)
        line = a.x.at(outer * a.n * a.inner + lane, size)
        with k.loop(a.count) as i:
            heap.put(i, k.i64(_LOWEST), k.i64(_HIGHEST))
        with k.loop(a.n) as i:
            key = _key(k, load_as(k, line.at(i * a.inner, size), dtype, 0), dtype, largest)
            with k.when(heap.worse(heap.entry(0), (key, i))):
                heap.sink(key, i, a.count)
        with k.loop(a.count) as done:
            left = a.count - 1 - done
            _, index = heap.entry(0)
            to = (outer * a.count + left) * a.inner + lane
            if values:
                a.values.at(to, size).store(line.at(index * a.inner, size).load(memory_type(dtype)))
            if indices:
                a.indices.at(to, 8).store(index)
            key, last = heap.entry(left)
            with k.when(left > 0):
                heap.sink(key, last, left)
    return k.finish()


def _accepts(site: Site) -> str:
    t = site.inputs[0]
    return "" if t is not None and supported_dtype(t.dtype) else "elements kernels do not compute with"


lowering(Lowering("heap", ONNX, "TopK", _accepts, _lower))
