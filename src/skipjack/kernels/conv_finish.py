"""How accumulators in the blocked layout become outputs: epilogue, zeros in channels that do not exist, store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import emit, load_as, store_as
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32


@dataclass(frozen=True)
class Finish:
    """Stores blocks to argument `y`. extras: one letter per argument e0, e1, ...: "c" per map or "r" like the output.

    step: the distance of neighbouring pixels in vectors. masked: the last vector of channels may reach beyond the last
    map; what lies there is stored as zeros. types: of the output and the extras, f32 or bf16; all f32 when empty.
    Offsets in bytes are those of f32.
    """

    k: Kernel
    vl: int
    extras: str
    masked: bool
    epilogue: Expr | None
    step: int = 1
    types: tuple[DType, ...] = ()

    def _type(self, index: int) -> DType:
        return self.types[index] if self.types else DType.F32

    def _at(self, pointer: V, y_bytes: V, dtype: DType) -> V:
        return pointer.at(y_bytes if dtype is DType.F32 else y_bytes.sar(1))

    def store(self, values: Sequence[V], y_bytes: V, first_map: V, maps: V) -> None:
        """values are consecutive pixels of the channels [first_map, first_map + vl), the first at y_bytes."""
        k = self.k
        mask = k.below(maps - first_map, self.vl) if self.masked else None
        per_map = {i: self._per_map(i, first_map, mask) for i, e in enumerate(self.extras) if e == "c"}
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
                args.append(per_map[i] if i in per_map else self._like_output(i, at))
            value = emit(k, self.epilogue, args)
        y = self._at(a.y, at, self._type(0))
        store_as(k, y, value if mask is None else k.select(mask, value, 0.0), self._type(0))

    def _like_output(self, extra: int, at: V) -> V:
        dtype = self._type(1 + extra)
        return load_as(self.k, self._at(getattr(self.k.arg, f"e{extra}"), at, dtype), dtype, self.vl)

    def _per_map(self, extra: int, first: V, mask: V | None) -> V:
        dtype = self._type(1 + extra)
        p = getattr(self.k.arg, f"e{extra}").at(first, dtype.itemsize)
        return load_as(self.k, p, dtype, self.vl, mask)


_CHEAP = frozenset([
    "input", "const", "neg", "abs", "add", "sub", "mul", "div", "min", "max", "select", "lt", "le", "gt", "ge", "eq",
    "ne", "sqrt", "floor", "ceil", "round", "trunc",
])  # fmt: skip
_FUNCTIONS_UNROLLED = 4


def _functions(e: Expr) -> int:
    """How many functions of many instructions an expression calls; more than a few are looped over, not unrolled."""
    return (e.op not in _CHEAP) + sum(_functions(a) for a in e.args)
