"""Integer convolutions over quads against exact sums in numpy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from tests.kernels.harness import TARGETS, executes, run_lowering, target_id

import skipjack.kernels.quad_conv  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.ir.types import TensorType
from skipjack.kernels.launch import Lowering, Site, lowerings
from skipjack.lang.expr import Expr, arg, cast, evaluate, maximum, minimum, unary
from skipjack.targets.target import AVX512_VNNI, Target

I32, F32, U8 = DType.I32, DType.F32, DType.U8
ALL = (*TARGETS, *([AVX512_VNNI] if executes(AVX512_VNNI) else []))
WAYS = ("quad_conv_dense", "quad_conv_sparse")
SUM = arg(0, I32)
SCALED = cast(SUM + arg(1, I32), F32) * arg(2, F32) + arg(3, F32)


def requantised(real: Expr, zero: float = 0.0) -> Expr:
    return cast(minimum(maximum(unary("round", real) + zero, 0.0), 255.0), U8)


def exact_sums(x: np.ndarray, w: np.ndarray, attrs: dict[str, Any]) -> np.ndarray:
    """The definition, tap by tap."""
    rank = x.ndim - 2
    strides, dilations = attrs.get("strides", (1,) * rank), attrs.get("dilations", (1,) * rank)
    pads, group = attrs.get("pads", (0,) * (2 * rank)), attrs.get("group", 1)
    around = [(0, 0), (0, 0), *((pads[i], pads[i + rank]) for i in range(rank))]
    full = np.pad(x.astype(np.int64), around, constant_values=attrs.get("pad_code", 0))
    extent = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    sizes = [(n - e) // s + 1 for n, e, s in zip(full.shape[2:], extent, strides, strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *sizes), np.int64)
    for tap in np.ndindex(*w.shape[2:]):
        cut = [slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilations, sizes, strides)]
        part = full[(slice(None), slice(None), *cut)].reshape(x.shape[0], group, -1, *sizes)
        weights = w[(slice(None), slice(None), *tap)].astype(np.int64).reshape(group, -1, w.shape[1])
        y += np.einsum("ngc...,gmc->ngm...", part, weights).reshape(y.shape)
    return y.astype(np.int32)


def way(name: str) -> Lowering:
    return next(e for e in lowerings(SKIPJACK, "Conv") if e.name == name)


def check(
    name: str, x: np.ndarray, w: np.ndarray, target: Target, *, expr: Expr = SUM, extras=(), threads=(1,), **attrs: Any
) -> None:
    """The lowering's result equals the epilogue of the exact sums, bit for bit."""
    sums = exact_sums(x, w, attrs)
    tail = (1,) * (x.ndim - 2)
    shaped = [e.reshape(-1, *tail) if e.ndim == 1 and e.size > 1 else e for e in extras]
    want = np.asarray(evaluate(expr, [sums, *shaped]))
    inputs = [x, w, *extras]
    node = Node("Conv", tuple(f"x{i}" for i in range(len(inputs))), ("y",), {**attrs, "epilogue": expr}, SKIPJACK)
    values = [None, w, *[e if e.ndim < 3 else None for e in extras]]
    types = [TensorType(DType.from_numpy(v.dtype), v.shape) for v in inputs]
    out = TensorType(expr.dtype, want.shape)
    assert way(name).accepts(Site(node, types, [out], values, target)) == ""
    constants = [i for i, v in enumerate(values) if v is not None]
    for count in threads:
        made = [(expr.dtype, want.shape)]
        got = run_lowering(way(name), node, inputs, made, constants=constants, target=target, threads=count)
        if want.dtype == np.float32:
            np.testing.assert_allclose(got[0], want, rtol=1e-6, atol=1e-5)
        else:
            np.testing.assert_array_equal(got[0], want)


def codes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape, np.uint8)


