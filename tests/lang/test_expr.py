"""Scalar expressions: their numpy meaning at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skipjack.core.dtypes import DType
from skipjack.lang.expr import arg, binary, cast, const, evaluate, maximum, select, sigmoid, unary


def _erf(values: np.ndarray) -> np.ndarray:
    return evaluate(unary("erf", arg(0, DType.from_numpy(values.dtype))), [values])


def test_erf_is_right_to_the_last_bits() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20011), np.logspace(-300, 0, 301)])
    expected = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(_erf(x), expected, rtol=5e-16)


def test_erf_keeps_signs_infinities_and_nan() -> None:
    y = _erf(np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32))
    assert y[:4].tolist() == [0, 0, 1, -1]
    assert np.signbit(y[1])
    assert np.isnan(y[4])


def test_integer_division_truncates_and_survives_zero() -> None:
    a, b = np.array([7, -7, 7, -7, 5], np.int32), np.array([2, 2, -2, -2, 0], np.int32)
    y = evaluate(arg(0, DType.I32) / arg(1, DType.I32), [a, b])
    assert y.tolist() == [3, -3, -3, 3, 0]


def test_integer_power_with_negative_exponents() -> None:
    a, b = np.array([2, 1, -1, -1, 0, 3], np.int64), np.array([-1, -5, -2, -3, -1, 3], np.int64)
    y = evaluate(binary("pow", arg(0, DType.I64), arg(1, DType.I64)), [a, b])
    assert y.tolist() == [0, 1, 1, -1, 0, 27]


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_half_precision_is_computed_in_f32_and_rounded_once(dtype: DType) -> None:
    x = np.array([1.0, 300.0, -2.5], np.float32).astype(dtype.np)
    y = evaluate(arg(0, dtype) * arg(0, dtype) / 3.0, [x])
    wide = x.astype(np.float32)
    assert y.dtype == dtype.np
    np.testing.assert_array_equal(y, (wide * wide / np.float32(3)).astype(dtype.np))


def test_select_broadcasts_and_casts() -> None:
    x = arg(1, DType.F32)
    e = cast(select(arg(0, DType.BOOL), x, const(-1.0, DType.F32)), DType.I8)
    y = evaluate(e, [np.array([[True], [False]]), np.array([1.9, -3.9], np.float32)])
    assert y.dtype == np.int8
    assert y.tolist() == [[1, -3], [-1, -1]]


def test_maximum_passes_nan_on() -> None:
    y = evaluate(maximum(arg(0, DType.F32), 0.0), [np.array([np.nan, -1, 2], np.float32)])
    assert np.isnan(y[0])
    assert y[1:].tolist() == [0, 2]


def test_sigmoid_of_large_numbers_raises_no_warning() -> None:
    y = evaluate(sigmoid(arg(0, DType.F32)), [np.array([-1e4, 0, 1e4], np.float32)])
    assert y.tolist() == [0, 0.5, 1]
