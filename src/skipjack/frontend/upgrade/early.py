"""Forms older than opset 7 that have an exact newest equivalent."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from skipjack.frontend.upgrade.rewrite import Rewrite, Upgrader, attribute, derived, refuse, without
from skipjack.ir.graph import Node


def drop(*names: str) -> Upgrader:
    """Attributes without meaning at inference are left out."""

    def upgrade(node: Node, rewrite: Rewrite) -> Sequence[Node]:
        del rewrite
        return [derived(node, node.op, node.inputs, node.outputs, without(node, *names))]

    return upgrade


def broadcast(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Binary operators below 7: with `broadcast`, the second operand's dims match the first's from `axis` on."""
    attrs = without(node, "broadcast", "axis", "consumed_inputs")
    axis = attribute(node, "axis")
    if axis is None or not attribute(node, "broadcast", 0):
        return [derived(node, node.op, node.inputs, node.outputs, attrs)]
    nodes, aligned = _aligned(node, rewrite, axis)
    return [*nodes, derived(node, node.op, (node.inputs[0], aligned), node.outputs, attrs)]


def prelu(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """PRelu below 7: a slope of more than one element is per channel."""
    attrs = without(node, "consumed_inputs")
    slope = rewrite.known(node.inputs[1])
    if slope is not None and slope.size == 1:
        return [derived(node, node.op, node.inputs, node.outputs, attrs)]
    nodes, aligned = _aligned(node, rewrite, 1)
    return [*nodes, derived(node, node.op, (node.inputs[0], aligned), node.outputs, attrs)]


def _aligned(node: Node, rewrite: Rewrite, axis: int) -> tuple[list[Node], str]:
    """The second operand reshaped so that its dims begin at `axis` of the first."""
    a, b = node.inputs[:2]
    if axis < 0:
        refuse(node, "axis of at least 0", axis, "export with opset 7 or newer")
    names = ("a_shape", "b_shape", "a_rank", "b_rank", "rest", "missing", "missing_1d", "ones", "shape", "aligned")
    v = {hint: rewrite.fresh(node, hint) for hint in names}
    offset, flat = rewrite.constant(node, "axis", axis), rewrite.constant(node, "flat", [1])
    one = rewrite.constant(node, "one", [1])
    nodes = [
        derived(node, "Shape", (a,), (v["a_shape"],)),
        derived(node, "Shape", (b,), (v["b_shape"],)),
        derived(node, "Size", (v["a_shape"],), (v["a_rank"],)),
        derived(node, "Size", (v["b_shape"],), (v["b_rank"],)),
        derived(node, "Sub", (v["a_rank"], v["b_rank"]), (v["rest"],)),
        derived(node, "Sub", (v["rest"], offset), (v["missing"],)),
        derived(node, "Reshape", (v["missing"], flat), (v["missing_1d"],)),
        derived(node, "Expand", (one, v["missing_1d"]), (v["ones"],)),
        derived(node, "Concat", (v["b_shape"], v["ones"]), (v["shape"],), {"axis": 0}),
        derived(node, "Reshape", (b, v["shape"]), (v["aligned"],)),
    ]
    return nodes, v["aligned"]


def cast_name(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Cast below 6: the type is given by name."""
    del rewrite
    name = attribute(node, "to")
    if name not in set(TensorProto.DataType.keys()):
        refuse(node, "an ONNX type name", name, "the model is damaged")
    return [node.with_attrs(to=TensorProto.DataType.Value(name))]


def concat_axis(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Concat below 4: axis is 1 unless given."""
    del rewrite
    return [node.with_attrs(axis=attribute(node, "axis", 1))]


def reshape_attribute(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Reshape below 5: shape is an attribute."""
    shape = rewrite.constant(node, "shape", attribute(node, "shape", ()))
    return [derived(node, node.op, (node.inputs[0], shape), node.outputs)]


def pad_name(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Pad below 2: pads had another name."""
    del rewrite
    return [
        derived(node, node.op, node.inputs, node.outputs, without(node, "paddings")).with_attrs(
            pads=attribute(node, "paddings", ())
        )
    ]


def upsample_sides(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Upsample below 7: one scale for the height and one for the width."""
    del rewrite
    scales = (1.0, 1.0, attribute(node, "height_scale"), attribute(node, "width_scale"))
    attrs = without(node, "height_scale", "width_scale")
    return [derived(node, node.op, node.inputs, node.outputs, attrs).with_attrs(scales=scales)]
