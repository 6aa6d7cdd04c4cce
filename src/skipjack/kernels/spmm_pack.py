"""Sparse weights of a Linear as the stream that kernels/spmm.py walks.

Rows (output features) are cut into groups of about equal work, the depth into blocks of BLOCK_K. A segment is one block
of one group: its rows, those with most entries first so that loops of equal length follow each other, and their entries
in that order, ascending in depth. Rows without entries in a block are left out, except from the first and last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK_K = 192
_LINE = 64
SEGMENT_WORDS = 4


def blocks_of(depth: int) -> int:
    """How many blocks a depth has; one when it is 0, for rows need a last block."""
    return max(-(-depth // BLOCK_K), 1)


def pack_stream(w: np.ndarray, groups: int) -> np.ndarray:
    """The stream of w [depth, rows]: a table with SEGMENT_WORDS int64 per segment, [group][block], and the rest.

    A segment's words: where (bytes from the start of the stream) its row words, weights and depths begin, and how many
    rows it has. A row word is row << 8 | entries; weights are f32; depths are bytes, counted from the block's start.
    """
    depth, rows = w.shape
    blocks = blocks_of(depth)
    alive = np.zeros((rows, blocks * BLOCK_K), bool)
    np.not_equal(w.T, 0, out=alive[:, :depth])
    counts = np.count_nonzero(alive.reshape(rows, blocks, BLOCK_K), axis=2).T.astype(np.int64)
    bounds = _bounds(counts.sum(0), groups)
    parts = [_segments(w, alive, counts, bounds[g], bounds[g + 1]) for g in range(groups)]
    return _joined(parts, groups, blocks)


def _bounds(entries: np.ndarray, groups: int) -> list[int]:
    """Row numbers where groups begin and end; a row counts as its entries and what starting it costs."""
    done = np.cumsum(entries + 4)
    total = int(done[-1]) if done.size else 0
    inner = [int(np.searchsorted(done, total * g / groups)) for g in range(1, groups)]
    return [0, *inner, entries.size]


@dataclass(frozen=True)
class _Part:
    """The segments of one group: row words, weights and depths of all blocks, and how many of each a block has."""

    words: np.ndarray
    weights: np.ndarray
    depths: np.ndarray
    row_counts: np.ndarray
    entry_counts: np.ndarray


def _segments(w: np.ndarray, alive: np.ndarray, counts: np.ndarray, first: int, end: int) -> _Part:
    here = counts[:, first:end]
    blocks, rows = here.shape
    order = np.argsort(-here, axis=1, kind="stable")
    sorted_counts = np.take_along_axis(here, order, axis=1)
    by_block = alive[first:end].reshape(rows, blocks, BLOCK_K)
    arranged = by_block[order, np.arange(blocks)[:, None]]
    position = np.flatnonzero(arranged)
    segment_row = position // BLOCK_K
    inside = position - segment_row * BLOCK_K
    row = (order + first).reshape(-1)[segment_row]
    k = segment_row // max(rows, 1) * BLOCK_K + inside
    weights = w.reshape(-1)[k * w.shape[1] + row].astype(np.float32, copy=False)
    kept = sorted_counts > 0
    kept[0] = kept[-1] = True
    words = ((order + first) << 8 | sorted_counts)[kept].astype(np.int32)
    return _Part(words, weights, inside.astype(np.uint8), kept.sum(1), here.sum(1))


def _joined(parts: list[_Part], groups: int, blocks: int) -> np.ndarray:
    table = np.zeros((groups * blocks, SEGMENT_WORDS), np.int64)
    at = -(-table.nbytes // _LINE) * _LINE
    pieces: list[tuple[int, np.ndarray]] = [(0, table.reshape(-1))]
    for g, p in enumerate(parts):
        mine = table[g * blocks : (g + 1) * blocks]
        mine[:, 3] = p.row_counts
        starts_of_rows, starts = (np.cumsum(c) - c for c in (p.row_counts, p.entry_counts))
        for column, (array, start) in enumerate(((p.words, starts_of_rows), (p.weights, starts), (p.depths, starts))):
            mine[:, column] = at + start * array.itemsize
            pieces.append((at, array))
            at += -(-array.nbytes // _LINE) * _LINE
    data = np.zeros(at, np.uint8)
    for begin, array in pieces:
        data[begin : begin + array.nbytes] = array.view(np.uint8)
    return data
