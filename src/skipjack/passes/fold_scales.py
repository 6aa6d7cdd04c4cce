"""Fold constants per output feature that follow a contraction into its weight and its bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import ONNX, SKIPJACK, Graph, Node
from skipjack.lang.expr import Expr, arg
from skipjack.passes.rewrite import Edit

_CHAINS = 8


@dataclass(frozen=True)
class FoldScales:
    """Mul, Div, Add and Sub by a constant per feature after Linear, Conv or ConvTranspose. Sums are done in f64.

    The contraction must have a constant weight, no epilogue but a constant bias, and no other reader.
    """

    name: str = "fold_scales"

    def apply(self, graph: Graph) -> Graph:
        for _ in range(_CHAINS):
            edit = Edit(graph)
            for n in graph.nodes:
                if n.domain == ONNX and n.op in ("Mul", "Div", "Add", "Sub"):
                    _fold(edit, n)
            if not edit.changed:
                break
            graph = edit.finish()
        return graph


def _fold(edit: Edit, n: Node) -> None:
    for position in (0, 1) if n.op in ("Mul", "Add") else (0,):
        contraction = edit.made_by(n.input(position), "Linear", "Conv", "ConvTranspose")
        if contraction is None or contraction.domain != SKIPJACK or edit.only_reader(contraction.outputs[0]) is not n:
            continue
        vector = per_feature(edit, contraction, n.input(1 - position))
        bias = _constant_bias(edit, contraction)
        weight = edit.array(contraction.input(1))
        if vector is None or bias is None or weight is None or weight.dtype.kind in "iu":
            continue
        if edit.rank(n.outputs[0]) == edit.rank(contraction.outputs[0]):
            if n.op == "Div" and not vector.all():
                return
            factor = vector if n.op == "Mul" else 1.0 / vector if n.op == "Div" else None
            addend = {"Add": vector, "Sub": -vector}.get(n.op)
            edit.replace(n, [_folded(edit, contraction, n.outputs[0], bias, factor, addend)])
            return


def per_feature(edit: Edit, contraction: Node, name: str) -> np.ndarray | None:
    """The constant as one f64 number per output feature of the contraction, None when it is not such a constant."""
    array, t = edit.array(name), edit.tensor(contraction.outputs[0])
    if array is None or t is None or t.shape is None or array.dtype.kind in "OiubS" or array.ndim > len(t.shape):
        return None
    axis = len(t.shape) - 1 if contraction.op in ("Linear", "MatMul") else 1
    features = t.shape[axis]
    shape = (1,) * (len(t.shape) - array.ndim) + array.shape
    if not isinstance(features, int) or any(d != 1 for i, d in enumerate(shape) if i != axis):
        return None
    if shape[axis] not in (1, features):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (features,))


def _constant_bias(edit: Edit, n: Node) -> np.ndarray | None:
    """The bias in f64, a single 0 when there is none; None when the epilogue is something else."""
    epilogue = n.attrs.get("epilogue")
    if epilogue is None:
        return np.zeros(1)
    bias = edit.array(n.input(2))
    if len(n.inputs) != 3 or bias is None or not isinstance(epilogue, Expr) or not _adds_bias(epilogue):
        return None
    return bias.astype(np.float64) if bias.ndim == 1 else None


def _adds_bias(e: Expr) -> bool:
    return e.op == "add" and [(a.op, a.value) for a in e.args] == [("input", 0), ("input", 1)]


def _folded(
    edit: Edit, n: Node, output: str, bias: np.ndarray, factor: np.ndarray | None, addend: np.ndarray | None
) -> Node:
    weight, t = edit.array(n.input(1)), edit.tensor(n.input(0))
    assert weight is not None, "the caller checked that the weight is constant"
    assert t is not None, "the input of a contraction is a tensor"
    name = n.input(1)
    if factor is not None:
        scaled = weight.astype(np.float64) * _along_features(n, weight, factor)
        name = edit.constant(scaled.astype(weight.dtype), f"{name}.scaled")
        bias = bias * factor
    if addend is not None:
        bias = bias + addend
    if n.attrs.get("epilogue") is None and addend is None:
        return Node(n.op, (n.input(0), name), (output,), n.attrs, SKIPJACK, n.origin)
    extra = edit.constant(bias.astype(t.dtype.np), f"{output}.bias")
    made = Node(n.op, (n.input(0), name, extra), (output,), n.attrs, SKIPJACK, n.origin)
    return made.with_attrs(epilogue=arg(0, t.dtype) + arg(1, t.dtype))


def _along_features(n: Node, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The factors shaped to multiply the weight."""
    if n.op == "Linear":
        return factor
    if n.op == "Conv":
        return factor.reshape(-1, *[1] * (weight.ndim - 1))
    per_group = factor.reshape(-1, weight.shape[1])
    groups, inputs = per_group.shape[0], weight.shape[0]
    rows = np.repeat(per_group, inputs // groups, axis=0)
    return rows.reshape(inputs, weight.shape[1], *[1] * (weight.ndim - 2))
