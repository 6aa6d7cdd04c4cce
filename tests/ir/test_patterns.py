"""Patterns of zeros: planted ones are found, chance ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from skipjack.ir.patterns import BLOCKS, detect, duplicate_rows, live_fours, popcount


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


def _random_weight(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A weight whose zeros have one pattern, sizes and density drawn, some of the zeros negative."""
    outputs, inputs = (int(n) * (16 if kind in ("16x16", "32x32") else 4) for n in rng.integers(24, 60, 2))
    share = rng.uniform(0.1, 0.6)
    kept = np.ones((outputs, inputs), bool)
    if kind == "unstructured":
        kept = _kept((outputs, inputs), share, rng)
    elif ":" in kind:
        n, m = map(int, kind.split(":"))
        kept = (rng.random((outputs, -(-inputs // m), m)).argsort(axis=2) < n).reshape(outputs, -1)[:, :inputs]
    elif "x" in kind:
        r, c = map(int, kind.split("x"))
        blocks = _kept((-(-outputs // r), -(-inputs // c)), share, rng)
        kept = blocks.repeat(r, axis=0).repeat(c, axis=1)[:outputs, :inputs]
    if rng.random() < 0.3:
        kept = kept & ~_kept((outputs, 1), 0.1, rng)
    w = np.where(kept, rng.standard_normal(kept.shape), 0).astype(np.float32)
    return np.where(rng.random(w.shape) < 0.5, w, w * -1.0)


@pytest.mark.parametrize("kind", ["dense", "unstructured", "1:4", "2:4", "4:8", *(f"{r}x{c}" for r, c in BLOCKS)])
def test_fewer_than_one_verdict_in_a_hundred_is_wrong(kind: str) -> None:
    """Both orders in memory: outputs first and inputs first."""
    wrong: list[str] = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        w = _random_weight(kind, rng)
        turned = np.ascontiguousarray(w.T)
        for found in (detect((w == 0)[:, None, :]), detect((turned == 0).T[:, None, :])):
            right = found.kind == kind and found.zeros == np.count_nonzero(w == 0)
            if not right or found.empty_rows != (w == 0).all(axis=1).sum():
                wrong.append(f"seed {seed}: {found}")
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (33, 1, 65), (64, 9, 4), (7, 3, 130), (128, 1, 64)])
def test_shares_of_blocks_are_exact(shape: tuple[int, int, int]) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        zeros = ~_kept(shape, 0.4, rng).repeat(2, axis=0)[: shape[0]]
        zeros[rng.random(shape[0]) < 0.2] = True
        for mask in (zeros, np.swapaxes(np.ascontiguousarray(np.swapaxes(zeros, 0, 2)), 0, 2)):
            found = detect(mask)
            for name, share in found.blocks.items():
                r, c = map(int, name.split("x"))
                assert share == pytest.approx(_share_in_blocks(zeros, r, c)), f"seed {seed}: {name}"
            assert live_fours(mask) == _fours(zeros)


def _share_in_blocks(zeros: np.ndarray, r: int, c: int) -> float:
    """Block by block."""
    live = np.broadcast_to(~zeros.all(axis=(1, 2))[:, None, None] & ~zeros.all(axis=(0, 1)), zeros.shape)
    inside = 0
    for i in range(0, zeros.shape[0], r):
        for p in range(zeros.shape[1]):
            for j in range(0, zeros.shape[2], c):
                block = (slice(i, i + r), p, slice(j, j + c))
                inside += int(live[block].sum()) if zeros[block].all() else 0
    return inside / int((zeros & live).sum())


def _fours(zeros: np.ndarray) -> tuple[int, int, int]:
    padded = np.pad(zeros, ((0, 0), (0, 0), (0, -zeros.shape[2] % 4)), constant_values=True)
    dead = padded.reshape(*zeros.shape[:2], -1, 4).all(axis=-1)
    return int(zeros.sum()), dead.size, int((~dead).sum())


def test_bits_are_counted_without_help_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(0, 1 << 63, (3, 5), dtype=np.uint64)
    expected = [[int(w).bit_count() for w in row] for row in words]
    assert popcount(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert popcount(words).tolist() == expected


def test_rows_that_repeat_are_counted() -> None:
    w = np.random.default_rng(0).standard_normal((10, 300)).astype(np.float32)
    assert duplicate_rows(w) == 0
    w[3] = w[7] = w[1]
    w[4], w[5] = 0.0, -0.0
    w[9], w[9, 150] = w[2], w[2, 150] + 1
    w[0, 7], w[8] = 0.0, w[0]
    w[8, 7] = -0.0
    assert duplicate_rows(w) == 3
    assert duplicate_rows(w[:1]) == 0
    assert duplicate_rows(np.zeros((4, 0), np.float32)) == 0
