"""Linear layers of few rows: exact sums of bytes, the bits of gemm_f32 for floats, every encoding on every target."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.kernels import gemv
from skipjack.kernels.gemm import GEMM
from skipjack.kernels.launch import Bound, Lowering, Place, Plainly, Site, Work, lowerings
from skipjack.lang.expr import Expr, arg, binary, cast, unary
from skipjack.targets.target import AMX, AVX512_VNNI, NEON, Target, host_features

F, I = DType.F32, DType.I32
_BYTES = AVX512_VNNI.features | {"avx512vbmi", "avx512vbmi2"}
BYTES = replace(AVX512_VNNI, name="avx512vnni" if host_features() >= _BYTES else "avx512vbmi2", features=_BYTES)
EXPANDING = (*TARGETS, BYTES)
DENSE, BITMASK = (next(w for w in lowerings(SKIPJACK, "Linear") if w.name == n) for n in ("gemv", "gemv (bitmask)"))
WAYS = pytest.mark.parametrize("way", [DENSE, BITMASK], ids=["dense", "bitmask"])
ON = pytest.mark.parametrize("target", EXPANDING, ids=lambda t: target_id(t) + "+vbmi2" * (t is BYTES))


def linear(
    way: Lowering, inputs: list[np.ndarray], epilogue: Expr | None, target: Target, out: DType = I, **more: object
) -> np.ndarray:
    x, w = inputs[:2]
    attrs = {} if epilogue is None else {"epilogue": epilogue}
    node = Node("Linear", tuple(f"i{n}" for n in range(len(inputs))), ("y",), attrs, SKIPJACK)
    shape = (*x.shape[:-1], w.shape[1])
    kind = out if epilogue is None else epilogue.dtype
    return run_lowering(way, node, inputs, [(kind, shape)], constants=[1], target=target, **more)[0]


def pruned(shape: tuple[int, int], zeros: float, dtype: object = np.int8, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng([seed, *shape])
    full = r.integers(-128, 128, shape) if dtype is np.int8 else r.standard_normal(shape)
    return np.where(r.random(shape) < zeros, 0, full).astype(dtype)


def codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)


@ON
@WAYS
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(
    "depth, columns, zeros", [(1, 1, 0.0), (7, 15, 0.5), (66, 65, 0.9), (128, 64, 0.3), (65, 129, 1.0)]
)
def test_sums_of_bytes_are_exact(
    way: Lowering, rows: int, depth: int, columns: int, zeros: float, target: Target
) -> None:
    x, w = codes(rows, depth), pruned((depth, columns), zeros)
    got = linear(way, [x, w], None, target)
    np.testing.assert_array_equal(got, x.astype(np.int32) @ w.astype(np.int32))


@ON
@WAYS
def test_the_largest_products_do_not_saturate(way: Lowering, target: Target) -> None:
    x, w = np.full((3, 130), 255, np.uint8), np.full((130, 40), -128, np.int8)
    w[5, 7] = 0
    np.testing.assert_array_equal(linear(way, [x, w], None, target), x.astype(np.int32) @ w.astype(np.int32))


@ON
@WAYS
def test_requantised_with_scalars_vectors_and_a_residual(way: Lowering, target: Target) -> None:
    x, w = codes(3, 50), pruned((50, 77), 0.5)
    r = np.random.default_rng(1)
    offset = r.integers(-9999, 9999, 77).astype(np.int32)
    scale, step = (r.random(77) * 1e-3).astype(np.float32), np.array(0.25, np.float32)
    residual = codes(3, 77)
    real = cast(arg(0, I) + arg(1, I), F) * arg(2, F) * arg(3, F) + cast(arg(4, DType.U8), F)
    expr = cast(binary("min", binary("max", unary("round", real), 0.0), 255.0), DType.U8)
    got = linear(way, [x, w, offset, scale, step, residual], expr, target)
    total = (x.astype(np.int32) @ w.astype(np.int32) + offset).astype(np.float32)
    want = np.clip(np.rint(total * scale * step + residual.astype(np.float32)), 0, 255).astype(np.uint8)
    assert np.abs(got.astype(int) - want).max() <= 1
    assert np.mean(got == want) > 0.99


@ON
@WAYS
@pytest.mark.parametrize("weights", [np.float32, np.float16, ml_dtypes.bfloat16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("values", [np.float32, ml_dtypes.bfloat16], ids=["x-f32", "x-bf16"])
def test_floats_have_the_bits_of_the_dense_product(
    way: Lowering, weights: object, values: type, target: Target
) -> None:
    if way is DENSE and weights is np.float32:
        pytest.skip("gemm_f32 runs these")
    w = pruned((131, 70), 0.6, weights)
    w[3, 3] = -0.0
    for rows in (1, 4, 7):
        x = np.random.default_rng(rows).standard_normal((rows, 131)).astype(values)
        got = linear(way, [x, w], arg(0, F) + 1.0, target)
        dense = linear(GEMM, [x, w], arg(0, F) + 1.0, target)
        np.testing.assert_array_equal(got, dense)
        wide = x.astype(np.float64) @ w.astype(np.float64) + 1.0
        np.testing.assert_allclose(got, wide, rtol=1e-5, atol=1e-4)


@ON
@WAYS
def test_rows_and_threads_do_not_change_bits(way: Lowering, target: Target) -> None:
    w = pruned((150, 600), 0.7, ml_dtypes.bfloat16)
    x = np.random.default_rng(0).standard_normal((9, 150)).astype(np.float32)
    whole = linear(way, [x, w], arg(0, F), target)
    for rows, threads in ((1, 1), (3, 2), (4, 3), (5, 1), (9, 4)):
        np.testing.assert_array_equal(linear(way, [x[:rows], w], arg(0, F), target, threads=threads), whole[:rows])


@pytest.mark.parametrize("target", EXPANDING, ids=lambda t: t.name)
@WAYS
def test_the_interpreter_says_the_same(way: Lowering, target: Target) -> None:
    x, w = codes(2, 9), pruned((9, 20), 0.5)
    got = linear(way, [x, w], None, target, interpret=True)
    np.testing.assert_array_equal(got, x.astype(np.int32) @ w.astype(np.int32))
    xf, wf = (
        np.random.default_rng(0).standard_normal((1, 9)).astype(np.float32),
        pruned((9, 20), 0.5, ml_dtypes.bfloat16),
    )
    np.testing.assert_array_equal(
        linear(way, [xf, wf], arg(0, F), target, interpret=True), linear(GEMM, [xf, wf], arg(0, F), target)
    )


@pytest.mark.parametrize("rows, depth, columns", [(0, 8, 5), (2, 0, 5), (2, 8, 0)])
@WAYS
def test_empty(way: Lowering, rows: int, depth: int, columns: int) -> None:
    got = linear(way, [codes(rows, depth), pruned((depth, columns), 0.5)], arg(0, I) + 3, TARGETS[-1])
    np.testing.assert_array_equal(got, np.full((rows, columns), 3))


def _work(rows: int, w: np.ndarray, target: Target) -> Work:
    x, y = (rows, w.shape[0]), (rows, w.shape[1])
    kind = DType.U8 if w.dtype == np.int8 else F
    bound = [Bound("x", kind, x, Place(0)), Bound("w", DType.from_numpy(w.dtype), w.shape, Place(1), value=w)]
    return Work(
        Node("Linear", ("x", "w"), ("y",), {}, SKIPJACK), bound, [Bound("y", I, y, Place(2))], Plainly(), target
    )


def test_zeros_make_the_bitmask_cheaper_where_memory_is_the_limit() -> None:
    for rows, zeros, cheaper in ((1, 0.5, True), (4, 0.9, True), (1, 0.05, False), (64, 0.5, False)):
        work = _work(rows, pruned((512, 512), zeros), BYTES)
        assert (BITMASK.cost(work) < DENSE.cost(work)) == cheaper, f"{rows} rows, {zeros} zeros"
    floats = pruned((512, 512), 0.5, np.float32)
    assert BITMASK.cost(_work(1, floats, AMX)) < GEMM.cost(_work(1, floats, AMX))
    assert BITMASK.cost(_work(128, floats, AMX)) > GEMM.cost(_work(128, floats, AMX))


def test_a_target_that_cannot_expand_streams_dense_weights() -> None:
    w = pruned((8, 8), 0.5)
    types = [Bound("x", DType.U8, (1, 8), Place(0)), Bound("w", DType.I8, (8, 8), Place(0))]
    site = Site(
        Node("Linear", ("x", "w"), ("y",), {"epilogue": arg(0, I)}, SKIPJACK), types, [types[0]], [None, w], NEON
    )
    assert "expands" in BITMASK.accepts(site)
    assert not DENSE.accepts(site)
    assert gemv.heights(9, 4) == (4, 1)
