"""Norms and softmaxes against their references."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.compare import check, random

import skipjack.kernels.norms
import skipjack.kernels.softmax  # noqa: F401
from skipjack.core.dtypes import DType

CLOSE = {"rtol": 2e-5, "atol": 2e-6}
HALF = {"rtol": 2e-2, "atol": 2e-2}


@pytest.mark.parametrize("n", [1, 3, 15, 16, 17, 64, 65, 384, 1000])
def test_rows(n: int) -> None:
    x, scale, bias = random((5, 3, n)), random((n,), seed=1), random((n,), seed=2)
    check("LayerNormalization", [x, scale, bias], rtol=1e-4, atol=1e-5)
    check("LayerNormalization", [x, scale], outputs=3, rtol=1e-4, atol=1e-5)
    check("RMSNormalization", [x, scale], **CLOSE)
    check("Softmax", [x], **CLOSE)
    check("LogSoftmax", [x], **CLOSE)


def test_other_axes_and_scales() -> None:
    x = random((4, 3, 5, 7))
    check("LayerNormalization", [x, random((5, 7)), random((7,))], {"axis": 2}, outputs=3, rtol=1e-4, atol=1e-5)
    check("LayerNormalization", [x, random(()), random((1, 3, 1, 1))], {"axis": 1}, rtol=1e-4, atol=1e-5)
    for axis in range(4):
        check("Softmax", [x], {"axis": axis}, **CLOSE)
        check("LogSoftmax", [x], {"axis": axis}, **CLOSE)
    check("Softmax", [random((2, 37, 70))], {"axis": 1}, **CLOSE)
    check("Softmax", [random((0, 5))])
    check("Softmax", [np.array([[-np.inf, 0, 1], [-np.inf, -np.inf, -np.inf]], np.float32)], **CLOSE)


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_half_precision(dtype: DType) -> None:
    x = random((3, 50), dtype)
    check("LayerNormalization", [x, random((50,), dtype, 1), random((50,), dtype, 2)], **HALF)
    check("RMSNormalization", [x, random((50,), dtype, 1)], **HALF)
    check("Softmax", [x], **HALF)
    check("LogSoftmax", [random((3, 50, 3), dtype)], {"axis": 1}, **HALF)


def test_groups_and_instances() -> None:
    x = random((2, 12, 5, 7))
    for groups in (1, 3, 12):
        check(
            "GroupNormalization",
            [x, random((12,)), random((12,), seed=1)],
            {"num_groups": groups},
            rtol=1e-4,
            atol=1e-5,
        )
    check("InstanceNormalization", [x, random((12,)), random((12,), seed=1)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 19, 3, 5), (3, 16, 4), (2, 5)])
def test_batch_norms(shape: tuple[int, ...]) -> None:
    c = shape[1]
    statistics = [random((c,), seed=s) for s in (1, 2, 3)] + [np.abs(random((c,), seed=4)) + 0.5]
    check("BatchNormalization", [random(shape), *statistics], rtol=1e-5, atol=1e-6)
    if len(shape) > 2:
        known = [1, 2, 3, 4]
        check(
            "BatchNormalization", [random(shape), *statistics], layouts="blocked", constants=known, rtol=1e-5, atol=1e-6
        )
