"""Attention in f32 without a matrix of all scores.

A unit is one batch, one key head and a group of rows; a row is one query of one query head of that key head. Keys
and values come in chunks: both are packed in panels in scratch, scores of the chunk are made, the running maximum and
sum of every row are updated, and the chunk's probabilities times values are added to the row's output. The softmax of
a row and its chunks do not depend on how rows are grouped, so neither do its bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels import vector_math as vm
from skipjack.kernels.emit import load_as, store_as
from skipjack.kernels.gemm_block import Operand, Shape, Terms, block_shape, multiply_block
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Site, Work, float_word, generator, lowering
from skipjack.kernels.repack import transpose_tile
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.targets.target import Target

CHUNK = 128
_GROUP_BLOCKS = 10
_UNROLLED = 8
_FLOATS = (DType.F32, DType.F16, DType.BF16)
_MASKS = (*_FLOATS, DType.F64, DType.BOOL)
_STRIDES = tuple(f"{operand}_{axis}" for operand in "qkvo" for axis in ("batch", "head", "row"))
_SIZES = ("kv_heads", "heads_per_kv", "queries", "keys", "blocks", "groups", "height", "offset")
_MASK_STRIDES = ("m_batch", "m_head", "m_row")


@dataclass(frozen=True)
class AttentionSpec:
    """What is compiled in. mask: its type and whether it differs between keys."""

    dtype: DType
    depth: int
    value_depth: int
    mask: tuple[DType, bool] | None
    causal: bool
    softcap: float


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def heights(s: Shape) -> list[int]:
    """The rows per block there is code for; a last block computes some rows that nobody reads."""
    return [*(n for n in (1, 2, 4, 8) if n < s.rows - 3), *range(s.rows - 3, s.rows + 1)]


class Scratch:
    """Offsets in bytes: packed keys and values of a chunk; rows of queries, scores, outputs; maxima and sums."""

    def __init__(self, s: Shape, spec: AttentionSpec) -> None:
        self.rows = s.rows * (_GROUP_BLOCKS + 1)
        self.value_columns = _up(spec.value_depth, s.columns)
        self.pitch = 4 * (_up(max(spec.depth, self.value_columns, CHUNK), 16) + 16)
        self.keys = 0
        self.values = self.keys + 4 * CHUNK * _up(spec.depth, 16)
        self.queries = self.values + 4 * CHUNK * self.value_columns
        self.scores = self.queries + self.rows * self.pitch
        self.outputs = self.scores + self.rows * self.pitch
        self.tops = self.outputs + self.rows * self.pitch
        self.sums = self.tops + 4 * self.rows
        self.nbytes = _up(self.sums + 4 * self.rows, 64)


@dataclass(frozen=True)
class _RowOfScores:
    """Where the row's mask starts, the last key it sees, and its running maximum."""

    mask: V | None
    last: V | None
    top: Var


