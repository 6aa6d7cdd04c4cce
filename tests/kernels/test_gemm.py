"""Linear layers: sizes around every tile, epilogues, storage types, and bits that do not depend on the split."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.kernels.gemm import GEMM, STEP_K, cut
from skipjack.kernels.gemm_block import Shape, block_shape
from skipjack.lang.expr import Expr, arg, binary, cast, evaluate, unary
from skipjack.targets.target import Target

F = DType.F32
BIAS = arg(0, F) + arg(1, F)
GELU_AND_RESIDUAL = BIAS * 0.5 * (unary("erf", BIAS * 0.70710678) + 1.0) + arg(2, F)


def linear(inputs: list[np.ndarray], epilogue: Expr | None, target: Target, threads: int = 1) -> np.ndarray:
    x, w = inputs[:2]
    attrs = {} if epilogue is None else {"epilogue": epilogue}
    node = Node("Linear", tuple(f"i{n}" for n in range(len(inputs))), ("y",), attrs, SKIPJACK)
    out = DType.from_numpy(x.dtype) if epilogue is None else epilogue.dtype
    shape = (*x.shape[:-1], w.shape[1])
    return run_lowering(GEMM, node, inputs, [(out, shape)], constants=[1], target=target, threads=threads)[0]


def made(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def close(got: np.ndarray, x: np.ndarray, w: np.ndarray, want: np.ndarray) -> None:
    bound = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64)
    assert np.all(np.abs(got - want) <= 3e-6 * bound + 1e-6)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 13, 14, 15, 29, 141])
@pytest.mark.parametrize("depth, columns", [(1, 1), (7, 15), (64, 33), (513, 64), (1024, 31)])
def test_sizes(rows: int, depth: int, columns: int, target: Target) -> None:
    x, w, b = made(rows, depth), made(depth, columns), made(columns)
    got = linear([x, w, b], BIAS, target)
    close(got, x, w, x.astype(np.float64) @ w + b)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
def test_every_row_count_gives_the_same_bits(target: Target) -> None:
    x, w = made(40, 2 * STEP_K + 3), made(2 * STEP_K + 3, 70)
    whole = linear([x, w], None, target)
    for rows in range(1, 20):
        np.testing.assert_array_equal(linear([x[:rows], w], None, target), whole[:rows])


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("depth", [300, 1024])
def test_threads_do_not_change_bits(target: Target, depth: int) -> None:
    x, w, b, r = made(150, depth), made(depth, 600), made(600), made(150, 600)
    results = [linear([x, w, b, r], GELU_AND_RESIDUAL, target, threads=n) for n in (1, 2, 3)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    want = evaluate(GELU_AND_RESIDUAL, [x @ w, b, r])
    np.testing.assert_allclose(results[0], want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_half_precision_storage(kind: type, target: Target) -> None:
    x, w, b = made(19, 70, dtype=kind), made(70, 40, dtype=kind), made(40, dtype=kind)
    dtype = DType.from_numpy(np.dtype(kind))
    epilogue = cast(arg(0, F) + cast(arg(1, dtype), F), dtype)
    got = linear([x, w, b], epilogue, target).astype(np.float64)
    wide = x.astype(np.float64) @ w.astype(np.float64) + b.astype(np.float64)
    step = 2.0**-10 if kind is np.float16 else 2.0**-7
    np.testing.assert_allclose(got, wide, rtol=step, atol=1e-4)


def test_batched_input_and_nan() -> None:
    x, w, b = made(2, 3, 5, 24), made(24, 17), made(17)
    x[1, 2, 4, 7] = np.nan
    got = linear([x, w, b], binary("max", BIAS, 0.0), TARGETS[-1])
    want = np.maximum(x.astype(np.float64) @ w + b, 0)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1, 128])
@pytest.mark.parametrize("depth, columns", [(8, 0), (0, 5)])
def test_empty(rows: int, depth: int, columns: int) -> None:
    x, w, b = made(rows, depth), made(depth, columns), made(columns)
    got = linear([x, w, b], BIAS, TARGETS[-1])
    np.testing.assert_array_equal(got, np.broadcast_to(b, (rows, columns)))


@pytest.mark.parametrize("shape", [Shape(14, 2, 16), Shape(6, 2, 8), block_shape(TARGETS[0])])
def test_no_group_exceeds_its_scratch(shape: Shape) -> None:
    for rows in (1, 5, 14, 15, 128, 141, 1000, 2048, 5000):
        for columns in (1, 32, 768, 1000, 3072, 50000):
            c = cut(rows, columns, shape, 4)
            assert -(-c.blocks // c.row_groups) <= 10
            assert -(-c.panels // c.panel_groups) <= 32
            assert c.blocks * shape.rows >= rows
            assert c.panels * shape.columns >= columns
