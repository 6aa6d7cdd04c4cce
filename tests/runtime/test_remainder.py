"""After a branch decided a rank, everything behind it is planned again and runs in kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skipjack import compile_model
from skipjack.runtime.run import Stream


def _model() -> bytes:
    """x [2, 6]; y is x, or x with an axis in front; z = softmax(2 * relu(y)) over the last axis."""
    branches: dict[str, onnx.GraphProto] = {}
    for name, nodes in {
        "then_branch": [helper.make_node("Unsqueeze", ["x", "zero"], ["then_out"])],
        "else_branch": [helper.make_node("Identity", ["x"], ["else_out"])],
    }.items():
        out = helper.make_tensor_value_info(nodes[0].output[0], TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(nodes, name, [], [out])
    nodes = [
        helper.make_node("If", ["front"], ["y"], **branches),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Add", ["r", "r"], ["d"]),
        helper.make_node("Softmax", ["d"], ["z"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "rank by data",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6]),
            helper.make_tensor_value_info("front", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [helper.make_tensor("zero", TensorProto.INT64, [1], [0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_only_the_branch_runs_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    host_step = Stream._host_step

    def watched(self: Stream, index: int, *rest: object) -> None:
        steps.append(self.graph.nodes[index].op)
        host_step(self, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Stream, "_host_step", watched)
    engine = compile_model(_model(), batch_size=None, num_cores=1)
    rng = np.random.default_rng(3)
    for rows, front in [(2, True), (2, False), (5, True), (2, True)]:
        x = rng.standard_normal((rows, 6)).astype(np.float32)
        steps.clear()
        (z,) = engine.run([x, np.array(front)])
        e = np.exp(2 * np.maximum(x, 0) - (2 * np.maximum(x, 0)).max(-1, keepdims=True))
        wanted = e / e.sum(-1, keepdims=True)
        np.testing.assert_allclose(z, wanted[None] if front else wanted, rtol=1e-5)
        assert steps == ["If"]
