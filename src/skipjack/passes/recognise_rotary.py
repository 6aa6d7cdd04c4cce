"""Find rotary position embedding spelled out as slices, a concatenation, products and a sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import ONNX, Graph, Node
from skipjack.ops.registry import find
from skipjack.passes.canonicalise_contractions import ints_attr
from skipjack.passes.rewrite import Edit, node

_HEADS_SWAPPED = (0, 2, 1, 3)


@dataclass(frozen=True)
class RecogniseRotary:
    """x * cos + concat(-second half of x, first half of x) * sin becomes RotaryEmbedding, for x of [B, heads, S, D].

    cos and sin must be computed from a concatenation of one value with itself; the node reads the halves, of shape
    [B or 1, S, D / 2]. Where x was just split into heads, the rotation is done on [B, S, heads * D] before the split.
    """

    name: str = "recognise_rotary"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            if n.op == "Add" and n.domain == ONNX:
                _recognise(edit, n)
        return edit.finish()


def _recognise(edit: Edit, n: Node) -> None:
    straight, turned = (edit.made_by(i, "Mul") for i in n.inputs)
    if straight is None or turned is None or edit.rank(n.outputs[0]) != 4:
        return
    for first, second in ((straight, turned), (turned, straight)):
        found = _operands(edit, first, second)
        if found is None:
            continue
        x, cos, sin = found
        made: list[Node] = []
        tables = [_half_table(edit, table, made) for table in (cos, sin)]
        if all(tables):
            edit.replace(n, [*made, *_rotation(edit, x, [str(t) for t in tables], n.outputs[0])])
            return


def _operands(edit: Edit, straight: Node, turned: Node) -> tuple[str, str, str] | None:
    """(x, cos, sin) of x * cos and turned(x) * sin."""
    for i in (0, 1):
        x = _turned(edit, turned.input(i))
        if x and x in straight.inputs:
            return x, straight.input(1 - straight.inputs.index(x)), turned.input(1 - i)
    return None


def _turned(edit: Edit, name: str) -> str:
    """x when name is concat(-second half of x, first half of x) along the last axis, else an empty string."""
    joined = edit.made_by(name, "Concat")
    t = edit.tensor(name)
    if joined is None or len(joined.inputs) != 2 or t is None or t.shape is None or len(t.shape) != 4:
        return ""
    negated = edit.made_by(joined.input(0), "Neg")
    if negated is None or joined.attrs.get("axis") not in (-1, 3) or not isinstance(t.shape[3], int):
        return ""
    second, first = (_half(edit, i, t.shape[3]) for i in (negated.input(0), joined.input(1)))
    return first[0] if first and second and first == (second[0], 0) and second[1] == 1 else ""


def _half(edit: Edit, name: str, features: int) -> tuple[str, int] | None:
    """(x, which half) when name is one half of x along the last axis."""
    made = edit.made_by(name, "Slice", "Split")
    t = edit.tensor(name)
    if made is None or t is None or t.shape is None or t.shape[3] * 2 != features:
        return None
    if made.op == "Split":
        two = len(made.outputs) == 2 and made.attrs.get("axis", 0) in (-1, 3)
        return (made.input(0), made.outputs.index(name)) if two else None
    start, axis, step = edit.scalar(made.input(1)), edit.scalar(made.input(3)), edit.scalar(made.input(4))
    if axis not in (-1, 3) or start is None or (made.input(4) and step != 1):
        return None
    half = features // 2
    return (made.input(0), 0 if start == 0 else 1) if start in (0, half, -half) else None


def _half_table(edit: Edit, name: str, made: list[Node]) -> str:
    """The first half of a cos or sin table as [B or 1, S, D / 2]; an empty string when the halves may differ."""
    steps: list[tuple[Node, int]] = []
    wide = edit.tensor(name)
    while (joined := edit.made_by(name, "Concat")) is None:
        step = edit.producers.get(name)
        position = None if step is None else _carried(edit, step)
        if step is None or position is None:
            return ""
        steps.append((step, position))
        name = step.input(position)
    rank = edit.rank(name)
    same = len(joined.inputs) == 2 and joined.input(0) == joined.input(1)
    if not same or rank not in (2, 3) or joined.attrs.get("axis") not in (-1, rank - 1) or not _fits(wide, steps):
        return ""
    value = joined.input(0)
    for step, position in reversed(steps):
        if step.op != "Unsqueeze":
            inputs = [value if i == position else other for i, other in enumerate(step.inputs)]
            value = edit.name(f"{step.outputs[0]}.half")
            made.append(Node(step.op, tuple(inputs), (value,), step.attrs, step.domain, step.origin))
    if rank == 2:
        axis = edit.constant(np.array([0], np.int64), f"{value}.axis")
        wider = edit.name(f"{value}.table")
        made.append(node("Unsqueeze", (value, axis), wider))
        value = wider
    return value


def _fits(wide: object, steps: list[tuple[Node, int]]) -> bool:
    """At most one Unsqueeze, which puts the axis of heads in."""
    shape = getattr(wide, "shape", None)
    added = [s for s, _ in steps if s.op == "Unsqueeze"]
    if shape is None or len(added) > 1:
        return False
    return len(shape) == 2 or (len(shape) == 3 and shape[0] == 1 and not added) or (len(shape) == 4 and shape[1] == 1)


def _carried(edit: Edit, step: Node) -> int | None:
    """Which input an elementwise step of one varying operand, or an Unsqueeze, carries on; None for other steps."""
    if step.domain != ONNX or len(step.outputs) != 1:
        return None
    if step.op == "Unsqueeze":
        return 0
    op = find(step.domain, step.op)
    varying = [i for i, name in enumerate(step.inputs) if name and edit.scalar(name) is None]
    return varying[0] if op is not None and op.expression is not None and len(varying) == 1 else None


def _rotation(edit: Edit, x: str, tables: list[str], result: str) -> list[Node]:
    swap = edit.made_by(x, "Transpose")
    split = None if swap is None else edit.made_by(swap.input(0), "Reshape")
    if swap is not None and split is not None and ints_attr(swap, "perm", ()) == _HEADS_SWAPPED:
        flat, parts = edit.tensor(split.input(0)), edit.tensor(split.outputs[0])
        if flat is not None and parts is not None and flat.shape is not None and parts.shape is not None:
            heads = parts.shape[2] if len(flat.shape) == 3 and flat.shape[:2] == parts.shape[:2] else None
            if isinstance(heads, int):
                rotated, rows = edit.name(f"{result}.flat"), edit.name(f"{result}.rows")
                return [
                    node("RotaryEmbedding", (split.input(0), *tables), rotated, num_heads=heads),
                    node("Reshape", (rotated, split.input(1)), rows),
                    node("Transpose", (rows,), result, perm=_HEADS_SWAPPED),
                ]
    return [node("RotaryEmbedding", (x, *tables), result)]
