from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Graph, Node, frozen
from skipjack.ir.types import SequenceType, tensor
from skipjack.ir.verify import verify

F = tensor(DType.F32, 2)
ADD = Node("Add", ("x", "w"), ("y",))
MUL = Node("Mul", ("y", "y"), ("z",))
GOOD = Graph("g", ("x",), ("z",), (ADD, MUL), frozen(dict.fromkeys("xwyz", F)), frozen({"w": np.zeros(2, np.float32)}))
BODY = Graph("body", (), ("o",), (Node("Neg", ("y",), ("o",)),), frozen({"y": F, "o": F}), captured=("y",))
BRANCH = Node("If", ("x",), ("z",), frozen({"then_branch": BODY}))


def test_a_good_graph_passes() -> None:
    verify(GOOD, "fold")
    verify(replace(GOOD, nodes=(ADD, BRANCH)), "fold")
    verify(replace(GOOD, types=frozen({})), "import", typed=False)


@pytest.mark.parametrize(
    "graph, what",
    [
        (replace(GOOD, nodes=(MUL, ADD)), "reads 'y' before it is made"),
        (replace(GOOD, nodes=(ADD, ADD, MUL)), "defines 'y' a second time"),
        (replace(GOOD, inputs=("x", "w")), "defines 'w' a second time"),
        (replace(GOOD, outputs=("q",)), "output 'q', which nothing makes"),
        (replace(GOOD, types=frozen(dict.fromkeys("xwy", F))), "no type for 'z'"),
        (replace(GOOD, constants=frozen({"w": np.zeros(2, np.float64)})), "its type says f32"),
        (replace(GOOD, constants=frozen({"w": np.zeros(3, np.float32)})), "not \\(2,\\)"),
        (replace(GOOD, types=frozen({**GOOD.types, "w": SequenceType(F)})), "constant 'w' of type"),
        (replace(GOOD, nodes=(BRANCH, ADD)), "reads 'y' before it is made"),
        (replace(GOOD, captured=("y",), nodes=(MUL,)), "captures 'y', which no graph"),
        (replace(GOOD, inputs=("x", "")), "a value without a name"),
        (
            replace(GOOD, nodes=(ADD, replace(BRANCH, attrs=frozen({"b": replace(BODY, outputs=("p",))})))),
            "graph 'body' has the output 'p'",
        ),
    ],
)
def test_a_broken_promise_names_the_stage(graph: Graph, what: str) -> None:
    with pytest.raises(AssertionError, match=f"after stage 'fold': .*{what}"):
        verify(graph, "fold")
