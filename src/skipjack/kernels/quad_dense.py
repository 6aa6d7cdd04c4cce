"""Integer linear layers in column tiles with all their weights: rows times vectors of positions in registers.

W is packed [M / rows][term][K / 4][rows][4]; a step multiplies one word row of X with a broadcast word per row of W. K
runs to its end with the sums in registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.column_pointwise import PITCH_BYTES
from skipjack.kernels.dot import dot4
from skipjack.kernels.epilogue import Epilogue, extras_of
from skipjack.kernels.gemm import part
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Work, generator, lowering
from skipjack.kernels.positions import RowsEpilogue
from skipjack.kernels.quad_finish import (
    Sums,
    accepts_integers,
    accepts_to_rows,
    epilogue_for,
    finish,
    finish_rows,
    to_rows_us,
)
from skipjack.kernels.quad_pack import pack_dense, term_count
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program
from skipjack.targets.target import Target

_CHUNK_BYTES = 1 << 19
_GROUP_BYTES = 1 << 18
_WORDS = ("features", "k4", "terms", "blocks", "chunks", "positions", "tiles", "tile_groups")


@dataclass(frozen=True)
class DenseSpec:
    """What is compiled in. ragged: rows are no multiple of what is finished together. rows x vectors in registers."""

    epilogue: RowsEpilogue | Epilogue
    ragged: bool
    rows: int
    vectors: int


def registers_for(target: Target) -> tuple[int, int]:
    """(rows, vectors of positions) of a block: sums, vectors of X in the form dot4 keeps them, and weights fit."""
    if target.has("avx512vnni"):
        return 12, 2
    return (8, 2) if target.registers > 16 else (4, 2)


class _Unit:
    """Traces one chunk of row blocks times a group of tiles."""

    def __init__(self, k: Kernel, target: Target, spec: DenseSpec) -> None:
        self.k, self.target, self.spec, self.vl = k, target, spec, target.vl
        self.pitch = 4 * self.vl * spec.vectors

    def trace(self, unit: V) -> None:
        k, a = self.k, self.k.arg
        chunk, group = unit // a.tile_groups, unit % a.tile_groups
        block_lo, block_hi = part(k, chunk, a.chunks, a.blocks)
        lo, hi = part(k, group, a.tile_groups, a.tiles)
        with k.loop(hi, lo) as tile:
            vectors = k.min((a.positions - tile * TILE + (self.vl - 1)) // self.vl, TILE // self.vl)
            with k.loop(vectors, 0, self.spec.vectors) as vector:
                x = a.x.at(tile * a.k4 * PITCH_BYTES + vector * (4 * self.vl))
                with k.loop(block_hi, block_lo) as block:
                    self._block(x, block)
                    row = block * self.spec.rows
                    rows = k.min(a.features - row, self.spec.rows)
                    left = k.min(vectors - vector, self.spec.vectors)
                    s = Sums(k.scratch, self.pitch, row, rows, tile, vector, left)
                    finish(k, self.spec.epilogue, s, self.vl, self.spec.ragged)

    def _block(self, x: V, block: V) -> None:
        """Sums of one block into scratch."""
        k, a, s, ty = self.k, self.k.arg, self.spec, I32.vec(self.vl)
        acc = [[k.var(k.zero(ty)) for _ in range(s.vectors)] for _ in range(s.rows)]
        with k.loop(a.terms) as term:
            w = a.w.at((block * a.terms + term) * a.k4 * (4 * s.rows))
            with k.loop(a.k4) as k4:
                xs = [x.at(k4 * PITCH_BYTES).at(4 * self.vl * t).load(ty) for t in range(s.vectors)]
                for r in range(s.rows):
                    weight = w.at(k4 * (4 * s.rows)).at(4 * r).load(I32).splat(self.vl)
                    for t, one in enumerate(acc[r]):
                        one.set(dot4(k, self.target, one.get(), xs[t], weight))
        for r, row in enumerate(acc):
            for t, one in enumerate(row):
                k.scratch.at(r * self.pitch + 4 * self.vl * t).store(one.get())


@generator("linear_quads")
def linear_quads(target: Target, symbol: str, spec: DenseSpec) -> Program:
    """A unit is a chunk of row blocks times a group of tiles."""
    fields = [("x", PTR), ("w", PTR), *spec.epilogue.fields(), *((name, I64) for name in _WORDS)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    unit = _Unit(k, target, spec)
    with k.units() as index:
        unit.trace(index)
    return k.finish(max(spec.rows, finish_rows(spec.epilogue, target.vl)) * unit.pitch)


def _lower(work: Work) -> list[Launch]:
    x, w, y = work.input(0), work.input(1), work.output()
    depth, m = w.shape
    if not y.elements:
        return []
    positions, k4 = y.elements // m, -(-depth // 4)
    rows, vectors = registers_for(work.target)
    assert w.value is not None, "the weight of an integer linear layer is constant"
    terms = term_count(w.value)
    blocks, tiles = -(-m // rows), -(-positions // TILE)
    chunks = min(max(-(-blocks * rows * depth * terms // _CHUNK_BYTES), 4 * work.threads), blocks)
    tile_groups = -(-tiles * 64 * depth // _GROUP_BYTES) if depth else 1
    e, ragged = epilogue_for(work)
    packed = work.memory.packed(w, f"quads{rows}", lambda a: pack_dense(a, rows))
    extras = [b.place for b in extras_of(work)]
    spec = DenseSpec(e, ragged, rows, vectors)
    words = (m, k4, terms, blocks, chunks, positions, tiles, min(max(tile_groups, 1), tiles))
    reads = (x.place, packed, *extras)
    arguments = (x.place, packed, y.place, *extras, *words)
    return [Launch(KernelSpec("linear_quads", (spec,)), chunks * words[-1], arguments, reads, (y.place,))]


def _cost(work: Work) -> float:
    w, y = work.input(1), work.output()
    assert w.value is not None, "the weight of an integer linear layer is constant"
    rows, vectors = registers_for(work.target)
    m = max(w.shape[1], 1)
    blocks = -(-m // rows) * -(-(y.elements // m) // (vectors * work.target.vl))
    dots = blocks * rows * vectors * -(-w.shape[0] // 4) * term_count(w.value)
    return dots * _dot_ns(work.target) / 1000.0


def _dot_ns(target: Target) -> float:
    """What one vector takes for the products with four weights, on a core of 3.6 GHz."""
    if target.has("avx512vnni"):
        return 0.285
    return 0.82 if target.vl == 16 else 0.465


def _cost_to_rows(work: Work) -> float:
    return _cost(work) + to_rows_us(work)


QUADS = lowering(
    Lowering("linear_quads", SKIPJACK, "Linear", accepts_integers, _lower, layouts="columns", rank=6, cost=_cost)
)
lowering(
    Lowering(
        "linear_quads", SKIPJACK, "Linear", accepts_to_rows, _lower, layouts="columns>plain", rank=6, cost=_cost_to_rows
    )
)
