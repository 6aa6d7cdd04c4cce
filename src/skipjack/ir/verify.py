"""The invariants of a graph. A stage that breaks one is a mistake of ours, so the check asserts."""

from __future__ import annotations

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Graph, Node, reads
from skipjack.ir.types import TensorType


def verify(graph: Graph, stage: str, *, typed: bool = True) -> None:
    """AssertionError naming the stage unless the graph, and every body in it, keeps these promises.

    Nodes come after what they read. Every value is made once. Outputs and captured values exist. With `typed`, every
    value has a type. A constant in plain dense memory has the element type and shape that its type says.
    """
    _Check(stage, graph, typed).run(frozenset())


class _Check:
    def __init__(self, stage: str, graph: Graph, typed: bool) -> None:
        self.stage = stage
        self.graph = graph
        self.typed = typed
        self.defined: set[str] = set()

    def run(self, outer: frozenset[str]) -> None:
        graph = self.graph
        for name in graph.captured:
            self.claim(name in outer, f"captures {name!r}, which no graph around it defines")
        for name in (*graph.inputs, *graph.captured, *graph.constants):
            self.define(name, "the graph's own values")
        for name, value in graph.constants.items():
            self.constant(name, value)
        for node in graph.nodes:
            self.node(node)
        for name in graph.outputs:
            self.claim(name in self.defined, f"has the output {name!r}, which nothing makes")

    def claim(self, holds: bool, what: str) -> None:
        assert holds, f"after stage {self.stage!r}: graph {self.graph.name!r} {what}"

    def define(self, name: str, where: str) -> None:
        self.claim(bool(name), f"has a value without a name in {where}")
        self.claim(name not in self.defined, f"defines {name!r} a second time, in {where}")
        self.claim(not self.typed or name in self.graph.types, f"has no type for {name!r}, made in {where}")
        self.defined.add(name)

    def node(self, node: Node) -> None:
        where = f"{node.op} from {node.origin}"
        for name in reads(node):
            self.claim(name in self.defined, f"reads {name!r} before it is made, in {where}")
        visible = frozenset(self.defined)
        for _, body in node.subgraphs():
            _Check(self.stage, body, self.typed).run(visible)
        for name in node.outputs:
            if name:
                self.define(name, where)

    def constant(self, name: str, value: np.ndarray) -> None:
        kind = self.graph.types.get(name)
        if kind is None:
            return
        self.claim(isinstance(kind, TensorType), f"has the constant {name!r} of type {kind}")
        if not isinstance(kind, TensorType) or kind.layout.kind != "plain" or kind.encoding != "dense":
            return
        found = DType.from_numpy(value.dtype)
        self.claim(found is kind.dtype, f"has the constant {name!r} of {found.value}, its type says {kind.dtype.value}")
        self.claim(kind.shape is None or kind.shape == value.shape, f"has {name!r} of {value.shape}, not {kind.shape}")
