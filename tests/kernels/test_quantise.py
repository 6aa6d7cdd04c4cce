"""Quantising lowerings and integer products against their references."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.compare import check, random

import skipjack.kernels.quantise
import skipjack.kernels.quantised_conv
import skipjack.kernels.quantised_pointwise  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS

F32 = np.float32
BYTES = [DType.I8, DType.U8]


def near_steps(shape: tuple[int, ...]) -> np.ndarray:
    """Multiples of a half, so that ties are met, and some far out."""
    return (np.random.default_rng(3).integers(-300, 300, shape) / 2).astype(F32)


@pytest.mark.parametrize("dtype", [DType.I8, DType.U8, DType.I16, DType.U16, DType.I4, DType.U4])
def test_quantise(dtype: DType) -> None:
    x = near_steps((3, 8, 19))
    zero = np.array(3).astype(dtype.np)
    check("QuantizeLinear", [x, F32(1.0), zero])
    check("QuantizeLinear", [x * 100, F32(0.3), zero])
    scales = (np.abs(random((8,))) + 0.1).astype(F32)
    check("QuantizeLinear", [x, scales, np.full(8, 2).astype(dtype.np)], {"axis": 1})
    blocks = (np.abs(random((3, 3, 19))) + 0.1).astype(F32)
    check("QuantizeLinear", [x, blocks, np.full((3, 3, 19), 1).astype(dtype.np)], {"axis": 1, "block_size": 3})
    y = np.random.default_rng(1).integers(0, 8, (3, 8, 19)).astype(dtype.np)
    check("DequantizeLinear", [y, F32(0.3), zero])
    check("DequantizeLinear", [y, scales, np.full(8, 2).astype(dtype.np)], {"axis": 1})
    check("DequantizeLinear", [y, blocks], {"axis": 1, "block_size": 3})


def test_other_scales() -> None:
    check("QuantizeLinear", [near_steps((4, 9)).astype(np.float16), np.float16(0.5), np.uint8(9)])
    check("QuantizeLinear", [np.array([np.inf, -np.inf, np.nan, 1e30], F32), F32(0.5)])
    check("DequantizeLinear", [random((4, 9), DType.I32), F32(0.5)])
    check("DequantizeLinear", [random((4, 9), DType.I8), np.float16(0.5)])


def test_dynamic() -> None:
    for x in (random((5, 37)), np.abs(random((5, 37))), np.zeros((3, 3), F32)):
        check("DynamicQuantizeLinear", [x], outputs=3)


SHAPES = [
    ((3, 600), (600, 20)),
    ((5, 7), (7, 9)),
    ((1, 16), (16, 33)),
    ((2, 3, 5, 8), (8, 17)),
    ((2, 1, 5, 8), (3, 8, 4)),
    ((7,), (7, 3)),
    ((4, 7), (7,)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize("left", BYTES)
@pytest.mark.parametrize("right", BYTES)
def test_integer_products(a: tuple[int, ...], b: tuple[int, ...], left: DType, right: DType) -> None:
    x, y = random(a, left), random(b, right, 1)
    check("MatMulInteger", [x, y])
    check("MatMulInteger", [x, y, np.array(5, left.np), np.array(7, right.np)])
    scale = [F32(0.1), np.array(5, left.np)]
    check("QLinearMatMul", [x, *scale, y, F32(0.2), np.array(7, right.np), F32(9.0), np.array(3, np.uint8)])
    if len(a) > 1 and len(b) > 1:
        rows, columns = random((a[-2],), left, 2), random((b[-1],), right, 3)
        check("MatMulInteger", [x, y, rows, columns])


CONVS = [
    ((2, 4, 7, 9), (6, 2, 3, 3), {"group": 2, "pads": (1, 1, 1, 1), "strides": (2, 1)}),
    ((1, 3, 8), (5, 3, 3), {"dilations": (2,), "pads": (0, 3)}),
    ((1, 3, 8, 8), (5, 3, 1, 1), {}),
]


@pytest.mark.parametrize(("x", "w", "attrs"), CONVS)
@pytest.mark.parametrize("dtype", BYTES)
def test_integer_convolutions(x: tuple[int, ...], w: tuple[int, ...], attrs: dict, dtype: DType) -> None:
    image, kernels = random(x, dtype), random(w, DType.I8, 1)
    check("ConvInteger", [image, kernels], attrs)
    check("ConvInteger", [image, kernels, np.array(4, dtype.np), random((w[0],), DType.I8)], attrs)
    scales = (np.abs(random((w[0],))) + 0.1).astype(F32)
    rest = [F32(9.0), np.array(3, np.uint8), random((w[0],), DType.I32)]
    zero = np.zeros(w[0], np.int8)
    check("QLinearConv", [image, F32(0.1), np.array(4, dtype.np), kernels, scales, zero, *rest], attrs)


@pytest.mark.parametrize("dtype", BYTES)
def test_quantised_pointwise(dtype: DType) -> None:
    a, b = random((3, 5, 19), dtype), random((5, 1), dtype, 1)
    one, two, out = (
        [F32(0.1), np.array(5, dtype.np)],
        [F32(0.3), np.array(7, dtype.np)],
        [F32(0.7), np.array(9, dtype.np)],
    )
    for op in ("QLinearAdd", "QLinearMul"):
        check(op, [a, *one, b, *two, *out], domain=MS)
    check("QLinearAdd", [a, one[0], None, b, two[0], None, out[0], None], domain=MS)
    check("QLinearLeakyRelu", [a, *one, *out], domain=MS)
    check("QLinearSigmoid", [a, *one, F32(0.004), np.array(0, dtype.np)], domain=MS, atol=1)
    check("QLinearConcat", [*out, a, *one, random((3, 2, 19), dtype, 2), *two], {"axis": 1}, domain=MS)
