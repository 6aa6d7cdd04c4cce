"""What an upgrader works with, and the walk that applies them one version break after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn, Protocol

import numpy as np

from skipjack.core.errors import UnsupportedError
from skipjack.ir.graph import Attr, Node
from skipjack.ir.types import ValueType


class Values(Protocol):
    """What is known about the values of the graph being imported; new constants are added to it."""

    constants: dict[str, np.ndarray]
    types: dict[str, ValueType]
    read: set[str]

    def add_constant(self, name: str, array: np.ndarray) -> None: ...


class Rewrite:
    """Makes nodes and constants in place of an older node."""

    def __init__(self, unique: Callable[[str], str], values: Values) -> None:
        self._unique = unique
        self._values = values

    def constant(self, node: Node, hint: str, value: object, dtype: type[np.generic] = np.int64) -> str:
        """The name of a new constant."""
        name = self.fresh(node, hint)
        self._values.add_constant(name, np.array(value, dtype))
        return name

    def fresh(self, node: Node, hint: str) -> str:
        """A new value name derived from the node's first output."""
        first = next((o for o in node.outputs if o), node.op)
        return self._unique(f"{first}.{hint}")

    def known(self, name: str) -> np.ndarray | None:
        """The array of a constant, None for any other value."""
        return self._values.constants.get(name)

    def type(self, name: str) -> ValueType | None:
        """The type of an input or constant; None for values made by nodes."""
        return self._values.types.get(name)

    def is_read(self, name: str) -> bool:
        """Whether a node or the graph's outputs read the value."""
        return name in self._values.read


Upgrader = Callable[[Node, Rewrite], Sequence[Node]]


def derived(
    node: Node, op: str, inputs: Sequence[str], outputs: Sequence[str], attrs: Mapping[str, Attr] | None = None
) -> Node:
    """A node that replaces part of an older one and keeps its origin."""
    return Node(op, tuple(inputs), tuple(outputs), MappingProxyType(dict(attrs or {})), node.domain, node.origin)


def without(node: Node, *names: str) -> dict[str, Attr]:
    """The node's attributes but for some."""
    return {k: v for k, v in node.attrs.items() if k not in names}


def refuse(node: Node, expected: str, got: object, advice: str) -> NoReturn:
    """The error for an old form that has no newest equivalent."""
    raise UnsupportedError(f"{node.origin}: expected {expected}, got {got}; {advice}")


def to_newest(node: Node, opset: int, rewrite: Rewrite) -> list[Node]:
    """The node as newest operators, given the opset it was written for."""
    del opset, rewrite
    return [node]
