"""BatchNormalization at inference is a multiplication and an addition per channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import ONNX, Graph, Node
from skipjack.passes.canonicalise_contractions import float_attr, int_attr
from skipjack.passes.rewrite import Edit, node


@dataclass(frozen=True)
class FoldBatchNorms:
    """Each with constant statistics becomes Mul and Add with constants of shape [C, 1, ...], computed in f64."""

    name: str = "fold_batch_norms"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            if n.op == "BatchNormalization" and n.domain == ONNX and not int_attr(n, "training_mode", 0):
                _fold(edit, n)
        return edit.finish()


def _fold(edit: Edit, n: Node) -> None:
    arrays = [edit.array(i) for i in n.inputs[1:5]]
    t = edit.tensor(n.input(0))
    if any(a is None for a in arrays) or t is None or t.rank is None or t.rank < 2:
        return
    scale, shift, mean, variance = (np.asarray(a, np.float64).reshape(-1) for a in arrays)
    factor = scale / np.sqrt(variance + float_attr(n, "epsilon", 1e-5))
    addend = shift - mean * factor
    shape = (-1, *[1] * (t.rank - 2))
    names = [
        edit.constant(v.astype(t.dtype.np).reshape(shape), f"{n.outputs[0]}.{what}")
        for v, what in ((factor, "factor"), (addend, "addend"))
    ]
    middle = edit.name(f"{n.outputs[0]}.scaled")
    edit.replace(n, [node("Mul", (n.input(0), names[0]), middle), node("Add", (middle, names[1]), n.outputs[0])])
