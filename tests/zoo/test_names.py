"""The grammar of model names."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipjack.core.errors import ConfigError
from skipjack.zoo.names import HubName, StubName, inside, parse_name

OLD = "zoo:nlp/sentiment_analysis/obert-base/pytorch/huggingface/sst2/pruned90_quant-none"
NEW = "zoo:llama2-7b-llama2_chat_llama2_pretrain-pruned50_quantized"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:owner/name", HubName("owner/name")),
        ("hf:owner/name@v1.0", HubName("owner/name", "v1.0")),
        ("hf:owner/na.me-2@refs/pr/3:onnx/model.onnx", HubName("owner/na.me-2", "refs/pr/3", "onnx/model.onnx")),
        ("hf:owner/name:model.onnx", HubName("owner/name", None, "model.onnx")),
        ("models/a.onnx", Path("models/a.onnx")),
        (Path("hf:odd"), Path("hf:odd")),
    ],
)
def test_names(text: str, expected: object) -> None:
    assert parse_name(text) == expected


def test_both_forms_of_stubs() -> None:
    old, new = parse_name(OLD + "?recipe=original"), parse_name(NEW)
    assert isinstance(old, StubName)
    assert isinstance(new, StubName)
    assert old.is_old
    assert old.described["dataset"] == "sst2"
    assert old.described["sparse_tag"] == "pruned90_quant-none"
    assert old.options == (("recipe", "original"),)
    assert str(old) == OLD
    assert not new.is_old
    assert new.described == {"architecture": "llama2", "sparse_tag": "pruned50_quantized"}


@pytest.mark.parametrize(
    "text",
    ["hf:name", "hf:owner/name@", "hf:owner/name:", "hf:owner/name:../x", "hf:owner/name:/etc/passwd", "hf:a/b/c",
     "zoo:", "zoo:a/b", "zoo:a-b", "zoo:a/b/c/d/e/../g", "zoo:a b-c-d", "zoo:a-b-c-d-e-f"],
)  # fmt: skip
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected|must be"):
        parse_name(text)


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b", "a//b", "./a", "a\\b", "a\0b", ""])
def test_paths_that_leave(path: str) -> None:
    assert not inside(path)
