"""Weights of integer linear layers as their kernels read them: words of four neighbouring inputs of one output."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LINE = 64


def terms_of(w: np.ndarray) -> list[np.ndarray]:
    """Matrices of i8 whose sum is w (i8 itself, or i16 in [-255, 255])."""
    if w.dtype == np.int8:
        return [w]
    found: list[np.ndarray] = []
    left = w.astype(np.int16)
    while left.any() or not found:
        term = np.clip(left, -128, 127).astype(np.int8)
        found.append(term)
        left = left - term
    return found


def term_count(w: np.ndarray) -> int:
    """How many matrices terms_of(w) gives."""
    if w.dtype == np.int8 or not w.size:
        return 1
    low, high = int(w.min()), int(w.max())
    return max(-(-high // 127) if high > 0 else 1, -(low // 128) if low < 0 else 1, 1)


def words_of(w: np.ndarray) -> np.ndarray:
    """[K, M] of i8 as u32 [ceil(K / 4), M]: byte r of a word is input 4 k4 + r; zeros behind the last input."""
    k, m = w.shape
    whole = k // 4
    codes = w.view(np.uint8)
    out = np.zeros((-(-k // 4), m), np.uint32)
    for r in range(4):
        part = codes[r::4]
        shifted = part.astype(np.uint32)
        shifted <<= np.uint32(8 * r)
        out[: part.shape[0]] |= shifted
    assert out.shape[0] in (whole, whole + 1), "a word holds four inputs"
    return out


def pack_dense(w: np.ndarray, rows: int) -> np.ndarray:
    """[K, M] as words [M / rows][term][K / 4][rows], zeros behind the last output."""
    words = [words_of(t) for t in terms_of(w)]
    k4, m = words[0].shape
    blocks = -(-m // rows)
    out = np.zeros((blocks, len(words), k4, rows), np.uint32)
    for t, term in enumerate(words):
        whole = m // rows
        out[:whole, t] = term[:, : whole * rows].reshape(k4, whole, rows).transpose(1, 0, 2)
        if whole < blocks:
            out[whole, t, :, : m - whole * rows] = term[:, whole * rows :]
    return out


@dataclass(frozen=True)
class Cut:
    """How the fours of a sparse matrix are cut: panels of rows, blocks of `block` fours of inputs.

    A panel has at most `rows` rows; panels have nearly the same work; some at the end may be empty.
    """

    panels: int
    rows: int
    block: int


def panel_starts(work: np.ndarray, cut: Cut) -> np.ndarray:
    """First row of each panel and the end; every start is a multiple of four. work is per four rows."""
    groups = len(work)
    done = np.concatenate([[0], np.cumsum(work, dtype=np.float64)])
    starts = [0]
    for p in range(cut.panels):
        share = done[-1] * (p + 1) / cut.panels
        end = int(np.searchsorted(done, share - 1e-9))
        end = min(max(end, starts[-1]), groups, starts[-1] + cut.rows // 4)
        rest = (cut.panels - p - 1) * (cut.rows // 4)
        starts.append(max(end, groups - rest))
    return np.array(starts, np.int64) * 4


ROW_WORK = 6
"""What a row costs beside its entries, in entries."""


ENTRY_BYTES = 5


def pack_fours(w: np.ndarray, cut: Cut) -> np.ndarray:
    """[K, M] as bytes: i64 places of the two sections, then per panel its first row, and the end; then the sections.

    Entries lie in the order [panel][block][row][k4]: four weights, then k4 within the block. The sections: i32 ends (in
    bytes) of the entries of each (panel, block, row), with the start of a panel in front, so that panel p begins at i32
    number blocks * first row + p; the entries, with room behind to load the last one as 8 bytes. Rows count up to a
    multiple of four.
    """
    terms = terms_of(w)
    k4, m = -(-w.shape[0] // 4), w.shape[1]
    rows, blocks = -(-m // 4) * 4, max(-(-k4 // cut.block), 1)
    assert cut.block <= 256, "k4 within a block is one byte"
    words = np.zeros((rows, blocks * cut.block, len(terms)), np.uint32)
    for t, term in enumerate(terms):
        words[:m, :k4, t] = words_of(term).T
    words = words.reshape(rows, blocks, cut.block * len(terms))
    live = words != 0
    counts = np.count_nonzero(live, axis=2)
    starts = panel_starts((counts.sum(1) + ROW_WORK).reshape(-1, 4).sum(1), cut)
    ends, entries = [np.zeros(0, np.int32)], [np.zeros((0, ENTRY_BYTES), np.uint8)]
    done = 0
    for first, last in itertools.pairwise(starts.tolist()):
        end = np.concatenate([[0], np.cumsum(counts[first:last].T.reshape(-1))]) + done
        ends.append((end * ENTRY_BYTES).astype(np.int32))
        entries.append(_entries(words[first:last], live[first:last], len(terms)))
        done = int(end[-1])
    room = np.zeros((2, ENTRY_BYTES), np.uint8)
    return _joined(starts, [np.concatenate(ends), np.concatenate([*entries, room])])


def _entries(words: np.ndarray, live: np.ndarray, terms: int) -> np.ndarray:
    """The entries of a panel [row][block][k4 * terms] in the order [block][row][k4]."""
    block, row, at = np.nonzero(np.ascontiguousarray(live.transpose(1, 0, 2)))
    out = np.empty((len(at), ENTRY_BYTES), np.uint8)
    out[:, :4] = words[row, block, at].view(np.uint8).reshape(-1, 4)
    out[:, 4] = at // terms
    return out


GROUP_BYTES = 12


def pack_scattered(w: np.ndarray, cut: Cut) -> np.ndarray:
    """[K, M] as pack_fours lays it out, but an entry holds four u16 inputs within the block and their four weights.

    Groups that are not full repeat input 0 with weight 0.
    """
    terms = terms_of(w)
    k, m = w.shape
    rows, depth = -(-m // 4) * 4, 4 * cut.block
    blocks = max(-(-k // depth), 1)
    codes = np.zeros((rows, blocks * depth, len(terms)), np.int8)
    for t, term in enumerate(terms):
        codes[:m, :k, t] = term.T
    codes = codes.reshape(rows, blocks, depth * len(terms))
    live = codes != 0
    counts = -(-np.count_nonzero(live, axis=2) // 4)
    starts = panel_starts((counts.sum(1) + ROW_WORK).reshape(-1, 4).sum(1), cut)
    ends, entries = [np.zeros(0, np.int32)], [np.zeros((0, GROUP_BYTES), np.uint8)]
    done = 0
    for first, last in itertools.pairwise(starts.tolist()):
        end = np.concatenate([[0], np.cumsum(counts[first:last].T.reshape(-1))])
        ends.append(((end + done) * GROUP_BYTES).astype(np.int32))
        entries.append(_groups(codes[first:last], live[first:last], end, len(terms)))
        done += int(end[-1])
    return _joined(starts, [np.concatenate(ends), np.concatenate(entries)])


def _groups(codes: np.ndarray, live: np.ndarray, ends: np.ndarray, terms: int) -> np.ndarray:
    """The groups of a panel [row][block][k * terms] in the order [block][row][k]; ends are in groups."""
    block, row, at = np.nonzero(np.ascontiguousarray(live.transpose(1, 0, 2)))
    which = block * live.shape[0] + row
    each = np.bincount(which, minlength=len(ends) - 1)
    place = 4 * ends[which] + np.arange(len(which)) - (np.cumsum(each) - each)[which]
    inputs, weights = np.zeros(4 * ends[-1], np.uint16), np.zeros(4 * ends[-1], np.int8)
    inputs[place], weights[place] = at // terms, codes[row, block, at]
    parts = (inputs.view(np.uint8).reshape(-1, 8), weights.view(np.uint8).reshape(-1, 4))
    return np.concatenate(parts, axis=1)


def _joined(starts: np.ndarray, sections: Sequence[np.ndarray]) -> np.ndarray:
    """The places of sections, the table of panels and the sections in one array of bytes, each on its own lines."""
    sizes = [8 * (len(sections) + len(starts)), *(s.nbytes for s in sections)]
    places = np.concatenate([[0], np.cumsum([-(-n // LINE) * LINE for n in sizes])])
    out = np.zeros(int(places[-1]), np.uint8)
    head = np.concatenate([places[1:-1], starts]).astype(np.int64)
    for place, part in zip(places[:-1], [head, *sections], strict=True):
        out[place : place + part.nbytes] = part.reshape(-1).view(np.uint8)
    return out
