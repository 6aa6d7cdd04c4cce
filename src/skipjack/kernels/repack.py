"""Matrices rearranged while a model runs: rows into panels, and transposed, always as f32.

A panel holds `columns` neighbouring columns: [panel][row][columns].
"""

from __future__ import annotations

from collections.abc import Sequence

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import load_as
from skipjack.kernels.gemm_block import block_shape
from skipjack.kernels.launch import generator
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

PACK_ROWS, PACK_TRANSPOSED = "pack_rows", "pack_transposed"
_TRANSPOSE_WORDS = (
    "rows",
    "columns",
    "row_blocks",
    "blocks_per_panel",
    "stored",
    "panel_bytes",
    "pitch",
    "batch_bytes",
)


def transpose(rows: Sequence[V]) -> list[V]:
    """n vectors of n lanes with rows and lanes exchanged; n is a power of two."""
    n, out = len(rows), list(rows)
    half = n // 2
    while half:
        # Exchanges the off-diagonal quarters of every 2 half x 2 half block.
        low = [i if not i & half else n + i - half for i in range(n)]
        high = [i + half if not i & half else n + i for i in range(n)]
        for i in range(n):
            if not i & half:
                a, b = out[i], out[i + half]
                out[i], out[i + half] = a.shuffle(low, b), a.shuffle(high, b)
        half //= 2
    return out


def transpose_tile(k: Kernel, source: V, pitch: V | int, rows: V, mask: V | None, dtype: DType, lanes: int) -> list[V]:
    """Value c is column c of the tile at source. Past `rows` the last row repeats, off the mask is zero."""
    loaded: list[V] = []
    for r in range(lanes):
        at = source.at(k.min(rows - 1, r) * pitch)
        loaded.append(load_as(k, at, dtype, lanes, mask))
    return transpose(loaded)


@generator(PACK_ROWS)
def pack_rows(target: Target, symbol: str, dtype: DType) -> Program:
    """[batch][rows][columns] as f32 [batch][panel][rows][panel columns]; a unit is one panel of one batch."""
    k = Kernel(
        symbol, [("x", PTR), ("y", PTR), ("rows", I64), ("columns", I64), ("panels", I64)], target.vector_bytes * 8
    )
    s, a = block_shape(target), k.arg
    with k.units() as unit:
        column = unit % a.panels * s.columns
        source = a.x.at((unit // a.panels * a.rows * a.columns + column) * dtype.itemsize)
        out = a.y.at(unit * a.rows * (4 * s.columns))
        masks = [k.below(a.columns - column - t * s.vl, s.vl) for t in range(s.vectors)]
        with k.loop(a.rows) as r:
            for t, mask in enumerate(masks):
                at = source.at(r * a.columns * dtype.itemsize).at(t * s.vl * dtype.itemsize)
                out.at(r * (4 * s.columns)).at(4 * t * s.vl).store(load_as(k, at, dtype, s.vl, mask))
    return k.finish()


@generator(PACK_TRANSPOSED)
def pack_transposed(target: Target, symbol: str, dtype: DType) -> Program:
    """Transposes [batch][rows][columns] to f32; a unit is vl rows of one batch, which become vl columns.

    Row block j goes to panel j // blocks_per_panel; columns become rows of the panel, `pitch` bytes apart. Only row
    numbers below `stored` are written.
    """
    fields = [("x", PTR), ("y", PTR), *((name, I64) for name in _TRANSPOSE_WORDS)]
    k = Kernel(symbol, fields, target.vector_bytes * 8)
    a, lanes, size = k.arg, target.vl, dtype.itemsize
    with k.units() as unit:
        batch, block = unit // a.row_blocks, unit % a.row_blocks
        row = block * lanes
        source = a.x.at((batch * a.rows + row) * a.columns * size)
        out = a.y.at(batch * a.batch_bytes + block // a.blocks_per_panel * a.panel_bytes)
        out = out.at(block % a.blocks_per_panel * (4 * lanes))
        stored = k.below(a.stored - row, lanes)
        with k.loop(a.columns, 0, lanes) as column:
            left = a.columns - column
            mask = k.below(left, lanes)
            tile = transpose_tile(k, source.at(column * size), a.columns * size, a.rows - row, mask, dtype, lanes)
            for i, values in enumerate(tile):
                with k.when(left > i):
                    out.at((column + i) * a.pitch).store_masked(values, stored)
    return k.finish()
