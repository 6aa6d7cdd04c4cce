"""Large weights stay in the model file; whatever the parser would say of a file stays the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skipjack.core.errors import ModelError
from skipjack.frontend.embedded_data import split_embedded
from skipjack.frontend.onnx_file import import_model


def model_of(*weights: np.ndarray) -> onnx.ModelProto:
    names = [f"w{i}" for i in range(len(weights))]
    tensors = [numpy_helper.from_array(w, n) for w, n in zip(weights, names)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Sum", names, ["y"])], "g", [], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_large_weights_are_not_parsed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(n).astype(np.float32) for n in (10, 40_000, 3, 50_001)]
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of(*weights).SerializeToString())
    small, found = split_embedded(np.fromfile(path, np.uint8))
    assert sorted(found) == [1, 3]
    assert len(small) < 2000
    constants = import_model(path).graph.constants
    for i, w in enumerate(weights):
        np.testing.assert_array_equal(constants[f"w{i}"], w)
        assert not constants[f"w{i}"].flags.writeable


def test_sizes_are_checked_all_the_same() -> None:
    model = model_of(np.zeros(40_000, np.float32))
    model.graph.initializer[0].dims[0] = 50_000
    with pytest.raises(ModelError, match="need 200000 bytes, got 160000"):
        import_model(model.SerializeToString())


def test_a_damaged_file_comes_back_whole() -> None:
    whole = model_of(np.zeros(40_000, np.float32)).SerializeToString()
    for data in (whole[:-7], b"\xff" * 30, whole + whole):
        left, found = split_embedded(np.frombuffer(data, np.uint8))
        assert not found
        assert bytes(left) == data
