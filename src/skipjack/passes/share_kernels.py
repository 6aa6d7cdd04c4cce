"""Let nodes whose expressions differ only in numbers share one kernel: the numbers become inputs.

Quantised layers are alike but for their scales and zero points. With the numbers inside the expression every layer
would be compiled by itself; numbers that are the same everywhere stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.lang.expr import Expr, arg
from skipjack.passes.rewrite import Edit

_CODES = frozenset({DType.U8, DType.I8})
_EXPRESSIONS = {"Linear": "epilogue", "Conv": "epilogue", "Pointwise": "expr"}
Skeleton = tuple[object, ...]


@dataclass(frozen=True)
class ShareKernels:
    """Integer contractions and elementwise nodes that read or make codes; others seldom have numbers of their own."""

    name: str = "share_kernels"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        alike: dict[Skeleton, list[tuple[Node, list[Expr]]]] = {}
        for n in graph.nodes:
            expr = _expression(edit, n)
            if expr is not None:
                skeleton, numbers = _taken_apart(expr)
                kind = (n.op, tuple(_kind(edit, name) for name in n.inputs))
                alike.setdefault((kind, skeleton), []).append((n, numbers))
        for group in alike.values():
            places = [i for i, column in enumerate(zip(*(c for _, c in group), strict=True)) if _differ(column)]
            if places:
                for n, numbers in group:
                    _name_numbers(edit, n, [numbers[i] for i in places])
        return edit.finish() if edit.changed else graph


def _expression(edit: Edit, n: Node) -> Expr | None:
    """The expression of a node that works on codes."""
    key = _EXPRESSIONS.get(n.op) if n.domain == SKIPJACK else None
    expr = n.attrs.get(key) if key else None
    if not isinstance(expr, Expr):
        return None
    inputs = [edit.tensor(name) for name in (n.inputs[:1] if key == "epilogue" else n.inputs)]
    made = edit.tensor(n.outputs[0])
    return expr if any(t is not None and t.dtype in _CODES for t in (*inputs, made)) else None


def _kind(edit: Edit, name: str) -> object:
    """What a kernel may depend on of an input: its type, and the shape of a constant."""
    t, array = edit.tensor(name), edit.array(name)
    return (None if t is None else t.dtype, None if array is None else array.ndim)


def _taken_apart(e: Expr) -> tuple[Skeleton, list[Expr]]:
    """The expression without its numbers, and the numbers in the order of first use."""
    known: dict[int, int] = {}
    parts: list[object] = []
    numbers: list[Expr] = []

    def visit(x: Expr) -> int:
        if id(x) not in known:
            places = tuple(visit(a) for a in x.args)
            if x.op == "const":
                numbers.append(x)
            parts.append((x.op, places, x.dtype, None if x.op == "const" else x.value))
            known[id(x)] = len(parts) - 1
        return known[id(x)]

    visit(e)
    return tuple(parts), numbers


def _differ(numbers: tuple[Expr, ...]) -> bool:
    return any(repr(x.value) != repr(numbers[0].value) for x in numbers)


def _name_numbers(edit: Edit, n: Node, numbers: list[Expr]) -> None:
    """Replace n by a node that reads these parts of its expression as inputs."""
    key = _EXPRESSIONS[n.op]
    expr = n.attrs[key]
    assert isinstance(expr, Expr), "the node was found by its expression"
    first = len(n.inputs) - 1 if key == "epilogue" else len(n.inputs)
    names = [edit.constant(np.array(x.value, x.dtype.np), f"{n.outputs[0]}.number") for x in numbers]
    places = {id(x): arg(first + i, x.dtype) for i, x in enumerate(numbers)}
    edit.replace(n, [replace(n, inputs=(*n.inputs, *names)).with_attrs(**{key: _with(expr, places, {})})])


def _with(e: Expr, places: Mapping[int, Expr], memo: dict[int, Expr]) -> Expr:
    if id(e) in places:
        return places[id(e)]
    if id(e) not in memo:
        memo[id(e)] = replace(e, args=tuple(_with(a, places, memo) for a in e.args)) if e.args else e
    return memo[id(e)]
