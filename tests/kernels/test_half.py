"""Contractions of bf16: products of pairs summed in f32, images held as bf16, bits that do not depend on the split."""

from __future__ import annotations

from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
from harness import run_lowering

import skipjack.kernels.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK, Node
from skipjack.ir.types import tensor
from skipjack.kernels.gemm_half import GEMM_HALF
from skipjack.kernels.launch import Lowering, Site, lowerings
from skipjack.lang.expr import Expr, arg, cast, maximum
from skipjack.ops.contraction import conv
from skipjack.targets.target import AMX, AVX512_VNNI, Target, host

F, H = DType.F32, DType.BF16
half = ml_dtypes.bfloat16
NATIVE: Target = host() if host().has("avx512bf16") else AMX


def made(*shape: int, dtype: type = half) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(dtype)


def linear(inputs: list[np.ndarray], epilogue: Expr, threads: int = 1) -> np.ndarray:
    node = Node("Linear", tuple(f"i{n}" for n in range(len(inputs))), ("y",), {"epilogue": epilogue}, SKIPJACK)
    shape = (*inputs[0].shape[:-1], inputs[1].shape[1])
    types = [(epilogue.dtype, shape)]
    return run_lowering(GEMM_HALF, node, inputs, types, constants=[1], target=NATIVE, threads=threads)[0]


@pytest.mark.parametrize("rows", [1, 2, 13, 14, 15, 29, 141])
@pytest.mark.parametrize("depth, columns", [(2, 1), (6, 15), (64, 33), (1026, 64), (2048, 31)])
def test_products_of_bf16(rows: int, depth: int, columns: int) -> None:
    x, w, b = made(rows, depth), made(depth, columns), made(columns, dtype=np.float32)
    got = linear([x, w, b], arg(0, F) + arg(1, F))
    a, c = x.astype(np.float64), w.astype(np.float64)
    assert np.all(np.abs(got - (a @ c + b)) <= 3e-6 * (np.abs(a) @ np.abs(c)) + 1e-6)


def test_a_result_is_rounded_once_to_bf16() -> None:
    x, w = made(20, 100), made(100, 40)
    wide = linear([x, w], arg(0, F))
    np.testing.assert_array_equal(linear([x, w], cast(arg(0, F), H)), wide.astype(half))


def test_rows_and_threads_do_not_change_bits() -> None:
    x, w = made(90, 1500), made(1500, 600)
    whole = linear([x, w], arg(0, F))
    for threads in (2, 3):
        np.testing.assert_array_equal(linear([x, w], arg(0, F), threads), whole)
    for rows in (1, 2, 15, 31):
        np.testing.assert_array_equal(linear([x[:rows], w], arg(0, F)), whole[:rows])


def named(name: str) -> Lowering:
    return next(e for e in lowerings(SKIPJACK, "Conv") if e.name == name)


CONVS = [
    ("conv_bf16", (1, 16, 7, 7), 32, (3, 3), {"pads": (1, 1, 1, 1)}),
    ("conv_bf16", (2, 17, 9, 13), 40, (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    ("conv_bf16", (1, 40, 5, 6), 33, (1, 1), {}),
    ("conv_bf16", (1, 20, 50), 24, (5,), {"pads": (2, 2)}),
    ("conv_bf16_stem", (2, 3, 16, 18), 20, (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    ("conv_bf16_stem", (1, 3, 15, 20), 32, (6, 6), {"pads": (2, 2, 2, 2), "strides": (2, 2)}),
    ("conv_bf16_stem", (1, 4, 9, 22), 16, (7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    ("conv_bf16_stem", (1, 2, 9, 22), 16, (2, 2), {"strides": (2, 2)}),
    ("conv_winograd4", (1, 17, 9, 13), 33, (3, 3), {"pads": (1, 1, 1, 1)}),
]


@pytest.mark.parametrize("stored", [F, H], ids=["f32", "bf16"])
@pytest.mark.parametrize("name, shape, maps, kernel, options", CONVS)
def test_convolutions_of_bf16(name: str, shape, maps: int, kernel, options, stored: DType) -> None:
    x, w = made(*shape), made(maps, shape[1], *kernel)
    rank = len(kernel)
    attrs = {"strides": (1,) * rank, "pads": (0,) * (2 * rank), "dilations": (1,) * rank, "group": 1} | options
    exact = conv(x.astype(np.float64), w.astype(np.float64), attrs["strides"], attrs["pads"], attrs["dilations"], 1)
    bias, residual = made(maps, dtype=np.float32), made(*exact.shape)
    expr = maximum(arg(0, F) + arg(1, F) + cast(arg(2, H), F), 0.0)
    attrs["epilogue"] = cast(expr, stored)
    node = Node("Conv", ("x", "w", "b", "r"), ("y",), MappingProxyType(attrs), SKIPJACK)
    found = [
        run_lowering(
            named(name), node, [x, w, bias, residual], [(stored, exact.shape)], constants=[1], target=NATIVE, threads=n
        )[0].astype(np.float64)
        for n in (1, 3)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    want = np.maximum(exact + bias.reshape(-1, *[1] * rank) + residual.astype(np.float64), 0)
    step = 2.0**-8 if stored is H else 0.0
    np.testing.assert_allclose(found[0], want, rtol=step, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("name", ["conv_stem", "conv_depthwise"])
def test_convolutions_of_f32_that_store_bf16(name: str) -> None:
    group = 20 if name == "conv_depthwise" else 1
    x, w = (
        made(1, 20 if group > 1 else 3, 9, 11, dtype=np.float32),
        made(20, 1 if group > 1 else 3, 3, 3, dtype=np.float32),
    )
    exact = conv(x.astype(np.float64), w.astype(np.float64), (1, 1), (1, 1, 1, 1), (1, 1), group)
    attrs = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": group}
    node = Node("Conv", ("x", "w"), ("y",), attrs | {"epilogue": cast(arg(0, F), H)}, SKIPJACK)
    found = run_lowering(named(name), node, [x, w], [(H, exact.shape)], constants=[1], target=NATIVE)[0]
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=2.0**-8, atol=1e-5)


def test_targets_without_products_of_bf16_refuse() -> None:
    w = np.ones((4, 4), half)
    node = Node("Linear", ("x", "w"), ("y",), {"epilogue": arg(0, F)}, SKIPJACK)

    def reason(target: Target, w: np.ndarray) -> str:
        types = [tensor(H, 8, w.shape[0]), tensor(H, *w.shape)]
        return GEMM_HALF.accepts(Site(node, types, [tensor(F, 8, w.shape[1])], [None, w], target))

    assert reason(NATIVE, w) == ""
    assert "no products of bf16" in reason(AVX512_VNNI, w)
    assert "makes no pairs" in reason(NATIVE, np.ones((3, 4), half))


@pytest.mark.parametrize("channels", [(16, 32), (17, 20, 5), (1, 16)])
def test_images_of_bf16_put_together(channels: tuple[int, ...]) -> None:
    parts = [made(2, c, 3, 5) for c in channels]
    entry = next(e for e in lowerings(ONNX, "Concat") if e.name == "concat_blocked")
    node = Node("Concat", tuple(f"x{i}" for i in range(len(parts))), ("y",), {"axis": 1}, ONNX)
    whole = np.concatenate(parts, axis=1)
    found = run_lowering(entry, node, parts, [(H, whole.shape)], target=NATIVE)[0]
    np.testing.assert_array_equal(found.view(np.int16), whole.view(np.int16))
