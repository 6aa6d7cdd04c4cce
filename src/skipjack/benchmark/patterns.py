"""Where the zeros of a weight lie: anywhere, N of every M, in blocks, in whole rows and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BLOCKS: tuple[tuple[int, int], ...] = ((1, 4), (4, 1), (1, 16), (16, 1), (4, 4), (16, 16), (32, 32))
"""Blocks looked for: outputs x inputs."""

_N_OF_M = ((1, 4), (2, 4), (4, 8))
_DENSE_BELOW = 0.02
_LEAST_COVERAGE = 0.95
_MOST_RANDOM_MISSES = 0.25


@dataclass(frozen=True)
class Pattern:
    """The zeros of one weight of `elements` numbers, seen as outputs x inputs (per position of a convolution's kernel).

    kind is "dense", "unstructured", "2:4" (at most 2 of 4 consecutive inputs are not zero) or a block such as "1x4".
    blocks holds, per size, the share of the zeros that lie in aligned blocks of nothing but zeros. Rows and columns
    that are empty (zero throughout) are left out of kind and blocks.
    """

    elements: int
    zeros: int
    kind: str
    blocks: dict[str, float]
    empty_rows: int
    empty_columns: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.elements if self.elements else 0.0

    @property
    def scattered(self) -> float:
        """The share of the zeros outside of 1x4 and of 4x1 blocks: what only unstructured kernels skip."""
        return 1.0 - max(self.blocks.get("1x4", 0.0), self.blocks.get("4x1", 0.0)) if self.zeros else 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "dense" else f"{self.kind} {self.sparsity:.1%}"


def detect(zeros: np.ndarray) -> Pattern:
    """The pattern of a mask [outputs, positions, inputs] that is true where the weight is zero."""
    rows = np.asarray(zeros.all(axis=(1, 2)))
    columns = np.asarray(zeros.all(axis=(0, 1)))
    live = np.broadcast_to((~rows)[:, None, None] & ~columns, zeros.shape)
    sparsity = float(zeros[live].mean()) if live.any() else 0.0
    blocks: dict[str, float] = {}
    kind = "dense"
    if sparsity >= _DENSE_BELOW:
        blocks = {f"{r}x{c}": _in_blocks(zeros, live, r, c) for r, c in BLOCKS if _fits(zeros, r, c)}
        kind = _kind(zeros, sparsity, blocks)
    return Pattern(zeros.size, int(zeros.sum()), kind, blocks, int(rows.sum()), int(columns.sum()))


def _fits(zeros: np.ndarray, rows: int, columns: int) -> bool:
    return zeros.shape[0] >= rows and zeros.shape[2] >= columns


def _kind(zeros: np.ndarray, sparsity: float, blocks: dict[str, float]) -> str:
    """The largest block that holds nearly all zeros, far more than chance would; else N:M; else unstructured."""
    for rows, columns in sorted(BLOCKS, key=lambda b: -b[0] * b[1]):
        share = blocks.get(f"{rows}x{columns}", 0.0)
        by_chance = sparsity ** (rows * columns - 1)
        if share >= _LEAST_COVERAGE and 1 - share <= _MOST_RANDOM_MISSES * (1 - by_chance):
            return f"{rows}x{columns}"
    return next((f"{n}:{m}" for n, m in _N_OF_M if _keeps(zeros, sparsity, n, m)), "unstructured")


def _in_blocks(zeros: np.ndarray, live: np.ndarray, rows: int, columns: int) -> float:
    """The share of the zeros in `live` that lie in aligned blocks of zeros; blocks at the edge may be smaller."""
    outputs, positions, inputs = zeros.shape
    padded = np.pad(zeros, ((0, -outputs % rows), (0, 0), (0, -inputs % columns)), constant_values=True)
    parts = padded.reshape(padded.shape[0] // rows, rows, positions, padded.shape[2] // columns, columns)
    covered = parts.all(axis=(1, 4)).repeat(rows, axis=0).repeat(columns, axis=2)[:outputs, :, :inputs]
    return float((covered & live).sum()) / float((zeros & live).sum())


def _keeps(zeros: np.ndarray, sparsity: float, n: int, m: int) -> bool:
    """Whether at most n of every m consecutive inputs are not zero, where chance would break that often."""
    inputs = zeros.shape[2] // m * m
    if not inputs:
        return False
    kept = m - zeros[:, :, :inputs].reshape(-1, m).sum(axis=1)
    by_chance = sum(math.comb(m, k) * (1 - sparsity) ** k * sparsity ** (m - k) for k in range(n + 1, m + 1))
    return len(kept) * by_chance >= 10 and float(np.mean(kept > n)) <= 0.01 * by_chance
