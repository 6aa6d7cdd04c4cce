"""Sizes become numbers: the concrete shape of every output of one node."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from skipjack.core.dims import Sym, evaluate, symbols
from skipjack.core.errors import ModelError
from skipjack.ir.graph import Graph, Node
from skipjack.ir.types import TensorType, ValueType
from skipjack.kernels.launch import Bound
from skipjack.ops.registry import Infer, lookup


@dataclass
class Sizes:
    """The numbers of all symbols known so far."""

    known: dict[str, int] = field(default_factory=dict[str, int])

    def learn(self, declared: TensorType, shape: Sequence[int], what: str) -> None:
        """Give declared's plain symbols their numbers; ModelError when a size contradicts what is known."""
        if declared.shape is None:
            return
        if len(declared.shape) != len(shape):
            raise ModelError(f"{what}: expected {len(declared.shape)} dimensions, got the shape {list(shape)}")
        for d, n in zip(declared.shape, shape, strict=True):
            if isinstance(d, Sym) and Sym.named(str(d)) == d and symbols(d):
                self.known.setdefault(str(d), int(n))
            if symbols(d) <= self.known.keys() and evaluate(d, self.known) != n:
                raise ModelError(f"{what}: expected a size of {d} = {evaluate(d, self.known)}, got {n}")

    def shape(self, declared: TensorType) -> tuple[int, ...] | None:
        """Its shape in numbers, None when a symbol is not known yet."""
        if declared.shape is None or any(symbols(d) - self.known.keys() for d in declared.shape):
            return None
        shape = tuple(evaluate(d, self.known) for d in declared.shape)
        if any(n < 0 for n in shape):
            raise ModelError(f"a size became negative: {list(declared.shape)} is {list(shape)} with {self.known}")
        return shape


def output_shapes(
    graph: Graph, node: Node, inputs: Sequence[Bound | None], sizes: Sizes
) -> list[tuple[int, ...]] | None:
    """The shapes of all outputs in numbers, None when they depend on data that is not known.

    ModelError when the sizes of this run do not fit the operator, such as sizes that do not broadcast.
    """
    declared = [graph.types.get(name) for name in node.outputs]
    shapes = [sizes.shape(t) if isinstance(t, TensorType) else () for t in declared]
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes):
        return _inferred_shapes(node, declared, inputs, sizes)
    if may_disagree(graph, node):
        _inferred_shapes(node, declared, inputs, sizes)
    return known


def may_disagree(graph: Graph, node: Node) -> bool:
    """Whether free sizes of several inputs meet, so that only a run can show that they fit together."""
    types = [graph.types.get(name) for name in node.inputs]
    shapes = [t.shape for t in types if isinstance(t, TensorType) and t.shape]
    if len(shapes) < 2 or not any(isinstance(d, Sym) for s in shapes for d in s):
        return False
    facing = itertools.zip_longest(*(reversed(s) for s in shapes), fillvalue=1)
    return any(len({*dims} - {1}) > 1 for dims in facing)


def _inferred_shapes(
    node: Node, declared: Sequence[ValueType | None], inputs: Sequence[Bound | None], sizes: Sizes
) -> list[tuple[int, ...]] | None:
    """The shapes as the type rule of the operator gives them for the sizes of the inputs."""
    types = [None if b is None else TensorType(b.dtype, b.shape) for b in inputs]
    values = [None if b is None else b.value for b in inputs]
    known = [None if v is None or v.dtype.kind not in "iub" else v.astype(object) for v in values]
    inferred = lookup(node).infer(
        Infer(node, types, [k if k is not None else v for k, v in zip(known, values, strict=True)])
    )
    found: list[tuple[int, ...]] = []
    for name, old, new in zip(node.outputs, declared, inferred):
        if not name:
            found.append(())
            continue
        if not isinstance(new, TensorType) or new.shape is None or any(isinstance(d, Sym) for d in new.shape):
            return None
        shape = tuple(int(d) for d in new.shape if not isinstance(d, Sym))
        if isinstance(old, TensorType):
            sizes.learn(old, shape, str(node.origin))
        found.append(shape)
    return found
