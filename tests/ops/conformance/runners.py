"""What executes a case: each runner takes a ModelProto and inputs by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

import skipjack.ops.all  # noqa: F401
from skipjack.frontend.onnx_file import import_model
from skipjack.ops.execute import run_graph
from skipjack.passes.propagate_types import typed


def reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """Every node by its numpy reference, on the graph as the frontend gives it."""
    return run_graph(import_model(model).graph, feeds)


def typed_reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """As `reference`, after the type rules have been applied to the whole graph."""
    return run_graph(typed(import_model(model).graph).graph, feeds)
