"""What a call may pass: every refusal says which input, what was expected and what came."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import skipjack
from skipjack.core.errors import ConfigError, InputError, ModelError
from skipjack.session.inputs import parse_shapes
from tests.session.models import dense, embedding, model

F = np.float32


@pytest.fixture(scope="module")
def engine() -> Any:
    return skipjack.compile_model(dense(), batch_size=None)


@pytest.fixture(scope="module")
def text_engine() -> Any:
    return skipjack.compile_model(embedding(), batch_size=None)


IDS, MASK = np.zeros((2, 3), np.int64), np.ones((2, 3), np.int64)

REFUSED = [
    ([], "expected 1 arrays .*'x'.*, got 0"),
    ([np.zeros((1, 8), F)] * 2, "expected 1 arrays .*, got 2"),
    (np.zeros((1, 8), F), "expected a list of 1 arrays .*, got ndarray"),
    (None, "got NoneType"),
    ({"X": np.zeros((1, 8), F)}, r"expected \['x'\], got \['X'\]"),
    ({}, r"expected \['x'\], got \[\]"),
    ([[1.0] * 8], "'x': expected a numpy array, got list; use numpy.asarray"),
    ([np.zeros((1, 8))], "'x': expected element type float32, got float64; use .astype"),
    ([np.zeros((1, 8), np.int64)], "expected element type float32, got int64"),
    ([np.zeros((1, 8), ">f4")], "expected element type float32, got >f4"),
    ([np.zeros(8, F)], r"expected 2 dimensions .*, got shape \[8\]"),
    ([np.zeros((1, 1, 8), F)], "expected 2 dimensions"),
    ([np.zeros((1, 9), F)], "expected size 8 in dimension 1, got 9"),
    ([np.zeros((8, 2), F).T], "expected a C-contiguous array; use numpy.ascontiguousarray"),
    ([np.zeros((4, 16), F)[:, ::2]], "C-contiguous"),
]


@pytest.mark.parametrize("given, message", REFUSED)
def test_refusals(engine: Any, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine.run(given)
    engine.run([np.zeros((1, 8), F)])
    with pytest.raises(ValueError, match=message):
        engine.run(given)


@pytest.mark.parametrize("value", [-51, 50, 1 << 40, -(1 << 62)])
def test_indices_outside_their_table(text_engine: Any, value: int) -> None:
    ids = IDS.copy()
    text_engine.run([ids, MASK])
    ids[1, 2] = value
    with pytest.raises(InputError, match="'input_ids': expected indices below 50"):
        text_engine.run([ids, MASK])
    text_engine.run([np.full((2, 3), -50), MASK])


def test_sizes_of_inputs_must_agree(text_engine: Any) -> None:
    with pytest.raises(InputError, match=r"'attention_mask': dimension 1 \(seq\) is 4, but seq is 3 in another input"):
        text_engine.run([IDS, np.ones((2, 4), np.int64)])


def test_inputs_by_name(text_engine: Any) -> None:
    by_name = text_engine.run({"attention_mask": MASK, "input_ids": IDS})
    np.testing.assert_array_equal(by_name[0], text_engine.run((IDS, MASK))[0])
    with pytest.raises(InputError, match=r"got \['input_id', 'attention_mask'\]; did you mean 'input_ids'"):
        text_engine.run({"input_id": IDS, "attention_mask": MASK})


def test_read_only_and_subclassed_arrays(engine: Any) -> None:
    x = np.arange(16, dtype=F).reshape(2, 8)
    expected = engine.run([x])[0]
    x.flags.writeable = False
    np.testing.assert_array_equal(engine.run([x])[0], expected)

    class Named(np.ndarray):
        pass

    np.testing.assert_array_equal(engine.run([x.view(Named)])[0], expected)


def test_zero_items(engine: Any) -> None:
    assert engine.run([np.zeros((0, 8), F)])[0].shape == (0, 16)


@pytest.mark.parametrize(
    "shapes, parsed",
    [
        (None, {}),
        ([], {}),
        ({}, {}),
        ([[2, 8]], {"x": [2, 8]}),
        ([2, 8], {"x": [2, 8]}),
        ((2, np.int64(8)), {"x": [2, 8]}),
        ({"x": (2, 8)}, {"x": [2, 8]}),
        ([None], {}),
        ([[]], {}),
        (np.array([[2, 8]]), {"x": [2, 8]}),
    ],
)
def test_forms_of_shapes(shapes: Any, parsed: dict[str, list[int]]) -> None:
    assert parse_shapes(["x"], shapes) == parsed


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([[1, 8], [1, 8]], "expected 1 shapes for .*, got 2"),
        ([["a", 8]], "expected sizes that are integers"),
        ([[-1, 8]], "expected sizes that are integers and not negative"),
        ([[1.5, 8]], "expected sizes that are integers"),
        ("[1,8]", "expected a list of shapes"),
        (7, "expected a list of shapes"),
        ({"x": 8}, "expected sizes"),
        ({"y": [1, 8]}, "no input 'y'"),
        ([[1, 8, 1]], "expected a shape of 2 sizes"),
    ],
)
def test_shapes_that_are_refused(shapes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        skipjack.compile_model(dense(), batch_size=None, input_shapes=shapes)


def test_shapes_are_checked_against_the_graph() -> None:
    with pytest.raises(ModelError, match="MatMul"):
        skipjack.compile_model(dense(), batch_size=None, input_shapes=[[2, 9]])
    made = skipjack.compile_model(embedding(), batch_size=None, input_shapes=[[2, 7], [2, 7]])
    assert made.input_shapes == [(2, 7), (2, 7)]
    assert made.output_shapes == [(2, 7, 4)]
    with pytest.raises((ConfigError, ModelError), match="seq"):
        skipjack.compile_model(embedding(), batch_size=None, input_shapes=[[2, 7], [2, 8]])


@pytest.mark.parametrize("batch_size, rows", [(None, 3), (4, 4), (1, 1)])
def test_the_batch_size_is_applied_after_the_shapes(batch_size: int | None, rows: int) -> None:
    made = skipjack.compile_model(dense(), batch_size=batch_size, input_shapes=[[3, 8]])
    assert made.input_shapes == [(rows, 8)]


def test_random_inputs_are_accepted(text_engine: Any, engine: Any) -> None:
    for made, seed in itertools.product((text_engine, engine), range(3)):
        made.run(made.generate_random_inputs(seed))
    ids, mask = text_engine.generate_random_inputs(0)
    assert ids.dtype == mask.dtype == np.int64
    assert ids.shape == mask.shape
    assert ids.min() >= 0
    assert ids.max() < 50
    assert set(np.unique(mask)) <= {0, 1}
    assert len(np.unique(ids)) > 20
    np.testing.assert_array_equal(ids, text_engine.generate_random_inputs(0)[0])
    assert not np.array_equal(ids, text_engine.generate_random_inputs(1)[0])


def test_free_sizes_get_usual_values() -> None:
    shapes = {"image": "n,3,h,w", "text": "n,s", "state": "2,m,64", "cache": "n,4,p,32", "attention_mask": "n,s"}
    inputs = ", ".join(f"float[{shape}] {name}" for name, shape in shapes.items())
    outputs = ", ".join(f"float[{shape}] {name}_out" for name, shape in shapes.items())
    nodes = " ".join(f"{name}_out = Relu({name})" for name in shapes)
    made = skipjack.compile_model(model(f"({inputs}) => ({outputs}) {{ {nodes} }}"), batch_size=None)
    arrays = dict(zip(shapes, made.generate_random_inputs(0), strict=True))
    sizes = {name: a.shape for name, a in arrays.items()}
    assert sizes["image"] == (1, 3, 224, 224)
    assert sizes["text"] == sizes["attention_mask"] == (1, 128)
    assert sizes["state"] == (2, 1, 64)
    assert sizes["cache"] == (1, 4, 128, 32)
    assert set(np.unique(arrays["attention_mask"])) <= {0.0, 1.0}
    assert all(np.array_equal(np.maximum(a, 0), b) for a, b in zip(arrays.values(), made.run(list(arrays.values()))))


def test_random_inputs_of_decoders_and_recordings_fit_together() -> None:
    inputs = "int64[n,s] position_ids, float[n,4,past_len,8] past, int64[n,past_len___s] attention_mask"
    nodes = "a = Identity(position_ids) b = Identity(past) c = Identity(attention_mask)"
    made = skipjack.compile_model(
        model(f"({inputs}) => (int64[n,s] a, float[n,4,past_len,8] b, int64[n,past_len___s] c) {{ {nodes} }}")
    )
    positions, past, mask = made.generate_random_inputs(0)
    np.testing.assert_array_equal(positions, np.arange(128)[None])
    assert (past.shape, mask.shape) == ((1, 4, 0, 8), (1, 128))
    voice = model(
        "(float[n,m] sound, float[2,k,4] state, int64 sr) => (float[n,m] a, float[2,k,4] b, int64 c)"
        " { a = Identity(sound) b = Identity(state) c = Identity(sr) }"
    )
    made = skipjack.compile_model(voice, batch_size=1)
    sound, state, rate = made.generate_random_inputs(0)
    assert (sound.shape, state.shape, int(rate)) == ((1, 512), (2, 1, 4), 16000)


def test_random_inputs_of_every_type() -> None:
    types = ["float", "double", "float16", "bool", "uint8", "int8", "int32", "int64", "uint16"]
    inputs = ", ".join(f"{t}[2,3] a{i}" for i, t in enumerate(types))
    outputs = ", ".join(f"{t}[2,3] b{i}" for i, t in enumerate(types))
    nodes = " ".join(f"b{i} = Identity(a{i})" for i in range(len(types)))
    made = skipjack.compile_model(model(f"({inputs}) => ({outputs}) {{ {nodes} }}"), batch_size=None)
    arrays = made.generate_random_inputs(0)
    assert [str(a.dtype) for a in arrays] == [{"float": "float32", "double": "float64"}.get(t, t) for t in types]
    for given, got in zip(arrays, made.run(arrays), strict=True):
        np.testing.assert_array_equal(given, got)
