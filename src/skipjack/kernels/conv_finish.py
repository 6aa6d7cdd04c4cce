"""How accumulators in the blocked layout become outputs: epilogue, zeros in channels that do not exist, store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipjack.kernels.emit import emit
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32


@dataclass(frozen=True)
class Finish:
    """Stores blocks to argument `y`. extras: one letter per argument e0, e1, ...: "c" per map or "r" like the output.

    step: the distance of neighbouring pixels in vectors. masked: the last vector of channels may reach beyond the last
    map; what lies there is stored as zeros.
    """

    k: Kernel
    vl: int
    extras: str
    masked: bool
    epilogue: Expr | None
    step: int = 1

    def store(self, values: Sequence[V], y_bytes: V, first_map: V, maps: V) -> None:
        """values are consecutive pixels of the channels [first_map, first_map + vl), the first at y_bytes."""
        k = self.k
        mask = k.below(maps - first_map, self.vl) if self.masked else None
        per_map = {
            i: self._per_map(getattr(k.arg, f"e{i}"), first_map, mask) for i, e in enumerate(self.extras) if e == "c"
        }
        pixel = 4 * self.vl
        if self.epilogue is None or _functions(self.epilogue) * len(values) <= _FUNCTIONS_UNROLLED:
            for r, value in enumerate(values):
                self._one(value, y_bytes + pixel * self.step * r, per_map, mask)
            return
        held = k.local(pixel * len(values))
        for r, value in enumerate(values):
            held.at(pixel * r).store(value)
        with k.loop(len(values)) as r:
            self._one(held.at(r * pixel).load(F32.vec(self.vl)), y_bytes + r * (pixel * self.step), per_map, mask)

    def _one(self, value: V, at: V, per_map: dict[int, V], mask: V | None) -> None:
        k, a = self.k, self.k.arg
        if self.epilogue is not None:
            args = [value]
            for i in range(len(self.extras)):
                args.append(per_map[i] if i in per_map else getattr(a, f"e{i}").at(at).load(F32.vec(self.vl)))
            value = emit(k, self.epilogue, args)
        a.y.at(at).store(value if mask is None else k.select(mask, value, 0.0))

    def _per_map(self, e: V, first: V, mask: V | None) -> V:
        p, vector = e.at(first, 4), F32.vec(self.vl)
        return p.load(vector) if mask is None else p.load_masked(vector, mask)


_CHEAP = frozenset([
    "input", "const", "neg", "abs", "add", "sub", "mul", "div", "min", "max", "select", "lt", "le", "gt", "ge", "eq",
    "ne", "sqrt", "floor", "ceil", "round", "trunc",
])  # fmt: skip
_FUNCTIONS_UNROLLED = 4


def _functions(e: Expr) -> int:
    """How many functions of many instructions an expression calls; more than a few are looped over, not unrolled."""
    return (e.op not in _CHEAP) + sum(_functions(a) for a in e.args)
