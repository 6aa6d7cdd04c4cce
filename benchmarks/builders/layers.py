"""Which nodes of a benchmark graph are linear layers or convolutions with weights of their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

# Heads stay float and dense, as published sparse models leave them.
HEADS = ("lm_head",)


def weighted_nodes(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Each Conv and each MatMul by an initialiser, heads left out, with its weight."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul") or any(head in node.name for head in HEADS):
            continue
        weight = weights.get(node.input[1])
        if weight is not None:
            yield node, weight


def input_axis(node: onnx.NodeProto) -> int:
    """The axis of the weight that runs over input features."""
    return 1 if node.op_type == "Conv" else 0


def replace_weight(weight: onnx.TensorProto, values: np.ndarray) -> None:
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), weight.name))
