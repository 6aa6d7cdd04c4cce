"""What an operator is: its name, its type rule, its numpy reference. One definition per operator, the newest version.

Older versions are rewritten to the newest at import (frontend/upgrade), so nothing behind the frontend knows versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from skipjack.core.dims import Dim, Sym
from skipjack.core.errors import ModelError, nearest
from skipjack.ir.graph import ONNX, Graph, Node
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.lang.expr import Expr

Value = np.ndarray | list[Any] | dict[Any, Any] | None


@dataclass
class Infer:
    """What a type rule sees: the node, the types of its inputs, and those input values that are already known.

    `values[i]` is the array of a constant, or for integers an object array that may hold Dims, or None.
    """

    node: Node
    types: Sequence[ValueType | None]
    values: Sequence[np.ndarray | None]
    graphs: Callable[[Graph, Sequence[ValueType | None]], Graph] | None = None
    new_symbols: list[str] = field(default_factory=list[str])

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default."""
        return self.node.attrs.get(name, default)

    def has(self, index: int) -> bool:
        """Whether the optional input is given."""
        return index < len(self.types) and self.types[index] is not None

    def tensor(self, index: int) -> TensorType:
        """The type of an input that must be a tensor."""
        t = self.types[index] if index < len(self.types) else None
        if not isinstance(t, TensorType):
            self.fail(f"input {index} to be a tensor", "nothing" if t is None else type(t).__name__)
        return t

    def shape(self, index: int) -> Shape | None:
        """The shape of a tensor input; None while its rank is unknown."""
        return self.tensor(index).shape

    def value(self, index: int) -> np.ndarray | None:
        """The known value of an input, None when it is not known or absent."""
        return self.values[index] if index < len(self.values) else None

    def ints(self, index: int) -> list[Dim] | None:
        """A known 1-D (or scalar) integer input as a list of Dims."""
        v = self.value(index)
        return None if v is None else [d if isinstance(d, Sym) else int(d) for d in np.asarray(v).reshape(-1)]

    def fresh(self, what: str) -> Sym:
        """A new symbol for a size that depends on data; it is known only after the node has run."""
        name = f"{what}:{self.node.outputs[0]}"
        self.new_symbols.append(name)
        return Sym.named(name)

    def fail(self, expected: str, got: object) -> NoReturn:
        """Raise the one error for a node that breaks its operator's contract."""
        raise ModelError(f"{self.node.origin}: expected {expected}, got {got}")


@dataclass
class Ref:
    """What a reference sees: the node and its input arrays (None when absent); run executes a subgraph."""

    node: Node
    inputs: Sequence[Any]
    run: Callable[[Graph, Sequence[Any]], list[Any]] | None = None

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or the default."""
        return self.node.attrs.get(name, default)

    def get(self, index: int) -> Any:
        """An input, None when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def n_outputs(self) -> int:
        return len(self.node.outputs)

    def fail(self, expected: str, got: object) -> NoReturn:
        """Raise the error for data that breaks the operator's contract."""
        raise ModelError(f"{self.node.origin}: expected {expected}, got {got}")


@dataclass(frozen=True)
class Op:
    """One operator.

    infer: the types of its outputs. reference: its meaning in numpy, one value per output. propagate: output values
    when inputs are known or symbolic (shape arithmetic), None per output that stays unknown. expression: elementwise
    operators only, the scalar expression of their inputs; broadcasting is numpy's. random: results differ from run to
    run.
    """

    name: str
    infer: Callable[[Infer], Sequence[ValueType]]
    reference: Callable[[Ref], Sequence[Any]]
    domain: str = ONNX
    propagate: Callable[[Infer], Sequence[np.ndarray | None]] | None = None
    expression: Callable[[Node, Sequence[TensorType]], Expr] | None = None
    random: bool = False


_OPS: dict[tuple[str, str], Op] = {}


def register(op: Op) -> Op:
    """Add an operator; a second one of the same name is an error of ours."""
    key = (op.domain, op.name)
    assert key not in _OPS, f"operator {key} is defined twice"
    _OPS[key] = op
    return op


def find(domain: str, name: str) -> Op | None:
    """The operator, or None when skipjack has none of that name."""
    return _OPS.get((domain, name))


def lookup(node: Node) -> Op:
    """The operator of a node; ModelError with the nearest known name."""
    op = find(node.domain, node.op)
    if op is None:
        names = [n for d, n in _OPS if d == node.domain]
        raise ModelError(f"{node.origin}: operator {node.op!r} is not known{nearest(node.op, names)}")
    return op


def registered() -> Iterable[Op]:
    """All operators, sorted by domain and name."""
    return [_OPS[k] for k in sorted(_OPS)]
