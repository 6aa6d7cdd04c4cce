"""`skipjack knobs`, `cache`, `doctor`, `check` and `demo`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from skipjack.cli import checkup
from skipjack.core.knobs import KNOBS
from tests.cli.conftest import Invoke, save


def test_knobs_lists_every_variable_with_its_value(skipjack: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_SPIN_US", "17")
    rows = {r["name"]: r for r in json.loads(skipjack("knobs", "--json").stdout)}
    assert set(rows) == {k.name for k in KNOBS}
    assert (rows["SKIPJACK_SPIN_US"]["value"], rows["SKIPJACK_SPIN_US"]["set"]) == ("17", "yes")
    assert all(k.about in skipjack("knobs").stdout for k in KNOBS)


def test_knobs_shows_a_value_that_is_not_accepted(skipjack: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_SPIN_US", "often")
    result = skipjack("knobs")
    assert result.exit_code == 0
    assert "often is not accepted" in result.stdout


@pytest.fixture
def filled_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPJACK_CACHE_DIR", str(tmp_path))
    folder = tmp_path / "kernels"
    folder.mkdir(mode=0o700)
    for name in "abc":
        (folder / name).write_bytes(bytes(100))
    return folder


def test_cache_shows_shrinks_and_clears(skipjack: Invoke, filled_cache: Path) -> None:
    assert json.loads(skipjack("cache", "--json").stdout)["files"] == 3
    assert "removed    1 kernels, 100 B" in skipjack("cache", "prune", "--limit", "250").stdout
    assert str(filled_cache) in skipjack("cache", "clear").stdout
    assert list(filled_cache.iterdir()) == []


def test_cache_refuses_a_limit_it_cannot_read(skipjack: Invoke, filled_cache: Path) -> None:
    assert "such as 64m or 2g, got 'much'" in skipjack("cache", "prune", "--limit", "much").stderr


def test_cache_says_that_it_is_off(skipjack: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_CACHE", "0")
    result = skipjack("cache")
    assert result.exit_code == 1
    assert "SKIPJACK_CACHE=0" in result.stderr


def test_doctor_finds_this_machine_fit(skipjack: Invoke) -> None:
    result = skipjack("doctor", "--json")
    found = {f["topic"]: f for f in json.loads(result.stdout)}
    assert result.exit_code == 0, result.stdout
    assert {*checkup.FACTS, *checkup.CHECKS, "versions", "required", "extras"} == set(found)
    assert found["compiler"]["status"] == found["engine"]["status"] == "ok"
    assert "LLVM" in found["versions"]["value"]


def test_doctor_fails_when_something_essential_does(skipjack: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_ISA", "mmx")
    result = skipjack("doctor")
    assert result.exit_code == 1
    assert "SKIPJACK_ISA='mmx': expected one of" in result.stdout


def test_doctor_notes_a_cache_that_is_off(skipjack: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_CACHE", "0")
    found = {f["topic"]: f for f in json.loads(skipjack("doctor", "--json").stdout)}
    assert found["kernel cache"]["status"] == "note"


def test_check_says_what_is_in_a_model(skipjack: Invoke, sorted_unique: Path) -> None:
    facts = json.loads(skipjack("check", sorted_unique, "--json").stdout)
    assert facts["producer"] == "tests"
    assert facts["opsets"] == {"ai.onnx": 21}
    assert facts["inputs"] == {"x": "f32[batch, 6]"}
    assert facts["operators"] == {"Relu": 1, "Unique": 1}
    assert "every operator is supported" in skipjack("check", sorted_unique).stdout


def test_check_lists_every_unsupported_node(skipjack: Invoke, tmp_path: Path) -> None:
    nodes = [helper.make_node(op, ["x"], [op], name=f"at_{op}", domain="some.where") for op in ("Foo", "Bar")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    outputs = [helper.make_tensor_value_info(op, TensorProto.FLOAT, [2]) for op in ("Foo", "Bar")]
    graph = helper.make_graph(nodes, "foreign", [x], outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("some.where", 1)]
    path = tmp_path / "foreign.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    result = skipjack("check", path)
    assert result.exit_code == 1
    assert "at_Foo" in result.stderr
    assert "at_Bar" in result.stderr


def test_check_reads_bodies_too(skipjack: Invoke, tmp_path: Path) -> None:
    def body(name: str, op: str) -> object:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2])
        return helper.make_graph([helper.make_node(op, ["x"], [f"{name}_out"])], name, [], [out])

    node = helper.make_node("If", ["c"], ["y"], then_branch=body("yes", "Abs"), else_branch=body("no", "Neg"))
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    path = save(helper.make_graph([node], "branches", [c, x], [y]), tmp_path / "branches.onnx")
    assert json.loads(skipjack("check", path, "--json").stdout)["operators"] == {"Abs": 1, "If": 1, "Neg": 1}


def test_demo_reads_the_digits(skipjack: Invoke) -> None:
    assert json.loads(skipjack("demo", "--json").stdout)["right"] == 354
    text = skipjack("demo", "--image", 7).stdout
    assert "this is a 7" in text
    assert "██" in text


def test_demo_refuses_an_image_that_is_not_there(skipjack: Invoke) -> None:
    assert "expected a number below 360" in skipjack("demo", "--image", 360).stderr
