"""What type rules and references refuse: the message names the node, what was expected and what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import skipjack.ops.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError, RunError
from skipjack.ir.graph import Graph, Node, Origin, frozen
from skipjack.ir.types import TensorType, tensor
from skipjack.ops.execute import run_graph, run_node
from skipjack.ops.registry import Infer, lookup

F32, I64, BOOL, STRING = DType.F32, DType.I64, DType.BOOL, DType.STRING
RULES: list[tuple[str, list[TensorType], Mapping[str, Any], str]] = [
    ("Add", [tensor(F32, 2, 3), tensor(F32, 4)], {}, "sizes that broadcast, got 3 and 4"),
    ("Add", [tensor(F32, 2), tensor(I64, 2)], {}, "input 1 of type f32, got i64"),
    ("Where", [tensor(F32, 2), tensor(F32, 2), tensor(F32, 2)], {}, "a condition of type bool, got f32"),
    ("MatMul", [tensor(F32, 2, 3), tensor(F32, 4, 5)], {}, "equal sizes of the summed axis, got 3 and 4"),
    ("MatMul", [tensor(F32), tensor(F32, 4, 5)], {}, "operands with at least one axis"),
    ("Gemm", [tensor(F32, 2, 3, 4), tensor(F32, 4, 5)], {}, "a matrix, got shape"),
    ("Gemm", [tensor(F32, 2, 3), tensor(F32, 2, 5)], {}, "equal sizes of the summed axis"),
    ("Gemm", [tensor(F32, 1, 3), tensor(F32, 3, 5), tensor(F32, 2, 5)], {}, "equal sizes of addend and product"),
    ("Gemm", [tensor(F32, 1, 3), tensor(F32, 3, 5), tensor(F32, 1, 1, 5)], {}, "an addend with at most two axes"),
    ("QuantizeLinear", [tensor(F32, 2, 3), tensor(F32, 2)], {}, "equal sizes of axis 1 and scale, got 3 and 2"),
    ("QuantizeLinear", [tensor(F32, 2, 3), tensor(F32, 3)], {"axis": 2}, "an axis from -2 to 1, got 2"),
    ("QuantizeLinear", [tensor(F32, 2, 3), tensor(F32, 3), tensor(DType.U8)], {}, "a zero point of the scale's shape"),
    ("DequantizeLinear", [tensor(DType.I8, 2, 3, 4), tensor(F32, 2, 3)], {}, "a scale with 1 or 3 axes"),
    ("DequantizeLinear", [tensor(DType.I8, 2, 9), tensor(F32, 2, 2)], {"block_size": 4}, "equal sizes of axis 1"),
    ("Einsum", [tensor(F32, 2, 3)], {"equation": "ijk->i"}, "input 0 to fit the term 'ijk'"),
    ("Einsum", [tensor(F32, 2, 3)], {"equation": "i1->i"}, "an equation of letters with 1 input terms"),
    ("Einsum", [tensor(F32, 2, 3), tensor(F32, 4)], {"equation": "ij,j->i"}, "equal sizes for 'j'"),
    ("Det", [tensor(F32, 2, 3)], {}, "equal sizes of a square matrix"),
    ("Det", [tensor(F32, 2)], {}, "square matrices"),
    ("Softmax", [tensor(F32, 2, 3)], {"axis": 2}, "an axis from -2 to 1, got 2"),
    ("ArgMax", [tensor(F32, 2, 3)], {"axis": -3}, "an axis from -2 to 1, got -3"),
    ("Cast", [tensor(F32, 2)], {}, "attribute to"),
    ("Cast", [tensor(F32, 2)], {"to": 99}, "a known element type in to, got 99"),
    ("BitCast", [tensor(F32, 2)], {"to": 7}, "a type of 32 bits, got i64"),
    ("BitCast", [tensor(STRING, 2)], {"to": 1}, "a type of"),
]
REFERENCES: list[tuple[str, list[Any], Mapping[str, Any], str]] = [
    ("TopK", [np.zeros(3, np.float32), np.array([4])], {}, "k from 0 to 3, got 4"),
    ("ReduceSum", [np.zeros((2, 3)), np.array([5])], {}, "an axis from -2 to 1, got 5"),
    ("Cast", [np.ones(1, np.float32)], {"to": 24, "round_mode": "sideways"}, "round_mode up, down or nearest"),
    (
        "DequantizeLinear",
        [np.ones((2, 3), np.int8), np.ones(4, np.float32)],
        {"axis": 1},
        "3 scales along axis 1, got 4",
    ),
    ("DequantizeLinear", [np.ones((2, 4), np.int8), np.ones((2, 2), np.float32)], {"axis": 1}, "block_size"),
    ("NegativeLogLikelihoodLoss", [np.zeros((1, 3), np.float32), np.array([3])], {}, "labels from 0 to 2"),
]


def _node(op: str, count: int, attrs: Mapping[str, Any]) -> Node:
    return Node(
        op, tuple(f"x{n}" for n in range(count)), ("y",), frozen(attrs), origin=Origin("the node", op, opset=21)
    )


@pytest.mark.parametrize(("op", "types", "attrs", "message"), RULES)
def test_a_type_rule_refuses(op: str, types: list[TensorType], attrs: Mapping[str, Any], message: str) -> None:
    node = _node(op, len(types), attrs)
    with pytest.raises(ModelError, match=message) as caught:
        lookup(node).infer(Infer(node, types, [None] * len(types)))
    assert "node 'the node'" in str(caught.value)


@pytest.mark.parametrize(("op", "inputs", "attrs", "message"), REFERENCES)
def test_a_reference_refuses(op: str, inputs: list[Any], attrs: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run_node(_node(op, len(inputs), attrs), inputs)


def test_an_unexpected_failure_names_the_node() -> None:
    with pytest.raises(RunError, match=r"node 'the node' .*its inputs do not fit the operator: ValueError"):
        run_node(_node("Add", 2, {}), [np.zeros(2), np.zeros(3)])


def test_an_unknown_operator_suggests_the_nearest() -> None:
    with pytest.raises(ModelError, match="'Relux' is not known; did you mean 'Relu'"):
        run_node(_node("Relux", 1, {}), [np.zeros(2)])


def test_a_graph_names_inputs_without_a_value() -> None:
    graph = Graph("g", ("x0",), ("y",), (_node("Relu", 1, {}),), frozen({}))
    with pytest.raises(RunError, match=r"no value was given for the inputs \['x0'\]"):
        run_graph(graph, {})


def test_an_epilogue_must_be_an_expression() -> None:
    node = Node("Linear", ("x", "w"), ("y",), frozen({"epilogue": 3}), "skipjack", Origin("the node", "Linear"))
    with pytest.raises(ModelError, match="an expression as epilogue, got int"):
        run_node(node, [np.ones((1, 1)), np.ones((1, 1))])


def test_a_pointwise_node_needs_an_expression() -> None:
    node = Node("Pointwise", ("x",), ("y",), frozen({}), "skipjack", Origin("the node", "Pointwise"))
    with pytest.raises(ModelError, match="an expression as expr, got NoneType"):
        run_node(node, [np.ones(1)])
