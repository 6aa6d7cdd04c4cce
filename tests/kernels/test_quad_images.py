"""Elementwise operators, reorders, pools and copies over images in quads against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.harness import TARGETS, GuardedMemory, execute, restored, run_lowering, target_id, to_blocked

import skipjack.kernels.quad_copy
import skipjack.kernels.quad_pointwise
import skipjack.kernels.quad_pool
import skipjack.kernels.quad_reorder  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK, Node
from skipjack.ir.types import PLAIN, TensorType
from skipjack.kernels.kinds import QUAD
from skipjack.kernels.launch import Bound, Site, Work, lowerings
from skipjack.lang.expr import arg, cast, maximum, minimum, unary
from skipjack.ops.registry import Ref, lookup
from skipjack.targets.target import AVX512, Target

I32, F32, U8, I8 = DType.I32, DType.F32, DType.U8, DType.I8
SHAPES = [(1, 4, 16), (2, 5, 3, 7), (1, 3, 17, 1), (2, 8, 9, 9), (1, 1, 2, 2), (1, 6, 47, 47)]


def codes(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max + 1
    return np.random.default_rng([seed, *shape]).integers(low, high, shape, dtype)


def reals(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32) * 3


def reference(node: Node, inputs: list) -> list[np.ndarray]:
    return [np.asarray(v) for v in lookup(node).reference(Ref(node, inputs))]


def check(node: Node, inputs: list, target: Target, tolerance: float = 0.0, threads: tuple[int, ...] = (1, 3)) -> None:
    """Every output of the node's lowering for quads equals the reference; inputs below rank 3 are constants."""
    want = reference(node, inputs)
    entry = next(e for e in lowerings(node.domain, node.op) if e.layouts == "quads")
    constants = [i for i, x in enumerate(inputs) if x is not None and x.ndim < 3]
    types = [None if x is None else TensorType(DType.from_numpy(x.dtype), x.shape) for x in inputs]
    outs = [TensorType(DType.from_numpy(v.dtype), v.shape) for v in want]
    values = [x if i in constants else None for i, x in enumerate(inputs)]
    assert entry.accepts(Site(node, types, outs, values, target)) == ""
    made = [(DType.from_numpy(v.dtype), v.shape) for v in want]
    for count in threads:
        got = run_lowering(entry, node, inputs, made, constants=constants, target=target, threads=count)
        for g, v in zip(got, want, strict=True):
            np.testing.assert_allclose(g, v, rtol=0, atol=tolerance)


def pointwise(expr, inputs: int) -> Node:
    return Node("Pointwise", tuple(f"x{i}" for i in range(inputs)), ("y",), {"expr": expr}, SKIPJACK)


def requantised(real):
    return cast(minimum(maximum(unary("round", real), 0.0), 255.0), U8)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("shape", SHAPES)
def test_residual_add_of_codes(shape: tuple[int, ...], target: Target) -> None:
    a, b = cast(arg(0, U8), F32) * 0.25, cast(arg(1, U8), F32) * 0.125
    check(pointwise(requantised(a + b), 2), [codes(shape), codes(shape, seed=1)], target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_and_reals(shape: tuple[int, ...], target: Target) -> None:
    spatial = (1,) * (len(shape) - 2)
    factor = reals((shape[0], shape[1], *spatial))
    per_channel = reals((shape[1], *spatial), 1) if len(shape) == 4 else reals((1, shape[1], 1), 1)
    real = cast(arg(0, I8), F32) * arg(1, F32) + arg(2, F32)
    check(pointwise(real, 3), [codes(shape, np.int8), factor, per_channel], target, 1e-4)
    check(pointwise(requantised(arg(0, F32) * arg(1, F32)), 2), [reals(shape) * 20, factor], target)


def test_a_mask_of_one_channel_spreads() -> None:
    expr = cast(arg(0, U8), I32) * cast(arg(1, U8), I32)
    check(pointwise(expr, 2), [codes((2, 6, 5, 7)), codes((2, 1, 5, 7))], AVX512)


def test_padding_of_channels_is_zero() -> None:
    memory, shape = GuardedMemory(), (1, 5, 3, 3)
    x = Bound("x", F32, shape, memory.put(reals(shape)))
    y = Bound("y", U8, shape, memory.reserve(72), QUAD)
    node = pointwise(cast(arg(0, F32) * 0.0 + 7.0, U8), 1)
    entry = next(e for e in lowerings(SKIPJACK, "Pointwise") if e.layouts == "quads")
    execute(entry.lower(Work(node, [x], [y], memory, AVX512)), memory, AVX512)
    raw = memory.read(y.place, np.dtype(np.uint8), (2, 9, 4))
    assert (raw[0] == 7).all()
    assert (raw[1, :, 0] == 7).all()
    assert not raw[1, :, 1:].any()


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("zero", [None, 3])
def test_quantise_and_dequantise(shape: tuple[int, ...], zero: int | None, target: Target) -> None:
    point = [] if zero is None else [np.array(zero, np.uint8)]
    scale = np.array(0.05, np.float32)
    names = ("x", "s", "z")[: 2 + len(point)]
    check(Node("QuantizeLinear", names, ("y",), {}, ONNX), [reals(shape), scale, *point], target)
    check(Node("DequantizeLinear", names, ("y",), {}, ONNX), [codes(shape), scale, *point], target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 4])
