"""Numbers of quantised nodes become inputs where nodes differ in nothing else."""

from __future__ import annotations

import numpy as np

import skipjack.ops.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.ir.types import tensor
from skipjack.lang.expr import Expr, arg, cast, maximum
from skipjack.ops.execute import run_graph
from skipjack.passes.propagate_types import PropagateTypes
from skipjack.passes.share_kernels import ShareKernels

U8, I32, F32 = DType.U8, DType.I32, DType.F32


def _requantise(scale: float, zero: float) -> Expr:
    return cast(maximum(cast(arg(0, I32), F32) * scale + zero, 0.0), U8)


def _graph(scales: list[float]) -> Graph:
    rng = np.random.default_rng(0)
    constants = {f"w{i}": rng.integers(-3, 4, (4, 4)).astype(np.int8) for i in range(len(scales))}
    nodes = [
        Node("Linear", (f"x{i}", f"w{i}"), (f"x{i + 1}",), {"epilogue": _requantise(s, 3.0)}, SKIPJACK)
        for i, s in enumerate(scales)
    ]
    types = {"x0": tensor(U8, 5, 4)}
    made = Graph("g", ("x0",), (f"x{len(scales)}",), tuple(nodes), types, constants)
    return PropagateTypes().apply(made)


def test_only_numbers_that_differ_become_inputs() -> None:
    graph = _graph([0.25, 0.5, 0.25])
    shared = ShareKernels().apply(graph)
    assert len({n.attrs["epilogue"] for n in shared.nodes}) == 1
    assert [len(n.inputs) for n in shared.nodes] == [3, 3, 3]
    x = {"x0": np.random.default_rng(1).integers(0, 255, (5, 4)).astype(np.uint8)}
    assert np.array_equal(run_graph(graph, x), run_graph(shared, x))


def test_equal_or_single_expressions_stay() -> None:
    for graph in (_graph([0.25, 0.25]), _graph([0.25])):
        assert ShareKernels().apply(graph) is graph
