"""Convolutions, pools and reorders of the blocked layout against numpy, on awkward sizes and every runnable target."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id

import skipjack.kernels.conv_depthwise
import skipjack.kernels.conv_direct
import skipjack.kernels.conv_plain
import skipjack.kernels.conv_transpose
import skipjack.kernels.conv_winograd
import skipjack.kernels.layout
import skipjack.kernels.pool
import skipjack.kernels.pool_plain
import skipjack.ops.layout
import skipjack.ops.pool
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK, Node
from skipjack.ir.types import PLAIN, Layout
from skipjack.kernels.launch import Lowering, lowerings
from skipjack.lang.expr import arg, maximum, sigmoid
from skipjack.ops.contraction import conv, conv_transpose
from skipjack.ops.registry import Ref, lookup
from skipjack.targets.target import Target, host

_F = DType.F32


def named(domain: str, op: str, name: str) -> Lowering:
    return next(e for e in lowerings(domain, op) if e.name == name)


def epilogue(extras: str):
    e = arg(0, _F)
    for i in range(len(extras)):
        e = e + arg(i + 1, _F)
    return maximum(e, 0.0) if extras else e


def check_conv(
    name: str,
    shape,
    maps,
    kernel,
    *,
    strides=None,
    pads=None,
    dilations=None,
    group=1,
    extras="",
    target=None,
    tolerance=3e-6,
):
    rng = np.random.default_rng(len(shape) + maps)
    rank = len(kernel)
    strides, dilations, pads = strides or (1,) * rank, dilations or (1,) * rank, pads or (0,) * (2 * rank)
    x = rng.standard_normal(shape, np.float32)
    w = rng.standard_normal((maps, shape[1] // group, *kernel), np.float32)
    want = conv(x.astype(np.float64), w.astype(np.float64), strides, pads, dilations, group)
    scale = np.abs(want).max()
    more = [rng.standard_normal(maps if e == "c" else want.shape, np.float32) for e in extras]
    for e in more:
        want = want + (e.reshape(-1, *[1] * rank) if e.ndim == 1 else e)
    if extras:
        want = np.maximum(want, 0)
    names = ("x", "w", *[f"e{i}" for i in range(len(extras))])
    attrs = {"strides": strides, "pads": pads, "dilations": dilations, "group": group, "epilogue": epilogue(extras)}
    node = Node("Conv", names, ("y",), attrs, SKIPJACK)
    t = target or host()
    entry = named(SKIPJACK, "Conv", name)
    results = [
        run_lowering(entry, node, [x, w, *more], [(_F, want.shape)], constants=[1], target=t, threads=n)[0]
        for n in (1, 2, 3)
    ]
    assert np.array_equal(results[0], results[1]), "two threads give other bits"
    assert np.array_equal(results[0], results[2]), "three threads give other bits"
    np.testing.assert_allclose(results[0], want, rtol=0, atol=tolerance * scale)
    return results[0]


DIRECT = [
    ((1, 16, 7, 7), 32, (3, 3), {"pads": (1, 1, 1, 1), "extras": "c"}),
    ((2, 24, 9, 13), 40, (3, 3), {"pads": (1, 1, 1, 1), "extras": "cr"}),
    ((1, 3, 17, 19), 20, (3, 5), {"strides": (2, 2), "pads": (0, 2, 1, 3), "extras": "r"}),
    ((1, 17, 5, 6), 33, (1, 1), {"extras": "c"}),
    ((3, 32, 11, 11), 16, (1, 1), {"strides": (2, 2)}),
    ((1, 8, 10, 31), 8, (3, 3), {"dilations": (2, 3), "pads": (2, 3, 2, 3), "extras": "c"}),
    ((1, 16, 4, 4), 16, (1, 1), {"pads": (1, 1, 1, 1)}),
    ((2, 20, 50), 24, (5,), {"pads": (2, 2), "extras": "c"}),
    ((1, 16, 40), 16, (11,), {"pads": (5, 5), "strides": (3,)}),
    ((1, 16, 4, 5, 6), 16, (3, 3, 3), {"pads": (1, 1, 1, 1, 1, 1), "extras": "c"}),
    ((1, 32, 6, 6), 64, (3, 3), {"pads": (1, 1, 1, 1), "group": 2, "extras": "c"}),
    ((1, 64, 6, 6), 64, (3, 3), {"pads": (1, 1, 1, 1), "group": 16, "extras": "c"}),
    ((1, 16, 1, 1), 1, (1, 1), {}),
    ((1, 32, 60), 32, (25,), {"pads": (12, 12), "group": 2}),
]


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("shape,maps,kernel,options", DIRECT)
def test_direct(shape, maps, kernel, options, target: Target) -> None:
    check_conv("conv_direct", shape, maps, kernel, target=target, **options)


PLAIN_CONVS = [
    ((1, 6, 7, 9), 8, (3, 3), {"pads": (1, 1, 1, 1), "group": 2, "extras": "cr"}),
    ((2, 5, 23), 3, (5,), {"strides": (2,), "pads": (2, 1), "dilations": (2,), "extras": "c"}),
    ((1, 4, 3, 5, 40), 4, (2, 3, 3), {"pads": (0, 1, 1, 1, 1, 1), "group": 4}),
]


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("shape,maps,kernel,options", PLAIN_CONVS)
def test_plain(shape, maps, kernel, options, target: Target) -> None:
    check_conv("conv_plain", shape, maps, kernel, target=target, **options)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
def test_plain_types(dtype, stride: int) -> None:
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(s).astype(dtype) for s in ((1, 4, 6, 19), (8, 4, 3, 3)))
    attrs = {"pads": (1, 1, 1, 1), "strides": (stride, stride)}
    want = conv(x.astype(np.float64), w.astype(np.float64), (stride, stride), (1,) * 4, (1, 1), 1)
    d = DType.from_numpy(x.dtype)
    entry = named(SKIPJACK, "Conv", "conv_plain")
    for target in TARGETS:
        got = run_lowering(
            entry, Node("Conv", ("x", "w"), ("y",), attrs, SKIPJACK), [x, w], [(d, want.shape)], target=target
        )[0]
        bits = {2: 8 if d is DType.BF16 else 11}.get(x.dtype.itemsize, 40)
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=2.0**-bits, atol=2.0**-bits * 0.1)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize(
    "shape,maps,kernel,options",
    [
        ((1, 3, 33, 35), 32, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3), "extras": "c"}),
        ((2, 3, 20, 30), 24, (3, 3), {"strides": (2, 2), "pads": (0, 0, 1, 1), "extras": "c"}),
        ((1, 1, 28, 28), 8, (5, 5), {"extras": "c"}),
        ((1, 3, 24, 24), 32, (6, 6), {"strides": (2, 2), "pads": (2, 2, 2, 2)}),
    ],
)
def test_stem(shape, maps, kernel, options, target: Target) -> None:
    check_conv("conv_stem", shape, maps, kernel, target=target, **options)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize(
    "shape,kernel,options",
    [
        ((1, 16, 7, 7), (3, 3), {"pads": (1, 1, 1, 1), "extras": "c"}),
        ((2, 20, 15, 34), (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2), "extras": "cr"}),
        ((1, 40, 9, 9), (5, 5), {"pads": (2, 2, 2, 2)}),
        ((1, 16, 21), (7,), {"pads": (3, 3), "dilations": (2,)}),
        ((1, 20, 50), (31,), {"pads": (15, 15), "extras": "c"}),
        ((1, 8, 4, 5, 6), (3, 3, 3), {"pads": (1, 1, 1, 1, 1, 1)}),
    ],
)
def test_depthwise(shape, kernel, options, target: Target) -> None:
    check_conv("conv_depthwise", shape, shape[1], kernel, group=shape[1], target=target, **options)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(
    "shape,maps,options",
    [
        ((1, 16, 8, 8), 16, {"pads": (1, 1, 1, 1), "extras": "c"}),
        ((2, 20, 7, 9), 24, {"pads": (1, 1, 1, 1), "extras": "cr"}),
        ((3, 33, 14, 13), 40, {"pads": (0, 1, 2, 0), "extras": "r"}),
        ((1, 16, 3, 3), 16, {}),
        ((1, 64, 30, 30), 80, {"pads": (1, 1, 1, 1), "extras": "c"}),
    ],
)
def test_winograd(m: int, shape, maps, options, target: Target) -> None:
    check_conv(f"conv_winograd{m}", shape, maps, (3, 3), target=target, tolerance=1e-5, **options)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize(
    "shape,maps,options",
    [
        ((1, 16, 16, 16), 16, {"pads": (1, 1, 1, 1), "extras": "c"}),
        ((2, 20, 13, 18), 24, {"pads": (1, 1, 1, 1), "extras": "cr"}),
        ((3, 33, 28, 25), 40, {"pads": (0, 1, 2, 0), "extras": "r"}),
        ((1, 16, 3, 3), 16, {}),
        ((1, 64, 60, 59), 80, {"pads": (1, 1, 1, 1), "extras": "c"}),
        ((1, 256, 14, 14), 16, {"pads": (0, 0, 1, 1), "extras": "c"}),
    ],
)
def test_winograd_of_stride_2(m: int, shape, maps, options, target: Target) -> None:
    check_conv(f"conv_winograd_s2_{m}", shape, maps, (3, 3), strides=(2, 2), target=target, tolerance=1e-5, **options)


def test_winograd_of_stride_2_in_bands_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, options = (2, 20, 35, 25), {"pads": (1, 1, 1, 1), "extras": "cr", "strides": (2, 2), "tolerance": 1e-5}
    whole = check_conv("conv_winograd_s2_4", shape, 24, (3, 3), **options)
    monkeypatch.setattr(skipjack.kernels.conv_winograd, "_BAND_BYTES", 1)
    assert np.array_equal(check_conv("conv_winograd_s2_4", shape, 24, (3, 3), **options), whole)


def test_winograd_in_bands_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, options = (2, 20, 17, 13), {"pads": (1, 1, 1, 1), "extras": "cr"}
    whole = check_conv("conv_winograd4", shape, 24, (3, 3), tolerance=1e-5, **options)
    monkeypatch.setattr(skipjack.kernels.conv_winograd, "_BAND_BYTES", 1)
    assert np.array_equal(check_conv("conv_winograd4", shape, 24, (3, 3), tolerance=1e-5, **options), whole)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("name", ["conv_direct", "conv_winograd4"])
def test_an_epilogue_of_many_instructions(name: str, target: Target) -> None:
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((1, 16, 9, 11), np.float32), rng.standard_normal((20, 16, 3, 3), np.float32)
    b, a = rng.standard_normal(20, np.float32), arg(0, _F) + arg(1, _F)
    attrs = {"pads": (1, 1, 1, 1), "epilogue": a * sigmoid(a)}
    y = conv(x.astype(np.float64), w.astype(np.float64), (1, 1), (1,) * 4, (1, 1), 1) + b.reshape(-1, 1, 1)
    want, node = y / (1 + np.exp(-y)), Node("Conv", ("x", "w", "b"), ("y",), attrs, SKIPJACK)
    got = run_lowering(named(SKIPJACK, "Conv", name), node, [x, w, b], [(_F, y.shape)], constants=[1], target=target)[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


TRANSPOSED = [
    ((1, 16, 5, 5), (16, 8, 2, 2), {"strides": (2, 2)}),
    ((2, 20, 6, 7), (20, 24, 3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1), "extras": "c"}),
    ((1, 16, 7, 5), (16, 16, 4, 4), {"strides": (2, 2), "pads": (1, 1, 1, 1), "extras": "cr"}),
    ((1, 17, 9), (17, 16, 5), {"strides": (3,), "pads": (2, 0), "extras": "r"}),
    ((1, 16, 3, 4, 5), (16, 8, 2, 2, 3), {"strides": (2, 1, 2)}),
    ((1, 32, 6, 6), (32, 16, 3, 3), {"strides": (1, 1), "group": 2}),
    ((1, 16, 4, 4), (16, 16, 2, 2), {"strides": (2, 2), "output_padding": (1, 1), "pads": (0, 0, 1, 0)}),
]


def check_transposed(
    name: str,
    shape,
    weight,
    target: Target,
    *,
    extras="",
    strides,
    pads=None,
    output_padding=None,
    group=1,
    dilations=None,
):
    rng = np.random.default_rng(7)
    rank = len(shape) - 2
    pads, extra, dilations = pads or (0,) * 2 * rank, output_padding or (0,) * rank, dilations or (1,) * rank
    x, w = rng.standard_normal(shape, np.float32), rng.standard_normal(weight, np.float32)
    want = conv_transpose(x.astype(np.float64), w.astype(np.float64), strides, pads, dilations, group, extra)
    more = [rng.standard_normal(want.shape[1] if e == "c" else want.shape, np.float32) for e in extras]
    scale = np.abs(want).max()
    for e in more:
        want = want + (e.reshape(-1, *[1] * rank) if e.ndim == 1 else e)
    want = np.maximum(want, 0) if extras else want
    attrs = {
        "strides": strides,
        "pads": pads,
        "group": group,
        "output_padding": extra,
        "dilations": dilations,
        "epilogue": epilogue(extras),
    }
    node = Node("ConvTranspose", ("x", "w", *[f"e{i}" for i in range(len(extras))]), ("y",), attrs, SKIPJACK)
    entry = named(SKIPJACK, "ConvTranspose", name)
    for threads in (1, 3):
        got = run_lowering(
            entry, node, [x, w, *more], [(_F, want.shape)], constants=[1], target=target, threads=threads
        )[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("shape,weight,options", TRANSPOSED)
def test_transposed_phases(shape, weight, options, target: Target) -> None:
    check_transposed("conv_transpose_phases", shape, weight, target, **options)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize(
    "shape,weight,options",
    [*TRANSPOSED, ((1, 6, 5, 9), (6, 2, 3, 3), {"strides": (3, 2), "dilations": (2, 2), "group": 3, "extras": "c"})],
)
def test_transposed_plain(shape, weight, options, target: Target) -> None:
    check_transposed("conv_transpose_plain", shape, weight, target, **options)


@pytest.mark.parametrize(
    "name,stride", [("conv_direct", 1), ("conv_winograd2", 1), ("conv_winograd4", 1), ("conv_winograd_s2_3", 2)]
)
def test_a_batch_has_the_bits_of_its_images(name: str, stride: int) -> None:
    rng = np.random.default_rng(3)
    size = 9 * stride
    x, w = rng.standard_normal((3, 24, size, size), np.float32), rng.standard_normal((16, 24, 3, 3), np.float32)
    attrs = {"pads": (1, 1, 1, 1), "epilogue": arg(0, _F), "strides": (stride, stride)}
    node = Node("Conv", ("x", "w"), ("y",), attrs, SKIPJACK)
    entry = named(SKIPJACK, "Conv", name)
    whole = run_lowering(entry, node, [x, w], [(_F, (3, 16, 9, 9))], constants=[1])[0]
    for n in range(3):
        one = run_lowering(entry, node, [x[n : n + 1], w], [(_F, (1, 16, 9, 9))], constants=[1])[0]
        assert np.array_equal(whole[n : n + 1], one)


def check_op(name: str, op: str, x: np.ndarray, attrs, target: Target, *, n_out: int = 1, exact: bool = False) -> None:
    node = Node(op, ("x",), tuple(f"y{i}" for i in range(n_out)), attrs, ONNX)
    want = [np.asarray(v) for v in lookup(node).reference(Ref(node, [x]))]
    types = [(DType.from_numpy(v.dtype), v.shape) for v in want]
    for n in (1, 3):
        got = run_lowering(named(ONNX, op, name), node, [x], types, target=target, threads=n)
        for g, v in zip(got, want):
            np.testing.assert_allclose(g, v, rtol=0 if exact else 2e-6, atol=0 if exact else 1e-6)


POOLS = [
    ((1, 20, 13, 17), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((2, 16, 12, 12), {"kernel_shape": (2, 2), "strides": (2, 2)}),
    ((1, 16, 11, 40), {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1, "pads": (0, 1, 1, 0)}),
    ((1, 8, 9, 9), {"kernel_shape": (5, 5), "strides": (1, 1), "pads": (2, 2, 2, 2), "count_include_pad": 1}),
    (
        (1, 16, 10, 10),
        {"kernel_shape": (3, 3), "strides": (3, 3), "ceil_mode": 1, "pads": (1, 1, 1, 1), "count_include_pad": 1},
    ),
    ((1, 16, 30), {"kernel_shape": (4,), "strides": (3,), "dilations": (2,), "pads": (2, 1)}),
    ((1, 16, 5, 6, 7), {"kernel_shape": (2, 3, 2), "strides": (2, 1, 2), "pads": (0, 1, 0, 0, 1, 0)}),
    ((1, 16, 9, 14), {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_UPPER"}),
]


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("shape,attrs", POOLS)
def test_pool(op: str, shape, attrs, target: Target) -> None:
    if op != "AveragePool":
        attrs = {k: v for k, v in attrs.items() if k != "count_include_pad"}
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    check_op("pool_blocked", op, x, attrs, target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 20, 7, 7), (1, 16, 1, 1), (1, 33, 50)])
def test_global_pool(op: str, shape, target: Target) -> None:
    check_op("global_pool_blocked", op, np.random.default_rng(1).standard_normal(shape, np.float32), {}, target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("shape,attrs", POOLS)
def test_pool_plain(op: str, shape, attrs, target: Target) -> None:
    if op != "AveragePool":
        attrs = {k: v for k, v in attrs.items() if k != "count_include_pad"}
    if op == "LpPool":
        attrs = {**attrs, "p": 3}
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    check_op("pool_plain", op, x, attrs, target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int8, np.float64])
@pytest.mark.parametrize("order", [0, 1])
def test_max_pool_indices(dtype, order: int, target: Target) -> None:
    x = (np.random.default_rng(2).standard_normal((2, 3, 9, 20)) * 90).astype(dtype)
    attrs = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "storage_order": order}
    check_op("pool_plain", "MaxPool", x, attrs, target, n_out=2, exact=True)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_global_pool_plain(op: str, dtype) -> None:
    x = np.random.default_rng(2).standard_normal((2, 3, 9, 20)).astype(dtype)
    check_op("global_pool_plain", op, x, {}, host())


def test_max_pool_keeps_nan() -> None:
    x = np.zeros((1, 16, 4, 4), np.float32)
    x[0, 3, 1, 1] = np.nan
    check_op("pool_blocked", "MaxPool", x, {"kernel_shape": (2, 2), "strides": (2, 2)}, host())


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("shape", [(1, 16, 4, 4), (2, 3, 7, 9), (1, 40, 300), (1, 17, 2, 3, 5), (1, 1, 1)])
def test_reorder(shape, target: Target) -> None:
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    base = named(SKIPJACK, "Reorder", "reorder")
    for to, source in (("blocked", PLAIN), ("plain", None)):
        node = Node("Reorder", ("x",), ("y",), {"to": to if to == "plain" else f"blocked{target.vl}"}, SKIPJACK)
        entry = Lowering("reorder", SKIPJACK, "Reorder", base.accepts, base.lower, "blocked")
        if to == "plain":
            got = _to_plain(node, base, x, target)
        else:
            got = run_lowering(entry, node, [x], [(_F, shape)], target=target, threads=2, layouts={0: source})[0]
        assert np.array_equal(got, x)


def _blocked(target: Target) -> Layout:
    return Layout("blocked", target.vl)


def _to_plain(node: Node, base: Lowering, x: np.ndarray, target: Target) -> np.ndarray:

    entry = Lowering("reorder", SKIPJACK, "Reorder", base.accepts, base.lower, "plain")
    return run_lowering(entry, node, [x], [(_F, x.shape)], target=target, threads=2, layouts={0: _blocked(target)})[0]


@pytest.mark.parametrize(
    "name", ["conv_direct", "conv_winograd2", "conv_winograd4", "conv_winograd_s2_4", "conv_plain"]
)
@pytest.mark.parametrize("shape", [(0, 16, 6, 6), (1, 16, 2, 6), (1, 16, 6, 2)])
def test_conv_of_nothing(name: str, shape) -> None:
    x, w = np.zeros(shape, np.float32), np.ones((16, 16, 3, 3), np.float32)
    step = 2 if "s2" in name else 1
    out = (shape[0], 16, *[(n - 3) // step + 1 if n >= 3 else 0 for n in shape[2:]])
    got = run_lowering(
        named(SKIPJACK, "Conv", name),
        Node("Conv", ("x", "w"), ("y",), {"strides": (step, step)}, SKIPJACK),
        [x, w],
        [(_F, out)],
        constants=[1],
    )
    assert got[0].shape == out
