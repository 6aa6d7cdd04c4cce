"""Lowerings that read and write places given by data, against their references."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.compare import TARGETS, check, make_node, pick, random
from tests.kernels.harness import run_lowering

import skipjack.kernels.gather  # noqa: F401
from skipjack.core.dtypes import DType

DTYPES = [DType.F32, DType.U8, DType.F16, DType.I64]


def indices(shape: tuple[int, ...], size: int, dtype: type = np.int64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, size]).integers(-size, size, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((7, 5), 0), ((7, 33), 0), ((7, 5), 1), ((3, 9, 20), 1), ((4, 1000), 0)])
def test_gather(dtype: DType, shape: tuple[int, ...], axis: int) -> None:
    for index_type in (np.int32, np.int64):
        check("Gather", [random(shape, dtype), indices((3, 4), shape[axis], index_type)], {"axis": axis})
    check("Gather", [random(shape, dtype), indices((), shape[axis])], {"axis": axis})
    check("Gather", [random(shape, dtype), indices((0,), shape[axis])], {"axis": axis})


def test_gather_nd() -> None:
    x = random((3, 4, 5, 6))
    check("GatherND", [x, np.stack([indices((7,), 3), indices((7,), 4)], -1)])
    check("GatherND", [x, indices((3, 2, 1), 4)], {"batch_dims": 1})
    check("GatherND", [x, np.stack([indices((3, 4, 2), 5), indices((3, 4, 2), 6)], -1)], {"batch_dims": 2})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((7, 5), 0), ((7, 33), 1), ((3, 9, 20), 1)])
def test_gather_elements(dtype: DType, shape: tuple[int, ...], axis: int) -> None:
    more = tuple(n + 11 if a == axis else n for a, n in enumerate(shape))
    fewer = tuple(n - 1 for n in shape)
    for s in (shape, more, fewer):
        check("GatherElements", [random(shape, dtype), indices(s, shape[axis])], {"axis": axis})
        check("GatherElements", [random(shape, dtype), indices(s, shape[axis], np.int32)], {"axis": axis})


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", [DType.F32, DType.I64, DType.U8])
def test_scatter(reduction: str, dtype: DType) -> None:
    attrs = {"reduction": reduction}
    x = random((6, 5, 19), dtype)
    rows = np.random.default_rng(1).permutation(6)[:4].reshape(4, 1)
    check("ScatterND", [x, rows if reduction == "none" else rows % 2, random((4, 5, 19), dtype, 2)], attrs, rtol=1e-6)
    pairs = np.stack([indices((9,), 6), indices((9,), 5)], -1)
    check("ScatterND", [x, np.unique(pairs % 5, axis=0)[:3], random((3, 19), dtype, 2)], attrs)
    for axis in (0, 1, 2):
        where = np.argsort(random((6, 5, 19), seed=axis), axis)[:4, :3, :2]
        check("ScatterElements", [x, where, random((4, 3, 2), dtype, 3)], {"axis": axis, **attrs}, rtol=1e-6)
        full = np.argsort(random((6, 5, 19), seed=axis), axis).astype(np.int32)
        check("ScatterElements", [x, full, random((6, 5, 19), dtype, 3)], {"axis": axis, **attrs}, rtol=1e-6)


def test_indices_outside_do_not_leave_the_tensor() -> None:
    x, index = random((4, 3)), np.array([100, -100, 2])
    node = make_node("Gather", [x, index])
    for target in TARGETS:
        got = run_lowering(pick(node), node, [x, index], [(DType.F32, (3, 3))], target=target)[0]
        np.testing.assert_array_equal(got, x[[3, 0, 2]])


def test_one_hot() -> None:
    values = np.array([-1.0, 2.0], np.float32)
    for axis in (-1, 0, 1):
        check("OneHot", [np.array([[1, -1, 9], [0, 3, 2]]), np.array([5]), values], {"axis": axis})
    check("OneHot", [np.array([1.0, 2.0], np.float32), np.array(7), values.astype(np.int32)])
