"""Products of bf16 in models of f32: what is rounded, what is not, and what a machine without them computes."""

from __future__ import annotations

import numpy as np
import pytest

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Graph
from skipjack.passes.lower_precision import LowerPrecision
from skipjack.passes.pipeline import PASSES, run
from tests.passes.building import feeds, graph_of, ops, results, weights

HELD = pytest.mark.parametrize("held", [True, False], ids=["bf16", "f32"])


def lowered(graph: Graph, held: bool = True) -> Graph:
    return run(graph, passes=(*PASSES, LowerPrecision(held)))


def dtypes(graph: Graph) -> list[DType]:
    """The type of each node's output."""
    return [graph.tensor(n.outputs[0]).dtype for n in graph.nodes]


def close(graph: Graph, after: Graph) -> None:
    """Rounding two operands costs at most 2^-8 of every product."""
    given = feeds(graph)
    for a, b in zip(results(graph, given), results(after, given), strict=True):
        np.testing.assert_allclose(a, b, atol=2.0**-6 * np.abs(a).max())


F, H = DType.F32, DType.BF16
TEXT = "(float[b, 4] x) => (float[b, 3] y) { t = MatMul(x, v) u = Relu(t) y = MatMul(u, w) }"


@HELD
def test_weights_and_what_they_multiply_are_rounded(held: bool) -> None:
    graph = graph_of(TEXT, v=weights(4, 6), w=weights(6, 3, seed=1))
    after = lowered(graph, held)
    assert ops(after) == ["*Pointwise", "*Linear", "*Linear"]
    half = H if held else F
    assert dtypes(after) == [half, half, F]
    for name in after.constants:
        array = after.constants[name].astype(np.float32)
        assert np.array_equal(array.view(np.uint32) & 0xFFFF, np.zeros(array.shape)), "more bits than bf16 has"
    close(graph, after)


def test_both_ways_compute_the_same() -> None:
    graph = graph_of(TEXT, v=weights(4, 6), w=weights(6, 3, seed=1))
    given = feeds(graph)
    np.testing.assert_allclose(*(results(lowered(graph, h), given)[0] for h in (True, False)), rtol=2.0**-7)


@HELD
def test_a_value_with_other_readers_stays_as_it_is(held: bool) -> None:
    body = "{ t = MatMul(x, v) s = Softmax(t) u = MatMul(s, w) y = Add(u, s) }"
    graph = graph_of(f"(float[b, 4] x) => (float[b, 6] y) {body}", v=weights(4, 6), w=weights(6, 6, seed=1))
    after = lowered(graph, held)
    assert ops(after) == ["*Pointwise", "*Linear", "Softmax", "*Pointwise", "*Linear"]
    assert dtypes(after) == ([H, F, F, H, F] if held else [F] * 5)
    close(graph, after)


@HELD
def test_images_between_convolutions_are_rounded_with_their_residuals(held: bool) -> None:
    body = "{ s = Conv(x, u) t = Conv<pads = [1, 1, 1, 1]>(s, v) r = Add(t, s) y = Conv(r, w) }"
    shapes = {"u": (16, 16, 1, 1), "v": (16, 16, 3, 3), "w": (5, 16, 1, 1)}
    constants = {name: weights(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    graph = graph_of(f"(float[b, 16, h, w] x) => (float[b, 5, h, w] y) {body}", **constants)
    after = lowered(graph, held)
    assert ops(after) == ["*Pointwise", "*Conv", "*Conv", "*Conv"]
    assert dtypes(after) == ([H, H, H, F] if held else [F] * 4)
    close(graph, after)


def test_images_are_rounded_before_they_are_put_together() -> None:
    body = "{ t = Conv(x, v) r = MaxPool<kernel_shape = [1, 1]>(x) c = Concat<axis = 1>(t, r) y = Conv(c, w) }"
    constants = {"v": weights(16, 16, 1, 1), "w": weights(5, 32, 1, 1, seed=1)}
    graph = graph_of(f"(float[b, 16, h, w] x) => (float[b, 5, h, w] y) {body}", **constants)
    after = lowered(graph)
    assert ops(after) == ["*Pointwise", "*Conv", "MaxPool", "*Pointwise", "Concat", "*Conv"]
    assert dtypes(after) == [H, H, F, H, H, F]
    close(graph, after)


def test_what_is_left_alone() -> None:
    sparse = weights(16, 16)
    sparse[np.random.default_rng(0).random(sparse.shape) < 0.8] = 0
    for body, w in (
        ("(float[b, 16] x) => (float[b, 16] y) { y = MatMul(x, w) }", sparse),
        ("(float[b, 16, h, w] x) => (float[b, 16, h, w] y) { y = Conv<group = 16>(x, w) }", weights(16, 1, 1, 1)),
        ("(float[b, 3, h, w] x) => (float[b, 16, h, w] y) { y = Conv(x, w) }", weights(16, 3, 1, 1)),
        ("(float16[b, 4] x, float16[4, 3] w) => (float16[b, 3] y) { y = MatMul(x, w) }", None),
    ):
        graph = graph_of(body, **({} if w is None else {"w": w}))
        before = run(graph)
        assert LowerPrecision().apply(before) is before


HEADS = "float[b, 4, s, 4] q, float[b, 2, p, 4] k) => (float[b, 4, s, 4] y) { y = Attention<is_causal = 1>(q, k, k) }"


@HELD
def test_attention_multiplies_bf16_where_an_instruction_does(held: bool) -> None:
    graph = graph_of(f"({HEADS}")
    after = lowered(graph, held)
    assert [n.attrs.get("products") for n in after.nodes] == (["bf16"] if held else [None])
    assert LowerPrecision(held).apply(after) is after
    close(graph, after)


def test_attention_of_f64_is_left_alone() -> None:
    before = run(graph_of(f"({HEADS}".replace("float", "double")))
    assert LowerPrecision().apply(before) is before


def test_few_channels_at_even_steps_are_lowered() -> None:
    text = "(float[b, 3, 8, 8] x) => (float[b, 16, 4, 4] y) { y = Conv<strides = [2, 2], pads = [0, 0, 1, 1]>(x, w) }"
    assert dtypes(lowered(graph_of(text, w=weights(16, 3, 3, 3)))) == [H, F]
    odd = text.replace("8, 8", "8, 9").replace("4, 4]", "4, 5]").replace("[0, 0, 1, 1]", "[0, 1, 1, 1]")
    assert dtypes(lowered(graph_of(odd, w=weights(16, 3, 3, 3)))) == [F]
