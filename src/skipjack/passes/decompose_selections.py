"""Write operators whose output size depends on data as a count and a step that is told it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK, Graph, Node
from skipjack.ops.nms import LIST, SELECT
from skipjack.passes.canonicalise_contractions import int_attr
from skipjack.passes.rewrite import Edit, apply_rules, node


@dataclass(frozen=True)
class DecomposeSelections:
    """NonZero counts first, then fills indices of that many elements; Compress gathers at the indices of NonZero.

    NonMaxSuppression selects into a table of the largest size, then lists as many rows as were selected.
    """

    name: str = "decompose_selections"

    def apply(self, graph: Graph) -> Graph:
        return apply_rules(graph, _RULES)


def _indices(edit: Edit, x: str, result: str) -> list[Node]:
    """The nodes that make the indices [rank, count] of elements of x that are not zero."""
    flag, one, count = (edit.name(f"{result}.{what}") for what in ("is_set", "ones", "count"))
    return [
        node("Cast", (x,), flag, to=DType.BOOL.onnx),
        node("Cast", (flag,), one, to=DType.I64.onnx),
        node("ReduceSum", (one,), count, keepdims=0),
        node("NonZero", (flag, count), result, SKIPJACK),
    ]


def _non_zero(edit: Edit, n: Node) -> None:
    t = edit.tensor(n.input(0))
    if t is not None and t.rank and t.dtype is not DType.STRING:
        edit.replace(n, _indices(edit, n.input(0), n.outputs[0]))


def _compress(edit: Edit, n: Node) -> None:
    x, condition = n.input(0), n.input(1)
    t = edit.tensor(x)
    if t is None or not t.rank or t.dtype is DType.STRING:
        return
    made: list[Node] = []
    if n.attrs.get("axis") is None:
        flat = edit.name(f"{n.outputs[0]}.flat")
        made.append(node("Reshape", (x, edit.constant(np.array([-1], np.int64), f"{flat}.shape")), flat))
        x = flat
    axes = edit.constant(np.array([0], np.int64), f"{n.outputs[0]}.axes")
    found, index = edit.name(f"{n.outputs[0]}.found"), edit.name(f"{n.outputs[0]}.index")
    made += _indices(edit, condition, found)
    made.append(node("Squeeze", (found, axes), index))
    made.append(node("Gather", (x, index), n.outputs[0], axis=int_attr(n, "axis", 0)))
    edit.replace(n, made)


def _non_max_suppression(edit: Edit, n: Node) -> None:
    boxes, scores = edit.tensor(n.input(0)), edit.tensor(n.input(1))
    if boxes is None or scores is None or boxes.rank != 3 or scores.rank != 3 or not n.input(2):
        return
    table, counts, total = (edit.name(f"{n.outputs[0]}.{what}") for what in ("table", "counts", "total"))
    center = int_attr(n, "center_point_box", 0)
    select = node(SELECT, n.inputs, table, SKIPJACK, center_point_box=center)
    made = [
        replace(select, outputs=(table, counts)),
        node("ReduceSum", (counts,), total, keepdims=0),
        node(LIST, (table, counts, total), n.outputs[0], SKIPJACK),
    ]
    edit.replace(n, made)


_RULES: dict[tuple[str, str], Callable[[Edit, Node], None]] = {
    (ONNX, "NonZero"): _non_zero,
    (ONNX, "Compress"): _compress,
    (ONNX, "NonMaxSuppression"): _non_max_suppression,
}
