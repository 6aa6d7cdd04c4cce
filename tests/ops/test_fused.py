"""The normal forms: their types, and that an epilogue sees the result before it is rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import skipjack.ops.all  # noqa: F401
from skipjack.core.dims import Dim, Sym
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.ir.graph import ONNX, SKIPJACK, Node, Origin
from skipjack.ir.types import TensorType, tensor
from skipjack.lang.expr import Expr, arg, maximum
from skipjack.ops.execute import run_node
from skipjack.ops.registry import Infer, lookup

B, S = Sym.named("b"), Sym.named("s")
ADD_RELU = maximum(arg(0, DType.F32) + arg(1, DType.F32), 0.0)
ADD_TWO = arg(0, DType.F32) + arg(1, DType.F32) + arg(2, DType.F32)
_random = np.random.default_rng(3)


def _f32(*shape: int) -> np.ndarray:
    return _random.standard_normal(shape).astype(np.float32)


def _node(op: str, count: int, domain: str = SKIPJACK, **attrs: Any) -> Node:
    return Node(op, tuple(f"x{n}" for n in range(count)), ("y",), attrs, domain, Origin("n", op))


def _run(op: str, *inputs: np.ndarray, domain: str = SKIPJACK, **attrs: Any) -> np.ndarray:
    return run_node(_node(op, len(inputs), domain, **attrs), inputs)[0]


def _shape(op: str, *shapes: Sequence[Dim], epilogue: Expr | None = None, **attrs: Any) -> tuple[Dim, ...] | None:
    types = [tensor(DType.F32, *shape) for shape in shapes]
    given = attrs if epilogue is None else {**attrs, "epilogue": epilogue}
    node = _node(op, len(types), **given)
    out = lookup(node).infer(Infer(node, types, [None] * len(types)))[0]
    assert isinstance(out, TensorType)
    return out.shape


def test_linear_adds_a_bias_per_feature_and_a_residual() -> None:
    x, w, bias, residual = _f32(2, 5, 3), _f32(3, 4), _f32(4), _f32(2, 5, 4)
    y = _run("Linear", x, w, bias, residual, epilogue=ADD_TWO)
    np.testing.assert_allclose(y, x @ w + bias + residual, rtol=1e-5, atol=1e-6)
    assert _shape("Linear", (B, S, 3), (3, 4), (4,), (B, S, 4), epilogue=ADD_TWO) == (B, S, 4)


def test_linear_rounds_half_precision_after_the_epilogue() -> None:
    x, w = np.array([[60000.0]], np.float16), np.array([[2.0]], np.float16)
    half = arg(0, DType.F16) * 0.25
    assert _run("Linear", x, w, epilogue=half).item() == 30000
    assert np.isinf(_run("Linear", x, w).item())


def test_matmul_swaps_and_scales() -> None:
    a, b = _f32(2, 4, 3), _f32(2, 5, 4)
    y = _run("MatMul", a, b, trans_a=1, trans_b=1, alpha=0.5)
    np.testing.assert_allclose(y, 0.5 * np.swapaxes(a, 1, 2) @ np.swapaxes(b, 1, 2), rtol=1e-5)
    assert _shape("MatMul", (B, 8, S, 64), (B, 8, S, 64), trans_b=1) == (B, 8, S, S)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("group", [1, 2])
def test_convolutions_are_the_onnx_operator_and_then_the_epilogue(op: str, group: int) -> None:
    x, bias = _f32(2, 4, 7, 6), _f32(6)
    w = _f32(6, 4 // group, 3, 2) if op == "Conv" else _f32(4, 6 // group, 3, 2)
    window = {"strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 2), "group": group}
    expected = np.maximum(_run(op, x, w, bias, domain=ONNX, **window), 0)
    np.testing.assert_allclose(_run(op, x, w, bias, epilogue=ADD_RELU, **window), expected, rtol=1e-5, atol=1e-5)


def test_convolution_keeps_symbolic_sizes() -> None:
    window = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    assert _shape("Conv", (B, 3, S, S), (8, 3, 3, 3), (8,), epilogue=ADD_RELU, **window) == (B, 8, S, S)


def test_pointwise_broadcasts() -> None:
    a, b = _f32(2, 1, 3), _f32(4, 1)
    np.testing.assert_array_equal(_run("Pointwise", a, b, expr=ADD_RELU), np.maximum(a + b, 0))
    assert _shape("Pointwise", (B, 1, 3), (S, 1), expr=ADD_RELU) == (B, S, 3)


def test_pointwise_of_a_constant_has_the_shape_of_its_inputs() -> None:
    y = _run("Pointwise", _f32(2, 3), expr=arg(0, DType.F32) * 0.0)
    assert y.shape == (2, 3)


def test_an_extra_of_another_shape_is_refused() -> None:
    with pytest.raises(ModelError, match="input 2"):
        _shape("Linear", (B, 3), (3, 4), (5,), epilogue=ADD_RELU)


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        ("Linear", [(2, 3), (1, 3, 4)], r"a weight \[K, M\]"),
        ("Linear", [(2, 3), (4, 5)], "equal sizes of the summed axis"),
        ("MatMul", [(3,), (3, 4)], "operands with at least two axes"),
    ],
)
def test_operands_that_do_not_fit_are_refused(op: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _shape(op, *shapes)
