"""ONNX's node cases through the whole pipeline, with known and with symbolic input sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from skipjack.core.dims import Sym
from skipjack.frontend.onnx_file import import_model
from skipjack.ir.graph import Graph, frozen
from skipjack.ir.types import TensorType
from skipjack.ir.verify import verify
from skipjack.ops.execute import run_graph
from skipjack.ops.sizes import bind_sizes, sizes_of
from skipjack.passes import pipeline
from tests.ops.conformance import harness, lists

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(onnx.__version__ != lists.onnx_version(), reason=f"the lists are for {lists.onnx_version()}"),
]


def _optimised(graph: Graph, feeds: Mapping[str, Any]) -> list[Any]:
    after = pipeline.run(graph, pipeline.Options(on_stage=lambda name, g: verify(g, name)))
    arrays = {name: array for name, array in feeds.items() if isinstance(array, np.ndarray | np.generic)}
    return run_graph(bind_sizes(after, sizes_of(graph, arrays)), feeds)


def as_given(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    return _optimised(import_model(model).graph, feeds)


def with_symbols(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    graph = import_model(model).graph
    types = dict(graph.types)
    for name in graph.inputs:
        t = types[name]
        if isinstance(t, TensorType) and t.shape is not None:
            types[name] = t.with_shape(tuple(Sym.named(f"{name}.{axis}") for axis in range(len(t.shape))))
    return _optimised(replace(graph, types=frozen(types)), feeds)


@pytest.mark.parametrize("runner", [as_given, with_symbols])
def test_listed_cases_pass_after_the_pipeline(runner: harness.Runner) -> None:
    listed = [case for case in harness.cases() if case.name in lists.passing()]
    failures = {f.name: f.reason for f in harness.run_all(runner, listed)}
    assert not failures, f"{len(failures)} cases fail: {failures}"
