"""Resize, Concat, Split, Slice and Pad in the blocked layout against the numpy references."""

from __future__ import annotations

import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id

import skipjack.kernels.blocked_copy
import skipjack.kernels.resize_blocked
import skipjack.ops.image
import skipjack.ops.rearrange
import skipjack.ops.slicing  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, Node
from skipjack.kernels.launch import lowerings
from skipjack.ops.registry import Ref, lookup
from skipjack.targets.target import Target, host


def check(op: str, name: str, inputs, attrs, target: Target, n_out: int = 1, tolerance: float = 0) -> None:
    node = Node(op, tuple(f"x{i}" for i in range(len(inputs))), tuple(f"y{i}" for i in range(n_out)), attrs, ONNX)
    want = [np.asarray(v) for v in lookup(node).reference(Ref(node, inputs))]
    entry = next(e for e in lowerings(ONNX, op) if e.name == name)
    constants = [i for i, x in enumerate(inputs) if x is not None and x.ndim < 3]
    types = [(DType.F32, v.shape) for v in want]
    for threads in (1, 3):
        got = run_lowering(entry, node, inputs, types, constants=constants, target=target, threads=threads)
        for g, v in zip(got, want):
            np.testing.assert_allclose(g, v, rtol=0, atol=tolerance)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("scale", [(2.0, 2.0), (1.5, 0.6), (1.0, 3.0)])
def test_resize(mode: str, coordinates: str, scale, target: Target) -> None:
    attrs = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": "floor"}
    scales = np.array([1, 1, *scale], np.float32)
    check("Resize", "resize_blocked", [random(2, 20, 7, 9), None, scales], attrs, target, tolerance=2e-6)


def test_resize_to_sizes() -> None:
    sizes = np.array([1, 16, 13, 5], np.int64)
    check(
        "Resize", "resize_blocked", [random(1, 16, 7, 9), None, None, sizes], {"mode": "linear"}, host(), tolerance=2e-6
    )
    attrs = {"mode": "linear", "axes": (2,)}
    check(
        "Resize", "resize_blocked", [random(1, 16, 9), None, np.array([2.0], np.float32)], attrs, host(), tolerance=2e-6
    )


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("channels", [(16, 32), (24, 24), (3, 5, 20), (16, 7), (1, 16)])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat(channels, axis: int, target: Target) -> None:
    shapes = []
    for c in channels:
        shape = [2, 20, 3, 5]
        shape[axis] = c
        shapes.append(tuple(shape))
    check("Concat", "concat_blocked", [random(*s) for s in shapes], {"axis": axis}, target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("sizes,axis", [((16, 32), 1), ((20, 28), 1), ((5, 43), 1), ((2, 5), 2), ((1, 1), 0)])
def test_split(sizes, axis: int, target: Target) -> None:
    shape = [2, 48, 7, 3]
    shape[axis] = sum(sizes)
    check("Split", "split_blocked", [random(*shape), np.array(sizes)], {"axis": axis}, target, n_out=len(sizes))


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize(
    "starts,ends,axes,steps",
    [
        ((0, 1), (99, 99), (2, 3), (2, 2)),
        ((8,), (29,), (1,), (1,)),
        ((-1,), (-99,), (3,), (-1,)),
        ((1, 5, 0), (2, 21, 4), (0, 1, 2), (1, 1, 3)),
    ],
)
def test_slice(starts, ends, axes, steps, target: Target) -> None:
    numbers = [np.array(v) for v in (starts, ends, axes, steps)]
    check("Slice", "slice_blocked", [random(2, 40, 6, 7), *numbers], {}, target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_pad(value: float, target: Target) -> None:
    pads, fill = np.array([0, 0, 1, 2, 0, 0, 0, 3]), np.array(value, np.float32)
    check("Pad", "pad_blocked", [random(2, 20, 4, 5), pads, fill], {}, target)
