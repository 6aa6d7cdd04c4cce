"""Move transposes down through elementwise operators, so that a pair of opposite ones meets and goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import ONNX, Graph, Node
from skipjack.ops.registry import find
from skipjack.passes.remove_no_ops import RemoveNoOps
from skipjack.passes.rewrite import Edit, node

_ROUNDS = 64


@dataclass(frozen=True)
class CancelTransposes:
    """An elementwise node sinks its transposed operands when every operand is transposed alike, or constant, or scalar.

    It moves only transposes with no other reader, so there are never more of them than before.
    """

    name: str = "cancel_transposes"

    def apply(self, graph: Graph) -> Graph:
        clean = RemoveNoOps()
        for _ in range(_ROUNDS):
            edit = Edit(graph)
            moved: set[int] = set()
            for n in graph.nodes:
                _sink(edit, n, moved)
            if not edit.changed:
                break
            graph = clean.apply(edit.finish())
        return graph


def _sink(edit: Edit, n: Node, moved: set[int]) -> None:
    op = find(n.domain, n.op)
    if op is None or len(n.outputs) != 1 or n.domain != ONNX or not (op.expression is not None or n.op == "Concat"):
        return
    transposes = [edit.made_by(i, "Transpose") for i in n.inputs if i]
    perms = {_perm(t) for t in transposes if t is not None and t.domain == ONNX}
    perm = next(iter(perms)) if len(perms) == 1 else None
    if perm is None or any(t is not None and id(t) in moved for t in transposes):
        return
    if any(t is not None and edit.only_reader(t.outputs[0]) is not n for t in transposes):
        return
    inputs = [_untransposed(edit, i, perm) for i in n.inputs]
    if any(i is None for i in inputs):
        return
    inner = edit.name(f"{n.outputs[0]}.before")
    made = Node(n.op, tuple(str(i) for i in inputs), (inner,), n.attrs, n.domain)
    if n.op == "Concat":
        axis = n.attrs["axis"]
        assert isinstance(axis, int), "the axis of Concat is an integer"
        made = made.with_attrs(axis=perm[axis])
    edit.replace(n, [made, node("Transpose", (inner,), n.outputs[0], perm=perm)])
    moved.update(id(t) for t in transposes if t is not None)


def _perm(n: Node) -> tuple[int, ...] | None:
    perm = n.attrs.get("perm")
    return tuple(int(p) for p in perm) if isinstance(perm, tuple) else None  # pyright: ignore[reportArgumentType]


def _untransposed(edit: Edit, name: str, perm: Sequence[int]) -> str | None:
    """The operand before the transpose; None when it is neither transposed nor a small constant."""
    if not name:
        return name
    made = edit.made_by(name, "Transpose")
    if made is not None:
        return made.input(0)
    array = edit.array(name)
    if array is None or array.ndim > len(perm):
        return None
    if array.size == 1 and array.ndim <= 1:
        return name
    full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return edit.constant(np.transpose(full, np.argsort(perm)), f"{name}.moved")
