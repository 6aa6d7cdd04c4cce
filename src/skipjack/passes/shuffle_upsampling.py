"""Write the upsampling of a few maps as a pointwise convolution whose maps become pixels."""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.passes.canonicalise_contractions import int_attr, ints_attr
from skipjack.passes.rewrite import Edit, node

_MOST_MAPS = 16


@dataclass(frozen=True)
class ShuffleUpsampling:
    """ConvTranspose whose kernel is its stride, with few maps: Conv of 1 x 1 and DepthToSpace.

    Kernels have maps in their lanes. One map would leave most lanes empty once for every position of the kernel; as
    maps of one convolution all positions share a vector.
    """

    name: str = "shuffle_upsampling"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            if n.key == (SKIPJACK, "ConvTranspose"):
                _rewrite(edit, n)
        return edit.finish()


def _rewrite(edit: Edit, n: Node) -> None:
    w, extras = edit.array(n.input(1)), [edit.array(name) for name in n.inputs[2:]]
    if w is None or w.ndim != 4 or int_attr(n, "group", 1) != 1:
        return
    channels, maps, side, width = w.shape
    if side == 1 or side != width or maps * side * side > _MOST_MAPS or not _tiles_its_output(n, side):
        return
    pointwise = w.transpose(1, 2, 3, 0).reshape(maps * side * side, channels, 1, 1)
    inputs = [n.input(0), edit.constant(pointwise, f"{n.outputs[0]}.weights")]
    for array in extras:
        if array is None or array.shape != (maps,):
            return
        inputs.append(edit.constant(array.repeat(side * side), f"{n.outputs[0]}.extra"))
    deep = edit.name(f"{n.outputs[0]}.deep")
    still = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1}
    after = {"epilogue": n.attrs["epilogue"]} if "epilogue" in n.attrs else {}
    conv = node("Conv", inputs, deep, SKIPJACK, **still, **after)
    edit.replace(n, [conv, node("DepthToSpace", [deep], n.outputs[0], blocksize=side, mode="CRD")])


def _tiles_its_output(n: Node, side: int) -> bool:
    """Whether every input pixel makes a square of its own in an output without pads."""
    if ints_attr(n, "strides", ()) != (side, side):
        return False
    still = (*ints_attr(n, "pads", ()), *ints_attr(n, "output_padding", ()))
    return not any(still) and all(d == 1 for d in ints_attr(n, "dilations", ()))
