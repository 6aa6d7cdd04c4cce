"""Real models through the engine: recorded outputs, streams step by step, and the accuracy they are known for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skipjack import Engine, compile_model
from tests.models.assets import MODELS, cifar10, goldens, mnist, model_of, needs_assets, speech

pytestmark = needs_assets
STRICT, LOOSE = 1e-4, 2e-2
SPEECH_MODELS = ("silero_vad", "silero_vad_16k_op15")
LLAMA_HEADS, LLAMA_HEAD_SIZE = 4, 8


def load(path: Path) -> Engine:
    return compile_model(path, batch_size=None, num_cores=1)


def assert_close(got: np.ndarray, wanted: np.ndarray, tolerance: float, name: str) -> None:
    """Within tolerance of the largest expected value."""
    assert got.shape == wanted.shape, name
    limit = tolerance * max(float(np.abs(wanted.astype(np.float64)).max(initial=0)), 1e-6)
    np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("golden", goldens(), ids=lambda p: p.stem)
def test_recorded_outputs_come_out(golden: Path) -> None:
    engine = load(model_of(golden))
    with np.load(golden) as data:
        inputs = [data[f"in:{name}"] for name in engine.input_names]
        expected = {name: data[f"out:{name}"] for name in engine.output_names if f"out:{name}" in data}
    assert expected, f"{golden.name} holds no outputs"
    for _ in range(2):
        outputs = engine.mapped_run(inputs)
        for name, wanted in expected.items():
            loose = wanted.dtype == np.float16 or "random" in golden.name
            assert_close(outputs[name], wanted, LOOSE if loose else STRICT, name)


def speech_probabilities(engine: Engine) -> np.ndarray:
    """The voice probability of every 512 samples; a step sees the last 64 samples of the one before and its state."""
    sound = speech()
    state, context, rate = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), np.array(16000, np.int64)
    found: list[float] = []
    for start in range(0, len(sound) - 511, 512):
        chunk = np.concatenate([context, sound[start : start + 512]])
        probability, state = engine.run([chunk[None], state, rate])
        context = chunk[-64:]
        found.append(float(probability[0, 0]))
    return np.array(found, np.float32)


@pytest.mark.parametrize("name", SPEECH_MODELS)
def test_a_stream_of_speech_gives_the_recorded_probabilities(name: str) -> None:
    found = speech_probabilities(load(MODELS / "silero_vad" / f"{name}.onnx"))
    with np.load(MODELS / "silero_vad" / f"{name}.golden_stream.npz") as data:
        wanted = data["prob"]
    assert_close(found, wanted, STRICT, name)
    assert len(found) == 1875
    assert np.mean(found > 0.5) == pytest.approx(0.7744, abs=0.003)


def empty_cache(engine: Engine) -> list[np.ndarray]:
    """Keys and values of no positions."""
    return [np.zeros((1, LLAMA_HEADS, 0, LLAMA_HEAD_SIZE), np.float32) for _ in engine.input_names[3:]]


def llama_step(engine: Engine, ids: np.ndarray, cache: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """(logits, the longer cache) of some more tokens."""
    past, new = cache[0].shape[2], ids.shape[1]
    mask, positions = np.ones((1, past + new), np.int64), np.arange(past, past + new)[None]
    feeds = dict(zip(engine.input_names, [ids, mask, positions, *cache], strict=True))
    logits, *grown = engine.run(feeds)
    return logits, grown


def llama() -> Engine:
    return load(MODELS / "llama_stories260k" / "onnx" / "model.onnx")


def test_a_language_model_continues_as_recorded() -> None:
    engine = llama()
    with np.load(MODELS / "llama_stories260k" / "golden_logits.npz") as data:
        prompt, wanted = data["greedy_prompt"], data["greedy_tokens"]
    tokens = prompt.tolist()
    logits, cache = llama_step(engine, prompt[None], empty_cache(engine))
    while len(tokens) < len(wanted):
        tokens.append(int(logits[0, -1].argmax()))
        logits, cache = llama_step(engine, np.array([tokens[-1:]]), cache)
    assert tokens == wanted.tolist()


def test_a_language_model_predicts_its_text() -> None:
    engine = llama()
    with np.load(MODELS / "llama_stories260k" / "golden_logits.npz") as data:
        ids, wanted = data["in:input_ids"], data["out:logits"]
    logits, _ = llama_step(engine, ids, empty_cache(engine))
    assert_close(logits, wanted, STRICT, "logits")
    shifted = logits[0].astype(np.float64) - logits.max()
    chances = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    assert -chances[np.arange(ids.shape[1] - 1), ids[0, 1:]].mean() == pytest.approx(0.324, abs=0.001)


def test_digits_are_recognised() -> None:
    images, labels = mnist()
    engine = load(MODELS / "mnist_cnn" / "mnist.onnx")
    found = [int(engine.run([image[None].astype(np.float32)])[0].argmax()) for image in images]
    assert np.mean(np.array(found) == labels) == pytest.approx(0.9891, abs=0.003)


def test_small_images_are_recognised_the_same_in_every_batch() -> None:
    images, labels = cifar10()
    engine = load(MODELS / "cifar_resnet20" / "resnet20.onnx")
    logits = np.concatenate([engine.run([images[i : i + 96]])[0] for i in range(0, len(images), 96)])
    assert np.mean(logits.argmax(axis=1) == labels) == pytest.approx(0.8045, abs=0.003)
    for i in (0, 95, 96, 1999):
        np.testing.assert_array_equal(engine.run([images[i : i + 1]])[0][0], logits[i])


def test_irises_are_recognised() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn brings the iris data")
    flowers = datasets.load_iris()
    engine = load(MODELS / "iris_mlp" / "Network.onnx")
    found = engine.run([flowers.data.astype(np.float32)])[0].argmax(axis=1)
    assert int((found == flowers.target).sum()) == 147
