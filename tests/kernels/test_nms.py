"""NonMaxSuppression in kernels against its reference: ties, limits, thresholds, both forms of boxes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from skipjack import compile_model
from skipjack.ir.graph import Node
from skipjack.ops.execute import run_node


def _model(center: int, given: int) -> bytes:
    names = ["boxes", "scores", "limit", "iou", "least"][:given]
    kinds = [TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT, TensorProto.FLOAT]
    shapes = [["n", "b", 4], ["n", "c", "b"], [1], [1], [1]]
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", names, ["y"], center_point_box=center)],
        "nms",
        [helper.make_tensor_value_info(n, k, s) for n, k, s in zip(names, kinds, shapes)],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["m", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("given", [3, 4, 5])
def test_selection(center: int, given: int) -> None:
    engine = compile_model(_model(center, given), batch_size=None, num_cores=1)
    assert not any(c.on_host for c in engine.compiled.program.plan.choices)
    node = Node("NonMaxSuppression", ("a", "b", "c", "d", "e")[:given], ("y",), {"center_point_box": center})
    sizes = [(1, 1, 1, 1), (2, 3, 15, 4), (1, 2, 16, 100), (3, 1, 17, 0), (1, 4, 133, 9)]
    for seed, (n, c, b, limit) in enumerate(sizes):
        rng = np.random.default_rng(seed)
        boxes = rng.random((n, b, 4), np.float32)
        scores = (rng.integers(-3, 9, (n, c, b)) / 8).astype(np.float32)
        arrays = [boxes, scores, np.array([limit]), np.array([0.4], np.float32), np.array([0.1], np.float32)][:given]
        (wanted,) = run_node(node, arrays)
        (got,) = engine.run(arrays)
        np.testing.assert_array_equal(got, wanted, err_msg=f"seed {seed}")