class Unit:
    """Traces one unit."""

    def __init__(self, k: Kernel, target: Target, spec: AttentionSpec) -> None:
        self.k, self.a, self.spec = k, k.arg, spec
        self.s = block_shape(target)
        self.at = self._scratch()
        self.vector = self.s.vector
        self.heights = heights(self.s)
        self.size = spec.dtype.itemsize

    def _scratch(self) -> Scratch:
        return Scratch(self.s, self.spec)

    def trace(self, unit: V) -> None:
        k, a = self.k, self.a
        group, rest = unit % a.groups, unit // a.groups
        self.kv_head, self.batch = rest % a.kv_heads, rest // a.kv_heads
        total = a.queries * a.heads_per_kv
        block_lo, block_hi = group * a.blocks // a.groups, (group + 1) * a.blocks // a.groups
        self.total, self.block_lo, self.block_hi = total, block_lo, block_hi
        self.first, end = block_lo * a.height, k.min(block_hi * a.height, total)
        self.rows = end - self.first
        with k.loop(self.rows) as r:
            self._start_row(r)
        limit = self._visible_keys(end)
        with k.loop(limit, 0, CHUNK) as key:
            count = k.min(a.keys - key, CHUNK)
            self._pack_keys(key, count)
            self._pack_values(key, count)
            self._chunk(key, count)
        with k.loop(self.rows) as r:
            self._finish_row(r)

    def _chunk(self, key: V, count: V) -> None:
        """Adds what the packed keys and values contribute to every row."""
        with self.k.loop(2) as phase:
            with self.k.when(phase.eq(1)), self.k.loop(self.rows) as r:
                self._probabilities(r, key, count)
            self._multiply(phase, count)

    def _row(self, r: V) -> tuple[V, V]:
        """(query head, query) of a row of this unit."""
        index = self.first + r
        return self.kv_head * self.a.heads_per_kv + index // self.a.queries, index % self.a.queries

    def _visible_keys(self, end: V) -> V:
        k, a = self.k, self.a
        if not self.spec.causal:
            return a.keys
        last = k.select(a.heads_per_kv.eq(1), end - 1, a.queries - 1)
        return k.min(last + a.offset + 1, a.keys)

    def _buffer(self, offset: int, r: V) -> V:
        return self.k.scratch.at(offset).at(r * self.at.pitch)

    def _vectors(self, n: int) -> Iterator[tuple[int, V | None]]:
        """(first element, mask or None) of the vectors that hold n elements."""
        for i in range(0, n, self.s.vl):
            left = n - i
            yield i, None if left >= self.s.vl else self.k.below(self.k.i64(left), self.s.vl)

    def _start_row(self, r: V) -> None:
        """Scaled queries to scratch; no maximum, no sum, no output yet."""
        k, a = self.k, self.a
        head, query = self._row(r)
        source = a.q.at(self.batch * a.q_batch + head * a.q_head + query * a.q_row)
        target = self._buffer(self.at.queries, r)
        for i, mask in self._vectors(self.spec.depth):
            value = load_as(k, source.at(i * self.size), self.spec.dtype, self.s.vl, mask)
            target.at(4 * i).store(value * a.scale)
        for i in range(0, self.at.value_columns, self.s.vl):
            self._buffer(self.at.outputs, r).at(4 * i).store(k.zero(self.vector))
        k.scratch.at(self.at.tops).at(r, 4).store(k.f32(-math.inf))
        k.scratch.at(self.at.sums).at(r, 4).store(k.f32(0.0))

    def _pack_keys(self, key: V, count: V) -> None:
        """Keys of the chunk as panels [depth][columns]."""
        k, a, vl, depth = self.k, self.a, self.s.vl, self.spec.depth
        source = a.k.at(self.batch * a.k_batch + self.kv_head * a.k_head + key * a.k_row)
        step = 4 * self.s.columns
        with k.loop(count, 0, vl) as j:
            vector = j // vl
            panel = k.scratch.at(self.at.keys).at(vector // self.s.vectors * (step * depth))
            panel = panel.at(vector % self.s.vectors * (4 * vl))

            def tile(at: V, left: int, source: V, panel: V, j: V) -> None:
                mask = None if left >= vl else k.below(k.i64(left), vl)
                columns = transpose_tile(k, source.at(at * self.size), a.k_row, count - j, mask, self.spec.dtype, vl)
                for i, values in enumerate(columns[:left]):
                    panel.at((at + i) * step).store(values)

            rows = source.at(j * a.k_row)
            with k.loop(depth // vl * vl, 0, vl) as at:
                tile(at, vl, rows, panel, j)
            if depth % vl:
                tile(k.i64(depth // vl * vl), depth % vl, rows, panel, j)

    def _pack_values(self, key: V, count: V) -> None:
        """Values of the chunk as panels [key][columns]; columns past the depth are zero."""
        k, a, s = self.k, self.a, self.s
        source = a.v.at(self.batch * a.v_batch + self.kv_head * a.v_head + key * a.v_row)
        target = k.scratch.at(self.at.values)
        with k.loop(count) as j:
            for i in range(0, self.at.value_columns, s.vl):
                left = self.spec.value_depth - i
                mask = None if left >= s.vl else k.below(k.i64(left), s.vl)
                value = (
                    k.zero(self.vector)
                    if left <= 0
                    else load_as(k, source.at(j * a.v_row).at(i * self.size), self.spec.dtype, s.vl, mask)
                )
                panel = i // s.columns * (4 * CHUNK * s.columns)
                target.at(j * (4 * s.columns)).at(panel + 4 * (i % s.columns)).store(value)

    def _multiply(self, phase: V, count: V) -> None:
        """Phase 0: scores = queries keys. Phase 1: outputs += probabilities values."""
        k, s, at = self.k, self.s, self.at
        first = phase.eq(0)
        step = 4 * s.columns
        panels = k.select(first, (count + (s.columns - 1)) // s.columns, at.value_columns // s.columns)
        panel_bytes = k.select(first, k.i64(step * self.spec.depth), step * CHUNK)
        inner = k.select(first, k.i64(self.spec.depth), count)
        x = k.scratch.at(k.select(first, k.i64(at.queries), at.scores))
        w = k.scratch.at(k.select(first, k.i64(at.keys), at.values))
        c = k.scratch.at(k.select(first, k.i64(at.scores), at.outputs))
        with k.loop(panels) as panel, k.loop(self.block_hi, self.block_lo) as block:
            low = block * self.a.height
            high = k.min(low + self.a.height, self.total)
            row = (low - self.first) * at.pitch
            terms = Terms(
                Operand(x.at(row), at.pitch),
                Operand(w.at(panel * panel_bytes), step),
                Operand(c.at(row).at(panel * step), at.pitch),
                inner,
                first,
            )
            multiply_block(k, s, high - low, terms, self.heights)

    def _score(self, at: V, valid: V | None, row: _RowOfScores, key: V) -> None:
        """Raw scores at `at` get cap, mask and causality, -inf where there is no key; the row's maximum follows."""
        k, spec = self.k, self.spec
        raw = at.load(self.vector)
        x = self._scaled(raw)
        if spec.softcap:
            x = vm.tanh(k, x * (1 / spec.softcap)) * spec.softcap
        if row.mask is not None and spec.mask is not None:
            dtype, per_key = spec.mask
            m = (
                load_as(k, row.mask.at(key * dtype.itemsize), dtype, self.s.vl, valid)
                if per_key
                else load_as(k, row.mask, dtype, 0).splat(self.s.vl)
            )
            if dtype is DType.BOOL:
                valid = m if valid is None else valid & m
            else:
                x = x + (m.convert("fptrunc", F32) if dtype is DType.F64 else m)
        if row.last is not None:
            seen = k.below(row.last - key + 1, self.s.vl)
            valid = seen if valid is None else valid & seen
        x = x if valid is None else k.select(valid, x, -math.inf)
        if x is not raw:
            at.store(x)
        row.top.set(k.max(row.top.get(), x))

    def _scaled(self, score: V) -> V:
        """A product of a query and a key as a score; queries were scaled."""
        return score

    def _row_of_scores(self, r: V) -> _RowOfScores:
        k, a = self.k, self.a
        head, query = self._row(r)
        mask = None
        if self.spec.mask is not None:
            mask = a.mask.at(self.batch * a.m_batch + head * a.m_head + query * a.m_row)
        top = k.var(k.constant(self.vector, -math.inf))
        return _RowOfScores(mask, query + a.offset if self.spec.causal else None, top)

    def _over_vectors(self, count: V, body: Callable[[V, V | None], None]) -> None:
        """body(first element, mask) for the vectors of a chunk; a full chunk is unrolled and has no mask."""
        k, vl = self.k, self.s.vl

        def whole() -> None:
            with k.loop(CHUNK, 0, _UNROLLED * vl) as i:
                for u in range(_UNROLLED):
                    body(i + u * vl, None)

        def partial() -> None:
            with k.loop(count, 0, vl) as i:
                body(i, k.below(count - i, vl))

        k.branch(count.eq(CHUNK), whole, partial)

    def _probabilities(self, r: V, key: V, count: V) -> None:
        """Scores of one row to exp(score - maximum); the row's sum and output follow its maximum."""
        k, vl = self.k, self.s.vl
        row, scores = self._row_of_scores(r), self._buffer(self.at.scores, r)
        self._over_vectors(count, lambda i, valid: self._score(scores.at(i, 4), valid, row, key + i))
        old_at, sum_at = k.scratch.at(self.at.tops).at(r, 4), k.scratch.at(self.at.sums).at(r, 4)
        old = old_at.load(F32)
        new = k.max(k.reduce("max", row.top.get()), old)
        old_at.store(new)
        base = k.select(vm.absolute(k, new) < math.inf, new, 0.0)
        total = k.var(k.zero(self.vector))

        def probability(i: V, valid: V | None) -> None:
            at = scores.at(i, 4)
            p = vm.exp_of_negative(k, at.load(self.vector) - base)
            at.store(p)
            total.set(total.get() + p)

        self._over_vectors(count, probability)
        kept = vm.exp_of_negative(k, old - base)
        sum_at.store(k.fma(sum_at.load(F32), kept, k.reduce("add", total.get())))
        with k.when(kept.ne(1.0)):
            outputs = self._buffer(self.at.outputs, r)
            for i in range(0, self.at.value_columns, vl):
                o = outputs.at(4 * i)
                o.store(o.load(self.vector) * kept)

    def _finish_row(self, r: V) -> None:
        k, a = self.k, self.a
        head, query = self._row(r)
        total = k.scratch.at(self.at.sums).at(r, 4).load(F32)
        divisor = k.select(total.eq(0.0), k.f32(1.0), total)
        inverse = (1.0 / divisor).splat(self.s.vl)
        target = a.o.at(self.batch * a.o_batch + head * a.o_head + query * a.o_row)
        for i, mask in self._vectors(self.spec.value_depth):
            value = self._buffer(self.at.outputs, r).at(4 * i).load(self.vector) * inverse
            store_as(k, target.at(i * self.size), value, self.spec.dtype, mask)


def traced(target: Target, symbol: str, spec: AttentionSpec, kind: type[Unit]) -> Program:
    """A kernel of units of this kind."""
    words = [*_STRIDES, *_SIZES, *(_MASK_STRIDES if spec.mask else ())]
    pointers = ["q", "k", "v", "o", *(["mask"] if spec.mask else [])]
    fields = [*((p, PTR) for p in pointers), ("scale", F32), *((w, I64) for w in words)]
    k = Kernel(symbol, fields, target.vector_bytes * 8)
    unit = kind(k, target, spec)
    with k.units() as index:
        unit.trace(index)
    return k.finish(unit.at.nbytes)


@generator("attention_f32")
def attention(target: Target, symbol: str, spec: AttentionSpec) -> Program:
    """A unit is one batch, one key head and one group of rows."""
    return traced(target, symbol, spec, Unit)


def accepts(site: Site) -> str:
    """Empty when kernels of units can run the node, else why not."""
    for t in [*site.inputs[:3], *site.outputs[:1]]:
        assert t is not None, "an Attention node lacks an operand"
        if t.dtype not in _FLOATS:
            return f"attention kernels compute in f32, an operand is {t.dtype.value}"
    if len({t.dtype for t in [*site.inputs[:3], *site.outputs[:1]] if t is not None}) > 1:
        return "queries, keys and values differ in type"
    mask = site.inputs[3] if len(site.inputs) > 3 else None
    return f"no masks of type {mask.dtype.value}" if mask is not None and mask.dtype not in _MASKS else ""


@dataclass(frozen=True)
class _Axes:
    """Sizes of one operand and its strides in bytes."""

    heads: int
    rows: int
    depth: int
    strides: tuple[int, int, int]


def _axes(b: Bound, layout: str, heads: int) -> _Axes:
    size = b.dtype.itemsize
    if layout == "bsf":
        _, rows, features = b.shape
        depth = features // heads
        return _Axes(heads, rows, depth, (rows * features * size, depth * size, features * size))
    _, heads, rows, depth = b.shape
    return _Axes(heads, rows, depth, (heads * rows * depth * size, rows * depth * size, depth * size))


def _mask_strides(mask: Bound) -> tuple[int, int, int, bool]:
    """Strides in bytes over batch, head and query, and whether keys differ."""
    shape = (1,) * (4 - len(mask.shape)) + mask.shape
    strides: list[int] = []
    step = mask.dtype.itemsize
    for n in reversed(shape):
        strides.insert(0, step if n > 1 else 0)
        step *= n
    return strides[0], strides[1], strides[2], shape[3] > 1


def lower(work: Work, kernel: str) -> list[Launch]:
    """The launch of a kernel that takes an AttentionSpec."""
    q_heads, kv_heads = int(work.attr("q_heads")), int(work.attr("kv_heads"))
    out, mask = work.output(), work.maybe(3)
    if not out.elements:
        return []
    heads = {"q": q_heads, "k": kv_heads, "v": kv_heads, "out": q_heads}
    bounds = {"q": work.input(0), "k": work.input(1), "v": work.input(2), "out": out}
    q, k, v, o = (_axes(bounds[n], str(work.attr(f"layout_{n}", "bsf")), h) for n, h in heads.items())
    per_kv = q_heads // kv_heads
    s, total = block_shape(work.target), q.rows * per_kv
    fewest = -(-total // s.rows)
    height = min(n for n in heights(s) if n * fewest >= total)
    blocks = -(-total // height)
    groups = -(-blocks // _GROUP_BLOCKS)
    offset = k.rows - q.rows if str(work.attr("causal_offset", "end")) == "end" else 0
    sizes = (kv_heads, per_kv, q.rows, k.rows, blocks, groups, height, offset)
    m = None if mask is None else _mask_strides(mask)
    spec = AttentionSpec(
        out.dtype,
        q.depth,
        v.depth,
        None if mask is None or m is None else (mask.dtype, m[3]),
        bool(work.attr("causal", 0)),
        float(work.attr("softcap", 0.0)),
    )
    reads = [bounds[n].place for n in "qkv"]
    masks = [] if mask is None else [mask.place]
    strides = (n for axes in (q, k, v, o) for n in axes.strides)
    scale = float_word(float(work.attr("scale", 1.0)))
    words = (*reads, out.place, *masks, scale, *strides, *sizes, *(m or ())[:3])
    units = out.shape[0] * kv_heads * groups
    return [Launch(KernelSpec(kernel, (spec,)), units, words, (*reads, *masks), (out.place,))]


def _lower(work: Work) -> list[Launch]:
    return lower(work, "attention_f32")


ATTENTION = lowering(Lowering("attention_f32", SKIPJACK, "Attention", accepts, _lower, rank=10))
