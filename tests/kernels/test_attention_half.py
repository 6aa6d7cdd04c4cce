"""Attention of bf16 products against numpy with explicit rounding: odd sizes, masks, causality, independent bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from harness import run_lowering, target_id
from test_attention import laid_out, node_of, operands

import skipjack.ops.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.types import tensor
from skipjack.kernels.attention_half import ATTENTION_HALF, power_of_two
from skipjack.kernels.launch import Site
from skipjack.lang import interpreter
from skipjack.lang.kernel import Kernel
from skipjack.lang.program import F32, PTR
from skipjack.targets.target import AMX, AVX512_VNNI, Target, host

NATIVE: Target = host() if host().has("avx512bf16") else AMX


def half(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: Any, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The output for operands [B, H, S, D], and the same sum of absolute products: what an error is measured by."""
    heads = q.shape[1]
    q, k, v = (np.repeat(half(x), heads // x.shape[1], axis=1) for x in (q, k, v))
    scores = q @ k.swapaxes(2, 3) * scale + bias
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = e.sum(axis=-1, keepdims=True)
    total = np.where(total == 0, 1, total)
    return half(e) @ v / total, e @ np.abs(v) / total


def run(inputs: list[Any], layouts: str, heads: tuple[int, int], threads: int = 1, **attrs: Any) -> np.ndarray:
    node = node_of(inputs, layouts, heads, products="bf16", **attrs)
    q, v = (x.shape for x in (inputs[0], inputs[2]))
    value_depth = v[3] if layouts[2] == "h" else v[2] // heads[1]
    queries = q[2] if layouts[0] == "h" else q[1]
    shape = (q[0], heads[0], queries, value_depth) if layouts[3] == "h" else (q[0], queries, heads[0] * value_depth)
    return run_lowering(ATTENTION_HALF, node, inputs, [(DType.F32, shape)], target=NATIVE, threads=threads)[0]


def check(
    plain: list[np.ndarray], bias: Any = 0.0, layouts: str = "hhhh", given: Any = None, **attrs: Any
) -> np.ndarray:
    """Run for operands [B, H, S, D] put in the layouts; a probability near a tie may round to either side."""
    heads = plain[0].shape[1], plain[1].shape[1]
    inputs = [laid_out(x, "bsf" if c == "f" else "bhsd") for x, c in zip(plain, layouts, strict=False)]
    inputs += [] if given is None else [given]
    want, size = reference(*plain, bias, 0.3)
    got = run(inputs, layouts, heads, **attrs)
    np.testing.assert_array_equal(run(inputs, layouts, heads, threads=3, **attrs), got)
    want, size = (laid_out(x, "bsf" if layouts[3] == "f" else "bhsd") for x in (want, size))
    # To the other side of a tie is at most 2^-7 of a probability.
    assert np.all(np.abs(got - want) <= 2.0**-7 * size + 1e-6)
    error = np.abs(got - want).sum()
    assert error <= 2.0**-11 * size.sum() + 1e-5 * size.size, "on average roundings to either side cancel"
    return got


def causal(queries: int, keys: int, offset: int) -> np.ndarray:
    return np.where(np.arange(keys) <= np.arange(queries)[:, None] + offset, 0.0, -np.inf)


@pytest.mark.parametrize("length", [1, 7, 16, 17, 128, 130], ids=lambda n: f"{n}-{target_id(NATIVE)}")
@pytest.mark.parametrize("d, dv", [(64, 64), (32, 32), (1, 3), (21, 33)])
def test_sizes(length: int, d: int, dv: int) -> None:
    check(operands(2, (2, 2), length, length, d, dv))


@pytest.mark.parametrize("sq, sk", [(1, 200), (7, 31), (14, 33), (15, 129), (145, 300)])
def test_queries_and_keys_of_their_own_number(sq: int, sk: int) -> None:
    check(operands(1, (3, 3), sq, sk, 40, 40))


@pytest.mark.parametrize("layouts", ["ffff", "fhfh", "hffh", "hhhf"])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_layouts_and_shared_heads(layouts: str, heads: tuple[int, int]) -> None:
    check(operands(2, heads, 19, 41, 32, 32), layouts=layouts)


@pytest.mark.parametrize("offset", ["end", "start"])
@pytest.mark.parametrize("sq, sk", [(5, 5), (40, 170), (150, 30), (150, 150)])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_causal(heads: tuple[int, int], sq: int, sk: int, offset: str) -> None:
    bias = causal(sq, sk, sk - sq if offset == "end" else 0)
    check(operands(1, heads, sq, sk, 16, 16), bias, causal=1, causal_offset=offset)


@pytest.mark.parametrize("shape", [(2, 4, 21, 150), (2, 1, 1, 150), (21, 1), (150,)])
@pytest.mark.parametrize("kind", [np.float32, np.bool_, np.float16], ids=lambda k: k.__name__)
def test_masks(shape: tuple[int, ...], kind: type) -> None:
    random = np.random.default_rng(shape).standard_normal(shape)
    mask = random > 0 if kind is np.bool_ else random.astype(kind)
    if shape[-1] > 1 and kind is np.float32:
        mask[..., 140:] = np.finfo(np.float32).min
        mask[..., 3] = -np.inf
    bias = np.where(mask, 0.0, -np.inf) if kind is np.bool_ else mask.astype(np.float64)
    check(operands(2, (4, 2), 21, 150, 16, 16), bias, given=mask)


def test_a_row_of_lowest_numbers_is_an_average() -> None:
    mask = np.full((1, 1, 1, 150), np.finfo(np.float32).min, np.float32)
    q, k, v = operands(1, (2, 2), 3, 150, 16, 16)
    got = run([q, k, v, mask], "hhhh", (2, 2))
    np.testing.assert_allclose(got, np.broadcast_to(half(v).mean(axis=2, keepdims=True), got.shape), atol=1e-6)


def test_softcap() -> None:
    q, k, v = operands(1, (2, 2), 20, 140, 16, 16)
    got = run([q, k, v], "hhhh", (2, 2), softcap=2.0)
    scores = half(q) @ half(k).swapaxes(2, 3) * 0.3
    e = np.exp(2 * np.tanh(scores / 2))
    want = e @ half(v) / e.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(got, want, atol=2.0**-9)


def test_rows_without_any_key_are_zero() -> None:
    mask = np.ones((1, 1, 20, 260), np.bool_)
    mask[..., 4, :] = False
    mask[..., 5, :200] = False
    plain = operands(1, (2, 2), 20, 260, 16, 16)
    got = check(plain, np.where(mask, 0.0, -np.inf), given=mask)
    np.testing.assert_array_equal(got[:, :, 4], 0)
    for sq, sk in ((3, 0), (0, 3)):
        assert not run(operands(1, (2, 2), sq, sk, 8, 8), "hhhh", (2, 2)).any()


def test_nan_stays_in_its_row() -> None:
    q, k, v = operands(1, (1, 1), 20, 201, 16, 16)
    q[0, 0, 3, 2] = np.nan
    got = run([q, k, v], "hhhh", (1, 1))
    assert np.isnan(got[0, 0, 3]).all()
    assert np.isfinite(np.delete(got, 3, axis=2)).all()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    inputs = operands(3, (2, 2), 50, 150, 24, 24)
    whole = run(inputs, "hhhh", (2, 2))
    np.testing.assert_array_equal(run([x[1:2] for x in inputs], "hhhh", (2, 2)), whole[1:2])


def test_the_interpreter_agrees() -> None:
    inputs = operands(1, (1, 1), 3, 17, 6, 5)
    node = node_of(inputs, "hhhh", (1, 1), products="bf16")
    types = [(DType.F32, (1, 1, 3, 5))]
    found = run_lowering(ATTENTION_HALF, node, inputs, types, target=NATIVE, interpret=True)[0]
    np.testing.assert_array_equal(found, run(inputs, "hhhh", (1, 1)))


def test_powers_are_right_to_bf16() -> None:
    x = np.concatenate([-np.geomspace(1e-6, 125.9, 4000), [0, -0.5, -127, -1e30, -np.inf, np.nan]]).astype(np.float32)
    x = np.concatenate([x, np.zeros(-len(x) % 16, np.float32)])
    k = Kernel("powers", [("x", PTR), ("y", PTR)])
    with k.units() as unit:
        k.arg.y.at(unit * 64).store(power_of_two(k, k.arg.x.at(unit * 64).load(F32.vec(16))))
    y = np.empty_like(x)
    interpreter.run(k.finish(), np.array([x.ctypes.data, y.ctypes.data]).ctypes.data, 0, len(x) // 16, 0, {})
    want = np.exp2(x.astype(np.float64))
    np.testing.assert_allclose(y, np.where(x < -127, 0, want), rtol=1.1e-4, atol=2.0**-126)
    assert not y[x <= -127].any()
    assert np.all(y[x == 0] == 1)


def test_what_is_refused() -> None:
    def reason(target: Target, dtype: DType = DType.F32, **attrs: Any) -> str:
        x = tensor(dtype, 1, 2, 4, 8)
        node = node_of([x, x, x], "hhhh", (2, 2), **attrs)
        return ATTENTION_HALF.accepts(Site(node, [x] * 3, [x], [None] * 3, target))

    assert reason(NATIVE, products="bf16") == ""
    assert "not of bf16" in reason(NATIVE)
    assert "no products of bf16" in reason(AVX512_VNNI, products="bf16")
    assert "not f32" in reason(NATIVE, DType.F16, products="bf16")
    assert "not positive" in reason(NATIVE, products="bf16", scale=-1.0)
