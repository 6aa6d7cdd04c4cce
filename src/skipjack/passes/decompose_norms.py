"""Write the fused normalisations of com.microsoft with standard operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX, Graph, Node
from skipjack.passes.canonicalise_contractions import float_attr, int_attr
from skipjack.passes.rewrite import Edit, apply_rules, node


@dataclass(frozen=True)
class DecomposeNorms:
    """Skip and embedding normalisations become sums, Gathers and LayerNormalization or RMSNormalization.

    A node whose statistics are read stays as it is.
    """

    name: str = "decompose_norms"

    def apply(self, graph: Graph) -> Graph:
        return apply_rules(graph, _RULES)


def _is_read(edit: Edit, n: Node, index: int) -> bool:
    name = n.outputs[index] if index < len(n.outputs) else ""
    return bool(name) and (name in edit.consumers or name in edit.graph.outputs)


def _sum(edit: Edit, terms: list[str], result: str) -> list[Node]:
    """The nodes that add up terms into result."""
    made: list[Node] = []
    total = terms[0]
    for i, term in enumerate(terms[1:]):
        name = result if i == len(terms) - 2 else edit.name(f"{result}.part")
        made.append(node("Add", (total, term), name))
        total = name
    return made


def _skip_layer(edit: Edit, n: Node) -> None:
    _skip(edit, n, "LayerNormalization", n.inputs[2:4], n.input(4))


def _skip_simplified(edit: Edit, n: Node) -> None:
    _skip(edit, n, "RMSNormalization", n.inputs[2:3], n.input(3))


def _skip(edit: Edit, n: Node, op: str, parameters: tuple[str, ...], bias: str) -> None:
    if _is_read(edit, n, 1) or _is_read(edit, n, 2):
        return
    total = n.outputs[3] if _is_read(edit, n, 3) else edit.name(f"{n.outputs[0]}.sum")
    made = _sum(edit, [n.input(0), n.input(1), *([bias] if bias else [])], total)
    names = [p for p in parameters if p]
    made.append(node(op, (total, *names), n.outputs[0], axis=-1, epsilon=float_attr(n, "epsilon", 1e-12)))
    edit.replace(n, made)


def _simplified(edit: Edit, n: Node) -> None:
    if _is_read(edit, n, 1):
        return
    attrs = {"axis": int_attr(n, "axis", -1), "epsilon": float_attr(n, "epsilon", 1e-5)}
    edit.replace(n, [Node("RMSNormalization", n.inputs[:2], n.outputs[:1], attrs)])


def _embed(edit: Edit, n: Node) -> None:
    ids, segments, words, positions, segment_table, gamma, beta, mask, position_ids = (n.input(i) for i in range(9))
    y = n.outputs[0]
    made = [node("Gather", (words, ids), edit.name(f"{y}.words"), axis=0)]
    terms = [made[0].outputs[0]]
    if not position_ids:
        made += counting(edit, ids, 1, f"{y}.positions")
        position_ids = made[-1].outputs[0]
    made.append(node("Gather", (positions, position_ids), edit.name(f"{y}.place"), axis=0))
    terms.append(made[-1].outputs[0])
    if segment_table and segments:
        made.append(node("Gather", (segment_table, segments), edit.name(f"{y}.segment"), axis=0))
        terms.append(made[-1].outputs[0])
    elif segment_table:
        first = edit.constant(np.zeros(1, np.int64), f"{y}.zero")
        made.append(node("Gather", (segment_table, first), edit.name(f"{y}.segment"), axis=0))
        terms.append(made[-1].outputs[0])
    total = n.outputs[2] if _is_read(edit, n, 2) else edit.name(f"{y}.sum")
    made += _sum(edit, terms, total)
    made.append(node("LayerNormalization", (total, gamma, beta), y, axis=-1, epsilon=float_attr(n, "epsilon", 1e-12)))
    if _is_read(edit, n, 1):
        made += _lengths(edit, ids, mask, n.outputs[1])
    edit.replace(n, made)


def counting(edit: Edit, like: str, axis: int, near: str) -> list[Node]:
    """0, 1, 2, ... as many as like has on an axis; the last node makes it."""
    zero, one = (
        edit.constant(np.array(0, np.int64), f"{near}.zero"),
        edit.constant(np.array(1, np.int64), f"{near}.one"),
    )
    index = edit.constant(np.array(0, np.int64), f"{near}.index")
    size, number, result = edit.name(f"{near}.size"), edit.name(f"{near}.number"), edit.name(near)
    return [
        node("Shape", (like,), size, start=axis, end=axis + 1),
        node("Gather", (size, index), number, axis=0),
        node("Range", (zero, number, one), result),
    ]


def _lengths(edit: Edit, ids: str, mask: str, result: str) -> list[Node]:
    """How many positions of each row the mask leaves, as i32; zero without a mask."""
    if not mask:
        size, zero = edit.name(f"{result}.rows"), np.zeros(1, np.int32)
        return [node("Shape", (ids,), size, start=0, end=1), node("ConstantOfShape", (size,), result, value=zero)]
    t = edit.tensor(mask)
    one = edit.constant(np.array(1, np.int32 if t is None else t.dtype.np), f"{result}.one")
    axes = edit.constant(np.array([1], np.int64), f"{result}.axes")
    kept, number = edit.name(f"{result}.kept"), edit.name(f"{result}.number")
    return [
        node("Equal", (mask, one), kept),
        node("Cast", (kept,), number, to=DType.I32.onnx),
        node("ReduceSum", (number, axes), result, keepdims=0),
    ]


_RULES: dict[tuple[str, str], Callable[[Edit, Node], None]] = {
    (MS, "SkipLayerNormalization"): _skip_layer,
    (MS, "SkipSimplifiedLayerNormalization"): _skip_simplified,
    (MS, "EmbedLayerNormalization"): _embed,
    (ONNX, "SimplifiedLayerNormalization"): _simplified,
}
