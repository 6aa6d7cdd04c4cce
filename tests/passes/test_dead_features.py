"""Features that are not needed are gone, and outputs stay what they were."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.ir.types import TensorType, ValueType
from skipjack.lang.expr import Expr, arg, cast, const, maximum, minimum, unary
from skipjack.ops.execute import run_graph
from skipjack.passes import pipeline
from skipjack.passes.known_features import live_along
from skipjack.passes.propagate_types import typed
from skipjack.passes.remove_dead_features import RemoveDeadFeatures
from tests.passes.building import assert_same, graph_of, weights

ALL = RemoveDeadFeatures(multiple=1)
WITHOUT = pipeline.Options(without=frozenset({"remove_dead_features"}))


def _removed(graph: Graph, step: RemoveDeadFeatures = ALL, tol: float = 1e-6) -> Graph:
    """The graph after all passes and this one, checked against the graph before it."""
    before = pipeline.run(graph, WITHOUT)
    after = step.apply(before)
    assert_same(before, after, tol=tol)
    return after


def _shapes(graph: Graph, op: str) -> list[tuple[int, ...]]:
    """The shapes of the weights of an operator, in order."""
    return [graph.constants[n.inputs[1]].shape for n in graph.nodes if n.op == op]


def _dead(w: np.ndarray, axis: int, *which: int) -> np.ndarray:
    index: list[object] = [slice(None)] * w.ndim
    index[axis] = list(which)
    w[tuple(index)] = 0.0
    return w


MLP = """(float[b, 6] x) => (float[b, 5] y) {
    h = MatMul(x, w1) hb = Add(h, b1) a = %s(hb) o = MatMul(a, w2) y = Add(o, b2) }"""


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Gelu"])
def test_hidden_features_without_inputs_become_bias(activation: str) -> None:
    graph = graph_of(
        MLP % activation, w1=_dead(weights(6, 8), 1, 2, 5), b1=weights(8, seed=1), w2=weights(8, 5, seed=2),
        b2=weights(5, seed=3),
    )  # fmt: skip
    assert _shapes(_removed(graph), "Linear") == [(6, 6), (6, 5)]


def test_hidden_features_that_nothing_reads_go() -> None:
    graph = graph_of(
        MLP % "Relu", w1=weights(6, 8), b1=weights(8, seed=1), w2=_dead(weights(8, 5), 0, 0, 7), b2=weights(5)
    )
    assert _shapes(_removed(graph), "Linear") == [(6, 6), (6, 5)]


def test_without_a_bias_the_known_part_is_a_new_one() -> None:
    text = "(float[b, 6] x) => (float[b, 5] y) { h = MatMul(x, w1) a = Sigmoid(h) o = MatMul(a, w2) y = Tanh(o) }"
    graph = graph_of(text, w1=_dead(weights(6, 8), 1, 3), w2=weights(8, 5))
    assert _shapes(_removed(graph), "Linear") == [(6, 7), (7, 5)]


def test_dead_features_spread_through_layers() -> None:
    """What a layer reads of dead features only is dead too."""
    w2 = weights(8, 7, seed=1)
    w2[2:, 4] = 0
    text = """(float[b, 6] x) => (float[b, 5] y) {
        h = MatMul(x, w1) a = Relu(h) i = MatMul(a, w2) c = Sigmoid(i) y = MatMul(c, w3) }"""
    graph = graph_of(text, w1=_dead(weights(6, 8), 1, 0, 1), w2=w2, w3=weights(7, 5))
    assert _shapes(_removed(graph), "Linear") == [(6, 6), (6, 6), (6, 5)]


def test_a_value_that_is_an_output_or_normalised_keeps_its_features() -> None:
    text = "(float[b, 6] x) => (float[b, 8] h, float[b, 5] y) { h = MatMul(x, w1) a = Relu(h) y = MatMul(a, w2) }"
    parts = {"w1": _dead(weights(6, 8), 1, 0), "w2": weights(8, 5)}
    assert _shapes(_removed(graph_of(text, **parts)), "Linear") == [(6, 8), (8, 5)]
    text = "(float[b, 6] x) => (float[b, 5] y) { h = MatMul(x, w1) a = LayerNormalization(h, g) y = MatMul(a, w2) }"
    assert _shapes(_removed(graph_of(text, g=weights(8), **parts)), "Linear") == [(6, 8), (8, 5)]


def test_a_residual_sum_loses_what_both_sides_lose() -> None:
    text = """(float[b, 6] x) => (float[b, 5] y) {
        h = MatMul(x, w1) a = Relu(h) i = MatMul(x, w2) s = Add(a, i) r = Relu(s) y = MatMul(r, w3) }"""
    w1, w2 = _dead(weights(6, 8), 1, 1, 2), _dead(weights(6, 8, seed=1), 1, 2, 3)
    after = _removed(graph_of(text, w1=w1, w2=w2, w3=weights(8, 5)))
    assert _shapes(after, "Linear") == [(6, 7), (6, 7), (7, 5)]


CNN = """(float[b, 3, h, w] x) => (float[b, 5, p, q] y) {
    c = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) r = Relu(c) d = Conv%s(r, w2, b2) e = Relu(d) y = Conv(e, w3, b3) }"""


def _cnn(middle: str, w2: np.ndarray, b1: np.ndarray) -> Graph:
    parts = {"w1": _dead(weights(8, 3, 3, 3), 0, 1, 4), "b1": b1, "w2": w2, "b2": weights(len(w2), seed=4)}
    return graph_of(CNN % middle, **parts, w3=weights(5, len(w2), 1, 1), b3=weights(5))


def test_channels_of_convolutions() -> None:
    after = _removed(_cnn("", weights(6, 8, 3, 3), weights(8, seed=3)))
    assert _shapes(after, "Conv") == [(6, 3, 3, 3), (6, 6, 3, 3), (5, 6, 1, 1)]


def test_a_known_channel_that_padding_interrupts_is_no_bias() -> None:
    bias = weights(8, seed=3)
    bias[1], bias[4] = 0.5, -0.5
    after = _removed(_cnn("<pads = [1, 1, 1, 1]>", weights(6, 8, 3, 3), bias))
    assert _shapes(after, "Conv") == [(7, 3, 3, 3), (6, 7, 3, 3), (5, 6, 1, 1)]


def test_channels_go_through_depthwise_convolutions_and_pools() -> None:
    bias = weights(8, seed=3)
    bias[[1, 4]] = -1
    after = _removed(_cnn("<group = 8, pads = [1, 1, 1, 1]>", weights(8, 1, 3, 3), bias))
    assert _shapes(after, "Conv") == [(6, 3, 3, 3), (6, 1, 3, 3), (5, 6, 1, 1)]
    text = """(float[b, 3, h, w] x) => (float[b, 5, p, q] y) {
        c = Conv(x, w1) s = Sigmoid(c) m = MaxPool<kernel_shape = [2, 2]>(s) y = Conv(m, w2) }"""
    pooled = _removed(graph_of(text, w1=_dead(weights(8, 3, 3, 3), 0, 6), w2=weights(5, 8, 1, 1)))
    assert _shapes(pooled, "Conv") == [(7, 3, 3, 3), (5, 7, 1, 1)]


def test_groups_of_channels_stay() -> None:
    after = _removed(_cnn("<group = 2>", weights(6, 4, 3, 3), weights(8, seed=3)))
    assert _shapes(after, "Conv") == [(8, 3, 3, 3), (6, 4, 3, 3), (5, 6, 1, 1)]


def _attention(dead: str, heads: int = 4, mask: bool = False) -> Graph:
    f = 4 * heads
    w = {name: weights(f, f, seed=i) for i, name in enumerate("qkvo")}
    lost = list(range(4, 8))
    w["v"], w["o"] = (_dead(w["v"], 1, *lost), w["o"]) if dead == "v" else (w["v"], _dead(w["o"], 0, *lost))
    parts = " ".join(f"m{n} = MatMul(x, w{n}) s{n} = Reshape(m{n}, split)" for n in "qkv")
    added = "e = Add(d, mask)" if mask else "e = Identity(d)"
    text = f"""(float[b, s, {f}] x{", float[b, 1, s, s] mask" if mask else ""}) => (float[b, s, {f}] y) {{ {parts}
        tq = Transpose<perm = [0, 2, 1, 3]>(sq) tk = Transpose<perm = [0, 2, 3, 1]>(sk)
        tv = Transpose<perm = [0, 2, 1, 3]>(sv) c = MatMul(tq, tk) d = Mul(c, scale) {added} f = Softmax(e)
        o = MatMul(f, tv) j = Transpose<perm = [0, 2, 1, 3]>(o) r = Reshape(j, join) y = MatMul(r, wo) }}"""
    return graph_of(
        text, **{f"w{n}": a for n, a in w.items()}, split=np.array([0, 0, heads, 4]), join=np.array([0, 0, f]),
        scale=np.float32(0.5),
    )  # fmt: skip


@pytest.mark.parametrize("mask", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("dead", ["v", "o"])
def test_heads_whose_values_are_zero_or_unread_go(dead: str, mask: bool) -> None:
    after = _removed(_attention(dead, mask=mask), tol=1e-5)
    assert [n.attrs["q_heads"] for n in after.nodes if n.op == "Attention"] == [3]
    assert sorted(_shapes(after, "Linear")) == [(12, 16), (16, 12), (16, 12), (16, 12)]


def test_wide_rows_of_tokens_stay_aligned_and_narrow_ones_need_not() -> None:
    def hidden(size: int, dead: int) -> int:
        w1 = _dead(weights(6, size), 1, *range(dead))
        text = "(float[b, 6] x) => (float[b, 5] y) { h = MatMul(x, w1) a = Relu(h) y = MatMul(a, w2) }"
        return _shapes(_removed(graph_of(text, w1=w1, w2=weights(size, 5)), RemoveDeadFeatures()), "Linear")[0][1]

    assert (hidden(96, 15), hidden(96, 17), hidden(64, 3)) == (96, 80, 61)


def test_a_layer_that_is_dead_throughout_keeps_one_feature() -> None:
    graph = graph_of(MLP % "Relu", w1=np.zeros((6, 8), np.float32), b1=weights(8), w2=weights(8, 5), b2=weights(5))
    assert _shapes(_removed(graph), "Linear") == [(6, 1), (1, 5)]


def _requantised(count: int) -> tuple[Expr, dict[str, np.ndarray]]:
    rng = np.random.default_rng(count)
    real = cast(arg(0, DType.I32) + arg(1, DType.I32), DType.F32) * arg(2, DType.F32) + arg(3, DType.F32)
    codes = minimum(maximum(unary("round", real) + 3.0, const(0.0, DType.F32)), const(255.0, DType.F32))
    extras = {
        "z": rng.integers(-500, 500, count).astype(np.int32),
        "s": (rng.random(count) * 0.01).astype(np.float32),
        "b": rng.standard_normal(count).astype(np.float32) * 20,
    }
    return cast(codes, DType.U8), extras


def _integers(op: str, w1: np.ndarray, w2: np.ndarray, attrs: Mapping[str, object]) -> Graph:
    """Two layers of u8 times i8, requantised between."""
    constants = {"w1": w1, "w2": w2}
    nodes: list[Node] = []
    for i, (x, y, w) in enumerate((("x", "h", w1), ("h", "y", w2)), start=1):
        expr, extras = _requantised(w.shape[1] if op == "Linear" else w.shape[0])
        constants |= {f"{k}{i}": v for k, v in extras.items()}
        inputs = (x, f"w{i}", f"z{i}", f"s{i}", f"b{i}")
        nodes.append(Node(op, inputs, (y,), {**attrs, "epilogue": expr}, SKIPJACK))
    x = TensorType(DType.U8, (7, w1.shape[0]) if op == "Linear" else (2, w1.shape[1], 5, 6))
    types: dict[str, ValueType] = {"x": x}
    return typed(Graph("g", ("x",), ("y",), tuple(nodes), types, constants)).graph


@pytest.mark.parametrize("op", ["Linear", "Conv", "padded Conv"])
def test_integer_layers_give_the_same_codes(op: str) -> None:
    rng = np.random.default_rng(0)
    attrs: dict[str, object] = {}
    if op == "Linear":
        w1, w2 = rng.integers(-99, 99, (6, 8), np.int8), rng.integers(-99, 99, (8, 5), np.int8)
        w1[:, [2, 4, 5, 6, 7]] = 0
    else:
        w1, w2 = rng.integers(-99, 99, (8, 4, 3, 3), np.int8), rng.integers(-99, 99, (5, 8, 3, 3), np.int8)
        w1[[2, 4, 5, 6, 7]] = 0
        attrs = {"kernel_shape": (3, 3)}
    if op == "padded Conv":
        attrs |= {"pads": (1, 1, 1, 1), "pad_code": 3}
    before = _integers(op.split()[-1], w1, w2, attrs)
    after = ALL.apply(before)
    x = rng.integers(0, 255, (7, 6) if op == "Linear" else (2, 4, 5, 6)).astype(np.uint8)
    np.testing.assert_array_equal(run_graph(after, {"x": x})[0], run_graph(before, {"x": x})[0])
    axis = 1 if op == "Linear" else 0
    # Feature 2 stays: three of its four are alive, and integer weights are stored in fours.
    assert after.constants[after.nodes[0].inputs[1]].shape[axis] == (8 if op == "padded Conv" else 4)


@pytest.mark.parametrize("shape", [(5, 200), (300, 7), (40, 100, 3, 3), (1, 1), (3, 0)])
def test_what_is_alive_is_found_along_either_axis(shape: tuple[int, ...]) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        w = np.where(rng.random(shape) < rng.choice((0.003, 0.05)), 1.0, -0.0)
        for axis in (0, 1):
            expected = (w != 0).any(axis=tuple(a for a in range(w.ndim) if a != axis))
            assert live_along(w, axis).tolist() == expected.tolist(), f"seed {seed}"


def test_nothing_dead_leaves_the_graph_as_it_is() -> None:
    before = pipeline.run(graph_of(MLP % "Relu", w1=weights(6, 8), b1=weights(8), w2=weights(8, 5), b2=weights(5)))
    assert ALL.apply(before) is before
