"""One expression over views of memory: elementwise operators, copies, transposes, slices and fills are all this kernel.

A view is a place and a stride in bytes per axis. Axes that lie behind one another in every view are joined, the
innermost one runs in vector lanes, the next is a loop, the rest come from the unit's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import emit, load_as, memory_type, store_as, to_compute, to_memory
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Place, Word, generator
from skipjack.kernels.span import lanes_for, maskable, span
from skipjack.kernels.transpose_tile import transposed
from skipjack.lang.expr import Expr, arg
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program, Ty
from skipjack.targets.target import Target

_UNIT = 8192
_OUTER_CLASSES = (0, 2, 6)
_CHEAP = 8
_SHORT = 8


@dataclass(frozen=True)
class View:
    """Elements of one type at place + sum(index * stride); strides are bytes and may be 0 or negative."""

    place: Place
    dtype: DType
    strides: tuple[int, ...]

    def at(self, axis: int, index: int) -> View:
        """The view whose index 0 along axis is this one's `index`."""
        return View(self.place.at(index * self.strides[axis]), self.dtype, self.strides)


def contiguous(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """C-order strides in bytes."""
    strides: list[int] = []
    step = itemsize
    for d in reversed(shape):
        strides.append(step)
        step *= d
    return tuple(reversed(strides))


def whole(b: Bound, shape: Sequence[int] | None = None) -> View:
    """All of a plain value, as another shape of equal size if one is given."""
    return View(b.place, b.dtype, contiguous(b.shape if shape is None else shape, b.dtype.itemsize))


def at_place(place: Place, dtype: DType, shape: Sequence[int]) -> View:
    """Contiguous memory as a view."""
    return View(place, dtype, contiguous(shape, dtype.itemsize))


def spread(view: View, own: Sequence[int], shape: Sequence[int]) -> View:
    """A view of sizes `own` broadcast to `shape` as numpy does."""
    lead = len(shape) - len(own)
    strides = [0] * lead + [0 if n == 1 else s for n, s in zip(own, view.strides, strict=True)]
    return View(view.place, view.dtype, tuple(strides))


def broadcast(b: Bound, shape: Sequence[int]) -> View:
    """A plain value broadcast to a shape."""
    return spread(whole(b), b.shape, shape)


Axis = tuple[int, tuple[int, ...]]


def collapse(shape: Sequence[int], strides: Sequence[tuple[int, ...]]) -> list[Axis]:
    """(size, stride in every view) per axis after ordering by the last view's stride and joining what lies in a row."""
    axes = [(n, tuple(s[i] for s in strides)) for i, n in enumerate(shape) if n != 1]
    axes.sort(key=lambda axis: -abs(axis[1][-1]))
    out: list[Axis] = []
    for size, steps in axes:
        if out and all(a == size * b for a, b in zip(out[-1][1], steps, strict=True)):
            out[-1] = (out[-1][0] * size, steps)
        else:
            out.append((size, steps))
    return out or [(1, tuple(0 for _ in strides))]


def apply(expr: Expr, shape: Sequence[int], inputs: Sequence[View | None], out: View, target: Target) -> list[Launch]:
    """Launches that store the expression at every index of shape; inputs[i] is arg i."""
    if 0 in shape:
        return []
    present = [v for v in inputs if v is not None]
    axes = _longest_inside(collapse(shape, [v.strides for v in (*present, out)]))
    if len(axes) > max(_OUTER_CLASSES) + 2:
        return _peeled(expr, axes, inputs, out, target)
    inner, rows = axes[-1], axes[-2] if len(axes) > 1 else (1, (0,) * (len(present) + 1))
    outer = axes[:-2]
    depth = next(c for c in _OUTER_CLASSES if c >= len(outer))
    outer = [(1, (0,) * (len(present) + 1))] * (depth - len(outer)) + outer
    kinds = tuple(_kind(s, v.dtype, inner[0], is_out) for s, v, is_out in _inner_steps(inner, present, out))
    dtypes = tuple(None if v is None else v.dtype for v in inputs)
    columns = min(inner[0], _UNIT)
    block = max(1, min(rows[0], _UNIT // columns))
    chunks = (-(-rows[0] // block), -(-inner[0] // columns))
    words: list[Word] = [*(v.place for v in present), out.place, inner[0], rows[0], columns, block, *chunks]
    words += [s for s, kind in zip(inner[1], kinds, strict=True) if kind == "g"]
    words += rows[1]
    units = chunks[0] * chunks[1]
    for size, steps in outer:
        units *= size
        words += [size, *steps]
    spec = KernelSpec("strided", (expr, dtypes, out.dtype, kinds, depth))
    reads = tuple(v.place for v in present)
    return [Launch(spec, units, tuple(words), reads, (out.place,))]


def _longest_inside(axes: list[Axis]) -> list[Axis]:
    """The axes with a long one innermost where the innermost would fill few lanes."""
    best = max(range(len(axes)), key=lambda i: axes[i][0])
    if axes[-1][0] >= _SHORT or axes[best][0] < 4 * _SHORT:
        return axes
    return [a for i, a in enumerate(axes) if i != best] + [axes[best]]


def _inner_steps(inner: Axis, present: Sequence[View], out: View) -> list[tuple[int, View, bool]]:
    views = [*present, out]
    return [(s, v, v is out) for s, v in zip(inner[1], views, strict=True)]


def _kind(step: int, dtype: DType, size: int, is_out: bool) -> str:
    """How a view moves along the lanes: contiguous "1", the same element "0", or any stride "g"."""
    if size == 1 or step == dtype.itemsize:
        return "1"
    return "0" if step == 0 and not is_out else "g"


def _peeled(expr: Expr, axes: Sequence[Axis], inputs: Sequence[View | None], out: View, target: Target) -> list[Launch]:
    """One launch per index of the outermost axis, for views with more axes than the kernel takes."""
    size, steps = axes[0]
    shape = [n for n, _ in axes[1:]]
    launches: list[Launch] = []
    for i in range(size):
        views: list[View | None] = []
        column = 0
        for v in (*inputs, out):
            if v is None:
                views.append(None)
                continue
            strides = tuple(s[column] for _, s in axes[1:])
            views.append(View(v.place.at(i * steps[column]), v.dtype, strides))
            column += 1
        last = views[-1]
        assert last is not None, "the output is always a view"
        launches += apply(expr, shape, views[:-1], last, target)
    return launches


_RAW = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}


def copy(shape: Sequence[int], source: View, out: View, target: Target) -> list[Launch]:
    """Launches that copy elements from one view to another, of any type of 1, 2, 4, 8 or 16 bytes."""
    size = source.dtype.itemsize
    if size == 16:
        shape, size = (*shape, 2), 8
        source, out = (View(v.place, v.dtype, (*v.strides, 8)) for v in (source, out))
    axes = collapse(shape, [source.strides, out.strides])
    joined, (ss, os) = axes[-1]
    if (ss == os == size or joined == 1) and size < 4 and (joined * size) % 4 == 0 and _aligned(axes[:-1]):
        axes[-1] = (joined * size // 4, (4, 4))
        size = 4
    if size == 4 and (tiles := transposed(axes, source.place, out.place, target)) is not None:
        return tiles
    raw = _RAW[size]
    views = [View(v.place, raw, tuple(s[i] for _, s in axes)) for i, v in enumerate((source, out))]
    return apply(arg(0, raw), [n for n, _ in axes], views[:1], views[1], target)


def _aligned(axes: Sequence[Axis]) -> bool:
    return all(s % 4 == 0 for _, steps in axes for s in steps)


def nodes(e: Expr) -> int:
    """Operations of an expression, shared ones counted once per use."""
    return 1 + sum(nodes(a) for a in e.args)


@generator("strided")
def strided(
    target: Target,
    name: str,
    expr: Expr,
    dtypes: tuple[DType | None, ...],
    out: DType,
    kinds: tuple[str, ...],
    depth: int,
) -> Program:
    """The kernel of `apply`. A unit is a block of rows and columns at one index of the outer axes."""
    return _Writer(target, name, expr, dtypes, out, kinds, depth).program()


class _Writer:
    def __init__(
        self,
        target: Target,
        name: str,
        expr: Expr,
        dtypes: tuple[DType | None, ...],
        out: DType,
        kinds: tuple[str, ...],
        depth: int,
    ) -> None:
        self.expr, self.dtypes, self.kinds, self.depth = expr, dtypes, kinds, depth
        self.present = [d for d in dtypes if d is not None]
        self.types = [*self.present, out]
        count = len(self.types)
        fields: list[tuple[str, Ty]] = [(f"p{i}", PTR) for i in range(count)]
        fields += [(n, I64) for n in ("n0", "n1", "columns", "block", "chunks1", "chunks0")]
        fields += [(f"i{i}", I64) for i, kind in enumerate(kinds) if kind == "g"]
        fields += [(f"r{i}", I64) for i in range(count)]
        for d in range(depth):
            fields += [(f"e{d}", I64), *((f"s{d}_{i}", I64) for i in range(count))]
        used = [*self.types, *_types(expr)]
        general = "g" in kinds
        self.lanes = lanes_for(target, used) if general or expr.op != "input" else target.vector_bytes // out.itemsize
        self.masked = maskable(target, self.types) and not (general and min(d.itemsize for d in self.types) < 4)
        cheap = nodes(expr) <= _CHEAP
        self.unroll = 0 if self.masked and not cheap else 2 if cheap and not general else 1
        self.k = Kernel(name, fields, 8 * target.vector_bytes)

    def word(self, name: str) -> V:
        return getattr(self.k.arg, name)

    def program(self) -> Program:
        k = self.k
        a = k.arg
        with k.units() as u:
            chunk0, rest = u.urem(a.chunks0), u.udiv(a.chunks0)
            chunk1, outer = rest.urem(a.chunks1), rest.udiv(a.chunks1)
            base = [self.word(f"p{i}") for i in range(len(self.types))]
            for d in reversed(range(self.depth)):
                at, outer = outer.urem(self.word(f"e{d}")), outer.udiv(self.word(f"e{d}"))
                base = [p.at(at * self.word(f"s{d}_{i}")) for i, p in enumerate(base)]
            start = chunk0 * a.columns
            stop = k.min(start + a.columns, a.n0)
            first = chunk1 * a.block
            with k.loop(k.min(first + a.block, a.n1), first) as row:
                self.row([p.at(row * self.word(f"r{i}")) for i, p in enumerate(base)], start, stop)
        return k.finish()

    def row(self, pointers: list[V], start: V, stop: V) -> None:
        k = self.k
        fixed = {i: load_as(k, pointers[i], d, 0) for i, d in enumerate(self.present) if self.kinds[i] == "0"}

        def body(index: V, lanes: int, mask: V | None) -> None:
            values: list[V] = []
            column = 0
            for d in self.dtypes:
                if d is None:
                    values.append(k.constant(I64, 0))
                    continue
                one = (
                    fixed[column].splat(lanes)
                    if column in fixed
                    else self.load(column, pointers[column], index, lanes, mask)
                )
                values.append(one)
                column += 1
            self.store(pointers[-1], index, emit(k, self.expr, values, lanes), lanes, mask)

        span(k, start, stop, self.lanes, self.masked, body, self.unroll)

    def offsets(self, i: int, lanes: int) -> V:
        step = self.word(f"i{i}")
        return self.k.iota(I64.vec(lanes)) * step.splat(lanes)

    def load(self, i: int, p: V, index: V, lanes: int, mask: V | None) -> V:
        dtype = self.types[i]
        if self.kinds[i] == "1":
            return load_as(self.k, p.at(index, dtype.itemsize), dtype, lanes, mask)
        start = p.at(index * self.word(f"i{i}"))
        if not lanes:
            return load_as(self.k, start, dtype, 0)
        raw = start.gather(memory_type(dtype).vec(lanes), self.offsets(i, lanes), mask)
        return to_compute(self.k, raw, dtype)

    def store(self, p: V, index: V, value: V, lanes: int, mask: V | None) -> None:
        i = len(self.types) - 1
        dtype = self.types[i]
        if self.kinds[i] == "1":
            store_as(self.k, p.at(index, dtype.itemsize), value, dtype, mask)
            return
        start = p.at(index * self.word(f"i{i}"))
        if not lanes:
            store_as(self.k, start, value, dtype)
        else:
            start.scatter(to_memory(self.k, value, dtype), self.offsets(i, lanes), mask)


def _types(e: Expr) -> list[DType]:
    found = [e.dtype]
    for a in e.args:
        found += _types(a)
    return found
