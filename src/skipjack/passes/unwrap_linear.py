"""Linear layers take inputs of any rank, so the reshapes to a matrix and back that exporters put around them go."""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.ir.graph import ONNX, SKIPJACK, Graph, Node
from skipjack.passes.rewrite import Edit


@dataclass(frozen=True)
class UnwrapLinear:
    """Reshape, Linear, Reshape is Linear when the reshapes only join and split the leading axes.

    Extras of the layer must hold one value per feature.
    """

    name: str = "unwrap_linear"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            if n.op == "Reshape" and n.domain == ONNX:
                _unwrap(edit, n)
        return edit.finish()


def _unwrap(edit: Edit, after: Node) -> None:
    linear = edit.made_by(after.input(0), "Linear")
    if linear is None or linear.domain != SKIPJACK or edit.only_reader(linear.outputs[0]) is not after:
        return
    before = edit.made_by(linear.input(0), "Reshape")
    if before is None or before.domain != ONNX or any(edit.rank(extra) != 1 for extra in linear.inputs[2:]):
        return
    x, rows, y, result = (
        edit.tensor(i) for i in (before.input(0), before.outputs[0], linear.outputs[0], after.outputs[0])
    )
    if x is None or rows is None or y is None or result is None:
        return
    if not x.shape or not rows.shape or not y.shape or x.shape[-1] != rows.shape[-1]:
        return
    if result.shape == (*x.shape[:-1], y.shape[-1]):
        inputs = (before.input(0), *linear.inputs[1:])
        edit.replace(after, [Node("Linear", inputs, after.outputs, linear.attrs, SKIPJACK, linear.origin)])
