"""Patterns of zeros: planted ones are found, chance ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from skipjack.benchmark.patterns import BLOCKS, detect


def _kept(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> np.ndarray:
    return rng.random(shape) < share


def _planted(rows: int, columns: int, share: float, seed: int, positions: int = 1) -> np.ndarray:
    """A mask of zeros in whole blocks, a few kept numbers being zero too."""
    rng = np.random.default_rng(seed)
    blocks = _kept((16 * 32 // rows, positions, 16 * 32 // columns), share, rng)
    kept = blocks.repeat(rows, axis=0).repeat(columns, axis=2)
    return ~(kept & (rng.random(kept.shape) > 0.002))


@pytest.mark.parametrize("share", [0.5, 0.2, 0.1])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_planted_blocks_are_found(block: tuple[int, int], share: float) -> None:
    for seed in range(5):
        found = detect(_planted(*block, share, seed))
        assert found.kind == f"{block[0]}x{block[1]}", f"seed {seed}: {found}"


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8, 0.9, 0.95, 0.99])
def test_zeros_by_chance_have_no_pattern(sparsity: float) -> None:
    for seed in range(10):
        zeros = ~_kept((256, 1, 256), 1 - sparsity, np.random.default_rng(seed))
        found = detect(zeros)
        assert found.kind == "unstructured", f"seed {seed}: {found}"
        assert found.zeros == zeros.sum()


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (4, 8)])
def test_n_of_m_is_found(n: int, m: int) -> None:
    rng = np.random.default_rng(3)
    places = rng.random((64, 128 // m, m)).argsort(axis=2)
    assert detect((places >= n).reshape(64, 1, 128)).kind == f"{n}:{m}"


def test_blocks_of_a_convolution_run_along_its_inputs_at_one_position() -> None:
    zeros = _planted(1, 4, 0.2, 0, positions=9)
    assert detect(zeros).kind == "1x4"
    assert detect(np.swapaxes(zeros, 0, 2)).kind == "4x1"


def test_empty_rows_and_columns_are_counted_apart() -> None:
    zeros = np.zeros((40, 1, 30), bool)
    zeros[[3, 4, 11]] = True
    zeros[:, :, [0, 29]] = True
    found = detect(zeros)
    assert (found.kind, found.empty_rows, found.empty_columns) == ("dense", 3, 2)
    assert found.sparsity == pytest.approx(zeros.mean())


@pytest.mark.parametrize("shape", [(1, 1, 1), (0, 1, 4), (3, 1, 0), (5, 2, 3)])
def test_small_and_empty_weights_have_an_answer(shape: tuple[int, int, int]) -> None:
    assert detect(np.zeros(shape, bool)).kind == "dense"
    assert detect(np.ones(shape, bool)).kind == "dense"


def test_blocks_at_the_edge_may_be_smaller() -> None:
    zeros = np.ones((5, 1, 30), bool)
    zeros[0, 0, :4] = False
    zeros[4, 0, 28:] = False
    zeros[1, 0, 4:8] = False
    zeros[2, 0, 8:28] = False
    zeros[3, 0, 0] = False
    found = detect(zeros)
    assert found.blocks["1x4"] == pytest.approx(1 - 3 / zeros.sum())
