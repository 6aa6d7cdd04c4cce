"""Free sizes: one engine at many batches and lengths, results that do not depend on batch mates, and nothing at all."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from skipjack import SkipjackError
from skipjack.frontend.onnx_file import import_model
from skipjack.ops.execute import run_graph
from tests.sweeps.comparing import assert_close, assert_same, build, check, engine, numbers, sweep

WIDTH, HEADS = 24, 3


def encoder(seed: int) -> onnx.ModelProto:
    """A transformer layer with free batch and length, and a mask that is computed from the ids."""
    constants = {
        "table": numbers(seed, [50, WIDTH]),
        "split": np.array([0, 0, HEADS, WIDTH // HEADS]),
        "join": np.array([0, 0, WIDTH]),
        "g": np.ones(WIDTH, np.float32),
        "zero": np.array(0),
        "low": np.array(-1e4, np.float32),
        "ax": np.array([1, 2]),
    }
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"])]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        constants[f"w{name}"] = numbers(seed + ord(name), [WIDTH, WIDTH]) / np.float32(WIDTH**0.5)
        nodes += [
            helper.make_node("MatMul", ["x", f"w{name}"], [f"{name}1"]),
            helper.make_node("Reshape", [f"{name}1", "split"], [f"{name}2"]),
            helper.make_node("Transpose", [f"{name}2"], [name], perm=perm),
        ]
    nodes += [
        helper.make_node("Equal", ["ids", "zero"], ["padding"]),
        helper.make_node("Cast", ["padding"], ["padding1"], to=1),
        helper.make_node("Mul", ["padding1", "low"], ["bias"]),
        helper.make_node("Unsqueeze", ["bias", "ax"], ["mask"]),
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"]),
        helper.make_node("MatMul", ["p", "v"], ["o"]),
        helper.make_node("Transpose", ["o"], ["o1"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["o1", "join"], ["o2"]),
        helper.make_node("Add", ["o2", "x"], ["r"]),
        helper.make_node("LayerNormalization", ["r", "g", "g"], ["n"]),
        helper.make_node("Gelu", ["n"], ["y"]),
        helper.make_node("ReduceMean", ["y", "one"], ["mean"], keepdims=0),
    ]
    constants["one"] = np.array([1])
    return build(nodes, {"ids": np.zeros((1, 1), np.int64)}, ["y", "mean"], constants, {"ids": ["batch", "length"]})


def network(seed: int) -> onnx.ModelProto:
    """A small convolutional network with free batch, height and width."""
    constants = {
        "w0": numbers(seed, [20, 3, 3, 3]),
        "w1": numbers(seed + 1, [20, 1, 3, 3]),
        "w2": numbers(seed + 2, [7, 20, 1, 1]),
        "s": np.array([1, 1, 2, 2], np.float32),
        "l": numbers(seed + 3, [7, 5]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], group=20, pads=[1] * 4),
        helper.make_node("Add", ["c1", "r0"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["m"], kernel_shape=[2, 2], strides=[1, 1]),
        helper.make_node("Conv", ["m", "w2"], ["c2"]),
        helper.make_node("Resize", ["c2", "", "s"], ["u"], mode="nearest"),
        helper.make_node("GlobalAveragePool", ["u"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "l"], ["y"]),
    ]
    return build(nodes, {"x": np.zeros((1, 3, 9, 9), np.float32)}, ["y", "u"], constants, {"x": ["n", 3, "h", "w"]})


def token_ids(seed: int, batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50, (batch, length))


@sweep(6)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40)), min_size=2, max_size=6), st.integers(0, 99))
def test_one_engine_runs_any_batch_and_length(sizes: list[tuple[int, int]], seed: int) -> None:
    model = encoder(seed)
    compiled = engine(model)
    for batch, length in [*sizes, *sizes]:
        ids = token_ids(seed, batch, length)
        assert_close(compiled.run([ids]), run_graph(import_model(model).graph, {"ids": ids}), 5e-5, "the reference")


@sweep(6)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(4, 30), st.integers(4, 30)), min_size=2, max_size=5),
    st.integers(0, 99),
)
def test_one_engine_runs_any_image(sizes: list[tuple[int, int, int]], seed: int) -> None:
    model = network(seed)
    compiled = engine(model)
    for batch, height, width in [*sizes, *sizes]:
        x = numbers(seed, [batch, 3, height, width])
        assert_close(compiled.run([x]), run_graph(import_model(model).graph, {"x": x}), 5e-5, "the reference")


@sweep(8)
@given(st.integers(2, 19), st.integers(1, 40), st.integers(0, 99))
def test_texts_do_not_feel_their_batch_mates(batch: int, length: int, seed: int) -> None:
    compiled = engine(encoder(seed))
    ids = token_ids(seed, batch, length)
    together = compiled.run([ids])
    for n in (0, batch - 1):
        assert_same(
            compiled.run([ids[n : n + 1]]), [t[n : n + 1] for t in together], f"text {n} of {batch}, seed {seed}"
        )


@sweep(8)
@given(st.integers(2, 19), st.integers(4, 40), st.integers(0, 99))
def test_images_do_not_feel_their_batch_mates(batch: int, size: int, seed: int) -> None:
    compiled = engine(network(seed))
    x = numbers(seed, [batch, 3, size, size + 3])
    together = compiled.run([x])
    for n in (0, batch - 1):
        assert_same(
            compiled.run([x[n : n + 1]]), [t[n : n + 1] for t in together], f"image {n} of {batch}, seed {seed}"
        )


@pytest.mark.parametrize("made", [encoder, network])
def test_threads_change_no_bit(made: object) -> None:
    model = made(5)  # type: ignore[operator]
    for batch in (1, 3, 16):
        x = token_ids(1, batch, 21) if made is encoder else numbers(1, [batch, 3, 21, 17])
        assert_same(engine(model, 2).run([x]), engine(model, 1).run([x]), f"batch {batch}")


@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (0, 0)])
def test_no_tokens(shape: tuple[int, int]) -> None:
    ids = np.zeros(shape, np.int64)
    y, mean = engine(encoder(3)).run([ids])
    assert y.shape == (*shape, WIDTH)
    assert mean.shape == (shape[0], WIDTH)


def test_no_images() -> None:
    y, u = engine(network(3)).run([np.zeros((0, 3, 9, 9), np.float32)])
    assert y.shape == (0, 5)
    assert u.shape[:2] == (0, 7)


def test_a_value_may_leave_twice_and_inputs_may_leave() -> None:
    feeds = {"x": numbers(0, [3, 4]), "z": numbers(1, [3, 4])}
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Identity", ["z"], ["c"]),
        helper.make_node("Reshape", ["a", "flat"], ["d"]),
        helper.make_node("Identity", ["k"], ["e"]),
    ]
    constants = {"flat": np.array([-1]), "k": numbers(2, [5])}
    check(build(nodes, feeds, ["a", "b", "c", "d", "e"], constants), feeds)


@pytest.mark.parametrize("op", ["Add", "MatMul", "Concat"])
def test_sizes_that_do_not_fit_together_are_refused(op: str) -> None:
    feeds = {"x": np.zeros((3, 3), np.float32), "z": np.zeros((3, 3), np.float32)}
    attributes = {"axis": 1} if op == "Concat" else {}
    node = helper.make_node(op, ["x", "z"], ["y"], **attributes)
    compiled = engine(build([node], feeds, ["y"], symbols={"x": ["a", "b"], "z": ["c", "d"]}))
    compiled.run(list(feeds.values()))
    with pytest.raises(SkipjackError):
        compiled.run([feeds["x"], np.zeros((2, 3), np.float32)])
    compiled.run(list(feeds.values()))
