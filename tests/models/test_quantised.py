"""Real models quantised by onnxruntime's tools, in every style, score what onnxruntime scores on the same file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from skipjack import compile_model
from skipjack.cli.explain import make_report
from tests.models.assets import MODELS, cifar10, mnist, needs_assets, photographs

ort = pytest.importorskip("onnxruntime", reason="onnxruntime quantises the models and is what they are compared with")
quantization = pytest.importorskip("onnxruntime.quantization")

pytestmark = needs_assets
TOLERANCE = 0.003
CALIBRATION = 32
CPU = ["CPUExecutionProvider"]
STYLES = ("dynamic", "qdq", "qdq-s8", "qoperator", "qdq-per-tensor")


class Samples(quantization.CalibrationDataReader):
    """Feeds for calibration, one after the other."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.feeds: Iterator[dict[str, np.ndarray]] = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantised(source: Path, images: np.ndarray, style: str, folder: Path, per_channel: bool) -> Path:
    """The model in a style, written to the folder."""
    prepared, path = folder / "prepared.onnx", folder / f"{source.stem}-{style}.onnx"
    kinds, form = quantization.QuantType, quantization.QuantFormat
    quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
    if style == "dynamic":
        quantization.quantize_dynamic(prepared, path, weight_type=kinds.QUInt8)
        return path
    name = ort.InferenceSession(prepared, providers=CPU).get_inputs()[0].name
    quantization.quantize_static(
        prepared,
        path,
        Samples(name, images[:CALIBRATION]),
        quant_format=form.QOperator if style == "qoperator" else form.QDQ,
        activation_type=kinds.QInt8 if style == "qdq-s8" else kinds.QUInt8,
        weight_type=kinds.QInt8,
        per_channel=per_channel and style != "qdq-per-tensor",
    )
    return path


def four_bits(source: Path, form: str, folder: Path) -> Path:
    """The model with the weights of its matrix products in 4 bits, in blocks of 32."""
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    model = onnx.version_converter.convert_version(onnx.load(source), 21)
    _fold_weight_shapes(model)
    config = nbits.DefaultWeightOnlyQuantConfig(
        block_size=32, is_symmetric=form.endswith("symmetric"), quant_format=quantization.QuantFormat[form.split()[0]]
    )
    quantizer = nbits.MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    path = folder / f"{source.stem}-4bit.onnx"
    quantizer.model.save_model_to_file(str(path))
    return path


def _fold_weight_shapes(model: onnx.ModelProto) -> None:
    """Reshapes of initialisers done, as the quantiser wants its weights."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for n in [n for n in model.graph.node if n.op_type == "Reshape" and n.input[0] in arrays]:
        folded = arrays[n.input[0]].reshape(arrays[n.input[1]])
        model.graph.initializer.append(onnx.numpy_helper.from_array(folded, n.output[0]))
        model.graph.node.remove(n)


def outputs(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch: int) -> np.ndarray:
    return np.concatenate([run(images[i : i + batch]).reshape(batch, -1) for i in range(0, len(images), batch)])


def both(path: Path, images: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """What onnxruntime and the engine make of the images."""
    session = ort.InferenceSession(path, providers=CPU)
    engine = compile_model(path, batch_size=None, num_cores=1)
    name = session.get_inputs()[0].name
    theirs = outputs(lambda x: session.run(None, {name: x})[0], images, batch)
    return theirs, outputs(lambda x: engine.run([x])[0], images, batch)


def assert_as_good(path: Path, images: np.ndarray, labels: np.ndarray, least: float, batch: int = 1) -> None:
    theirs, ours = (found.argmax(axis=1) for found in both(path, images, batch))
    assert np.mean(ours == labels) >= least
    assert np.mean(ours == labels) >= np.mean(theirs == labels) - TOLERANCE
    assert np.mean(ours == theirs) >= 0.99


def float_layers(path: Path) -> list[str]:
    """Layers that `explain` shows multiplying floats."""
    layers = [n for n in make_report(path, 1, None, 1, timed=False).nodes if n.weight is not None]
    assert layers, "no layer has a weight"
    return [n.name for n in layers if n.weight is not None and n.weight.dtype.startswith(("fp", "bf", "f"))]


@pytest.mark.parametrize("style", STYLES)
def test_digits(style: str, tmp_path: Path) -> None:
    images, labels = mnist()
    images = images[:1000].astype(np.float32)
    path = quantised(MODELS / "mnist_cnn" / "mnist.onnx", images, style, tmp_path, per_channel=False)
    assert_as_good(path, images, labels[:1000], 0.98)
    assert not float_layers(path)


@pytest.mark.parametrize("style", STYLES)
def test_small_images(style: str, tmp_path: Path) -> None:
    images, labels = cifar10()
    path = quantised(MODELS / "cifar_resnet20" / "resnet20.onnx", images, style, tmp_path, per_channel=True)
    assert_as_good(path, images[:600], labels[:600], 0.7, 50)
    assert not float_layers(path)


@pytest.mark.parametrize("style", ["dynamic", "qdq", "qoperator"])
def test_sparse_squeezenet(style: str, tmp_path: Path) -> None:
    """The data has no labels: class by class as onnxruntime says, with about its confidence."""
    images = photographs()
    path = quantised(
        MODELS / "sparse_squeezenet_deepcompression" / "squeezenet_dc.onnx", images, style, tmp_path, per_channel=True
    )
    theirs, ours = both(path, images, 1)
    assert np.mean(theirs.argmax(axis=1) == ours.argmax(axis=1)) >= 0.9
    assert np.abs(theirs - ours).max() < 0.1
    assert not float_layers(path)


@pytest.mark.parametrize("form", ["QOperator", "QOperator symmetric", "QDQ", "QDQ symmetric"])
def test_weights_of_four_bits(form: str, tmp_path: Path) -> None:
    images, labels = mnist()
    path = four_bits(MODELS / "mnist_cnn" / "mnist.onnx", form, tmp_path)
    assert_as_good(path, images[:1000].astype(np.float32), labels[:1000], 0.97)
    kernels = {n.operator: n.kernel for n in make_report(path, 1, None, 1, timed=False).nodes}
    assert kernels.get("com.microsoft.MatMulNBits", "host") != "host"
