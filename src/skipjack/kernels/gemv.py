"""Linear layers of few rows: constant weights stream by once, as they are stored, dense or as bitmasks.

Lanes are output columns. A panel is `VECTORS` vectors of columns; K advances by the 1, 2 or 4 weights that share a
4-byte lane, so a chunk (one vector of one step) is one load, or one expansion by a mask. A unit is one panel and every
row, at most `_block` rows at a time. Integer sums are exact. Sums in f32 are one chain of multiply-adds per output in
ascending k, absent weights counting as zeros: the bits of gemm_f32, for any number of rows and threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.bitmask import can_expand, expand, expansion_cycles, mask_type, pack_stream, popcount, stream_of
from skipjack.kernels.dot import dot4
from skipjack.kernels.emit import load_as
from skipjack.kernels.epilogue import Ending, Epilogue, accepts_epilogue, epilogue_of, extras_of
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.sparsity import zeros_of
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F16, F32, I8, I16, I32, I64, PTR, Program
from skipjack.targets.target import Target

_FLOATS = (DType.F32, DType.F16, DType.BF16)
_WORDS = ("rows", "k", "columns", "blocks", "steps", "chunk_steps")
_AHEAD_BYTES = 4096
_MASKS_AHEAD_BYTES = 1024
_MOST_DENSITY = 0.95
_CYCLES_PER_US = 3500.0
_BYTES_PER_US = 20_000.0


def panel_vectors(target: Target) -> int:
    """Vectors of columns in a panel."""
    return 4 if target.registers >= 32 else 2


def _block(target: Target, integer: bool) -> int:
    """Rows that share what was loaded of a weight; their sums and factors stay in registers."""
    if target.registers >= 32:
        return 4
    return 2 if integer else 4


def heights(rows: int, most: int) -> tuple[int, ...]:
    """The row counts of blocks: all blocks but the last, and the last where it differs."""
    if rows <= most:
        return (rows,)
    return (most, rows % most) if rows % most else (most,)


@dataclass(frozen=True)
class GemvSpec:
    """What is compiled in. heights: see `heights`. odd: weights of K behind the last whole lane."""

    x_type: DType
    w_type: DType
    masked: bool
    heights: tuple[int, ...]
    odd: int
    epilogue: Epilogue


class _Panel:
    """Traces one unit of work."""

    def __init__(self, k: Kernel, target: Target, spec: GemvSpec) -> None:
        self.k, self.target, self.s = k, target, spec
        self.vl, self.vectors = target.vl, panel_vectors(target)
        self.pack = 4 // spec.w_type.itemsize
        self.mask = mask_type(self.vl, spec.w_type.itemsize)
        self.sum = (I32 if spec.x_type is DType.U8 else F32).vec(self.vl)
        self.x_type = spec.x_type

    @property
    def scratch_bytes(self) -> int:
        return self.vectors * self.s.heights[0] * self.target.vector_bytes

    def trace(self, panel: V) -> None:
        k, a = self.k, self.k.arg
        chunks = panel * a.chunk_steps * self.vectors
        self.first_column = panel * (self.vectors * self.vl)
        self.masks = self.values = a.w
        if self.s.masked:
            self.masks = a.masks.at(chunks * self.mask.nbytes)
            self.values = a.w.at(a.starts.at(panel, 8).load(I64, 8))
        else:
            self.values = a.w.at(chunks * self.target.vector_bytes)
        high = self.s.heights[0]
        with k.loop(a.blocks) as block:
            self._rows(block * high, high)
        if len(self.s.heights) > 1:
            self._rows(a.blocks * high, self.s.heights[1])

    def _rows(self, first: V, count: int) -> None:
        k, a = self.k, self.k.arg
        x = [a.x.at((first + b) * a.k * self.x_type.itemsize) for b in range(count)]
        sums = [[k.var(k.zero(self.sum)) for _ in range(self.vectors)] for _ in range(count)]
        values = k.var(self.values)
        with k.loop(a.steps) as i:
            self._step(i, x, sums, values, self.pack)
        if self.s.odd:
            self._step(a.steps, x, sums, values, self.s.odd)
        self._finish(first, sums)

    def _step(self, i: V, x: list[V], sums: list[list[Var]], values: Var, real: int) -> None:
        """The weights of one lane width of K, of which `real` exist."""
        factors = [self._factors(p.at(i * self.pack, self.x_type.itemsize), real) for p in x]
        chunks = [self._chunk(i, t, values) for t in range(self.vectors)]
        for t, chunk in enumerate(chunks):
            if self.s.x_type is DType.U8:
                for row, own in zip(factors, sums, strict=True):
                    own[t].set(dot4(self.k, self.target, own[t].get(), row[0], chunk))
                continue
            for j, w in enumerate(self._weights(chunk)[:real]):
                for row, own in zip(factors, sums, strict=True):
                    own[t].set(self.k.fma(row[j], w, own[t]))

    def _factors(self, p: V, real: int) -> list[V]:
        """What weights are multiplied with: four bytes in every lane, or one vector per weight of a lane."""
        if self.s.x_type is not DType.U8:
            size = self.x_type.itemsize
            return [load_as(self.k, p.at(j * size), self.x_type, 0).splat(self.vl) for j in range(real)]
        if real == 4:
            return [p.load(I32).splat(self.vl)]
        total = p.load(I8).zext(I32)
        for j in range(1, real):
            total = total | p.at(j).load(I8).zext(I32) << (8 * j)
        return [total.splat(self.vl)]

    def _chunk(self, i: V, t: int, values: Var) -> V:
        """One vector of stored weights as i32 lanes; `values` moves behind them."""
        k, p = self.k, values.get()
        k.prefetch(p.at(_AHEAD_BYTES))
        if not self.s.masked:
            values.set(p.at(self.target.vector_bytes))
            return p.load(I32.vec(self.vl))
        masks = self.masks.at(i * self.vectors, self.mask.nbytes)
        if t == 0:
            k.prefetch(masks.at(_MASKS_AHEAD_BYTES))
        mask = masks.at(t * self.mask.nbytes).load(self.mask)
        size = self.s.w_type.itemsize
        values.set(p.at(popcount(k, mask), size))
        return expand(k, self.target, p, mask, size)

    def _weights(self, chunk: V) -> list[V]:
        """The weights of the lanes of a chunk as f32, ascending in k."""
        if self.s.w_type is DType.F32:
            return [chunk.bitcast(self.sum)]
        if self.s.w_type is DType.BF16:
            return [(chunk << 16).bitcast(self.sum), (chunk & -65536).bitcast(self.sum)]
        halves = [chunk.trunc(I16), (chunk >> 16).trunc(I16)]
        return [h.bitcast(F16.vec(self.vl)).convert("fpext", F32) for h in halves]

    def _finish(self, first: V, sums: list[list[Var]]) -> None:
        k, a, size = self.k, self.k.arg, self.target.vector_bytes
        for t in range(self.vectors):
            for b, own in enumerate(sums):
                k.scratch.at((t * len(sums) + b) * size).store(own[t].get())
        with k.loop(self.vectors) as t:
            column = self.first_column + t * self.vl

            def store(mask: V | None) -> None:
                end = Ending(k, self.s.epilogue, column, self.vl, mask)
                with k.loop(len(sums)) as b:
                    total = k.scratch.at((t * len(sums) + b) * size).load(self.sum)
                    end.store(total, (first + b) * a.columns + column)

            with k.when(column < a.columns):
                whole = column + self.vl <= a.columns
                k.branch(whole, lambda: store(None), lambda: store(k.below(a.columns - column, self.vl)))


@generator("gemv")
def gemv(target: Target, symbol: str, spec: GemvSpec) -> Program:
    """A unit is one panel of columns and every row."""
    own = [("starts", PTR), ("masks", PTR)] if spec.masked else []
    fields = [("x", PTR), ("w", PTR), *own, *spec.epilogue.fields(), *((name, I64) for name in _WORDS)]
    k = Kernel(symbol, fields, target.vector_bytes * 8)
    unit = _Panel(k, target, spec)
    with k.units() as index:
        unit.trace(index)
    return k.finish(unit.scratch_bytes)


def chunked(w: np.ndarray, columns: int, vectors: int) -> np.ndarray:
    """[K, M] as [panel, step * vector, lane * pack]; zeros behind the last row and column."""
    depth, m = w.shape
    pack, lanes = 4 // w.itemsize, columns // vectors
    steps, panels = -(-depth // pack), -(-m // columns)
    full = np.zeros((steps * pack, panels * columns), w.dtype)
    full[:depth, :m] = w
    shaped = full.reshape(steps, pack, panels, vectors, lanes).transpose(2, 0, 3, 4, 1)
    return np.ascontiguousarray(shaped).reshape(panels, steps * vectors, lanes * pack)


def _lower(work: Work, masked: bool) -> list[Launch]:
    x, w, y = work.input(0), work.input(1), work.output()
    depth, m = w.shape
    rows = y.elements // m if m else 0
    if not rows or not m:
        return []
    target, vectors = work.target, panel_vectors(work.target)
    columns, pack = vectors * target.vl, 4 // w.dtype.itemsize
    panels, steps = -(-m // columns), -(-depth // pack)
    high = heights(rows, _block(target, x.dtype is DType.U8))
    e = epilogue_of(work)
    extras = [b.place for b in extras_of(work)]
    words = (rows, depth, m, rows // high[0], depth // pack, steps)
    if masked:
        blob = work.memory.packed(w, f"bitmask{columns}", lambda a: pack_stream(chunked(a, columns, vectors)))
        parts = stream_of(panels, steps * vectors, target.vl * pack // 8)
        own = [blob.at(parts.values), blob, blob.at(parts.masks)]
    else:
        blob = work.memory.packed(w, f"lanes{columns}", lambda a: chunked(a, columns, vectors))
        own = [blob]
    spec = KernelSpec("gemv", (GemvSpec(x.dtype, w.dtype, masked, high, depth % pack, e),))
    return [Launch(spec, panels, (x.place, *own, y.place, *extras, *words), (x.place, blob, *extras), (y.place,))]


def _accepts(site: Site, masked: bool) -> str:
    x, w, weight = site.inputs[0], site.inputs[1], site.constants[1]
    assert x is not None, "a Linear node lacks its input"
    assert w is not None, "a Linear node lacks its weight"
    if weight is None:
        return "its weight is not constant"
    integer = (x.dtype, w.dtype) == (DType.U8, DType.I8)
    if not integer and not (x.dtype in _FLOATS and w.dtype in _FLOATS):
        return f"no product of {x.dtype.value} and {w.dtype.value}"
    if w.dtype is DType.F32 and not masked:
        return "gemm_f32 streams dense weights of f32"
    if masked and not can_expand(site.target, w.dtype.itemsize):
        return "the target has no instruction that expands by a mask"
    if masked and zeros_of(weight).density > _MOST_DENSITY:
        return "its weight has few zeros"
    result = site.outputs[0]
    if integer and "epilogue" not in site.node.attrs and result is not None and result.dtype is not DType.I32:
        return "sums of integers are i32"
    return accepts_epilogue(site)


def _us(work: Work, masked: bool) -> float:
    """What comes from memory, or the cycles of loads, expansions and products, whichever takes longer."""
    w, target = work.input(1), work.target
    depth, m = w.shape
    rows = work.output().elements // m if m else 0
    assert w.value is not None, "the weight is constant"
    integer, size = w.dtype is DType.I8, w.dtype.itemsize
    chunks = depth * m * size / target.vector_bytes
    bytes_per_weight = size * zeros_of(w.value).density + 1 / 8 if masked else size
    products = 1.0 if not integer or target.has("avx512vnni") else 3.0
    shared = expansion_cycles(target, size) if masked else 0.2
    shared += 0.0 if integer or size == 4 else 2.0
    blocks = -(-rows // _block(target, integer))
    per_chunk = shared * blocks + products * rows * (1 if integer else 4 // size)
    return max(depth * m * bytes_per_weight / _BYTES_PER_US, chunks * per_chunk / _CYCLES_PER_US)


for _masked, _name in ((False, "gemv"), (True, "gemv (bitmask)")):
    lowering(
        Lowering(
            _name, SKIPJACK, "Linear",
            lambda site, masked=_masked: _accepts(site, masked),
            lambda work, masked=_masked: _lower(work, masked),
            rank=5, cost=lambda work, masked=_masked: _us(work, masked), encoding="bitmask" if _masked else "dense",
        )
    )  # fmt: skip
