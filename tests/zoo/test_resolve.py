"""From names to files: the hub, stubs through every mapping, the mirror; offline, interrupted and damaged."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from onnx import TensorProto, helper

import skipjack
from skipjack.cli.main import cli
from skipjack.core.errors import ConfigError, ModelError, ResourceError
from skipjack.zoo import mapping, mirror
from skipjack.zoo.layout import find_model
from skipjack.zoo.names import StubName, parse_name
from skipjack.zoo.resolve import resolve

from .servers import COMMIT, hub_pages, mirror_pages, serve

STUB = "zoo:cv/classification/resnet_v1-50/pytorch/sparseml/imagenet/pruned95_quant-none"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(mapping, "user_file", lambda: tmp_path / "config" / "zoo.yaml")
    (tmp_path / "cache").mkdir()
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def _model() -> bytes:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def _stub(text: str = STUB) -> StubName:
    name = parse_name(text)
    assert isinstance(name, StubName)
    return name


def _at_hub(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_ENDPOINT", address)
    api = importlib.import_module("huggingface_hub.hf_api")
    monkeypatch.setattr(api.api, "endpoint", address)


def test_directories_and_files(tmp_path: Path) -> None:
    (tmp_path / "deployment").mkdir()
    with pytest.raises(ModelError, match=r"expected model.onnx .* found"):
        find_model(tmp_path)
    (tmp_path / "deployment" / "model.onnx").write_bytes(_model())
    assert resolve(tmp_path).model == tmp_path / "deployment" / "model.onnx"
    (tmp_path / "other").mkdir()
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / "other" / name).write_bytes(_model())
    with pytest.raises(ModelError, match=r"several models \(a.onnx, b.onnx\)"):
        resolve(tmp_path / "other")
    with pytest.raises(ModelError, match="no such file"):
        resolve(tmp_path / "nowhere")


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"onnx/model.onnx": _model(), "config.json": b"{}", "pytorch_model.bin": b"pickle", "README.md": b"hello"}
    with serve(hub_pages("owner/name", files)) as hub:
        _at_hub(monkeypatch, hub.address)
        found = resolve("hf:owner/name")
        assert found.model.read_bytes() == files["onnx/model.onnx"]
        assert COMMIT[:12] in found.via
        assert not any("pytorch_model.bin" in line and "GET" in line for line in hub.asked), "a pickle was fetched"
        assert np.array_equal(skipjack.compile_model("hf:owner/name").run([-np.ones((1, 4), np.float32)])[0], [[0] * 4])
        with pytest.raises(ModelError, match="no such repository"):
            resolve("hf:nobody/nothing")
        with pytest.raises(ModelError, match=r"no file 'other\.onnx'"):
            resolve("hf:owner/name:other.onnx")
    monkeypatch.setenv("SKIPJACK_OFFLINE", "1")
    assert resolve("hf:owner/name").model.is_file()
    with pytest.raises(ModelError, match="skipjack zoo pull hf:owner/absent"):
        resolve("hf:owner/absent")


def test_stubs_lead_through_mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = STUB.removeprefix("zoo:")
    with pytest.raises(ModelError, match=r"switched off.*Tried.*known mirrors.*no mirror.*skipjack zoo add"):
        resolve(STUB)
    shelf, files = tmp_path / "shelf", tmp_path / "files"
    for folder in (shelf / key / "deployment", files):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(_model())
    monkeypatch.setenv("SKIPJACK_ZOO", f"{tmp_path / 'none'}:{shelf}")
    assert resolve(STUB).model == shelf / key / "deployment" / "model.onnx"
    table = tmp_path / "table.yaml"
    table.write_text(yaml.safe_dump({"cv/classification/*": "files"}))
    monkeypatch.setenv("SKIPJACK_ZOO", str(table))
    assert resolve(STUB).model == files / "model.onnx"
    mapping.add(_stub(), str(shelf / key))
    assert resolve(STUB).model == shelf / key / "deployment" / "model.onnx"
    assert mapping.remove(_stub())
    assert not mapping.remove(_stub())


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1]\n", "a: b: c\n", "\xff\xfe"])
def test_damaged_mappings(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.yaml"
    table.write_bytes(text.encode("latin-1"))
    monkeypatch.setenv("SKIPJACK_ZOO", str(table))
    with pytest.raises(ConfigError, match=r"table\.yaml"):
        resolve(STUB)


def _mirrored(monkeypatch: pytest.MonkeyPatch, server: Any) -> StubName:
    monkeypatch.setenv("SKIPJACK_ZOO_ENDPOINT", server.address)
    return _stub()


def test_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"deployment/model.onnx": _model(), "deployment/config.json": b"{}"}
    with serve(mirror_pages(STUB.removeprefix("zoo:"), files)) as server:
        _mirrored(monkeypatch, server)
        seen: list[tuple[str, int, int]] = []
        found = resolve(STUB, watch=lambda *what: seen.append(what))
        assert found.model.read_bytes() == files["deployment/model.onnx"]
        assert ("deployment/model.onnx", len(_model()), len(_model())) in seen
        server.asked.clear()
        resolve(STUB)
        assert [line for line in server.asked if "model.onnx" in line] == [], "fetched although it was there"
        with pytest.raises(ModelError, match="not on the mirror"):
            resolve(STUB.replace("pruned95", "pruned99"))
    assert resolve(STUB).model.is_file(), "a mirror that is away hides what was fetched"


def test_an_interrupted_fetch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    body = _model() + b"\0" * 0
    big = bytes(range(256)) * 4096
    with serve(mirror_pages(STUB.removeprefix("zoo:"), {"model.onnx": body, "model.data": big})) as server:
        stub = _mirrored(monkeypatch, server)
        server.cut = len(big) // 2
        with pytest.raises((ResourceError, ModelError)):
            mirror.fetch(stub)
        server.cut = 0
        part = mirror.store() / stub.key / "model.data.part"
        if not part.exists():
            part.write_bytes(big[:1000])
        mirror.fetch(stub)
        assert (mirror.store() / stub.key / "model.data").read_bytes() == big
        assert any("Range" in line or "bytes=" in line for line in server.asked), "it began anew"


@pytest.mark.parametrize(
    "damage",
    [
        {"path": "../escape", "size": 1, "sha256": "0" * 64},
        {"path": "model.onnx", "size": -1, "sha256": "0" * 64},
        {"path": "model.onnx", "size": 1, "sha256": "xyz"},
        {"path": "files.json", "size": 1, "sha256": "0" * 64},
        {"size": 1},
    ],
)
def test_hostile_mirrors(damage: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    key = STUB.removeprefix("zoo:")
    listing = json.dumps({"files": [damage]}).encode()
    with serve({f"/{key}/files.json": (listing, {}), f"/{key}/model.onnx": (b"x", {})}) as server:
        stub = _mirrored(monkeypatch, server)
        with pytest.raises(ModelError, match="mirror"):
            mirror.fetch(stub)


def test_a_wrong_hash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = mirror_pages(STUB.removeprefix("zoo:"), {"model.onnx": _model()})
    pages[f"/{STUB.removeprefix('zoo:')}/model.onnx"] = (b"\0" * len(_model()), {})
    with serve(pages) as server:
        stub = _mirrored(monkeypatch, server)
        with pytest.raises(ModelError, match="SHA-256"):
            mirror.fetch(stub)
        assert not (mirror.store() / stub.key / "model.onnx").exists()


def test_commands(tmp_path: Path) -> None:
    run = CliRunner()
    (tmp_path / "model.onnx").write_bytes(_model())
    added = run.invoke(cli, ["zoo", "add", STUB, str(tmp_path)])
    assert added.exit_code == 0, added.output
    shown = json.loads(run.invoke(cli, ["zoo", "show", STUB, "--json"]).output)
    assert shown["leads_to"] == str(tmp_path)
    listed = json.loads(run.invoke(cli, ["zoo", "list", "--json"]).output)
    assert {"stub": STUB, "leads_to": str(tmp_path), "source": str(mapping.user_file())} in listed["names"]
    pulled = run.invoke(cli, ["zoo", "pull", STUB])
    assert pulled.exit_code == 0, pulled.output
    assert str(tmp_path / "model.onnx") in pulled.output
    assert run.invoke(cli, ["zoo", "remove", STUB]).exit_code == 0
    assert run.invoke(cli, ["zoo", "remove", STUB]).exit_code == 1
    assert run.invoke(cli, ["zoo", "add", STUB, "zoo:a-b-c"]).exit_code == 1
    assert run.invoke(cli, ["zoo", "add", STUB, str(tmp_path / "none")]).exit_code == 1


def test_the_model_object(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(_model())
    model = skipjack.Model(tmp_path)
    assert model.onnx_model == tmp_path / "model.onnx"
    assert model.path == str(tmp_path)
    assert model.download()
    assert skipjack.compile_model(model).input_names == ["x"]
