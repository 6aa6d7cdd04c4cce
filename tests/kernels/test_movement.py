"""Lowerings that move elements against their references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.kernels.compare import check, random

import skipjack.kernels.movement  # noqa: F401
from skipjack.core.dtypes import DType


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((3, 5), (1, 0)),
        ((17, 33), (1, 0)),
        ((2, 16, 33), (0, 2, 1)),
        ((2, 5, 4, 32), (0, 2, 1, 3)),
        ((2, 5, 4, 3), (3, 1, 0, 2)),
        ((2, 3, 2, 2, 3, 2), (5, 4, 3, 2, 1, 0)),
        ((2, 2, 2, 2, 2, 2, 2, 2, 2), (8, 7, 6, 5, 4, 3, 2, 1, 0)),
        ((70, 130), (1, 0)),
        ((3, 70, 40), (0, 2, 1)),
        ((17, 2, 3, 19), (3, 1, 2, 0)),
        ((2, 50, 50, 3), (0, 3, 1, 2)),
        ((2, 3, 50, 50), (0, 2, 3, 1)),
        ((0, 3), (1, 0)),
        ((), ()),
    ],
)
@pytest.mark.parametrize("dtype", [DType.F32, DType.U8, DType.F16, DType.I64, DType.BOOL])
def test_transpose(shape: tuple[int, ...], perm: tuple[int, ...], dtype: DType) -> None:
    check("Transpose", [random(shape, dtype)], {"perm": perm})


SLICES: list[tuple[tuple[int, ...], list[np.ndarray | None]]] = [
    ((10,), [i64(2), i64(7)]),
    ((10,), [i64(-1), i64(-(2**62)), i64(0), i64(-1)]),
    ((10, 21), [i64(1, 3), i64(9, 2**62), i64(0, 1), i64(2, 3)]),
    ((3, 40, 7), [i64(5), i64(38), i64(1)]),
    ((3, 40, 7), [i64(5), i64(5), i64(1)]),
    ((3, 40, 34), [i64(-1, 1), i64(-100, 33), i64(-1, 1), i64(-1, 1)]),
]


@pytest.mark.parametrize(("shape", "rest"), SLICES)
@pytest.mark.parametrize("dtype", [DType.F32, DType.U8, DType.BF16, DType.C128])
def test_slice(shape: tuple[int, ...], rest: list[Any], dtype: DType) -> None:
    check("Slice", [random(shape, dtype), *rest])


def test_split_and_concat() -> None:
    x = random((3, 20, 5))
    check("Split", [x, i64(3, 0, 17)], {"axis": 1}, outputs=3)
    check("Split", [x], {"axis": -1, "num_outputs": 2}, outputs=2)
    check("Concat", [x, random((3, 2, 5)), random((3, 0, 5))], {"axis": 1})
    check("Concat", [x, random((3, 20, 7))], {"axis": -1})
    check("Concat", [random((3,), DType.BOOL), random((2,), DType.BOOL)], {"axis": 0})


def test_repeats() -> None:
    check("Expand", [random((3, 1, 5)), i64(2, 1, 4, 5)])
    check("Expand", [random((), DType.I64), i64(33)])
    check("Tile", [random((3, 5)), i64(2, 3)])
    check("Tile", [random((3, 5, 1), DType.F16), i64(1, 1, 20)])
    check("Tile", [random((3, 5)), i64(2, 0)])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode: str) -> None:
    check("DepthToSpace", [random((2, 12, 3, 5))], {"blocksize": 2, "mode": mode})
    check("SpaceToDepth", [random((2, 3, 4, 6))], {"blocksize": 2, "mode": mode})


PADS = [
    ((5, 7), (1, 2, 0, 3)),
    ((5, 7), (-1, 2, 3, -2)),
    ((2, 3, 18), (0, 0, 4, 0, 2, 1)),
    ((9,), (8, 8)),
    ((9,), (0, 0)),
]


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(("shape", "pads"), PADS)
def test_pad(mode: str, shape: tuple[int, ...], pads: tuple[int, ...]) -> None:
    check("Pad", [random(shape), i64(*pads)], {"mode": mode})


def test_pad_values_and_axes() -> None:
    check("Pad", [random((4, 5)), i64(1, 2), np.float32(3.5), i64(-1)])
    check("Pad", [random((0, 5)), i64(1, 0, 2, 0), np.float32(3.5)])
    check("Pad", [random((4, 5), DType.I8), i64(1, 2, 3, 4), np.array(7, np.int8)])


def test_masks_and_tables() -> None:
    for upper in (0, 1):
        check("Trilu", [random((2, 5, 19)), np.array(-1)], {"upper": upper})
        check("Trilu", [random((19, 5), DType.I64)], {"upper": upper})
        check("Trilu", [random((9, 9), DType.BOOL)], {"upper": upper})
    check("ConstantOfShape", [i64(3, 50)], {"value": np.array([7], np.int64)})
    check("ConstantOfShape", [i64()])
    check("Range", [np.array(3), np.array(40), np.array(2)])
    check("Range", [np.float32(1), np.float32(0), np.float32(-0.125)])
    check("EyeLike", [random((5, 9))], {"k": 1})


def test_reverse_sequence() -> None:
    check("ReverseSequence", [random((5, 3, 4)), i64(0, 3, 5)], {"time_axis": 0, "batch_axis": 1})
    check("ReverseSequence", [random((3, 5)), i64(1, 2, 5)], {"time_axis": 1, "batch_axis": 0})
