"""Rotary embeddings against their reference."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.compare import check, random

import skipjack.kernels.rotary  # noqa: F401
from skipjack.core.dtypes import DType


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("dim", [0, 8])
def test_rotary(interleaved: int, dim: int) -> None:
    half = (dim or 16) // 2
    attrs = {"interleaved": interleaved, "rotary_embedding_dim": dim}
    positions = np.random.default_rng(0).integers(0, 50, (2, 5))
    caches = [random((50, half)), random((50, half), seed=1)]
    check("RotaryEmbedding", [random((2, 3, 5, 16)), *caches, positions], attrs, rtol=1e-5, atol=1e-6)
    flat = {**attrs, "num_heads": 3}
    check("RotaryEmbedding", [random((2, 5, 48)), *caches, positions], flat, rtol=1e-5, atol=1e-6)
    per_step = [random((2, 5, half)), random((2, 5, half), seed=1)]
    check("RotaryEmbedding", [random((2, 5, 48)), *per_step], flat, rtol=1e-5, atol=1e-6)
    halves = [random(s, DType.F16) for s in ((2, 3, 5, 16), (2, 5, half), (2, 5, half))]
    check("RotaryEmbedding", halves, attrs, rtol=1e-2, atol=1e-2)
