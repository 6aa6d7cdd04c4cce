"""Compute at load time what does not depend on the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skipjack.core.errors import RunError
from skipjack.ir.graph import SKIPJACK, Graph, Node, frozen
from skipjack.ir.types import TensorType
from skipjack.ops.execute import run_node
from skipjack.ops.registry import find
from skipjack.passes.propagate_types import typed
from skipjack.passes.rewrite import without_dead_code

_CONTRACTIONS = frozenset({"Conv", "MatMul", "Gemm"})
_MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Pad", "Concat"})


@dataclass(frozen=True)
class FoldConstants:
    """Nodes with constant inputs, and nodes whose integers are known, become constants.

    A result may hold free_elems elements, and more only when its inputs hold as many. The DequantizeLinear of a weight
    or bias stays when the contraction it feeds has a quantised activation, and so do the moves of data between: the
    pair is what an integer contraction replaces.
    """

    name: str = "fold_constants"
    free_elems: int = 1 << 21

    def apply(self, graph: Graph) -> Graph:
        known = typed(graph)
        constants = dict(graph.constants)
        kept: list[Node] = []
        quantised = _weights_of_quantised_contractions(graph)
        for node in graph.nodes:
            found = None
            if not quantised.intersection(node.outputs):
                found = _known_outputs(node, known.values) or self._evaluated(node, constants, graph)
            if found is None:
                kept.append(node)
            else:
                constants.update(found)
        if len(kept) == len(graph.nodes):
            return graph
        folded = graph.with_nodes(kept, constants=frozen(constants))
        return typed(without_dead_code(folded)).graph

    def _evaluated(self, node: Node, constants: Mapping[str, np.ndarray], graph: Graph) -> dict[str, np.ndarray] | None:
        op = find(node.domain, node.op)
        names = [i for i in node.inputs if i]
        if op is None or op.random or any(True for _ in node.subgraphs()) or (not names and node.domain == SKIPJACK):
            return None
        if not all(i in constants for i in names) or not self._fits(node, constants, graph):
            return None
        try:
            outputs = run_node(node, [constants[i] if i else None for i in node.inputs])
        except RunError:
            return None
        pairs = [(n, v) for n, v in zip(node.outputs, outputs) if n]
        if not all(isinstance(v, np.ndarray | np.generic) for _, v in pairs):
            return None
        return {n: np.asarray(v) for n, v in pairs}

    def _fits(self, node: Node, constants: Mapping[str, np.ndarray], graph: Graph) -> bool:
        given = sum(constants[i].size for i in node.inputs if i)
        for name in node.outputs:
            t = graph.types.get(name) if name else None
            if name and not isinstance(t, TensorType):
                return False
            elements = t.elements if isinstance(t, TensorType) else 0
            if not isinstance(elements, int) or elements > max(self.free_elems, given):
                return False
        return True


def _known_outputs(node: Node, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    names = [o for o in node.outputs if o]
    if any(n not in values or values[n].dtype == object for n in names):
        return None
    return {n: values[n] for n in names}


def _weights_of_quantised_contractions(graph: Graph) -> frozenset[str]:
    """Constants dequantised for a contraction whose activation is dequantised too."""
    producers = graph.producers()

    def moved(name: str) -> list[Node]:
        """The DequantizeLinear and the moves of data after it that make a value; nothing for other values."""
        chain: list[Node] = []
        made = producers.get(name)
        while made is not None and made.op in _MOVES:
            chain.append(made)
            made = producers.get(made.input(0))
        return [*chain, made] if made is not None and made.op == "DequantizeLinear" else []

    found: set[str] = set()
    for node in graph.nodes:
        activation = moved(node.input(0)) if node.op in _CONTRACTIONS else []
        if activation and not _constant_codes(graph, producers, activation[-1]):
            found.update(made.outputs[0] for i in node.inputs[1:] if i for made in moved(i))
    return frozenset(found)


def _constant_codes(graph: Graph, producers: Mapping[str, Node], dequantize: Node) -> bool:
    """Whether the codes are a constant, or a constant quantised."""
    codes = dequantize.input(0)
    made = producers.get(codes)
    return codes in graph.constants or (
        made is not None and made.op == "QuantizeLinear" and made.input(0) in graph.constants
    )
