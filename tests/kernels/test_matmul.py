"""Products of two computed matrices against numpy: transposed, broadcast, scaled, in every type."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.kernels.launch import Lowering
from skipjack.kernels.matmul import LINEAR_PLAIN, MATMUL, MATMUL_PLAIN
from skipjack.lang.expr import Expr, arg
from skipjack.targets.target import Target

F = DType.F32


def matmul(
    entry: Lowering,
    inputs: list[np.ndarray],
    target: Target,
    *,
    ta: int = 0,
    tb: int = 0,
    alpha: float = 1.0,
    epilogue: Expr | None = None,
    threads: int = 1,
) -> np.ndarray:
    a, b = (np.swapaxes(x, -1, -2) if t else x for x, t in zip(inputs, (ta, tb), strict=False))
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    attrs = {"trans_a": ta, "trans_b": tb, "alpha": alpha} | ({} if epilogue is None else {"epilogue": epilogue})
    node = Node("MatMul", tuple(f"i{n}" for n in range(len(inputs))), ("y",), attrs, SKIPJACK)
    dtype = DType.from_numpy(inputs[0].dtype)
    return run_lowering(entry, node, inputs, [(dtype, shape)], target=target, threads=threads)[0]


def made(*shape: int, dtype: object = np.float32) -> np.ndarray:
    rng = np.random.default_rng([7, *shape])
    d = np.dtype(dtype)
    if d.kind in "iu":
        return rng.integers(0 if d.kind == "u" else -50, 50, shape).astype(d)
    return rng.standard_normal(shape).astype(d)


def operands(m: int, k: int, n: int, ta: int, tb: int, *batch: int) -> list[np.ndarray]:
    return [made(*batch, *((k, m) if ta else (m, k))), made(*batch, *((n, k) if tb else (k, n)))]


def reference(a: np.ndarray, b: np.ndarray, ta: int, tb: int) -> np.ndarray:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.matmul(np.swapaxes(x, -1, -2) if ta else x, np.swapaxes(y, -1, -2) if tb else y)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("ta", [0, 1])
@pytest.mark.parametrize("tb", [0, 1])
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (1, 64, 100), (13, 17, 15), (29, 16, 33), (65, 600, 70)])
@pytest.mark.parametrize("entry", [MATMUL, MATMUL_PLAIN], ids=lambda e: e.name)
def test_sizes(entry: Lowering, m: int, k: int, n: int, ta: int, tb: int, target: Target) -> None:
    a, b = operands(m, k, n, ta, tb, 3)
    got = matmul(entry, [a, b], target, ta=ta, tb=tb, alpha=0.5)
    np.testing.assert_allclose(got, 0.5 * reference(a, b, ta, tb), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    "a_batch, b_batch", [((2, 1), (3,)), ((), (2, 2)), ((4,), ()), ((2, 3), (2, 3)), ((1, 3), (2, 1))]
)
@pytest.mark.parametrize("entry", [MATMUL, MATMUL_PLAIN], ids=lambda e: e.name)
def test_batches_broadcast(entry: Lowering, a_batch: tuple[int, ...], b_batch: tuple[int, ...]) -> None:
    a, b = made(*a_batch, 5, 20), made(*b_batch, 20, 37)
    got = matmul(entry, [a, b], TARGETS[-1])
    np.testing.assert_allclose(got, reference(a, b, 0, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
def test_epilogue_and_threads(target: Target) -> None:
    a, b = operands(40, 50, 45, 1, 1, 6)
    bias, rest = made(45), made(6, 40, 45)
    e = arg(0, F) + arg(1, F) * 2.0 + arg(2, F)
    results = [
        matmul(MATMUL, [a, b, bias, rest], target, ta=1, tb=1, alpha=0.125, epilogue=e, threads=n) for n in (1, 2, 3)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_allclose(results[0], 0.125 * reference(a, b, 1, 1) + bias * 2 + rest, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize(
    "kind", [np.float64, np.int32, np.int64, np.uint8, np.int8, np.uint32], ids=lambda t: t.__name__
)
@pytest.mark.parametrize("tb", [0, 1])
def test_other_types(kind: type, tb: int, target: Target) -> None:
    a = made(2, 9, 21, dtype=kind)
    b = made(2, *((19, 21) if tb else (21, 19)), dtype=kind)
    got = matmul(MATMUL_PLAIN, [a, b], target, tb=tb)
    want = np.matmul(a, np.swapaxes(b, -1, -2) if tb else b)
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("entry", [MATMUL, MATMUL_PLAIN], ids=lambda e: e.name)
def test_half_precision(entry: Lowering, kind: type) -> None:
    a, b = made(2, 9, 21, dtype=kind), made(2, 19, 21, dtype=kind)
    got = matmul(entry, [a, b], TARGETS[-1], tb=1).astype(np.float64)
    step = 2.0**-10 if kind is np.float16 else 2.0**-7
    np.testing.assert_allclose(got, reference(a, b, 0, 1), rtol=step, atol=1e-4)


@pytest.mark.parametrize("entry", [MATMUL, MATMUL_PLAIN], ids=lambda e: e.name)
@pytest.mark.parametrize("m, k, n", [(0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_empty(entry: Lowering, m: int, k: int, n: int) -> None:
    a, b = operands(m, k, n, 0, 0, 2)
    np.testing.assert_array_equal(matmul(entry, [a, b], TARGETS[-1]), np.zeros((2, m, n), np.float32))


def test_linear_of_f64() -> None:
    x, w, bias = made(3, 4, 30, dtype=np.float64), made(30, 11, dtype=np.float64), made(11, dtype=np.float64)
    node = Node("Linear", ("x", "w", "b"), ("y",), {"epilogue": arg(0, DType.F64) + arg(1, DType.F64)}, SKIPJACK)
    got = run_lowering(LINEAR_PLAIN, node, [x, w, bias], [(DType.F64, (3, 4, 11))], constants=[1])[0]
    np.testing.assert_allclose(got, x @ w + bias, rtol=1e-13)
