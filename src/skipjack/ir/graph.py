"""The graph every stage exchanges: an immutable list of nodes over named values.

Nodes are in execution order. A value is an input of the graph, a constant, a captured outer value, or the output of one
node; every value has a type. Operators are the newest definitions of their domain: older ones were upgraded at import.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from skipjack.ir.types import TensorType, ValueType
from skipjack.lang.expr import Expr

Scalars: TypeAlias = int | float | str | bytes | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]
Attr: TypeAlias = "Scalars | tuple[np.ndarray, ...] | tuple[Graph, ...] | np.ndarray | Graph | ValueType | Expr"
EMPTY: Mapping[str, Attr] = MappingProxyType({})

ONNX = ""
ML = "ai.onnx.ml"
MS = "com.microsoft"
SKIPJACK = "skipjack"


@dataclass(frozen=True)
class Origin:
    """Where a node comes from in the user's file: node name, operator, domain, opset it was written for."""

    name: str
    op: str
    domain: str = ONNX
    opset: int = 0

    def __str__(self) -> str:
        domain = self.domain or "ai.onnx"
        return f"node {self.name!r} ({self.op}, {domain} opset {self.opset})"


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. An absent optional input or unused output is the empty string."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Attr] = field(default_factory=lambda: EMPTY)
    domain: str = ONNX
    origin: Origin = Origin("", "")

    @property
    def key(self) -> tuple[str, str]:
        """(domain, op): what registries are keyed by."""
        return (self.domain, self.op)

    def input(self, index: int) -> str:
        """The name of an input, the empty string when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def with_inputs(self, inputs: Iterable[str]) -> Node:
        return replace(self, inputs=tuple(inputs))

    def with_attrs(self, **attrs: Attr) -> Node:
        return replace(self, attrs=MappingProxyType({**self.attrs, **attrs}))

    def subgraphs(self) -> Iterator[tuple[str, Graph]]:
        """(attribute name, graph) of every graph attribute."""
        for name, value in self.attrs.items():
            if isinstance(value, Graph):
                yield name, value


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole model, or the body of a control-flow node."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    types: Mapping[str, ValueType]
    constants: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    captured: tuple[str, ...] = ()

    def type(self, name: str) -> ValueType:
        """The type of a value; KeyError when it has none."""
        return self.types[name]

    def tensor(self, name: str) -> TensorType:
        """The type of a value that must be a tensor."""
        t = self.types[name]
        assert isinstance(t, TensorType), f"value {name!r} is a {type(t).__name__}, a stage expected a tensor"
        return t

    def producers(self) -> dict[str, Node]:
        """Value name -> the node that makes it."""
        return {o: n for n in self.nodes for o in n.outputs if o}

    def consumers(self) -> dict[str, list[Node]]:
        """Value name -> the nodes that read it, captures of their subgraphs included."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(reads(node)):
                found.setdefault(name, []).append(node)
        return found

    def with_nodes(self, nodes: Iterable[Node], **changes: object) -> Graph:
        return replace(self, nodes=tuple(nodes), **changes)  # type: ignore[arg-type]


def reads(node: Node) -> list[str]:
    """Every value a node reads, what its subgraphs capture included."""
    names = [i for i in node.inputs if i]
    for _, body in node.subgraphs():
        names += body.captured
    return names


def frozen(mapping: Mapping[str, object]) -> Mapping[str, object]:
    """A read-only copy."""
    return MappingProxyType(dict(mapping))
