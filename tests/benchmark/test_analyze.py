"""`skipjack analyze`: counts, precision and pattern per layer, advice, sections, JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from skipjack.benchmark.analyze import Analysis, Layer, analyze
from skipjack.cli.demo import FOLDER
from skipjack.cli.main import cli

DIGITS = FOLDER / "digits.onnx"
Invoke = Callable[..., Result]


def _saved(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], width: int) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], held)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def _layer(found: Analysis, name: str) -> Layer:
    return next(x for x in found.layers if x.name == name)


def _made(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) + 10


def test_layers_of_a_model_are_counted() -> None:
    found = analyze(DIGITS, num_cores=1)
    model = onnx.load(DIGITS)
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert found.parameters == sum(int(np.prod(t.dims)) for t in floats)
    convolution = _layer(found, "conv_2")
    assert convolution.operations == 2 * 64 * 9 * 16 * 32
    assert (convolution.precision, convolution.pattern.kind) == ("fp32", "dense")
    assert _layer(found, "gemm_9").operations == 2 * 1024 * 10
    assert analyze(DIGITS, batch_size=3, num_cores=1).operations == 3 * found.operations
    assert found.predicted_us == pytest.approx(sum(x.now_us for x in found.layers))


def test_a_quantised_zero_is_the_zero_point(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (32, 64)).astype(np.uint8)
    codes[codes == 128] = 129
    codes[rng.random(codes.shape) < 0.75] = 128
    weights = {"w": codes, "s": np.float32(0.1).reshape(()), "z": np.uint8(128).reshape(())}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="dx"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], name="dw"),
        helper.make_node("Transpose", ["wd"], ["wt"], name="t", perm=[1, 0]),
        helper.make_node("MatMul", ["xd", "wt"], ["y"], name="product"),
    ]
    found = analyze(_saved(tmp_path / "m.onnx", nodes, weights, 64), num_cores=1)
    layer = _layer(found, "product")
    assert (layer.precision, layer.integers, layer.weight_shape) == ("int8", True, (32, 1, 64))
    assert layer.pattern.zeros == (codes == 128).sum()
    assert found.quantised == 1.0


def test_zero_points_per_channel(tmp_path: Path) -> None:
    codes = np.random.default_rng(2).integers(-8, 8, (16, 24)).astype(np.int8)
    points = np.arange(-8, 8).astype(np.int8)
    weights = {"w": codes, "s": np.full(16, 0.1, np.float32), "z": points}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=0, name="dw"),
        helper.make_node("Gemm", ["x", "wd"], ["y"], transB=1, name="product"),
    ]
    layer = _layer(analyze(_saved(tmp_path / "m.onnx", nodes, weights, 24), num_cores=1), "product")
    assert layer.pattern.zeros == (codes == points[:, None]).sum()
    assert (layer.precision, layer.integers) == ("int8", False)


def test_four_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, (8, 64)).astype(np.uint8)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).reshape(8, 2, 16)
    weights = {"w": packed, "s": np.ones((8, 2), np.float32)}
    attrs = {"K": 64, "N": 8, "bits": 4, "block_size": 32, "domain": "com.microsoft"}
    nodes = [helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], name="product", **attrs)]
    layer = _layer(analyze(_saved(tmp_path / "m.onnx", nodes, weights, 64), num_cores=1), "product")
    assert (layer.precision, layer.operations, layer.parameters) == ("int4", 2 * 64 * 8, 512)
    assert layer.pattern.zeros == (codes == 8).sum()


def test_advice_names_the_layers_that_gain(tmp_path: Path) -> None:
    big, small = _made(512, 512), _made(512, 16)
    big[np.random.default_rng(4).random(big.shape) < 0.9] = 0
    small[:, 3] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "big"], ["h"], name="big_layer"),
        helper.make_node("MatMul", ["h", "small"], ["y"], name="small_layer"),
    ]
    path = _saved(tmp_path / "m.onnx", nodes, {"big": big, "small": small}, 512)
    found = analyze(path, batch_size=128, num_cores=1)
    by_action = {a.action: a for a in found.advice}
    assert by_action["skip"].layers == ("big_layer",)
    assert by_action["skip"].after_us < by_action["skip"].before_us / 3
    assert by_action["remove"].layers == ("small_layer",)
    assert "1 output(s)" in by_action["remove"].text
    gains = [a.saved_us for a in found.advice]
    assert gains == sorted(gains, reverse=True)


def test_weights_that_layers_share_count_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="second"),
    ]
    found = analyze(_saved(tmp_path / "m.onnx", nodes, {"w": _made(8, 8)}, 8), num_cores=1)
    assert (found.parameters, found.operations) == (64, 2 * 2 * 64)


def test_layers_of_unknown_size_have_no_prediction(tmp_path: Path, skipjack: Invoke) -> None:
    weights = {"w": _made(1, 6), "shape": np.array([-1, 1], np.int64)}
    nodes = [
        helper.make_node("Unique", ["x"], ["u"], name="unique"),
        helper.make_node("Reshape", ["u", "shape"], ["r"], name="reshape"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="product"),
    ]
    path = _saved(tmp_path / "m.onnx", nodes, weights, 8)
    layer = _layer(analyze(path, num_cores=1), "product")
    assert (layer.operations, layer.now_us, dict(layer.predicted_us)) == (None, 0.0, {})
    text = skipjack("analyze", path, "--cores", 1).stdout
    assert "unknown" in text
    assert "1 layer(s) left out" in text


@pytest.fixture
def skipjack() -> Invoke:
    return lambda *arguments: CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="skipjack")


def test_the_command_prints_its_sections(skipjack: Invoke) -> None:
    text = skipjack("analyze", DIGITS, "--cores", 1).stdout
    for section in ("Analysis by Layers", "Parameters by types", "Ops by types", "Params", "Ops", "Overall"):
        assert f"\n{section}" in f"\n{text}", section
    assert "Node Timings" not in text
    layers = skipjack("analyze", DIGITS, "--cores", 1, "--by-layers").stdout
    assert "relu_1" in layers
    assert "by types" not in layers
    types = skipjack("analyze", DIGITS, "--cores", 1, "--by-types").stdout
    assert "conv_2" not in types.split("What would make it faster")[0]


def test_the_command_times_nodes_when_asked(skipjack: Invoke) -> None:
    result = skipjack("analyze", DIGITS, "--cores", 1, "--time")
    assert result.exit_code == 0, result.output
    assert "Node Timings:" in result.stdout
    assert "measured " in result.stdout


def test_the_command_gives_json(skipjack: Invoke, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    report = json.loads(skipjack("analyze", DIGITS, "--cores", 1, "--json", "--save", saved).stdout)
    assert json.loads(saved.read_text()) == report
    assert {
        "layers",
        "parameters",
        "operations",
        "sparsity",
        "quantised",
        "limits",
        "advice",
        "by_type",
    } <= report.keys()
    weighted = [x for x in report["layers"] if x["pattern"]]
    assert {x["name"] for x in weighted} == {"conv_0", "conv_2", "conv_5", "gemm_9"}
    assert all(x["predicted_us"]["dense fp32"] == x["now_us"] for x in weighted)


def test_mistakes_are_one_line(skipjack: Invoke, tmp_path: Path) -> None:
    missing = skipjack("analyze", tmp_path / "none.onnx")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("skipjack: ")
    unwritable = skipjack("analyze", DIGITS, "--cores", 1, "--save", tmp_path / "no" / "file.json")
    assert unwritable.exit_code == 1
    assert "cannot be written" in unwritable.stderr


@pytest.mark.skipif("SKIPJACK_TEST_ASSETS" not in os.environ, reason="SKIPJACK_TEST_ASSETS names no models")
def test_a_pruned_model_of_the_wild() -> None:
    folder = Path(os.environ["SKIPJACK_TEST_ASSETS"]) / "models/sparse_squeezenet_deepcompression"
    path = folder / "squeezenet_dc.onnx"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    found = analyze(path, num_cores=1)
    assert 0.66 < found.sparsity < 0.67
    pruned = [x for x in found.layers if x.pattern and x.pattern.kind == "unstructured"]
    assert len(pruned) >= 10
    skip = next(a for a in found.advice if a.action == "skip")
    assert set(skip.layers) <= {x.name for x in pruned}
