"""Profiles: every node with time, work and bytes; shares add up; zeros come from the file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skipjack.benchmark.profile import Profile, print_profile, profile, profile_lines
from skipjack.cli.demo import FOLDER
from skipjack.engine import Engine


@pytest.fixture(scope="module")
def found() -> Profile:
    return profile(Engine(FOLDER / "digits.onnx", 1, 1))


def test_nodes_have_time_work_and_bytes(found: Profile) -> None:
    assert sum(n.share for n in found.nodes) == pytest.approx(1.0)
    nodes = {n.name: n for n in found.nodes}
    convolution = nodes["conv_2"]
    assert convolution.operations == convolution.executed == 2 * 64 * 9 * 16 * 32
    assert convolution.nbytes >= 4 * (9 * 16 * 32 + 64 * 16)
    assert convolution.gops == pytest.approx(1e-3 * convolution.operations / convolution.time_us)
    assert convolution.roofline is not None
    assert convolution.sparsity == 0.0
    assert nodes["softmax"].sparsity is None
    assert 0 <= found.memory_bound_share <= 1


def test_a_profile_is_printed_and_becomes_json(found: Profile) -> None:
    out = io.StringIO()
    print_profile(found, most=2, file=out)
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + 2 + 2
    assert "roofline" in lines[0]
    assert "L1" in lines[-2]
    assert len(profile_lines(found, None)) > len(lines)
    assert json.loads(json.dumps(found.as_dict()))["nodes"][0]["name"]


def test_zeros_are_those_of_the_file_and_host_steps_are_named(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    w[:, ::2] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Unique", ["h"], ["y"], name="unique", sorted=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(w, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    engine = Engine(tmp_path / "m.onnx", None, 1)
    found = profile(engine, [np.ones((5, 64), np.float32)])
    product = found.nodes[0]
    assert (product.sparsity, product.operations) == (0.5, 2 * 5 * 64 * 32)
    assert [n.name for n in found.host_nodes] == ["unique"]
    assert "Unique" in profile_lines(found)[-1]
