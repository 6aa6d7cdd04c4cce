"""Windows over planes of plain f32 images, in registers: lanes are output columns, several output rows share loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

from skipjack.core.dtypes import DType
from skipjack.kernels.conv_shape import WindowShape, even_block
from skipjack.kernels.launch import Site
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I1, I64
from skipjack.targets.target import Target

LARGEST_WINDOW = 49
_PRODUCTS_PER_BLOCK = 128


def plain_misfit(site: Site, own: int) -> str:
    """Why kernels with positions in lanes cannot run an f32 site on plain images; extras start at input `own`."""
    if any(t is not None and t.dtype is not DType.F32 for t in (*site.inputs, *site.outputs)):
        return "not all values are f32"
    x, out = site.inputs[0], site.outputs[0]
    if x is None or x.rank not in (3, 4):
        return "one or two spatial axes"
    for t in site.inputs[own:]:
        if t is not None and t.rank not in (0, 1) and (out is None or t.shape != out.shape):
            return "an extra input is neither per map nor like the output"
    return ""


@dataclass(frozen=True)
class RowBlock:
    """What is compiled in: a plane's sizes, lanes, and how many output rows are computed together."""

    s: WindowShape
    lanes: int
    rows: int

    @property
    def vectors(self) -> int:
        """Vectors of an output row."""
        return -(-self.s.out[2] // self.lanes)


def row_block(s: WindowShape, target: Target) -> RowBlock:
    """Lanes that waste least of a row, rows as registers allow; the same for every batch and number of channels."""
    width, lanes = s.out[2], target.vl
    if lanes == 16 and -(-width // 8) * 8 <= 0.9 * (-(-width // 16) * 16):
        lanes = 8
    most = min(target.registers // 4, max(_PRODUCTS_PER_BLOCK // max(s.taps, 1), 1))
    return RowBlock(replace(s, batch=1, channels=1, maps=1, group=1), lanes, even_block(s.out[1], most))


def window_cycles(s: WindowShape, target: Target, joined: float = 0.0) -> float:
    """Predicted cycles of one plane; joined: what joining a tap costs where taps of a row are joined first."""
    b = row_block(s, target)
    unit = b.lanes / target.vl
    loads = {1: 1.6, 2: 2.5}.get(s.strides[2], 20.0) * s.kernel[2]
    rows = ((b.rows - 1) * s.strides[1] + s.kernel[1]) / b.rows
    work = joined * (rows * s.kernel[2] + s.kernel[1]) if joined else s.taps * 1.05
    return 40 + s.out[1] * b.vectors * unit * (max(work, loads * rows) + 4)


Join = Callable[[V, V], V]


@dataclass(frozen=True)
class Tap:
    """Input `value` of output row `row` of the block, for tap (i, j) of the window."""

    row: int
    i: int
    j: int
    value: V


class RowWalk:
    """Visits every tap of a block of output rows, in the order of window rows and columns for each output.

    Taps outside of the image are `outside`, but for whole rows of them, which are left out.
    """

    def __init__(self, k: Kernel, b: RowBlock, outside: float = 0.0) -> None:
        self.k, self.b, self.s, self.outside = k, b, b.s, outside
        self.vector = F32.vec(b.lanes)

    def blocks(self, body: Callable[[V | int, int], None]) -> None:
        """body(first output row, how many rows) for all rows of a plane."""
        rows, height = self.b.rows, self.s.out[1]
        whole, rest = height // rows, height % rows
        if whole == 1:
            body(0, rows)
        elif whole:
            with self.k.loop(whole) as n:
                body(n * rows, rows)
        if rest:
            body(whole * rows, rest)

    def across(self, body: Callable[[V | int], None]) -> None:
        """body(vector of columns) for all of a row; a number where taps or outputs may lie outside."""
        inner = [v for v in range(self.b.vectors) if self._whole(v)]
        if len(inner) < 3:
            for v in range(self.b.vectors):
                body(v)
            return
        for v in range(inner[0]):
            body(v)
        with self.k.loop(inner[-1] + 1, inner[0]) as v:
            body(v)
        for v in range(inner[-1] + 1, self.b.vectors):
            body(v)

    def _whole(self, v: int) -> bool:
        s, lanes = self.s, self.b.lanes
        low = v * lanes * s.strides[2] - s.before[2]
        high = low + (lanes - 1) * s.strides[2] + (s.kernel[2] - 1) * s.dilations[2]
        spare = s.strides[2] - 1
        return low >= 0 and high + spare < s.size[2] and (v + 1) * lanes <= s.out[2]

    def mask(self, v: V | int) -> V | None:
        """Which outputs of a vector exist; None when all do."""
        left = self.s.out[2] - v * self.b.lanes if isinstance(v, int) else self.b.lanes
        lanes = self.b.lanes
        return None if left >= lanes else self.k.lanes(I1.vec(lanes), [i < left for i in range(lanes)])

    def visit(
        self, plane: V, first: V | int, rows: int, v: V | int, body: Callable[[Tap], None], join: Join | None = None
    ) -> None:
        """All taps of `rows` output rows from `first` on, columns of vector v.

        join: taps of one row are first joined to one, of column 0, which all output rows share.
        """
        s = self.s
        top = first * s.strides[1] - s.before[1]
        for i in range((rows - 1) * s.strides[1] + (s.kernel[1] - 1) * s.dilations[1] + 1):
            users = [
                (r, t) for r in range(rows) for t in range(s.kernel[1]) if r * s.strides[1] + t * s.dilations[1] == i
            ]
            if not users:
                continue
            row = top + i
            if isinstance(row, int):
                if 0 <= row < s.size[1]:
                    self._row(self._columns(plane.at(row * s.size[2] * 4), v), users, body, join)
                continue
            with self.k.when((row >= 0) & (row < s.size[1])):
                self._row(self._columns(plane.at(row * (s.size[2] * 4)), v), users, body, join)

    def _row(
        self, values: list[V], users: list[tuple[int, int]], body: Callable[[Tap], None], join: Join | None
    ) -> None:
        values = [reduce(join, values)] if join else values
        for r, i in users:
            for j, value in enumerate(values):
                body(Tap(r, i, j, value))

    def _columns(self, source: V, v: V | int) -> list[V]:
        """The inputs of every tap column."""
        s, lanes, found = self.s, self.b.lanes, list[V]()
        loaded: dict[int, V] = {}
        for j in range(s.kernel[2]):
            at = j * s.dilations[2] - s.before[2]
            if s.strides[2] == 1:
                found.append(self._load(source, v, at, 1))
            elif s.strides[2] == 2:
                odd = (at + s.before[2]) % 2
                pair = [self._loaded(loaded, source, v, at - odd + n * lanes) for n in range(2)]
                found.append(pair[0].shuffle(range(odd, 2 * lanes, 2), pair[1]))
            else:
                found.append(self._gathered(source, v, at))
        return found

    def _loaded(self, loaded: dict[int, V], source: V, v: V | int, at: int) -> V:
        if at not in loaded:
            loaded[at] = self._load(source, v, at, 2)
        return loaded[at]

    def _load(self, source: V, v: V | int, at: int, step: int) -> V:
        """Columns from v * lanes * step + at on, next to each other."""
        k, lanes, width = self.k, self.b.lanes, self.s.size[2]
        if not isinstance(v, int):
            return source.at(v * (lanes * step * 4)).at(4 * at).load(self.vector)
        first = v * lanes * step + at
        inside = [0 <= first + i < width for i in range(lanes)]
        return self._where(inside, lambda mask: self._masked(source.at(4 * first), mask), k)

    def _masked(self, p: V, mask: V | None) -> V:
        return p.load(self.vector) if mask is None else p.load_masked(self.vector, mask)

    def _where(self, inside: list[bool], load: Callable[[V | None], V], k: Kernel) -> V:
        """load(mask) where a column is inside, else `outside`."""
        if all(inside):
            return load(None)
        if not any(inside):
            return k.constant(self.vector, self.outside)
        mask = k.lanes(I1.vec(len(inside)), inside)
        value = load(mask)
        return value if not self.outside else k.select(mask, value, self.outside)

    def _gathered(self, source: V, v: V | int, at: int) -> V:
        """Columns `stride` apart, one by one."""
        k, s, lanes = self.k, self.s, self.b.lanes
        step = s.strides[2]
        offsets = k.lanes(I64.vec(lanes), [4 * (i * step + at) for i in range(lanes)])
        if not isinstance(v, int):
            return source.at(v * (lanes * step * 4)).gather(self.vector, offsets)
        inside = [0 <= (v * lanes + i) * step + at < s.size[2] for i in range(lanes)]
        p = source.at(v * lanes * step * 4)
        return self._where(inside, lambda mask: p.gather(self.vector, offsets, mask), k)
