"""Small graphs from ONNX's text form, and the check that a pass keeps their meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx.parser
from onnx import numpy_helper

from skipjack.core.dims import evaluate
from skipjack.frontend.onnx_file import import_model
from skipjack.ir.graph import Graph
from skipjack.ir.types import TensorType
from skipjack.ir.verify import verify
from skipjack.ops.execute import run_graph
from skipjack.ops.sizes import bind_sizes, sizes_of
from skipjack.passes.pipeline import Pass, apply_everywhere
from skipjack.passes.propagate_types import typed

SIZES = {"b": 2, "s": 5, "p": 3, "h": 9, "w": 8}


def graph_of(body: str, **constants: np.ndarray) -> Graph:
    """The typed graph of `(inputs) => (outputs) { nodes }`; constants are initialisers of it."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]> g {body}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return typed(import_model(model).graph).graph


def weights(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def ops(graph: Graph) -> list[str]:
    """The operators of a graph in order; those of skipjack begin with an asterisk."""
    return [("*" if n.domain == "skipjack" else "") + n.op for n in graph.nodes]


def feeds(graph: Graph, sizes: Mapping[str, int] = SIZES, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for name in graph.inputs:
        t = graph.types[name]
        assert isinstance(t, TensorType)
        assert t.shape is not None
        shape = tuple(evaluate(d, sizes) for d in t.shape)
        if t.dtype.is_float:
            made[name] = rng.standard_normal(shape).astype(t.dtype.np)
        else:
            made[name] = rng.integers(0, 2, shape).astype(t.dtype.np)
    return made


def results(graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return run_graph(bind_sizes(graph, sizes_of(graph, inputs)), inputs)


def assert_same(before: Graph, after: Graph, inputs: Mapping[str, np.ndarray] | None = None, tol: float = 2e-6) -> None:
    """Both graphs give the same outputs: names, types, shapes, and values up to tol of each output's scale."""
    verify(after, "the pass")
    assert after.inputs == before.inputs
    assert after.outputs == before.outputs
    inputs = feeds(before) if inputs is None else inputs
    for name, x, y in zip(before.outputs, results(before, inputs), results(after, inputs)):
        assert (x.shape, x.dtype) == (y.shape, y.dtype), name
        wide = x.astype(np.float64)
        scale = np.abs(wide[np.isfinite(wide)]).max(initial=0.0)
        np.testing.assert_allclose(y.astype(np.float64), wide, rtol=0, atol=tol * max(scale, 1e-6), err_msg=name)


def applied(steps: Pass | Sequence[Pass], graph: Graph, tol: float = 2e-6) -> Graph:
    """The graph after the passes, checked to mean the same."""
    after = graph
    for step in steps if isinstance(steps, Sequence) else [steps]:
        after = apply_everywhere(step, after)
    assert_same(graph, after, tol=tol)
    return after
