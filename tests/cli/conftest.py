"""What the command tests share: a runner of commands and a model of one kernel and one host step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from skipjack.cli.main import cli

Invoke = Callable[..., Result]


@pytest.fixture
def skipjack() -> Invoke:
    """Run `skipjack ARGUMENTS`; the result has exit_code, stdout and stderr."""
    return lambda *arguments: CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="skipjack")


@pytest.fixture
def sorted_unique(tmp_path: Path) -> Path:
    """y = unique(relu(x)): a kernel, then a result whose size only the data knows."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("Unique", ["r"], ["y"], name="second", sorted=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    return save(helper.make_graph(nodes, "sorted_unique", [x], [y]), tmp_path / "sorted_unique.onnx")


def save(graph: onnx.GraphProto, path: Path) -> Path:
    """Write a graph as a model of opset 21."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="tests")
    onnx.save(model, path)
    return path
