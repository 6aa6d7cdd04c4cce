"""Running totals, extreme indices and TopK against their references."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.compare import check, random

import skipjack.kernels.scan
import skipjack.kernels.top_k  # noqa: F401
from skipjack.core.dtypes import DType

DTYPES = [d for d in DType if d.value in ("f32", "f16", "bf16", "f64", "i8", "u8", "i32", "i64", "u64")]
NAN = np.array([[1, np.nan, 3, np.nan], [-np.inf, 2, 2, np.inf], [0.0, -0.0, 0.0, -1.0]], np.float32)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_running_totals(axis: int) -> None:
    for attrs in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        check("CumSum", [random((4, 5, 19)), np.array(axis)], attrs, rtol=1e-5, atol=1e-5)
        check("CumSum", [random((4, 21), DType.I64), np.array(axis)], attrs)
        check("CumProd", [random((4, 21), DType.I32), np.array(axis)], attrs)
    check("CumSum", [random((3, 20), DType.F16), np.array(axis)], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_indices(dtype: DType) -> None:
    x = (
        (random((5, 7, 18), dtype).astype(np.float64) / 100).astype(dtype.np)
        if dtype.is_int
        else random((5, 7, 18), dtype)
    )
    for op in ("ArgMax", "ArgMin"):
        for axis in (0, 1, 2):
            check(op, [x], {"axis": axis, "keepdims": 0})
            check(op, [x], {"axis": axis, "select_last_index": 1})


def test_extreme_indices_with_nan() -> None:
    for op in ("ArgMax", "ArgMin"):
        check(op, [NAN], {"axis": 1})
        check(op, [NAN], {"axis": 1, "select_last_index": 1})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(dtype: DType, largest: int) -> None:
    x = random((4, 33, 3), dtype)
    for k in (0, 1, 2, 7, 33):
        check("TopK", [x, np.array([k])], {"axis": 1, "largest": largest}, outputs=2)
    check("TopK", [random((3, 50), dtype), np.array([9])], {"largest": largest}, outputs=2)
    check("TopK", [np.zeros((2, 9), dtype.np), np.array([5])], {"largest": largest}, outputs=2)


def test_top_k_with_nan() -> None:
    for largest in (0, 1):
        check("TopK", [NAN, np.array([3])], {"largest": largest}, outputs=2)