def weights(*shape: int, density: float = 1.0, seed: int = 1) -> np.ndarray:
    """Random weights of which whole fours of channels are zero."""
    rng = np.random.default_rng([seed, *shape])
    w = rng.integers(-127, 128, shape, np.int8)
    kept = rng.random((shape[0], -(-shape[1] // 4), *shape[2:])) < density
    return w * np.repeat(kept, 4, axis=1)[:, : shape[1]]


WINDOWS = [
    ((1, 4, 5, 5), (4, 4, 1, 1), {}),
    ((2, 8, 4, 4), (8, 8, 1, 1), {}),
    ((1, 5, 7, 7), (6, 5, 1, 1), {}),
    ((1, 8, 16, 16), (7, 8, 1, 1), {}),
    ((1, 12, 14, 14), (9, 12, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 3, 23, 19), (5, 3, 7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
    ((2, 6, 9, 20), (4, 6, 3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2), "pad_code": 131}),
    ((1, 4, 13, 13), (3, 4, 1, 1), {"strides": (2, 2)}),
    ((1, 4, 17, 12), (4, 4, 3, 5), {"pads": (0, 2, 4, 1), "dilations": (2, 1), "pad_code": 9}),
    ((1, 7, 11, 31), (2, 7, 2, 3), {"strides": (3, 3), "dilations": (2, 2), "pads": (2, 3, 1, 3), "pad_code": 255}),
    ((2, 8, 5, 7), (6, 8, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 8, 7, 28), (4, 8, 1, 1), {}),
    ((1, 4, 1, 1), (1, 4, 1, 1), {}),
    ((1, 4, 2, 2), (4, 4, 3, 3), {"pads": (1, 1, 1, 1), "pad_code": 77}),
    ((1, 4, 40), (4, 4, 3), {"pads": (1, 1), "strides": (2,)}),
]


@pytest.mark.parametrize("target", ALL, ids=target_id)
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("x", "w", "attrs"), WINDOWS)
def test_sums_are_exact(name: str, x, w, attrs, target: Target) -> None:
    check(name, codes(*x), weights(*w, density=0.6), target, threads=(1, 3), **attrs)


GROUPS = [
    ((2, 8, 9, 9), (8, 1, 3, 3), {"group": 8, "pads": (1, 1, 1, 1), "pad_code": 128}),
    ((1, 6, 13, 17), (6, 1, 5, 5), {"group": 6, "pads": (2, 2, 2, 2), "strides": (2, 2), "pad_code": 3}),
    ((1, 9, 7, 7), (9, 1, 3, 3), {"group": 9, "pads": (1, 1, 1, 1)}),
    ((1, 130, 30, 30), (130, 1, 3, 3), {"group": 130, "pads": (1, 1, 1, 1)}),
    ((1, 8, 6, 6), (16, 2, 3, 3), {"group": 4, "pads": (1, 1, 1, 1)}),
    ((1, 16, 6, 6), (24, 8, 1, 1), {"group": 2}),
    ((1, 24, 4, 4), (24, 8, 1, 1), {"group": 3}),
    ((1, 10, 4, 4), (20, 2, 1, 1), {"group": 5}),
    ((1, 3, 4, 5), (12, 1, 1, 1), {"group": 3}),
    ((1, 18, 6, 6), (12, 6, 3, 3), {"group": 3, "pad_code": 1, "pads": (1, 0, 0, 1)}),
]


@pytest.mark.parametrize("target", ALL, ids=target_id)
@pytest.mark.parametrize(("x", "w", "attrs"), GROUPS)
def test_groups(x, w, attrs, target: Target) -> None:
    full = np.random.default_rng(w[0]).integers(-128, 128, w, np.int8)
    check("quad_conv_dense", codes(*x), full, target, threads=(1, 3), **attrs)


@pytest.mark.parametrize("target", ALL, ids=target_id)
@pytest.mark.parametrize("name", WAYS)
def test_extremes_do_not_saturate(name: str, target: Target) -> None:
    x, w = np.full((1, 16, 4, 8), 255, np.uint8), np.full((4, 16, 1, 1), 127, np.int8)
    w[1] = -128
    w[2, ::2] = -127
    check(name, x, w, target)


@pytest.mark.parametrize("target", ALL, ids=target_id)
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("maps", [4, 6])
def test_requantised_with_residuals(name: str, maps: int, target: Target) -> None:
    rng, shape = np.random.default_rng(3), (2, maps, 5, 9)
    vectors = [
        rng.integers(-500, 500, maps, np.int32),
        rng.random(maps, np.float32) * 0.01,
        rng.random(maps, np.float32),
    ]
    x, w = codes(2, 8, 5, 9), weights(maps, 8, 3, 3, density=0.5)
    bytes_left = SCALED + cast(cast(arg(4, U8), I32) - 7, F32) * 0.5
    pads = {"pads": (1, 1, 1, 1), "pad_code": 3}
    check(name, x, w, target, expr=requantised(bytes_left, 12.0), extras=[*vectors, codes(*shape)], **pads)
    real = rng.standard_normal(shape, np.float32)
    check(name, x, w, target, expr=maximum(SCALED + arg(4, F32), 0.0), extras=[*vectors, real], **pads)
    check(name, x, w, target, expr=requantised(SCALED + arg(4, F32)), extras=[*vectors, real], **pads)
    check(name, x, w, target, expr=maximum(bytes_left, 0.0), extras=[*vectors, codes(*shape)], **pads)
    scalar = [np.array([3], np.int32), np.array(0.02, np.float32), np.array([0.5], np.float32)]
    check(name, x, w, target, expr=requantised(SCALED), extras=scalar, **pads)


@pytest.mark.parametrize("target", ALL, ids=target_id)
@pytest.mark.parametrize("name", WAYS)
def test_weights_wider_than_a_byte(name: str, target: Target) -> None:
    w = np.random.default_rng(5).integers(-255, 256, (6, 9, 3, 3), np.int16)
    w[0, 0, 0, 0], w[1, 0, 0, 0] = 255, -255
    check(name, codes(1, 9, 6, 6), w, target, pads=(1, 1, 1, 1), pad_code=5)


@pytest.mark.parametrize("name", WAYS)
def test_steps_bands_parts_and_threads(name: str) -> None:
    """Sizes that need several steps of terms, several bands, inputs in place and a copy because rows collide."""
    target = ALL[-1]
    for x, w, attrs in [
        ((1, 400, 7, 7), (36, 400, 3, 3), {"pads": (1, 1, 1, 1)}),
        ((2, 64, 48, 48), (20, 64, 3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 512, 16, 16), (68, 512, 1, 1), {}),
        ((1, 512, 32, 32), (8, 512, 1, 1), {}),
        ((2, 1024, 14, 14), (33, 1024, 1, 1), {}),
        ((1, 64, 41, 41), (12, 64, 1, 1), {"strides": (2, 2)}),
    ]:
        check(name, codes(*x), weights(*w, density=0.3), target, threads=(1, 4), **attrs)


@pytest.mark.parametrize("name", WAYS)
def test_more_threads_cut_finer_and_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = way(name)
    many = dataclasses.replace(entry, lower=lambda work: entry.lower(dataclasses.replace(work, threads=5)))
    monkeypatch.setitem(globals(), "way", lambda _: many)
    for x, w, attrs in [((1, 32, 28, 28), (96, 32, 1, 1), {}), ((1, 32, 14, 14), (130, 32, 3, 3), {"pads": (1,) * 4})]:
        check(name, codes(*x), weights(*w, density=0.3), ALL[-1], threads=(1, 7), **attrs)
