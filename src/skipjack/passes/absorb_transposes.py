"""MatMul reads an operand with its last two axes swapped; the transpose that did so goes, or keeps rows contiguous."""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.ir.graph import ONNX, SKIPJACK, Graph, Node
from skipjack.passes.canonicalise_contractions import int_attr, ints_attr
from skipjack.passes.rewrite import Edit, node


@dataclass(frozen=True)
class AbsorbTransposes:
    """After it no operand of a MatMul is made by a transpose that moves the last axis to the place before the last."""

    name: str = "absorb_transposes"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            if n.key == (SKIPJACK, "MatMul"):
                _absorb(edit, n)
        return edit.finish()


def _absorb(edit: Edit, n: Node) -> None:
    inputs, made = list(n.inputs), list[Node]()
    trans = [int_attr(n, "trans_a", 0), int_attr(n, "trans_b", 0)]
    for i in (0, 1):
        moved = edit.made_by(inputs[i], "Transpose")
        perm = ints_attr(moved, "perm", ()) if moved is not None and moved.domain == ONNX else tuple[int, ...]()
        rank = len(perm)
        if moved is None or rank < 2 or perm[-2] != rank - 1:
            continue
        swapped = (*perm[:-2], perm[-1], perm[-2])
        trans[i] = 1 - trans[i]
        if swapped == tuple(range(rank)):
            inputs[i] = moved.input(0)
        else:
            inputs[i] = edit.name(f"{inputs[i]}.rows")
            made.append(node("Transpose", moved.inputs, inputs[i], perm=swapped))
    if tuple(inputs) != n.inputs:
        edit.replace(n, [*made, n.with_inputs(inputs).with_attrs(trans_a=trans[0], trans_b=trans[1])])
