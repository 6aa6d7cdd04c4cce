"""AppendToCache: the rows of one head of one item, copied from the past, from the new positions, or zero."""

from __future__ import annotations

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.copy import held
from skipjack.kernels.emit import load_as, store_as
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Work, generator, lowering
from skipjack.kernels.span import maskable, span
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_RAW = {2: DType.U16, 4: DType.U32, 8: DType.U64}
_WORDS = ("heads", "kept", "steps", "length", "depth", "step")


def _lower(work: Work) -> list[Launch]:
    new, starts, past, out = work.input(0), work.input(1), work.maybe(3), work.output()
    batch, heads, length, depth = out.shape
    reads = (new.place, starts.place, *([past.place] if past is not None else []))
    kept = 0 if past is None else past.shape[2]
    step = heads * depth * new.dtype.itemsize
    words = (new.place, starts.place, reads[-1], out.place, heads, kept, new.shape[1], length, depth, step)
    spec = KernelSpec("append_to_cache", (_RAW[new.dtype.itemsize],))
    return [Launch(spec, batch * heads, words, reads, (out.place,))]


@generator("append_to_cache")
def kernel(target: Target, name: str, dtype: DType) -> Program:
    """A unit is one head of one item."""
    pointers = ("new", "starts", "past", "out")
    k = Kernel(name, [*((n, PTR) for n in pointers), *((n, I64) for n in _WORDS)], 8 * target.vector_bytes)
    a, size = k.arg, dtype.itemsize
    lanes, masked = target.lanes(size), maskable(target, [dtype])

    def copy(source: V | None, to: V) -> None:
        def body(i: V, width: int, mask: V | None) -> None:
            if source is None:
                value = k.constant(load_as(k, to.at(i, size), dtype, width, mask).ty, 0)
            else:
                value = load_as(k, source.at(i, size), dtype, width, mask)
            store_as(k, to.at(i, size), value, dtype, mask)

        span(k, k.i64(0), a.depth, lanes, masked, body, 1)

    with k.units() as u:
        item, head = u.udiv(a.heads), u.urem(a.heads)
        start = k.max(k.min(a.starts.at(item, 8).load(I64), a.length), 0)
        end = k.min(start + a.steps, a.length)
        row = a.depth * size
        out, past = a.out.at(u * a.length * row), a.past.at(u * a.kept * row)
        new = a.new.at(item * a.steps * a.step + head * row)
        known = k.min(start, a.kept)
        with k.loop(known) as p:
            copy(past.at(p * row), out.at(p * row))
        with k.loop(start, known) as p:
            copy(None, out.at(p * row))
        with k.loop(end, start) as p:
            copy(new.at((p - start) * a.step), out.at(p * row))
        with k.loop(a.length, end) as p:
            copy(None, out.at(p * row))
    return k.finish()


lowering(Lowering("append", SKIPJACK, "AppendToCache", held, _lower, parameters=(2,)))
