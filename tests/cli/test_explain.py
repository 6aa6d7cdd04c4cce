"""`skipjack explain`: every node once, steps, shares that add up, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from skipjack.cli.demo import FOLDER
from skipjack.targets.target import runnable
from tests.cli.conftest import Invoke

DIGITS = FOLDER / "digits.onnx"


def test_every_node_says_how_it_runs(skipjack: Invoke) -> None:
    report = json.loads(skipjack("explain", DIGITS, "--json", "--cores", 1).stdout)
    assert (report["segments"], report["host_steps"], report["threads"]) == (1, 0, 1)
    assert {n["origin"] for n in report["nodes"]} >= {"Conv", "Gemm", "Softmax"}
    for node in report["nodes"]:
        assert node["kernel"], node
        assert node["reason"], node
        assert node["shape"], node
    convolutions = [n for n in report["nodes"] if n["origin"] == "Conv"]
    assert all(n["encoding"] == "dense" and n["predicted_us"] > 0 and n["runner_up"] for n in convolutions)
    assert sum(report["kernels"].values()) > 0
    assert report["packed_bytes"] > 0
    assert report["arena_bytes"] > 0


def test_a_weight_says_where_it_is_zero_and_what_it_takes(skipjack: Invoke, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    w = np.where(rng.random((64, 96)) < 0.2, rng.standard_normal((64, 96)), -0.0).astype(np.float32)
    w[:, 7] = w[:, 3]
    model = parse_model(
        '<ir_version: 10, opset_import: ["": 23]> g (float[1,64] x) => (float[1,96] y) { y = MatMul(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    path = tmp_path / "sparse.onnx"
    path.write_bytes(model.SerializeToString())
    report = json.loads(skipjack("explain", path, "--json", "--no-time").stdout)
    weight = next(n["weight"] for n in report["nodes"] if n["weight"])
    assert (weight["dtype"], weight["shape"], weight["pattern"]) == ("fp32", [96, 1, 64], "unstructured")
    assert weight["sparsity"] == np.mean(w == 0)
    assert (weight["duplicate_rows"], weight["bytes"]) == (1, w.nbytes)
    assert weight["packed_bytes"] > 0
    assert report["rates"]
    assert "fp32 unstructured" in skipjack("explain", path, "--no-time").stdout


def test_the_instruction_set_is_named(skipjack: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    target = runnable()[0].name
    monkeypatch.setenv("SKIPJACK_ISA", target)
    report = json.loads(skipjack("explain", DIGITS, "--json", "--no-time").stdout)
    assert (report["target"], report["target_limit"]) == (target, target)
    assert f"planned  for {target} (SKIPJACK_ISA)" in skipjack("explain", DIGITS, "--no-time").stdout


def test_times_of_nodes_add_up_to_those_of_their_segment(skipjack: Invoke) -> None:
    report = json.loads(skipjack("explain", DIGITS, "--json", "--cores", 2).stdout)
    segment = sum(s["measured_us"] for s in report["steps"])
    assert abs(sum(n["measured_us"] for n in report["nodes"]) - segment) <= 1e-6 * segment + 1e-6
    assert abs(sum(n["share"] for n in report["nodes"]) - 1) < 1e-6
    assert report["total_us"] > 0
    assert report["kernel_share"] == 1


def test_the_table_has_a_line_per_node_and_a_summary(skipjack: Invoke) -> None:
    text = skipjack("explain", DIGITS).stdout
    assert "conv_0" in text
    assert "1 segment(s)" in text
    assert "best of" in text


def test_a_host_step_is_named_and_separates_segments(skipjack: Invoke, sorted_unique: Path) -> None:
    report = json.loads(skipjack("explain", sorted_unique, "--json", "--no-time").stdout)
    assert [s["kind"] for s in report["steps"]] == ["segment", "host"]
    first, second = report["nodes"]
    assert (first["name"], first["shape"]) == ("first", [1, 6])
    assert (second["name"], second["kernel"]) == ("second", "host")
    assert second["reason"]


def test_without_times_there_are_none(skipjack: Invoke, sorted_unique: Path) -> None:
    report = json.loads(skipjack("explain", sorted_unique, "--json", "--no-time").stdout)
    assert report["total_us"] is None
    assert {n["measured_us"] for n in report["nodes"]} == {None}
    assert "time " not in skipjack("explain", sorted_unique, "--no-time").stdout.split("memory")[0].splitlines()[-1]


def test_sizes_can_be_given(skipjack: Invoke, sorted_unique: Path) -> None:
    report = json.loads(skipjack("explain", sorted_unique, "--json", "--no-time", "--batch-size", 5).stdout)
    assert report["nodes"][0]["shape"] == [5, 6]
    shaped = skipjack("explain", sorted_unique, "--json", "--no-time", "--batch-size", 0, "--input-shapes", "[3,6]")
    assert json.loads(shaped.stdout)["nodes"][0]["shape"] == [3, 6]


def test_a_segment_that_runs_in_parts_is_one_step(skipjack: Invoke) -> None:
    report = json.loads(skipjack("explain", DIGITS, "--json", "--no-time", "--batch-size", 4096).stdout)
    assert max(s["calls"] for s in report["steps"]) > 1
    assert {n["shape"][0] for n in report["nodes"]} == {4096}
    assert len({s["first"] for s in report["steps"]}) == len(report["steps"])


def test_shapes_that_cannot_be_read_are_refused(skipjack: Invoke, sorted_unique: Path) -> None:
    result = skipjack("explain", sorted_unique, "--input-shapes", "[3,six]")
    assert result.exit_code == 2
    assert "expected shapes such as [1,128],[1,128]" in result.stderr


def test_shapes_that_do_not_fit_are_refused(skipjack: Invoke, sorted_unique: Path) -> None:
    result = skipjack("explain", sorted_unique, "--input-shapes", "[3,6,1]")
    assert result.exit_code == 1
    assert result.stderr.startswith("skipjack: ")
