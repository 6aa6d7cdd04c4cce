"""int8 variants by onnxruntime's own quantisers, calibrated on seeded random inputs."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.builders.layers import weighted_nodes
from benchmarks.inputs import make_inputs

CALIBRATION_BATCHES = 3
LAYER_OPS = ("Conv", "MatMul")
# Beside the layers themselves: what must stay int8 for a whole region to stay int8.
BETWEEN_OPS = ("Add", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Relu", "Resize")
# Boxes in pixels do not survive eight bits.
FLOAT_REGIONS = ("/detect/",)


class RandomBatches(CalibrationDataReader):
    def __init__(self, model: Path) -> None:
        self.batches = iter([make_inputs(model, 1, seed=1000 + index) for index in range(CALIBRATION_BATCHES)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def quantise_static(source: Path, target: Path, *, outputs_too: bool) -> None:
    """QDQ, u8 activations, s8 weights per channel; `outputs_too` adds layer outputs and the ops between."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared), load_external_data=False).graph
        nodes = [node.name for node, _ in weighted_nodes(graph)]
        ops = list(LAYER_OPS)
        options: dict[str, object] = {"WeightSymmetric": True}
        if outputs_too:
            ops += BETWEEN_OPS if any(node.op_type == "Conv" for node in graph.node) else ()
            nodes += [node.name for node in graph.node if node.op_type in BETWEEN_OPS and _may_be_int8(node, ops)]
        else:
            options["OpTypesToExcludeOutputQuantization"] = ops
        quantize_static(
            str(prepared),
            str(target),
            RandomBatches(source),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=ops,
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=options,
        )


def _may_be_int8(node: onnx.NodeProto, ops: list[str]) -> bool:
    return node.op_type in ops and not any(region in node.name for region in FLOAT_REGIONS)


def quantise_dynamic(source: Path, target: Path) -> None:
    """s8 weights, activations quantised at run time; linear layers alone, as the tool's users do."""
    logging.disable(logging.WARNING)
    graph = onnx.load(str(source), load_external_data=False).graph
    nodes = [node.name for node, _ in weighted_nodes(graph) if node.op_type == "MatMul"]
    if not nodes:
        raise SystemExit(f"{source.name}: dynamic quantisation needs linear layers; use qdq for convolutions")
    quantize_dynamic(
        str(source), str(target), nodes_to_quantize=nodes, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8
    )
