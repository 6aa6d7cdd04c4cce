"""Sparse f32 linear layers in column tiles: sizes, shares of zeros, epilogues, and bits that depend on nothing else."""

from __future__ import annotations

from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id
from tests.kernels.compare import make_node, site_of

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.kernels.gemm import gemm_us
from skipjack.kernels.launch import Bound, Place, Plainly, Work
from skipjack.kernels.spmm import SPMM, cost_us, groups_of
from skipjack.kernels.spmm_pack import BLOCK_K, SEGMENT_WORDS, blocks_of, pack_stream
from skipjack.lang.expr import Expr, arg, evaluate, unary
from skipjack.targets.target import Target

F = DType.F32
BIAS = arg(0, F) + arg(1, F)
GELU = BIAS * 0.5 * (unary("erf", BIAS * 0.70710678) + 1.0)


def linear(inputs: list[np.ndarray], epilogue: Expr | None, target: Target, threads: int = 1) -> np.ndarray:
    x, w = inputs[:2]
    attrs = MappingProxyType({} if epilogue is None else {"epilogue": epilogue})
    node = Node("Linear", tuple(f"i{n}" for n in range(len(inputs))), ("y",), attrs, SKIPJACK)
    shape = (*x.shape[:-1], w.shape[1])
    return run_lowering(SPMM, node, inputs, [(F, shape)], constants=[1], target=target, threads=threads)[0]


def made(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def sparse(depth: int, rows: int, zeros: float) -> np.ndarray:
    """Zeros strewn at random, among them negative ones; every seventh row holds nothing else."""
    w = made(depth, rows)
    w[np.random.default_rng([depth, rows]).random((depth, rows)) < zeros] = -0.0
    w[:, 3::7] = 0
    return w


def close(got: np.ndarray, x: np.ndarray, w: np.ndarray, want: np.ndarray) -> None:
    bound = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64)
    assert np.all(np.abs(got - want) <= 3e-6 * bound + 1e-6)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("positions", [1, 7, 16, 17, 33, 63, 64, 65, 200])
def test_sizes(positions: int, zeros: float, target: Target) -> None:
    for depth, rows in ((1, 1), (7, 15), (BLOCK_K, 33), (BLOCK_K + 1, 64), (3 * BLOCK_K - 1, 31)):
        x, w, b = made(positions, depth), sparse(depth, rows, zeros), made(rows)
        close(linear([x, w, b], BIAS, target), x, w, x.astype(np.float64) @ w + b)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
def test_bits_depend_neither_on_threads_nor_on_place(target: Target) -> None:
    depth, rows = 2 * BLOCK_K + 3, 200
    x, w, b, r = made(150, depth), sparse(depth, rows, 0.8), made(rows), made(150, rows)
    whole = linear([x, w, b, r], GELU + arg(2, F), target)
    np.testing.assert_allclose(whole, evaluate(GELU + arg(2, F), [x @ w, b, r]), rtol=1e-4, atol=1e-3)
    for threads in (2, 3):
        np.testing.assert_array_equal(linear([x, w, b, r], GELU + arg(2, F), target, threads), whole)
    for first, end in ((0, 1), (3, 20), (70, 150), (100, 101)):
        part = linear([x[first:end], w, b, r[first:end]], GELU + arg(2, F), target)
        np.testing.assert_array_equal(part, whole[first:end])


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("scale", [(), (1,)])
def test_scalar_extras_and_no_epilogue(scale: tuple[int, ...], target: Target) -> None:
    x, w, s = made(2, 3, 11, 70), sparse(70, 40, 0.7), np.full(scale, 0.5, np.float32)
    want = x.astype(np.float64) @ w
    close(linear([x, w, s], arg(0, F) * arg(1, F), target), x, w, want / 2)
    close(linear([x, w], None, target), x, w, want)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_weights_stored_in_half_precision(kind: type) -> None:
    x, w = made(9, 70), sparse(70, 40, 0.7).astype(kind)
    close(linear([x, w], None, TARGETS[-1]), x, w.astype(np.float32), x.astype(np.float64) @ w.astype(np.float64))


def test_weights_that_are_zero_are_not_multiplied() -> None:
    x, w = made(5, 12), sparse(12, 9, 0.5)
    x[2, 4] = np.nan
    got = linear([x, w], None, TARGETS[-1])
    want = np.zeros((5, 9), bool)
    want[2] = w[4] != 0
    np.testing.assert_array_equal(np.isnan(got), want)


@pytest.mark.parametrize("positions, depth, rows", [(0, 8, 8), (5, 8, 0), (5, 0, 8)])
def test_empty(positions: int, depth: int, rows: int) -> None:
    x, w, b = made(positions, depth), made(depth, rows), made(rows)
    np.testing.assert_array_equal(linear([x, w, b], BIAS, TARGETS[-1]), np.broadcast_to(b, (positions, rows)))


@pytest.mark.parametrize("groups", [1, 2, 5])
@pytest.mark.parametrize("depth, rows, zeros", [(3, 5, 0.5), (BLOCK_K, 64, 0.9), (500, 77, 0.8), (500, 77, 1.0)])
def test_a_stream_holds_every_weight_once_and_in_order(depth: int, rows: int, zeros: float, groups: int) -> None:
    w = sparse(depth, rows, zeros)
    w[:, rows // 2] = made(depth)
    data, blocks = pack_stream(w, groups), blocks_of(depth)
    table = data[: groups * blocks * SEGMENT_WORDS * 8].view(np.int64).reshape(groups, blocks, SEGMENT_WORDS)
    found, ends = np.zeros_like(w), list[int]()
    for group in table:
        seen = list[set[int]]()
        for block, (row_words, weights, depths, count) in enumerate(group):
            words = data[row_words : row_words + 4 * count].view(np.int32)
            seen.append({int(word) >> 8 for word in words})
            lengths = [int(word) & 255 for word in words]
            assert all(np.diff(words >> 8) > 0)
            for row, length in zip((int(word) >> 8 for word in words), lengths):
                at = block * BLOCK_K + data[depths : depths + length].astype(np.int64)
                assert (np.diff(at) > 0).all()
                found[at, row] = data[weights : weights + 4 * length].view(np.float32)
                weights, depths = weights + 4 * length, depths + length
        assert seen[0] == seen[-1]
        assert all(s <= seen[0] for s in seen)
        ends += sorted(seen[0])
    assert ends == list(range(rows))
    np.testing.assert_array_equal(found, w)


def test_groups_are_bounded_and_enough() -> None:
    for rows in (1, 31, 64, 768, 3072, 30000):
        assert rows / groups_of(rows, 1) <= 768
        for threads in (2, 8, 64):
            assert groups_of(rows, threads) >= min(threads, rows // 48)


def test_few_zeros_are_refused_and_more_zeros_cost_less() -> None:
    x, costs = made(100, 300), list[float]()
    for zeros in (0.2, 0.5, 0.8, 0.95):
        w = sparse(300, 200, zeros)
        w[:, 3::7] = 1
        node = make_node("Linear", [x, w], domain=SKIPJACK)
        site = site_of(node, [x, w], [np.zeros((100, 200), np.float32)], [1], TARGETS[-1])
        assert bool(SPMM.accepts(site)) is (zeros == 0.2)
        nowhere = Place(-1)
        bound = [Bound("x", F, x.shape, nowhere), Bound("w", F, w.shape, nowhere, value=w)]
        work = Work(node, bound, [Bound("y", F, (100, 200), nowhere)], Plainly(), TARGETS[-1])
        costs.append(cost_us(work))
        assert zeros < 0.6 or costs[-1] < gemm_us(work)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0] / 3
