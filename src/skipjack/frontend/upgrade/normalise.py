"""Softmax over flattened dims, and the older forms of batch and group normalisation and of Dropout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipjack.frontend.upgrade.rewrite import Rewrite, attribute, derived, refuse, without
from skipjack.ir.graph import Node

_DROPOUT_BOOL_MASK = 10


def softmax_2d(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Softmax, LogSoftmax and Hardmax below 13 run over all dims from axis on, as if these were one."""
    axis = attribute(node, "axis", 1)
    if axis == -1:
        return [node.with_attrs(axis=-1)]
    x = node.inputs[0]
    shape, flat, out = (rewrite.fresh(node, hint) for hint in ("shape", "flat", "2d"))
    return [
        derived(node, "Shape", (x,), (shape,)),
        derived(node, "Flatten", (x,), (flat,), {"axis": axis}),
        derived(node, node.op, (flat,), (out,), {"axis": -1}),
        derived(node, "Reshape", (out, shape), node.outputs, {"allowzero": 1}),
    ]


def batch_norm_per_element(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """BatchNormalization below 9: spatial=0 has one mean, variance, scale and bias per element of a sample."""
    if attribute(node, "spatial", 1):
        return [derived(node, node.op, node.inputs, node.outputs, without(node, "spatial"))]
    x, scale, bias, mean, variance = node.inputs
    nodes, epsilon = rewrite.scalar_like(node, x, "epsilon", attribute(node, "epsilon", 1e-5))
    centred, safe, deviation, normal, scaled = (
        rewrite.fresh(node, hint) for hint in ("centred", "variance", "deviation", "normal", "scaled")
    )
    _only_first_output(node, rewrite)
    return [
        *nodes,
        derived(node, "Sub", (x, mean), (centred,)),
        derived(node, "Add", (variance, epsilon), (safe,)),
        derived(node, "Sqrt", (safe,), (deviation,)),
        derived(node, "Div", (centred, deviation), (normal,)),
        derived(node, "Mul", (normal, scale), (scaled,)),
        derived(node, "Add", (scaled, bias), node.outputs[:1]),
    ]


def batch_norm_outputs(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """BatchNormalization below 14: outputs after the first exist in training only."""
    _only_first_output(node, rewrite)
    return [derived(node, node.op, node.inputs, node.outputs[:1], node.attrs)]


def _only_first_output(node: Node, rewrite: Rewrite) -> None:
    used = [o for o in node.outputs[1:] if o and rewrite.is_read(o)]
    if used:
        refuse(node, "only its first output to be used", used, "export the model for inference")


def dropout(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Dropout below 12 passes its input through; its mask is all false, of the data's element type below 10."""
    outputs = _read_outputs(node, rewrite)
    if len(outputs) < 2:
        return [derived(node, node.op, node.inputs[:1], outputs)]
    kept, dropped = rewrite.fresh(node, "kept"), rewrite.fresh(node, "dropped")
    nodes = [
        derived(node, node.op, node.inputs[:1], (outputs[0], kept)),
        derived(node, "Not", (kept,), (dropped,)),
    ]
    if node.origin.opset < _DROPOUT_BOOL_MASK:
        return [*nodes, derived(node, "CastLike", (dropped, node.inputs[0]), outputs[1:])]
    return [*nodes, derived(node, "Identity", (dropped,), outputs[1:])]


def _read_outputs(node: Node, rewrite: Rewrite) -> tuple[str, ...]:
    keep = len(node.outputs) > 1 and node.outputs[1] and rewrite.is_read(node.outputs[1])
    return node.outputs if keep else node.outputs[:1]


def group_norm(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """GroupNormalization 18: scale and bias are per group; repeat them for every channel of the group."""
    x, scale, bias = node.inputs
    groups = attribute(node, "num_groups")
    if not isinstance(groups, int) or groups < 1:
        refuse(node, "num_groups of at least 1", groups, "the model is damaged")
    channels, per_group, shape = (rewrite.fresh(node, hint) for hint in ("channels", "per_group", "shape"))
    count = rewrite.constant(node, "groups", [groups])
    nodes = [
        derived(node, "Shape", (x,), (channels,), {"start": 1, "end": 2}),
        derived(node, "Div", (channels, count), (per_group,)),
        derived(node, "Concat", (count, per_group), (shape,), {"axis": 0}),
    ]
    column = rewrite.constant(node, "column", [groups, 1], np.int64)
    flat = rewrite.constant(node, "flat", [-1], np.int64)
    repeated: list[str] = []
    for name, hint in ((scale, "scale"), (bias, "bias")):
        tall, wide, out = (rewrite.fresh(node, f"{hint}_{step}") for step in ("column", "wide", "channels"))
        nodes += [
            derived(node, "Reshape", (name, column), (tall,)),
            derived(node, "Expand", (tall, shape), (wide,)),
            derived(node, "Reshape", (wide, flat), (out,)),
        ]
        repeated.append(out)
    return [*nodes, derived(node, node.op, (x, *repeated), node.outputs, node.attrs)]
