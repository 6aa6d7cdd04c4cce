"""Running a graph through the references: the oracle of every test, and the executor of steps no kernel covers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from skipjack.core.errors import ResourceError, RunError, SkipjackError
from skipjack.ir.graph import Graph, Node
from skipjack.ops.registry import Ref, lookup

RunBody = Callable[[Graph, Sequence[Any]], list[Any]]
_DATA_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)


def run_node(node: Node, inputs: Sequence[Any], run: RunBody | None = None) -> list[Any]:
    """The outputs of one node by its reference; run executes its subgraphs. RunError names the node that failed."""
    try:
        with np.errstate(all="ignore"):
            results = lookup(node).reference(Ref(node, inputs, run))
    except SkipjackError:
        raise
    except MemoryError as e:
        raise ResourceError(f"{node.origin}: its result does not fit in memory: {e}") from e
    except _DATA_ERRORS as e:
        raise RunError(f"{node.origin}: its inputs do not fit the operator: {type(e).__name__}: {e}") from e
    return [np.asarray(v) if isinstance(v, np.generic) else v for v in results]


def run_graph(graph: Graph, feeds: Mapping[str, Any], outer: Mapping[str, Any] | None = None) -> list[Any]:
    """The outputs of a graph, in order; outer holds the values around a body that it may capture."""
    env: dict[str, Any] = {name: value for name, value in (outer or {}).items() if name in graph.captured}
    env.update(graph.constants)
    env.update(feeds)
    missing = [name for name in graph.inputs if name not in env]
    if missing:
        raise RunError(f"graph {graph.name!r}: no value was given for the inputs {missing}")

    def run_body(body: Graph, values: Sequence[Any]) -> list[Any]:
        return run_graph(body, dict(zip(body.inputs, values)), env)

    for node in graph.nodes:
        results = run_node(node, [env[name] if name else None for name in node.inputs], run_body)
        env.update({name: value for name, value in zip(node.outputs, results) if name})
    return [env[name] for name in graph.outputs]
