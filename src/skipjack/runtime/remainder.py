"""Planning again half way: after a branch was chosen by data, ranks are known that no stage before could know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skipjack.core.dims import evaluate, parse_dim, symbols
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Graph, Node, frozen
from skipjack.ir.types import TensorType, ValueType
from skipjack.passes import pipeline


def gains_from_values(graph: Graph, node: Node) -> bool:
    """Whether a node waits for the rank of one of its inputs."""
    types = [graph.types.get(name) for name in node.inputs if name]
    return any(t is None or (isinstance(t, TensorType) and t.shape is None) for t in types)


def remaining_graph(
    graph: Graph, index: int, live: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[Graph, tuple[str, ...]] | None:
    """(the nodes from index on as a graph of the live arrays, with all passes applied; its outputs for the old ones).

    None when a live value is no plain array, or a size that is needed is not known.
    """
    types: dict[str, ValueType] = {}
    for name, value in live.items():
        t = graph.types.get(name)
        arranged = isinstance(t, TensorType) and t.layout.kind != "plain"
        if arranged or not isinstance(value, np.ndarray):
            return None
        types[name] = TensorType(DType.from_numpy(value.dtype), value.shape)
    constants = dict(graph.constants)
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes[index:]:
        if node.key == (SKIPJACK, "Reorder"):
            renamed[node.outputs[0]] = renamed.get(node.inputs[0], node.inputs[0])
        elif node.key == (SKIPJACK, "SizeVector"):
            value = _sizes(node, sizes)
            if value is None:
                return None
            constants[node.outputs[0]] = value
        else:
            nodes.append(node.with_inputs(renamed.get(n, n) for n in node.inputs))
    outputs = tuple(renamed.get(n, n) for n in graph.outputs)
    constant_types = {n: TensorType(DType.from_numpy(a.dtype), a.shape) for n, a in constants.items()}
    made = tuple(dict.fromkeys(n for n in outputs if n not in live and n not in graph.constants))
    rest = replace(
        graph,
        name=f"{graph.name} from {index}",
        inputs=tuple(live),
        outputs=made,
        nodes=tuple(nodes),
        types=frozen({**constant_types, **types}),
        constants=frozen(constants),
        captured=(),
    )
    return pipeline.run(rest), outputs


def _sizes(node: Node, sizes: Mapping[str, int]) -> np.ndarray | None:
    texts = node.attrs["dims"]
    assert isinstance(texts, Sequence), "dims of a SizeVector is a sequence of texts"
    dims = [parse_dim(str(t)) for t in texts]
    if any(symbols(d) - sizes.keys() for d in dims):
        return None
    shape: Any = node.attrs.get("shape", ())
    return np.array([evaluate(d, sizes) for d in dims], DType(str(node.attrs["dtype"])).np).reshape(shape)
