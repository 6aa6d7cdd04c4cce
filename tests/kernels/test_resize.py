"""Resize against its reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.kernels.compare import check, random

import skipjack.kernels.resize  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ops.image import COORDINATES, NEAREST

F32 = np.float32


def resize(
    x: np.ndarray, attrs: dict[str, Any], scales: Any = None, sizes: Any = None, roi: Any = None, **more: Any
) -> None:
    given = [None if v is None else np.array(v, t) for v, t in ((roi, F32), (scales, F32), (sizes, np.int64))]
    check("Resize", [x, *given], attrs, rtol=2e-5, atol=2e-5, **more)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("kind", [c for c in COORDINATES if c != "tf_crop_and_resize"])
def test_coordinates(mode: str, kind: str) -> None:
    x = random((2, 3, 5, 7))
    attrs = {"mode": mode, "coordinate_transformation_mode": kind}
    resize(x, attrs, scales=[1, 1, 2, 2.5])
    resize(x, attrs, sizes=[2, 3, 3, 20])
    resize(x, attrs, sizes=[2, 3, 1, 1])


@pytest.mark.parametrize("way", NEAREST)
def test_nearest(way: str) -> None:
    attrs = {"mode": "nearest", "nearest_mode": way}
    for dtype in (DType.F32, DType.U8, DType.F16, DType.I64):
        resize(random((1, 2, 6, 5), dtype), attrs, scales=[1, 1, 1.5, 0.6])


def test_options() -> None:
    x = random((1, 2, 8, 9))
    resize(x, {"mode": "linear", "antialias": 1}, sizes=[1, 2, 3, 4])
    resize(x, {"mode": "cubic", "antialias": 1, "exclude_outside": 1}, scales=[1, 1, 0.5, 0.7])
    resize(x, {"mode": "linear", "axes": (2, 3)}, sizes=[20, 3])
    resize(x, {"mode": "linear", "axes": (2, 3), "keep_aspect_ratio_policy": "not_larger"}, sizes=[20, 30])
    crop = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 10.0}
    resize(x, crop, sizes=[1, 2, 5, 5], roi=[0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7])
    resize(random((4, 33)), {"mode": "linear"}, scales=[1, 2])
    resize(x, {"mode": "linear"}, scales=[1, 1, 1, 1])


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8, DType.I32, DType.F64])
def test_element_types(dtype: DType) -> None:
    resize(random((2, 3, 5, 7), dtype), {"mode": "linear"}, scales=[1, 1, 2, 2])


def test_half_precision() -> None:
    x, scales = random((2, 3, 5, 7), DType.F16), np.array([1, 1, 2, 2], F32)
    check("Resize", [x, None, scales], {"mode": "linear"}, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", [DType.F32, DType.I32])
@pytest.mark.parametrize("factors", [(2, 2), (3, 4), (1, 2), (2, 1), (1, 3)], ids=str)
def test_rows_and_columns_repeated(factors: tuple[int, int], dtype: DType) -> None:
    attrs = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for width in (1, 5, 16, 17, 33):
        resize(random((2, 3, 4, width), dtype), attrs, scales=[1, 1, *factors])
