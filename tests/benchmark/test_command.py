"""`skipjack benchmark` and its Python calls: labels, keys, tables, and a line for each mistake."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from skipjack import (
    benchmark_model,
    compile_model,
    multistream_benchmark,
    singlestream_benchmark,
)
from skipjack.benchmark.subject import read_subject
from skipjack.benchmark.sweep import COLUMNS, parse_grid
from skipjack.cli.demo import FOLDER
from skipjack.cli.main import cli
from skipjack.core.errors import ConfigError

DIGITS = FOLDER / "digits.onnx"
QUICK = ("--time", "0.2", "--warmup", "0", "--num-cores", "1", "--rounds", "2")
LABELS = (
    "Original Model Path: ",
    "Batch Size: 2",
    "Scenario: sync",
    "Throughput (items/sec): ",
    "Latency Mean (ms/batch): ",
    "Latency Median (ms/batch): ",
    "Latency Std (ms/batch): ",
    "Iterations: ",
)
KEYS = {
    "engine",
    "version",
    "orig_model_path",
    "model_path",
    "batch_size",
    "input_shapes",
    "num_cores",
    "scenario",
    "scheduler",
    "seconds_to_run",
    "num_streams",
    "benchmark_result",
    "fraction_of_supported_ops",
}
RESULT_KEYS = {"scenario", "items_per_sec", "seconds_ran", "iterations", "median", "mean", "std"}
PERCENTILE_KEYS = {"25.0%", "50.0%", "75.0%", "90.0%", "95.0%", "99.0%", "99.9%"}


def benchmark(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["benchmark", *map(str, arguments)], prog_name="skipjack")


def test_labels_keys_and_a_missing_peer(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    result = benchmark(DIGITS, *QUICK, "-b", 2, "--compare", "ort,torch", "--memory", "--slo", 50, "-x", path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(any(line.startswith(label) for line in lines) for label in LABELS)
    assert any(line.startswith("torch: ") for line in lines)
    assert "highest rate/s" in result.stdout
    assert "peak memory" in result.stdout
    found = json.loads(path.read_text())
    assert found.keys() >= KEYS
    assert found["benchmark_result"].keys() == RESULT_KEYS | PERCENTILE_KEYS
    assert found["scenario"] == "singlestream"
    assert found["fraction_of_supported_ops"] > 0
    assert [row["label"] for row in found["engines"]] == ["skipjack", "onnxruntime"]
    assert found["engines"][1]["speed_ratio"]["low"] <= found["engines"][1]["speed_ratio"]["value"]


def test_the_python_call_returns_the_same_keys(tmp_path: Path) -> None:
    quick = {"time": 0.2, "warmup_time": 0, "quiet": True}
    found = benchmark_model(DIGITS, scenario="async", export_path=tmp_path / "a.json", **quick)
    assert found.keys() >= KEYS
    assert found["scenario"] == found["benchmark_result"]["scenario"] == "multistream"
    assert json.loads((tmp_path / "a.json").read_text())["num_streams"] == found["num_streams"]
    with pytest.raises(ConfigError, match="keys and values"):
        benchmark_model(DIGITS, input_ids_length=4)


def test_streams_in_this_process() -> None:
    engine = compile_model(DIGITS, batch_size=2, num_cores=1)
    inputs = engine.generate_random_inputs(seed=0)
    for found in (singlestream_benchmark(engine, inputs, 0.05), multistream_benchmark(engine, inputs, 0.05, 2)):
        assert found.keys() == (RESULT_KEYS - {"scenario"}) | PERCENTILE_KEYS
        assert found["items_per_sec"] == pytest.approx(2 * found["iterations"] / found["seconds_ran"])
    with pytest.raises(ConfigError, match="num_streams"):
        multistream_benchmark(engine, inputs, 0.05, 0)


def test_a_report_with_a_profile(tmp_path: Path) -> None:
    result = benchmark(DIGITS, *QUICK, "--profile", "--html", tmp_path / "r.html", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert "roofline" in result.stdout
    assert json.loads((tmp_path / "r.json").read_text())["profile"]["nodes"]
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_poisson_arrivals_end_to_end() -> None:
    result = benchmark(DIGITS, *QUICK, "-s", "server", "--rate", 100, "--quiet")
    assert result.exit_code == 0, result.output
    assert "Scenario: poisson" in result.stdout


def test_a_sweep_is_a_table_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    result = benchmark(DIGITS, *QUICK[:4], "--rounds", 1, "--sweep", "batch=1,3 cores=1", "--csv", path)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["Batch Size"] for row in rows] == ["1", "3"]


def test_a_certain_loss_is_an_exit_code() -> None:
    result = benchmark(DIGITS, *QUICK, "--rounds", 6, "--compare", "ort", "--fail-if-slower", "1000x:onnxruntime", "-q")
    assert result.exit_code == 5
    assert "slower than onnxruntime" in result.stderr


def test_a_model_that_no_engine_runs_fails_with_its_reason(tmp_path: Path) -> None:
    node = helper.make_node("Mystery", ["x"], ["y"], name="strange", domain="elsewhere")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("elsewhere", 1)]
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=10)
    onnx.save(model, tmp_path / "strange.onnx")
    result = benchmark(tmp_path / "strange.onnx", *QUICK, "--compare", "ort")
    assert result.exit_code == 1
    assert any(line.startswith("skipjack: ") and "Mystery" in line for line in result.stdout.splitlines())
    assert any(line.startswith("onnxruntime: ") for line in result.stdout.splitlines())


def sparse_model(folder: Path) -> Path:
    weight = np.zeros((64, 64), np.float32)
    weight[::4, ::4] = 1
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "sparse.onnx")
    return folder / "sparse.onnx"


def test_a_sparse_model_asks_for_a_dense_baseline(tmp_path: Path) -> None:
    path = sparse_model(tmp_path)
    assert read_subject(path, 2, None).contents.zero_share == pytest.approx(0.9375)  # type: ignore[union-attr]
    assert "no dense INT8 baseline" in benchmark(path, *QUICK).stdout
    beside = benchmark(path, *QUICK, "--baseline", path)
    assert "no dense INT8 baseline" not in beside.stdout
    assert "skipjack (baseline)" in beside.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--engine", "onnxruntim"], "did you mean 'onnxruntime'"),
        (["--scenario", "asink"], "did you mean 'async'"),
        (["--scenario", "poisson"], "needs --rate"),
        (["--rate", "5"], "belongs to the scenario poisson"),
        (["--isa", "sse9"], "expected one of"),
        (["--precision", "int8"], "property of the model"),
        (["--num-streams", "2"], "use --scenario async"),
        (["--time", "0"], "expected a positive number"),
        (["--sweep", "batch=0"], "expected positive numbers"),
        (["--csv", "x.csv"], "belongs to --sweep"),
        (["--fail-if-slower", "1.0"], "needs --compare"),
        (["--input-shapes", "[1,2]"], "expected"),
        (["--baseline", "missing.onnx"], "no such model file"),
        (["-pin", "socket"], "expected core or none"),
        (["--profile", "--isa", "avx2"], "set SKIPJACK_ISA=avx2"),
        (["--html", "x.html", "--sweep", "batch=1"], "not to --sweep"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments: list[str], expected: str) -> None:
    result = benchmark(DIGITS, *arguments)
    assert result.exit_code == 1
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_grid_is_read_by_name() -> None:
    assert parse_grid("batch=1,8 streams=2") == {"batch": [1, 8], "streams": [2]}
    with pytest.raises(ConfigError, match="did you mean 'cores'"):
        parse_grid("core=1")
