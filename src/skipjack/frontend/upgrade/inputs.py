"""Attributes that became inputs, were renamed, or got another default."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipjack.frontend.upgrade.rewrite import Rewrite, Upgrader, attribute, derived, without
from skipjack.ir.graph import Node


def ints_to_input(name: str) -> Upgrader:
    """An integer list attribute becomes the second input; absent stays absent."""

    def upgrade(node: Node, rewrite: Rewrite) -> Sequence[Node]:
        values = attribute(node, name)
        if not values:
            return [derived(node, node.op, node.inputs, node.outputs, without(node, name))]
        inputs = (node.inputs[0], rewrite.constant(node, name, values))
        return [derived(node, node.op, inputs, node.outputs, without(node, name))]

    return upgrade


def clip(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Clip below 11: min and max are attributes."""
    nodes: list[Node] = []
    inputs = [node.inputs[0]]
    for name in ("min", "max"):
        value = attribute(node, name)
        if value is None:
            inputs.append("")
        else:
            casts, scalar = rewrite.scalar_like(node, node.inputs[0], name, value)
            nodes += casts
            inputs.append(scalar)
    return [*nodes, derived(node, "Clip", inputs, node.outputs)]


def pad(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Pad below 11: pads and value are attributes."""
    nodes: list[Node] = []
    inputs = [node.inputs[0], rewrite.constant(node, "pads", attribute(node, "pads", ()))]
    value = attribute(node, "value", 0.0)
    if value != 0.0:
        nodes, scalar = rewrite.scalar_like(node, node.inputs[0], "value", value)
        inputs.append(scalar)
    return [*nodes, derived(node, "Pad", inputs, node.outputs, without(node, "pads", "value"))]


def slice_(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Slice below 10: starts, ends and axes are attributes."""
    names = ("starts", "ends", "axes") if "axes" in node.attrs else ("starts", "ends")
    inputs = [node.inputs[0], *(rewrite.constant(node, n, attribute(node, n)) for n in names)]
    return [derived(node, "Slice", inputs, node.outputs)]


def top_k(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """TopK below 10: k is an attribute."""
    k = rewrite.constant(node, "k", [attribute(node, "k")])
    return [derived(node, "TopK", (node.inputs[0], k), node.outputs, without(node, "k"))]


def split_evenly(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Split below 18: without sizes it makes as many equal parts as it has outputs."""
    del rewrite
    if node.input(1):
        return [node]
    return [node.with_attrs(num_outputs=len(node.outputs))]


def dft(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """DFT below 20: axis is an attribute."""
    axis = rewrite.constant(node, "axis", attribute(node, "axis", 1))
    return [derived(node, "DFT", (node.inputs[0], node.input(1), axis), node.outputs, without(node, "axis"))]


def grid_sample(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """GridSample below 20: the modes had other names."""
    del rewrite
    mode = str(attribute(node, "mode", "bilinear"))
    return [node.with_attrs(mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))]


def roi_align(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """RoiAlign below 16: coordinates are not shifted by half a pixel."""
    del rewrite
    return [node.with_attrs(coordinate_transformation_mode="output_half_pixel")]


def scatter(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Scatter is the old name of ScatterElements."""
    del rewrite
    return [derived(node, "ScatterElements", node.inputs, node.outputs, node.attrs)]


def upsample_scales(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Upsample below 9: scales is an attribute."""
    scales = rewrite.constant(node, "scales", attribute(node, "scales"), np.float32)
    return [derived(node, "Upsample", (node.inputs[0], scales), node.outputs, without(node, "scales"))]


def upsample(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Upsample is Resize with the coordinates of the corners and no rounding up."""
    del rewrite
    attrs = {
        "mode": "nearest" if attribute(node, "mode", "nearest") == "nearest" else "linear",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    return [derived(node, "Resize", (node.inputs[0], "", node.inputs[1]), node.outputs, attrs)]


def resize(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Resize 10: asymmetric coordinates; nearest rounds down where it enlarges and up where it shrinks."""
    scales = rewrite.known(node.inputs[1])
    mode = attribute(node, "mode", "nearest")
    attrs = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if mode != "nearest" or scales is None or bool((scales >= 1).all()):
        return [derived(node, "Resize", (node.inputs[0], "", node.inputs[1]), node.outputs, attrs)]
    up = rewrite.constant(node, "up", np.maximum(scales, 1), np.float32)
    down = rewrite.constant(node, "down", np.minimum(scales, 1), np.float32)
    middle = rewrite.fresh(node, "enlarged")
    return [
        derived(node, "Resize", (node.inputs[0], "", up), (middle,), attrs),
        derived(node, "Resize", (middle, "", down), node.outputs, {**attrs, "nearest_mode": "ceil"}),
    ]
