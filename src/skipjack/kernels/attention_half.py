"""Attention whose products are of bf16, summed in f32 by an instruction that multiplies pairs.

Units, chunks and the softmax are those of attention in f32. Keys are packed as pairs of neighbouring features, values
as pairs of neighbouring keys; a block of rows passes from its scores through its probabilities to its outputs while
they are in the nearest cache. Targets without the instruction, and nodes of other types, run the kernel of f32 on
values that are not rounded. The instruction takes denormal numbers for zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels import vector_math as vm
from skipjack.kernels.attention import CHUNK, AttentionSpec, Scratch, Unit, accepts, lower, traced
from skipjack.kernels.emit import load_as
from skipjack.kernels.gemm_block import Operand, Shape, Terms, multiply_block
from skipjack.kernels.launch import Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.repack import transpose
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I16, I32, Program
from skipjack.targets.instructions import DOT_BF16_512, ROUND_TO_BF16_512
from skipjack.targets.target import Target

# Fit of 2^x within half of one: relative error 1.1e-4, a twentieth of that of rounding to bf16; exact at zero.
_POWER = (1.0, 0.6932829273885206, 0.24221096221649305, 0.05500893142298231)
_ROUNDER = 1.5 * 2.0**23
_LOG2_E = 1 / math.log(2)


def power_of_two(k: Kernel, x: V) -> V:
    """2^x of f32 values up to zero, right to bf16; zero up to -127."""
    x = k.max(k.constant(x.ty, -127.0), x)
    shifted = x + _ROUNDER
    near = vm.polynomial(k, x - (shifted - _ROUNDER), _POWER)
    ints = x.ty.of(I32)
    # The rounder has no bits below the integer's that a shift into the exponent would leave.
    return (near.bitcast(ints) + (shifted.bitcast(ints) << 23)).bitcast(x.ty)


class _Scratch(Scratch):
    """Pairs in place of numbers of f32; scores of one block only."""

    def __init__(self, s: Shape, spec: AttentionSpec) -> None:
        super().__init__(s, spec)
        self.pairs = (spec.depth + 1) // 2
        self.query_pitch = 4 * (-(-self.pairs // s.vl) * s.vl + 16)
        self.score_pitch = 4 * (CHUNK + 16)
        self.pitch = 4 * (self.value_columns + 16)
        self.values = self.keys + 4 * CHUNK * self.pairs
        self.queries = self.values + 2 * CHUNK * self.value_columns
        self.scores = self.queries + self.rows * self.query_pitch
        self.outputs = self.scores + s.rows * self.score_pitch
        self.tops = self.outputs + self.rows * self.pitch
        self.sums = self.tops + 4 * self.rows
        self.nbytes = -(-(self.sums + 4 * self.rows) // 64) * 64


class _Unit(Unit):
    """Traces one unit. Without masks and caps scores stay products of a query and a key: the power scales them."""

    at: _Scratch

    def _scratch(self) -> Scratch:
        self.plain = self.spec.mask is None and not self.spec.softcap
        return _Scratch(self.s, self.spec)

    def _rounded(self, low: V, high: V) -> V:
        """Two vectors of f32 as one of pairs of bf16."""
        half = self.k.intrinsic(ROUND_TO_BF16_512.name, ROUND_TO_BF16_512.result, high, low)
        return half.bitcast(I32.vec(self.s.vl))

    def _part(self, row: V, first: int, features: int) -> V:
        """A vector of features of a row; zeros past the last."""
        left = features - first
        if left <= 0:
            return self.k.zero(self.vector)
        mask = None if left >= self.s.vl else self.k.below(self.k.i64(left), self.s.vl)
        return load_as(self.k, row.at(4 * first), DType.F32, self.s.vl, mask)

    def _start_row(self, r: V) -> None:
        """Rounded queries to scratch; no maximum, no sum, no output yet."""
        k, a, vl = self.k, self.a, self.s.vl
        head, query = self._row(r)
        source = a.q.at(self.batch * a.q_batch + head * a.q_head + query * a.q_row)
        target = k.scratch.at(self.at.queries).at(r * self.at.query_pitch)
        for i in range(0, self.spec.depth, 2 * vl):
            low, high = (self._part(source, i + n, self.spec.depth) for n in (0, vl))
            target.at(2 * i).store(self._rounded(low, high))
        for i in range(0, self.at.value_columns, vl):
            self._buffer(self.at.outputs, r).at(4 * i).store(k.zero(self.vector))
        k.scratch.at(self.at.tops).at(r, 4).store(k.f32(-math.inf))
        k.scratch.at(self.at.sums).at(r, 4).store(k.f32(0.0))

    def _pack_keys(self, key: V, count: V) -> None:
        """Keys of the chunk as panels [depth / 2][columns][2]."""
        k, a, vl, depth = self.k, self.a, self.s.vl, self.spec.depth
        source = a.k.at(self.batch * a.k_batch + self.kv_head * a.k_head + key * a.k_row)
        step = 4 * self.s.columns
        with k.loop(count, 0, vl) as j:
            vector = j // vl
            panel = k.scratch.at(self.at.keys).at(vector // self.s.vectors * (step * self.at.pairs))
            panel = panel.at(vector % self.s.vectors * (4 * vl))
            rows = [source.at(k.min(j + r, count - 1) * a.k_row) for r in range(vl)]

            def tile(at: V, left: int, rows: list[V], panel: V) -> None:
                parts = ([self._part(row.at(at * 4), n, left) for n in (0, vl)] for row in rows)
                columns = transpose([self._rounded(low, high) for low, high in parts])
                for i, pairs in enumerate(columns[: (left + 1) // 2]):
                    panel.at((at // 2 + i) * step).store(pairs)

            whole = depth // (2 * vl) * (2 * vl)
            with k.loop(whole, 0, 2 * vl) as at:
                tile(at, 2 * vl, rows, panel)
            if depth > whole:
                tile(k.i64(whole), depth - whole, rows, panel)

    def _pack_values(self, key: V, count: V) -> None:
        """Values of the chunk as panels [keys / 2][columns][2]; zeros past the depth and past the last key."""
        k, a, s = self.k, self.a, self.s
        source = a.v.at(self.batch * a.v_batch + self.kv_head * a.v_head + key * a.v_row)
        neighbours = [lane // 2 + lane % 2 * s.vl for lane in range(2 * s.vl)]
        with k.loop(count, 0, 2) as j:
            other = source.at(k.min(j + 1, count - 1) * a.v_row)
            target = k.scratch.at(self.at.values).at(j * (2 * s.columns))
            for i in range(0, self.at.value_columns, s.vl):
                low, high = (self._part(row, i, self.spec.value_depth) for row in (source.at(j * a.v_row), other))
                high = k.select(j + 1 < count, high, k.zero(self.vector))
                pairs = self._rounded(low, high).bitcast(I16.vec(2 * s.vl)).shuffle(neighbours)
                panel = i // s.columns * (2 * CHUNK * s.columns)
                target.at(panel + 4 * (i % s.columns)).store(pairs)

    def _chunk(self, key: V, count: V) -> None:
        """Block by block: scores, probabilities, products with values."""
        k, a = self.k, self.a
        with k.loop(self.block_hi, self.block_lo) as block:
            low = block * a.height
            rows = k.min(low + a.height, self.total) - low
            first = low - self.first
            with k.loop(2) as phase:
                with k.when(phase.eq(1)):
                    with k.loop(rows) as r:
                        self._raise_top(first + r, self._scores(r), key, count)
                    with k.loop(rows) as r:
                        self._weigh(first + r, self._scores(r), count)
                self._products(phase, first, rows, count)

    def _scores(self, r: V) -> V:
        """Row r of the block."""
        return self.k.scratch.at(self.at.scores).at(r * self.at.score_pitch)

    def _products(self, phase: V, first: V, rows: V, count: V) -> None:
        """Phase 0: scores = queries keys. Phase 1: outputs += probabilities values."""
        k, s, at = self.k, self.s, self.at
        scoring = phase.eq(0)
        step = 4 * s.columns
        panels = k.select(scoring, (count + (s.columns - 1)) // s.columns, at.value_columns // s.columns)
        panel_bytes = k.select(scoring, k.i64(step * at.pairs), step * CHUNK // 2)
        queries, outputs = at.queries + first * at.query_pitch, at.outputs + first * at.pitch
        x = k.scratch.at(k.select(scoring, queries, at.scores))
        w = k.scratch.at(k.select(scoring, k.i64(at.keys), at.values))
        c = k.scratch.at(k.select(scoring, k.i64(at.scores), outputs))
        x_pitch = k.select(scoring, k.i64(at.query_pitch), at.score_pitch)
        c_pitch = k.select(scoring, k.i64(at.score_pitch), at.pitch)
        inner = k.select(scoring, k.i64(at.pairs), (count + 1) // 2)
        with k.loop(panels) as panel:
            terms = Terms(
                Operand(x, x_pitch),
                Operand(w.at(panel * panel_bytes), step),
                Operand(c.at(panel * step), c_pitch),
                inner,
                scoring,
            )
            multiply_block(k, replace(s, pairs=True), rows, terms, self.heights)

    def _scaled(self, score: V) -> V:
        return score if self.plain else score * self.a.scale

    def _factor(self) -> V:
        """What differences of scores are multiplied by before they become powers of two."""
        return self.a.scale * _LOG2_E if self.plain else self.k.f32(_LOG2_E)

    def _raise_top(self, r: V, scores: V, key: V, count: V) -> None:
        """Scores of row r follow cap, mask and causality; the row's maximum follows them, its sum and output that."""
        k, vl = self.k, self.s.vl
        row = self._row_of_scores(r)

        def score(i: V, valid: tuple[V | None, V | None]) -> None:
            for at, mask in zip((i, i + vl), valid, strict=True):
                self._score(scores.at(at, 4), mask, row, key + at)

        self._over_pairs(count, score)
        old_at, sum_at = k.scratch.at(self.at.tops).at(r, 4), k.scratch.at(self.at.sums).at(r, 4)
        old = old_at.load(F32)
        new = k.max(k.reduce("max", row.top.get()), old)
        old_at.store(new)
        with k.when(key.ne(0)):
            kept = power_of_two(k, (old - self._base(new)) * self._factor())
            sum_at.store(sum_at.load(F32) * kept)
            with k.when(kept.ne(1.0)):
                outputs = self._buffer(self.at.outputs, r)
                for i in range(0, self.at.value_columns, vl):
                    o = outputs.at(4 * i)
                    o.store(o.load(self.vector) * kept)

    def _base(self, top: V) -> V:
        """The maximum, or zero when no key is seen or one is infinite."""
        return self.k.select(vm.absolute(self.k, top) < math.inf, top, 0.0)

    def _weigh(self, r: V, scores: V, count: V) -> None:
        """Scores of row r to rounded probabilities in their place, which are added to the row's sum."""
        k, vl = self.k, self.s.vl
        base, factor = self._base(k.scratch.at(self.at.tops).at(r, 4).load(F32)), self._factor()
        total = k.var(k.zero(self.vector))

        def power(at: V) -> V:
            p = power_of_two(k, (at.load(self.vector) - base) * factor)
            total.set(total.get() + p)
            return p

        def probabilities(i: V, _: tuple[V | None, V | None]) -> None:
            scores.at(i, 2).store(self._rounded(power(scores.at(i, 4)), power(scores.at(i + vl, 4))))

        self._over_pairs(count, probabilities)
        sum_at = k.scratch.at(self.at.sums).at(r, 4)
        sum_at.store(sum_at.load(F32) + k.reduce("add", total.get()))

    def _over_pairs(self, count: V, body: Callable[[V, tuple[V | None, V | None]], None]) -> None:
        """body(first element, masks) for the pairs of vectors of a chunk; a full chunk is unrolled and has no masks."""
        k, vl = self.k, self.s.vl

        def whole() -> None:
            for i in range(0, CHUNK, 2 * vl):
                body(k.i64(i), (None, None))

        def partial() -> None:
            with k.loop(count, 0, 2 * vl) as i:
                body(i, (k.below(count - i, vl), k.below(count - i - vl, vl)))

        k.branch(count.eq(CHUNK), whole, partial)


@generator("attention_bf16")
def attention(target: Target, symbol: str, spec: AttentionSpec) -> Program:
    """A unit is one batch, one key head and one group of rows."""
    return traced(target, symbol, spec, _Unit)


def _accepts(site: Site) -> str:
    if not site.target.has(DOT_BF16_512.feature):
        return "this CPU has no products of bf16"
    if site.node.attrs.get("products") != "bf16":
        return "its products are not of bf16"
    if any(t is not None and t.dtype is not DType.F32 for t in (*site.inputs[:3], *site.outputs[:1])):
        return "an operand is not f32"
    scale = site.node.attrs.get("scale", 1.0)
    return accepts(site) if isinstance(scale, int | float) and scale > 0 else "its scale is not positive"


def _lower(work: Work) -> list[Launch]:
    return lower(work, "attention_bf16")


ATTENTION_HALF = lowering(Lowering("attention_bf16", SKIPJACK, "Attention", _accepts, _lower, rank=20))
