"""Reductions against their references."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.compare import check, random

import skipjack.kernels.reduce  # noqa: F401
from skipjack.core.dtypes import DType

FLOAT_OPS = ["Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp", "Prod"]
AXES = [[0], [1], [2], [3], [0, 1], [2, 3], [0, 2], [1, 3], [0, 2, 3], [-1], None]


def axes_input(axes: list[int] | None) -> np.ndarray | None:
    return None if axes is None else np.array(axes, np.int64)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("op", FLOAT_OPS)
def test_axes(op: str, axes: list[int] | None) -> None:
    x = random((3, 5, 2, 19))
    check(f"Reduce{op}", [x, axes_input(axes)], {"keepdims": 0}, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(
    "dtype", [d for d in DType if d.value in ("f16", "bf16", "f64", "i8", "u8", "i32", "u32", "i64")]
)
def test_element_types(dtype: DType) -> None:
    x = random((4, 70), dtype)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype.is_float else {}
    for op in ("Sum", "Max", "Min", "Mean", "SumSquare"):
        for axis in (0, 1):
            check(f"Reduce{op}", [x, np.array([axis])], **tolerance)


def test_booleans() -> None:
    x = random((4, 70), DType.BOOL)
    check("ReduceMax", [x, np.array([1])])
    check("ReduceMin", [x, np.array([0])])


def test_edges() -> None:
    check("ReduceSum", [random((3, 4)), np.array([], np.int64)], {"noop_with_empty_axes": 1})
    check("ReduceSum", [random((3, 0)), np.array([1])])
    check("ReduceMax", [random((3, 0, 2)), np.array([1])])
    check("ReduceMean", [random((3, 1, 33)), np.array([1])])
    check("ReduceSum", [random((1, 10000)), np.array([1])], rtol=1e-3, atol=1e-3)
    check("ReduceMax", [np.array([[1, np.nan, 2], [3, 4, 5]], np.float32), np.array([1])])
    check("ReduceLogSum", [np.abs(random((3, 20))), np.array([1])], rtol=1e-5)
    check("ReduceLogSumExp", [np.array([[-np.inf, -np.inf], [500, 501]], np.float32), np.array([1])], rtol=1e-5)


def test_unit_norms() -> None:
    for axis in (0, 1, -1):
        for p in (1, 2):
            check("LpNormalization", [random((3, 20, 5))], {"axis": axis, "p": p}, rtol=1e-5, atol=1e-6)
    check("MeanVarianceNormalization", [random((3, 2, 5, 4))], rtol=1e-4, atol=1e-5)