def test_reorder(shape: tuple[int, ...], threads: int, target: Target) -> None:
    x = codes(shape, np.int8)
    entry = next(e for e in lowerings(SKIPJACK, "Reorder") if e.name == "reorder_quads")
    for data, source, to in ((x, PLAIN, QUAD), (to_blocked(x, 4), QUAD, PLAIN)):
        memory = GuardedMemory()
        a = Bound("x", I8, shape, memory.put(data), source)
        b = Bound("y", I8, shape, memory.reserve(to.elements(shape)), to)
        node = Node("Reorder", ("x",), ("y",), {"to": str(to)}, SKIPJACK)
        execute(entry.lower(Work(node, [a], [b], memory, target)), memory, target, threads)
        raw = memory.read(b.place, np.dtype(np.int8), (to.elements(shape),))
        np.testing.assert_array_equal(restored(raw, to, shape), x)
        if to == QUAD:
            np.testing.assert_array_equal(raw.reshape(to_blocked(x, 4).shape), to_blocked(x, 4))


POOLS = [
    ((1, 5, 9, 9), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((2, 4, 21, 40), {"kernel_shape": (5, 5), "pads": (2, 2, 2, 2)}),
    ((1, 8, 33, 70), {"kernel_shape": (2, 2), "strides": (2, 2)}),
    ((1, 3, 12, 12), {"kernel_shape": (3, 2), "strides": (3, 3), "dilations": (2, 2), "pads": (1, 0, 2, 1)}),
    ((1, 4, 50), {"kernel_shape": (3,), "strides": (2,)}),
]


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(("shape", "attrs"), POOLS)
def test_max_pool(shape: tuple[int, ...], attrs: dict, dtype: type, target: Target) -> None:
    check(Node("MaxPool", ("x",), ("y",), attrs, ONNX), [codes(shape, dtype)], target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("scale", [(2.0, 2.0), (1.5, 0.6), (1.0, 3.0)])
@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel"])
def test_nearest_resize(scale: tuple[float, float], coordinates: str, target: Target) -> None:
    attrs = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": "floor"}
    scales = np.array([1, 1, *scale], np.float32)
    check(Node("Resize", ("x", "", "s"), ("y",), attrs, ONNX), [codes((2, 6, 7, 19)), None, scales], target)


def refusal(node: Node, inputs: list, outs: list) -> str:
    """What the lowering for quads says of constants below rank 3."""
    entry = next(e for e in lowerings(node.domain, node.op) if e.layouts == "quads")
    types = [TensorType(DType.from_numpy(x.dtype), x.shape) for x in inputs]
    values = [x if x.ndim < 3 else None for x in inputs]
    return entry.accepts(Site(node, types, [TensorType(U8, s) for s in outs], values, AVX512))


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
def test_concat_split_and_slice(target: Target) -> None:
    parts = [codes((2, 8, 3, 5)), codes((2, 4, 3, 5), seed=1), codes((2, 3, 3, 5), seed=2)]
    names = ("a", "b", "c")
    check(Node("Concat", names, ("y",), {"axis": 1}, ONNX), parts, target)
    rows = [codes((1, 5, n, 4), seed=n) for n in (2, 1, 3)]
    check(Node("Concat", names, ("y",), {"axis": 2}, ONNX), rows, target)
    check(Node("Split", ("x", "s"), names, {"axis": 1}, ONNX), [codes((2, 15, 3, 5)), np.array([4, 8, 3])], target)
    for cuts in [((4, 1), (12, 3), (1, 2), (1, 1)), ((8, -1), (12, -99), (1, 3), (1, -2)), ((1,), (2,), (0,), (1,))]:
        numbers = [np.array(v) for v in cuts]
        check(Node("Slice", ("x", *"abcd"), ("y",), {}, ONNX), [codes((2, 12, 4, 5)), *numbers], target)


def test_cut_fours_are_refused() -> None:
    parts = [codes((1, 3, 2, 2)), codes((1, 4, 2, 2))]
    assert "cut fours" in refusal(Node("Concat", ("a", "b"), ("y",), {"axis": 1}, ONNX), parts, [(1, 7, 2, 2)])
    split = Node("Split", ("x", "s"), ("a", "b"), {"axis": 1}, ONNX)
    assert "cut fours" in refusal(split, [codes((1, 8, 2, 2)), np.array([6, 2])], [(1, 6, 2, 2), (1, 2, 2, 2)])
    cut = Node("Slice", ("x", "a", "b", "c"), ("y",), {}, ONNX)
    for first, last in ((2, 8), (0, 6)):
        numbers = [np.array([v]) for v in (first, last, 1)]
        assert "four" in refusal(cut, [codes((1, 8, 2, 2)), *numbers], [(1, last - first, 2, 2)])
