"""NonZero with its count given: the indices of elements that are set, in order."""

from __future__ import annotations

import math

from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I8, I64, PTR, Program
from skipjack.targets.target import Target


def _accepts(site: Site) -> str:
    t = site.inputs[0]
    return "" if t is not None and t.rank else "an unknown rank"


def _lower(work: Work) -> list[Launch]:
    x, out = work.input(0), work.output()
    if out.elements == 0 or x.elements == 0:
        return []
    axes = [w for a, n in enumerate(x.shape) for w in (math.prod(x.shape[a + 1 :]), n)]
    words = (x.place, out.place, x.elements, out.shape[1], *axes)
    return [Launch(KernelSpec("non_zero", (len(x.shape),)), 1, words, (x.place,), (out.place,))]


@generator("non_zero")
def kernel(target: Target, name: str, rank: int) -> Program:
    """The kernel of NonZero: one unit, because an index lies behind all earlier ones. At most `room` are stored."""
    axes = [(f"{what}{a}", I64) for a in range(rank) for what in ("step", "size")]
    k = Kernel(name, [("x", PTR), ("out", PTR), ("count", I64), ("room", I64), *axes])
    a = k.arg
    found = k.var(k.i64(0))

    def put(i: V) -> None:
        at = found.get()
        for axis in range(rank):
            index = i.udiv(getattr(a, f"step{axis}")).urem(getattr(a, f"size{axis}"))
            a.out.at(at + a.room * axis, 8).store(index)
        found.set(at + 1)

    with k.units(), k.loop(a.count) as i, k.when(a.x.at(i).load(I8).ne(0) & (found.get() < a.room)):
        put(i)
    return k.finish()


lowering(Lowering("indices", SKIPJACK, "NonZero", _accepts, _lower, parameters=(1,)))
