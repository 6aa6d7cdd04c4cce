"""Find LayerNormalization and RMSNormalization that an exporter spelled out as reductions and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import ONNX, Graph, Node
from skipjack.passes.rewrite import Edit, node


@dataclass(frozen=True)
class RecogniseNormalization:
    """Over the last axis only, with a constant scale and shift of that axis' size when there are any.

    x minus its mean, divided by the root of the mean square plus epsilon, is LayerNormalization; without the
    subtraction it is RMSNormalization.
    """

    name: str = "recognise_normalization"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            if n.domain == ONNX and n.op in ("Div", "Mul"):
                _recognise(edit, n)
        return edit.finish()


@dataclass(frozen=True)
class _Normalized:
    x: str
    epsilon: float
    centred: bool


def _recognise(edit: Edit, n: Node) -> None:
    found = _normalized(edit, n)
    t = edit.tensor(n.outputs[0])
    if found is None or t is None or not t.shape or not isinstance(t.shape[-1], int):
        return
    features, last = t.shape[-1], n
    scale, last = _next_vector(edit, last, "Mul", features)
    shift, last = _next_vector(edit, last, "Add", features) if found.centred else (None, last)
    names = [edit.constant(np.ones(features, t.dtype.np) if scale is None else scale, f"{last.outputs[0]}.scale")]
    if shift is not None:
        names.append(edit.constant(shift, f"{last.outputs[0]}.shift"))
    op = "LayerNormalization" if found.centred else "RMSNormalization"
    made = node(op, (found.x, *names), last.outputs[0], axis=-1, epsilon=found.epsilon)
    edit.replace(last, [made])


def _normalized(edit: Edit, n: Node) -> _Normalized | None:
    """What n normalizes: d / sqrt(mean(d*d) + epsilon), with d = x or d = x - mean(x)."""
    for value, root in _factors(edit, n):
        total = edit.made_by(root.input(0), "Add")
        if total is None:
            continue
        for position in (0, 1):
            epsilon = edit.scalar(total.input(position))
            mean = edit.made_by(total.input(1 - position), "ReduceMean")
            if (
                epsilon is None
                or mean is None
                or not _over_last(edit, mean)
                or not _squares(edit, mean.input(0), value)
            ):
                continue
            centred = _centred(edit, value)
            return _Normalized(centred or value, epsilon, bool(centred))
    return None


def _factors(edit: Edit, n: Node) -> list[tuple[str, Node]]:
    """Pairs (value, Sqrt node) such that n is value / sqrt."""
    if n.op == "Div":
        root = edit.made_by(n.input(1), "Sqrt")
        return [] if root is None else [(n.input(0), root)]
    found: list[tuple[str, Node]] = []
    for position in (0, 1):
        inverse = edit.made_by(n.input(position), "Reciprocal", "Div")
        if inverse is None or (inverse.op == "Div" and edit.scalar(inverse.input(0)) != 1.0):
            continue
        root = edit.made_by(inverse.inputs[-1], "Sqrt")
        if root is not None:
            found.append((n.input(1 - position), root))
    return found


def _over_last(edit: Edit, mean: Node) -> bool:
    axes, rank = edit.array(mean.input(1)), edit.rank(mean.input(0))
    if axes is None or rank is None or axes.size != 1 or mean.attrs.get("keepdims", 1) != 1:
        return False
    return int(axes.reshape(-1)[0]) in (-1, rank - 1)


def _squares(edit: Edit, name: str, value: str) -> bool:
    square = edit.made_by(name, "Pow", "Mul")
    if square is None or square.input(0) != value:
        return False
    return square.input(1) == value if square.op == "Mul" else edit.scalar(square.input(1)) == 2.0


def _centred(edit: Edit, name: str) -> str:
    """x when name is x - mean(x), else an empty string."""
    difference = edit.made_by(name, "Sub")
    if difference is None:
        return ""
    mean = edit.made_by(difference.input(1), "ReduceMean")
    if mean is None or mean.input(0) != difference.input(0) or not _over_last(edit, mean):
        return ""
    return difference.input(0)


def _next_vector(edit: Edit, n: Node, op: str, features: int) -> tuple[np.ndarray | None, Node]:
    """The constant of one number per feature that the only reader of n applies with op, and that reader."""
    reader = edit.only_reader(n.outputs[0])
    if reader is None or reader.op != op or reader.domain != ONNX:
        return None, n
    other = reader.input(1 if reader.input(0) == n.outputs[0] else 0)
    array, rank = edit.array(other), edit.rank(n.outputs[0])
    if array is None or array.size != features or array.shape[-1:] != (features,) or array.ndim > (rank or 0):
        return None, n
    return array.reshape(-1), reader
