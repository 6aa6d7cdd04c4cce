"""Running a graph through the references: the oracle of every test, and the executor of steps no kernel covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skipjack.core.errors import RunError, SkipjackError
from skipjack.ir.graph import Graph, Node
from skipjack.ops.registry import Ref, lookup

NAMED_FAILURES = (ValueError, TypeError, IndexError, KeyError, OverflowError, ArithmeticError, AttributeError)


def run_node(node: Node, inputs: Sequence[Any], outer: Mapping[str, Any] | None = None) -> list[Any]:
    """The outputs of one node; outer holds the values its subgraphs may capture. RunError names the node that failed."""
    env = {} if outer is None else outer

    def run(body: Graph, values: Sequence[Any]) -> list[Any]:
        return run_graph(body, dict(zip(body.inputs, values)), env)

    try:
        with np.errstate(all="ignore"):
            return list(lookup(node).reference(Ref(node, inputs, run)))
    except SkipjackError:
        raise
    except NAMED_FAILURES as e:
        raise RunError(f"{node.origin}: the data does not fit the operator: {type(e).__name__}: {e}") from e


def run_graph(graph: Graph, feeds: Mapping[str, Any], outer: Mapping[str, Any] | None = None) -> list[Any]:
    """The outputs of a graph, in order; outer holds the values around a body."""
    env: dict[str, Any] = {name: value for name, value in (outer or {}).items() if name in graph.captured}
    env.update(graph.constants)
    env.update(feeds)
    missing = [name for name in graph.inputs if name not in env]
    if missing:
        raise RunError(f"graph {graph.name!r}: no value was given for the inputs {missing}")
    for node in graph.nodes:
        values = [env[name] if name else None for name in node.inputs]
        results = run_node(node, values, env)
        env.update({name: value for name, value in zip(node.outputs, results) if name})
    return [env[name] for name in graph.outputs]
