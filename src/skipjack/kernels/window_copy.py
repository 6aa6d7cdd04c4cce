"""Copies of input rows in which every tap of a window is a vector at its natural alignment, padding written out."""

from __future__ import annotations

from skipjack.kernels.sparse_conv_pack import Geometry
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I1, I32, I64

_UNROLLED = 24


class WindowCopy:
    """Traces the copy of a band: the layout of Geometry's "band" in scratch, zeros outside of the image."""

    def __init__(self, k: Kernel, g: Geometry) -> None:
        self.k, self.g, self.s, self.lanes = k, g, g.s, g.lanes
        self.vector = F32.vec(g.lanes)
        self.vectors = g.across * g.vectors

    def copy(self, x: V, channels: V, first_row: V, rows: V, first_tile: V | None) -> None:
        """`rows` rows of a copy from input row first_row on; x is the first channel's plane.

        first_tile: the first tile of a row that is copied; None when it is the image's first.
        """
        k, g, s = self.k, self.g, self.s
        self.origin = first_tile * (g.width * s.strides[2]) if first_tile is not None else 0
        with k.loop(channels) as c:
            plane, to = x.at(c * (s.size[1] * s.size[2] * 4)), k.scratch.at(c * g.channel_bytes)
            with k.loop(rows) as r:
                row = first_row + r * g.row_step
                source, line = plane.at(row * (s.size[2] * 4)), to.at(r * g.row_bytes)
                exists = (row >= 0) & (row < s.size[1])
                k.branch(exists, lambda p=source, q=line: self._row(p, q), lambda q=line: self._zeros(q))

    def _row(self, source: V, line: V) -> None:
        k, s = self.k, self.s
        if s.kernel[2] * self.vectors <= _UNROLLED:
            for tap in range(s.kernel[2]):
                for v in range(self.vectors):
                    self._vector(source, line.at(self._place(tap, v)), tap, v)
            return
        with k.loop(s.kernel[2]) as tap, k.loop(self.vectors) as v:
            self._vector(source, line.at(self._place(tap, v)), tap, v)

    def _zeros(self, line: V) -> None:
        k = self.k
        with k.loop(self.s.kernel[2]) as tap, k.loop(self.vectors) as v:
            line.at(self._place(tap, v)).store(k.zero(self.vector))

    def _place(self, tap: V | int, v: V | int) -> V | int:
        """Where vector v of a row lies for tap column `tap`."""
        g = self.g
        return tap * g.column_bytes + v // g.vectors * g.across_bytes + v % g.vectors * (4 * self.lanes)

    def _vector(self, source: V, to: V, tap: V | int, v: V | int) -> None:
        """Vector v of the row as tap column `tap` sees it."""
        s, step = self.s, self.s.strides[2]
        first = self.origin + (tap * s.dilations[2] + v * (self.lanes * step) - s.before[2])
        if step == 1:
            to.store(self._columns(source, first))
        elif step == 2:
            low, high = self._columns(source, first), self._columns(source, first + self.lanes)
            to.store(low.shuffle(range(0, 2 * self.lanes, 2), high))
        else:
            index = self._indices(first, step)
            offsets = index.sext(I64) * 4
            to.store(source.gather(self.vector, offsets, index.ult(s.size[2])))

    def _columns(self, source: V, first: V | int) -> V:
        """Columns [first, first + lanes) of an input row, zeros outside of it."""
        width, k = self.s.size[2], self.k
        if isinstance(first, int):
            inside = [0 <= first + i < width for i in range(self.lanes)]
            if all(inside):
                return source.at(4 * first).load(self.vector)
            if not any(inside):
                return k.zero(self.vector)
            return source.at(4 * first).load_masked(self.vector, k.lanes(I1.vec(self.lanes), inside))
        return source.at(first * 4).load_masked(self.vector, self._indices(first, 1).ult(width))

    def _indices(self, first: V | int, step: int) -> V:
        k, ty = self.k, I32.vec(self.lanes)
        steps = k.lanes(ty, range(0, self.lanes * step, step))
        return steps + first if isinstance(first, int) else steps + first.trunc(I32).splat(self.lanes)
