"""Depthwise convolutions and pools of plain images against numpy, on awkward sizes and every target."""

from __future__ import annotations

import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id

import skipjack.kernels.all  # noqa: F401 (registers every lowering)
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK, Node
from skipjack.kernels.launch import Lowering, lowerings
from skipjack.lang.expr import arg, maximum, sigmoid
from skipjack.targets.target import AVX512

_F = DType.F32
SIZES = [(7, 7), (14, 14), (33, 50), (5, 17), (1, 1), (16, 64), (20, 23)]
#        kernel  strides pads          dilations
WINDOWS = [
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((3, 3), (2, 2), (0, 0, 2, 3), (1, 1)),
    ((5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    ((4, 5), (2, 2), (2, 1, 2, 4), (1, 1)),
    ((3, 3), (1, 3), (2, 4, 3, 2), (2, 2)),
    ((2, 3), (2, 2), (1, 4, 1, 1), (1, 2)),
]


def named(domain: str, op: str, name: str) -> Lowering:
    return next(e for e in lowerings(domain, op) if e.name == name)


def taps(x, kernel, strides, pads, dilations, fill=0.0) -> np.ndarray:
    """[taps, N, C, oh, ow]: what each tap of a window sees."""
    (sh, sw), (dh, dw), (kh, kw) = strides, dilations, kernel
    around = ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))
    padded = np.pad(x.astype(np.float64), around, constant_values=fill)
    oh, ow = ((padded.shape[2 + a] - (kernel[a] - 1) * dilations[a] - 1) // strides[a] + 1 for a in range(2))
    return np.stack(
        [
            padded[:, :, i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
            for i in range(kh)
            for j in range(kw)
        ]
    )


def depthwise(x, w, extras, window, target, threads=1, epilogue=None):
    kernel, strides, pads, dilations = window
    seen = taps(x, kernel, strides, pads, dilations)
    expected = np.einsum("tnchw,ct->nchw", seen, w.reshape(w.shape[0], -1).astype(np.float64))
    attrs = {"strides": strides, "pads": pads, "dilations": dilations, "group": x.shape[1], "epilogue": epilogue}
    node = Node("Conv", ("x", "w"), ("y",), attrs, SKIPJACK)
    entry = named(SKIPJACK, "Conv", "depthwise_plain")
    out = [(_F, expected.shape)]
    (y,) = run_lowering(entry, node, [x, w, *extras], out, constants=(1,), target=target, threads=threads)
    return y, expected


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_depthwise(size, window, target):
    rng = np.random.default_rng(sum(size))
    x, w = rng.standard_normal((2, 3, *size), np.float32), rng.standard_normal((3, 1, *window[0]), np.float32)
    if any(n + window[2][a] + window[2][a + 2] < (window[0][a] - 1) * window[3][a] + 1 for a, n in enumerate(size)):
        size = (9, 9)
        x = rng.standard_normal((2, 3, *size), np.float32)
    y, expected = depthwise(x, w, (), window, target)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
def test_depthwise_epilogue_with_bias_and_residual(target):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((2, 5, 9, 19), np.float32), rng.standard_normal((5, 1, 3, 3), np.float32)
    bias, residual = rng.standard_normal(5, np.float32), rng.standard_normal(x.shape, np.float32)
    e = arg(0, _F) + arg(1, _F)
    y, conv = depthwise(x, w, (bias, residual), WINDOWS[0], target, epilogue=maximum(e * sigmoid(e) + arg(2, _F), 0.0))
    total = conv + bias[:, None, None]
    np.testing.assert_allclose(y, np.maximum(total / (1 + np.exp(-total)) + residual, 0), rtol=0, atol=2e-5)


def test_depthwise_bits_depend_neither_on_threads_nor_batch():
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((3, 7, 13, 21), np.float32), rng.standard_normal((7, 1, 3, 3), np.float32)
    whole, _ = depthwise(x, w, (), WINDOWS[1], AVX512)
    assert np.array_equal(depthwise(x, w, (), WINDOWS[1], AVX512, threads=5)[0], whole)
    assert np.array_equal(depthwise(x[2:], w, (), WINDOWS[1], AVX512)[0], whole[2:])


def test_depthwise_of_one_axis():
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((1, 4, 37), np.float32), rng.standard_normal((4, 1, 9), np.float32)
    node = Node("Conv", ("x", "w"), ("y",), {"strides": (1,), "pads": (4, 4), "group": 4}, SKIPJACK)
    entry = named(SKIPJACK, "Conv", "depthwise_plain")
    (y,) = run_lowering(entry, node, [x, w], [(_F, x.shape)], constants=(1,))
    seen = taps(x[:, :, None], (1, 9), (1, 1), (0, 4, 0, 4), (1, 1))
    np.testing.assert_allclose(y, np.einsum("tnchw,ct->nchw", seen, w[:, 0])[:, :, 0], rtol=0, atol=2e-5)


def pooled(op: str, x, window, target, padded: int = 0) -> tuple[np.ndarray, np.ndarray]:
    kernel, strides, pads, dilations = window
    seen = taps(x, kernel, strides, pads, dilations, -np.inf if op == "MaxPool" else 0.0)
    if op == "MaxPool":
        expected = seen.max(axis=0)
    else:
        there = taps(np.ones_like(x), kernel, strides, pads, dilations, 1.0 if padded else 0.0)
        expected = seen.sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    attrs = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    if op == "AveragePool":
        attrs["count_include_pad"] = padded
    node = Node(op, ("x",), ("y",), attrs, ONNX)
    (y,) = run_lowering(named(ONNX, op, "pool_rows"), node, [x], [(_F, expected.shape)], target=target)
    return y, expected


POOLS = [
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    ((2, 2), (2, 2), (1, 1, 0, 1), (1, 1)),
    ((3, 2), (1, 3), (1, 0, 1, 1), (1, 1)),
]


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("padded", [0, 1])
@pytest.mark.parametrize("window", POOLS, ids=str)
def test_pools(window, padded, op, target):
    for size in SIZES[:4]:
        x = np.random.default_rng(sum(size)).standard_normal((2, 3, *size), np.float32) - 3
        y, expected = pooled(op, x, window, target, padded)
        np.testing.assert_allclose(y, expected, rtol=0, atol=0 if op == "MaxPool" else 2e-6, err_msg=str(size))


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
def test_a_maximum_of_nan_is_nan_and_one_of_infinities_is_kept(target):
    x = np.full((1, 1, 6, 20), -np.inf, np.float32)
    x[0, 0, 2, 7] = np.nan
    y, _ = pooled("MaxPool", x, ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), target)
    expected = np.full((6, 20), -np.inf)
    expected[1:4, 6:9] = np.nan
    assert np.array_equal(y[0, 0], expected, equal_nan=True)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("shape", [(2, 3, 7, 7), (1, 5, 1, 1), (1, 2, 13, 17), (3, 1, 64), (0, 2, 4, 4)], ids=str)
def test_means_of_planes(shape, target):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    axes = tuple(range(2, len(shape)))
    node = Node("GlobalAveragePool", ("x",), ("y",), {}, ONNX)
    out = [(_F, (*shape[:2], *(1 for _ in axes)))]
    (y,) = run_lowering(named(ONNX, "GlobalAveragePool", "plane_means"), node, [x], out, target=target)
    np.testing.assert_allclose(y, x.mean(axis=axes, keepdims=True, dtype=np.float64), rtol=0, atol=1e-6)
