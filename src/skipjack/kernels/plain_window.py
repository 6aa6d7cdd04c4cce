"""Windows over plain tensors: the walk that the general convolution and pool kernels share.

Lanes are neighbouring outputs of a row; where their inputs cannot be read together (small elements with strides, or
targets without masked memory) outputs are computed one by one, lanes 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.conv_shape import WindowShape
from skipjack.kernels.emit import load_as, memory_type, register_type, to_compute
from skipjack.kernels.span import lanes_for, maskable
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I1, I32, I64
from skipjack.targets.target import Target

SIZES = ("out_d", "out_h", "out_w", "in_d", "in_h", "in_w", "pad_d", "pad_h", "pad_w")


@dataclass(frozen=True)
class WindowSteps:
    """The window, compiled in. transposed: the window is the adjoint's, a position is read when a stride divides it."""

    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]
    dilations: tuple[int, int, int]
    transposed: bool = False


def size_words(s: WindowShape) -> list[int]:
    """The argument words SIZES."""
    return [*s.out, *s.size, *s.before]


def lanes_of(target: Target, steps: WindowSteps, source: DType, others: tuple[DType, ...]) -> int:
    """Outputs computed together; 0 when they are computed one by one."""
    together = steps.strides[2] == 1 or source.itemsize >= 4
    return lanes_for(target, (source, *others)) if together and maskable(target, (source, *others)) else 0


@dataclass(frozen=True)
class Tap:
    """One input element per lane: its index in the image plane stack and whether it exists; index of the tap."""

    value: V
    exists: V
    number: V
    position: V


class Walk:
    """Visits every tap of the outputs [w, w + lanes) of row (d, h)."""

    def __init__(self, k: Kernel, steps: WindowSteps, dtype: DType, lanes: int) -> None:
        self.k, self.s, self.dtype, self.lanes, self.a = k, steps, dtype, lanes, k.arg

    def visit(self, x: V, at: tuple[V, V, V], body: Callable[[Tap], None], outside: bool = False) -> None:
        """body for every tap; unless outside, rows that lie outside the input are left out. x is one channel."""
        k, a, s = self.k, self.a, self.s
        with k.loop(s.kernel[0]) as i:
            d, d_in = self._source(at[0], i, 0, a.pad_d, a.in_d)
            with k.loop(s.kernel[1]) as j:
                h, h_in = self._source(at[1], j, 1, a.pad_h, a.in_h)
                inside = d_in & h_in
                number = (i * s.kernel[1] + j) * s.kernel[2]
                with k.when(inside | k.constant(I1, 1 if outside else 0)), k.loop(s.kernel[2]) as t:
                    self._column(x, (d * a.in_h + h) * a.in_w, inside if outside else None, at[2], t, number + t, body)

    def _source(self, out: V, tap: V, axis: int, pad: V, size: V) -> tuple[V, V]:
        """(input position, whether it exists) of a tap of an output."""
        step, dilation = self.s.strides[axis], self.s.dilations[axis]
        if not self.s.transposed:
            position = out * step + tap * dilation - pad
            return position, (position >= 0) & (position < size)
        reached = out - tap * dilation + pad
        position = reached // step
        return position, (reached >= 0) & (position < size) & (position * step).eq(reached)

    def _column(self, x: V, row: V, inside: V | None, w: V, t: V, number: V, body: Callable[[Tap], None]) -> None:
        k, a, lanes = self.k, self.a, self.lanes
        if not lanes:
            position, exists = self._source(w, t, 2, a.pad_w, a.in_w)
            exists = exists if inside is None else exists & inside
            value = k.var(k.zero(register_type(self.dtype)))
            with k.when(exists):
                value.set(load_as(k, x.at((row + position) * self.dtype.itemsize), self.dtype, 0))
            body(Tap(value.get(), exists, number, row + position))
            return
        out = w.trunc(I32).splat(lanes) + k.iota(I32.vec(lanes))
        tap, pad, size = (v.trunc(I32).splat(lanes) for v in (t, a.pad_w, a.in_w))
        position, exists = self._source(out, tap, 2, pad, size)
        exists = exists & (out < a.out_w.trunc(I32).splat(lanes))
        exists = exists if inside is None else exists & inside.splat(lanes)
        index = position.sext(I64) + row.splat(lanes)
        body(Tap(self._load(x, row, w, t, index, exists), exists, number, index))

    def _load(self, x: V, row: V, w: V, t: V, index: V, exists: V) -> V:
        k, s, item = self.k, self.s, self.dtype.itemsize
        if s.strides[2] == 1:
            shift = t * s.dilations[2]
            first = w - shift + self.a.pad_w if s.transposed else w + shift - self.a.pad_w
            return load_as(k, x.at((row + first) * item), self.dtype, self.lanes, exists)
        raw = x.gather(memory_type(self.dtype).vec(self.lanes), index * item, exists)
        return to_compute(k, raw, self.dtype)
