"""Sparse weights of a Linear as the stream that kernels/spmm.py walks.

Rows (output features) are cut into groups of about equal work, the depth into blocks of BLOCK_K. A segment is one block
of one group: its rows and, in their order, their entries, ascending in depth. Rows without entries in a block are left
out, except from the first and last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

BLOCK_K = 192
_LINE = 64
_FEW = 8
SEGMENT_WORDS = 4


def blocks_of(depth: int) -> int:
    """How many blocks a depth has; one when it is 0, for rows need a last block."""
    return max(-(-depth // BLOCK_K), 1)


def pack_stream(w: np.ndarray, groups: int) -> np.ndarray:
    """The stream of w [depth, rows]: a table with SEGMENT_WORDS int64 per segment, [group][block], and the rest.

    A segment's words: where (bytes from the start of the stream) its row words, weights and depths begin, and how many
    rows it has. A row word is row << 8 | entries; weights are f32; depths are bytes, counted from the block's start.
    """
    bounds = _bounds(np.count_nonzero(w, axis=0), groups) if groups > 1 else [0, w.shape[1]]
    parts = [_segments(w[:, first:end], first) for first, end in pairwise(bounds)]
    return _joined(parts, groups, blocks_of(w.shape[0]))


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


def _segments(w: np.ndarray, first_row: int) -> _Part:
    blocks = blocks_of(w.shape[0])
    room = np.empty(w.shape[1] * BLOCK_K, np.float32)
    made = [_segment(w[b * BLOCK_K : (b + 1) * BLOCK_K], first_row, b in (0, blocks - 1), room) for b in range(blocks)]
    words, weights, depths = (np.concatenate(arrays) for arrays in zip(*made))
    return _Part(words, weights, depths, np.array([s[0].size for s in made]), np.array([s[1].size for s in made]))


def _segment(
    w: np.ndarray, first_row: int, every_row: bool, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row words, weights and depths of one block; room is for its transpose."""
    by_row = room[: w.size].reshape(w.shape[::-1])
    for k in range(0, w.shape[0], _FEW):
        by_row[:, k : k + _FEW] = w[k : k + _FEW].T
    there = by_row != 0
    counts = np.count_nonzero(there, axis=1)
    rows = np.arange(counts.size) if every_row else np.flatnonzero(counts)
    entries = np.flatnonzero(there)
    depths = (entries % max(w.shape[0], 1)).astype(np.uint8)
    words = ((rows + first_row) << 8 | counts[rows]).astype(np.int32)
    return words, by_row.reshape(-1)[entries], depths


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
