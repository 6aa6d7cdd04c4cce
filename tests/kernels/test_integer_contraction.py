"""Integer Linear and Conv for every shape against their references."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.compare import check, random

import skipjack.kernels.integer_contraction
import skipjack.ops.fused  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.lang.expr import arg, cast, maximum, minimum, unary

_U8, _F32 = DType.U8, DType.F32
SCALED = cast(arg(0, DType.I32) + arg(1, DType.I32), _F32) * arg(2, _F32)
QUANTISED = cast(maximum(minimum(unary("round", SCALED + cast(arg(3, _U8), _F32)), 255.0), 0.0), _U8)


def extras(features: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    """A number per feature, a scalar, codes of the output's shape."""
    return [random((features,), DType.I32, 5), np.array(0.004, np.float32), random(shape, _U8, 6)]


@pytest.mark.parametrize("weights", [DType.I8, DType.I16])
@pytest.mark.parametrize("codes", [DType.U8, DType.I8])
@pytest.mark.parametrize(("x", "m"), [((5, 7), 9), ((2, 3, 600), 20), ((16,), 33), ((0, 4), 3), ((1, 1), 1)])
def test_linear(x: tuple[int, ...], m: int, codes: DType, weights: DType) -> None:
    w = np.clip(random((x[-1], m), weights, 1), -255, 255)
    inputs = [random(x, codes), w]
    check("Linear", inputs, domain=SKIPJACK, name="integer_sums", constants=(1,))
    shape = (*x[:-1], m)
    for expr in (SCALED + cast(arg(3, _U8), _F32), QUANTISED):
        whole = [*inputs, *extras(m, shape)]
        check("Linear", whole, {"epilogue": expr}, domain=SKIPJACK, name="integer_sums", constants=(1, 2, 3))


CONVS = [
    ((2, 4, 7, 9), (6, 2, 3, 3), {"group": 2, "pads": (1, 0, 1, 2), "strides": (2, 1), "pad_code": 77}),
    ((1, 3, 8), (5, 3, 3), {"dilations": (2,), "pads": (0, 3), "pad_code": 3}),
    ((1, 3, 5, 4, 3), (5, 3, 2, 2, 2), {}),
    ((1, 6, 5, 5), (6, 1, 3, 3), {"group": 6, "auto_pad": "SAME_UPPER", "pad_code": 9}),
]


@pytest.mark.parametrize(("x", "w", "attrs"), CONVS)
@pytest.mark.parametrize("weights", [DType.I8, DType.I16])
def test_convolution(x: tuple[int, ...], w: tuple[int, ...], attrs: dict, weights: DType) -> None:
    inputs = [random(x, _U8), np.clip(random(w, weights, 1), -255, 255)]
    check("Conv", inputs, attrs, domain=SKIPJACK, name="integer_sums", constants=(1,))
    scaled = [*inputs, *extras(w[0], ())[:2]]
    check("Conv", scaled, {**attrs, "epilogue": SCALED}, domain=SKIPJACK, name="integer_sums", constants=(1, 2, 3))
