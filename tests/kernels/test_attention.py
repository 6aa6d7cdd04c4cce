"""Attention against its reference: layouts, shared heads, masks, causality, odd sizes, and independent bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id

import skipjack.ops.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.kernels.attention import ATTENTION
from skipjack.ops.execute import run_node
from skipjack.targets.target import Target


def made(*shape: int) -> np.ndarray:
    return np.random.default_rng([3, *shape]).standard_normal(shape).astype(np.float32)


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    if layout == "bhsd":
        return x
    b, h, s, d = x.shape
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(b, s, h * d)


def node_of(inputs: list[Any], layouts: str, heads: tuple[int, int], **attrs: Any) -> Node:
    names = ("bsf" if c == "f" else "bhsd" for c in layouts)
    given = {f"layout_{n}": layout for n, layout in zip(("q", "k", "v", "out"), names, strict=True)}
    given |= {"q_heads": heads[0], "kv_heads": heads[1], "scale": 0.3, **attrs}
    return Node("Attention", tuple(f"i{n}" for n in range(len(inputs))), ("y",), given, SKIPJACK)


def check(
    inputs: list[Any], layouts: str, heads: tuple[int, int], target: Target, atol: float = 2e-5, **attrs: Any
) -> np.ndarray:
    node = node_of(inputs, layouts, heads, **attrs)
    want = run_node(node, inputs)[0]
    types = [(DType.from_numpy(want.dtype), want.shape)]
    results = [run_lowering(ATTENTION, node, inputs, types, target=target, threads=n)[0] for n in (1, 3)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0].astype(np.float64), want.astype(np.float64), rtol=2e-4, atol=atol)
    return results[0]


def operands(
    b: int, heads: tuple[int, int], sq: int, sk: int, d: int, dv: int, layouts: str = "hhhh"
) -> list[np.ndarray]:
    q, k, v = made(b, heads[0], sq, d), made(b, heads[1], sk, d), made(b, heads[1], sk, dv)
    return [laid_out(x, "bsf" if c == "f" else "bhsd") for x, c in zip((q, k, v), layouts, strict=False)]


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("sq, sk", [(1, 1), (1, 200), (7, 15), (14, 128), (15, 129), (33, 127), (145, 300)])
@pytest.mark.parametrize("d, dv", [(64, 64), (1, 3), (20, 33)])
def test_sizes(sq: int, sk: int, d: int, dv: int, target: Target) -> None:
    check(operands(2, (3, 3), sq, sk, d, dv), "hhhh", (3, 3), target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("layouts", ["ffff", "fhfh", "hffh", "hhhf"])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_layouts_and_shared_heads(layouts: str, heads: tuple[int, int], target: Target) -> None:
    check(operands(2, heads, 19, 40, 32, 32, layouts), layouts, heads, target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("offset", ["end", "start"])
@pytest.mark.parametrize("sq, sk", [(5, 5), (40, 170), (150, 30), (150, 150)])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_causal(heads: tuple[int, int], sq: int, sk: int, offset: str, target: Target) -> None:
    check(operands(1, heads, sq, sk, 16, 16), "hhhh", heads, target, causal=1, causal_offset=offset)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize(
    "shape", [(2, 4, 21, 150), (1, 1, 21, 150), (2, 1, 1, 150), (4, 21, 150), (21, 1), (150,), (1, 4, 21, 1)]
)
@pytest.mark.parametrize("kind", [np.float32, np.bool_, np.float16, np.float64], ids=lambda k: k.__name__)
def test_masks(shape: tuple[int, ...], kind: type, target: Target) -> None:
    mask = made(*shape) > 0 if kind is np.bool_ else made(*shape).astype(kind)
    if kind is np.float32 and shape[-1] > 1:
        mask[..., 140:] = np.finfo(np.float32).min
        mask[..., 3] = -np.inf
    inputs = [*operands(2, (4, 2), 21, 150, 16, 16), mask]
    check(inputs, "hhhh", (4, 2), target, causal=1, softcap=5.0)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
def test_rows_without_any_key_are_zero(target: Target) -> None:
    mask = np.ones((1, 1, 20, 260), np.bool_)
    mask[..., 4, :] = False
    mask[..., 5, :200] = False
    got = check([*operands(1, (2, 2), 20, 260, 16, 16), mask], "hhhh", (2, 2), target)
    np.testing.assert_array_equal(got[:, :, 4], 0)


def test_nan_stays_in_its_row() -> None:
    q, k, v = operands(1, (1, 1), 20, 200, 16, 16)
    q[0, 0, 3, 2] = np.nan
    node = node_of([q, k, v], "hhhh", (1, 1))
    got = run_lowering(ATTENTION, node, [q, k, v], [(DType.F32, (1, 1, 20, 16))])[0]
    assert np.isnan(got[0, 0, 3]).all()
    assert np.isfinite(np.delete(got, 3, axis=2)).all()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    inputs = operands(3, (2, 2), 50, 150, 24, 24)
    node = node_of(inputs, "hhhh", (2, 2))
    whole = run_lowering(ATTENTION, node, inputs, [(DType.F32, (3, 2, 50, 24))])[0]
    alone = run_lowering(ATTENTION, node, [x[1:2] for x in inputs], [(DType.F32, (1, 2, 50, 24))])[0]
    np.testing.assert_array_equal(whole[1:2], alone)


def test_half_precision() -> None:
    inputs = [x.astype(np.float16) for x in operands(1, (2, 2), 20, 40, 16, 16)]
    check(inputs, "hhhh", (2, 2), TARGETS[-1], atol=2e-3)


def test_no_keys_and_no_queries() -> None:
    check(operands(1, (2, 2), 3, 0, 8, 8), "hhhh", (2, 2), TARGETS[-1])
    check(operands(1, (2, 2), 0, 3, 8, 8), "hhhh", (2, 2), TARGETS[-1])
