"""What an upgrader works with: new constants and names, what is known about values, and ways to make nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import DTypeLike

from skipjack.core.dtypes import DType
from skipjack.core.errors import UnsupportedError
from skipjack.ir.graph import Attr, Node


class Values(Protocol):
    """What is known about the values of the graph being imported; new constants are added to it."""

    constants: dict[str, np.ndarray]
    dtypes: dict[str, DType]
    read: set[str]

    def add_constant(self, name: str, array: np.ndarray) -> None: ...


class Rewrite:
    """Makes nodes and constants in place of an older node."""

    def __init__(self, unique: Callable[[str], str], values: Values) -> None:
        self._unique = unique
        self._values = values

    def constant(self, node: Node, hint: str, value: object, dtype: DTypeLike = np.int64) -> str:
        """The name of a new constant."""
        name = self.fresh(node, hint)
        self._values.add_constant(name, np.array(value, dtype))
        return name

    def fresh(self, node: Node, hint: str) -> str:
        """A new value name derived from the node's first output."""
        first = next((o for o in node.outputs if o), node.op)
        name = self._unique(f"{first}.{hint}")
        self._values.read.add(name)
        return name

    def known(self, name: str) -> np.ndarray | None:
        """The array of a constant, None for any other value."""
        return self._values.constants.get(name)

    def dtype(self, name: str) -> DType | None:
        """The element type of a value, None where it cannot be told without shape inference."""
        return self._values.dtypes.get(name)

    def is_read(self, name: str) -> bool:
        """Whether a node or the graph's outputs read the value."""
        return name in self._values.read

    def scalar_like(self, node: Node, like: str, hint: str, value: float) -> tuple[list[Node], str]:
        """A scalar of the element type of another value: a constant, or a CastLike where that type is not known."""
        dtype = self.dtype(like)
        if dtype is not None:
            return [], self.constant(node, hint, value, dtype.np)
        plain, cast = self.constant(node, f"{hint}_f32", value, np.float32), self.fresh(node, hint)
        return [derived(node, "CastLike", (plain, like), (cast,))], cast


Upgrader = Callable[[Node, Rewrite], Sequence[Node]]


def derived(
    node: Node, op: str, inputs: Sequence[str], outputs: Sequence[str], attrs: Mapping[str, Attr] | None = None
) -> Node:
    """A node that replaces part of an older one and keeps its origin."""
    kept: dict[str, Attr] = dict(attrs or {})
    return Node(op, tuple(inputs), tuple(outputs), MappingProxyType(kept), node.domain, node.origin)


def without(node: Node, *names: str) -> dict[str, Attr]:
    """The node's attributes but for some."""
    return {k: v for k, v in node.attrs.items() if k not in names}


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """The value of an attribute, whose type was checked against the schema of the node's version."""
    return node.attrs.get(name, default)


def refuse(node: Node, expected: str, got: object, advice: str) -> NoReturn:
    """The error for an old form that has no newest equivalent."""
    raise UnsupportedError(f"{node.origin}: expected {expected}, got {got}; {advice}")
