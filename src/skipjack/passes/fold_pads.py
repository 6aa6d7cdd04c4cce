"""Padding with what a node itself pads with, before a convolution or an average pool is padding of that node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import ONNX, SKIPJACK, Graph, Node
from skipjack.passes.canonicalise_contractions import int_attr, ints_attr
from skipjack.passes.rewrite import Edit


@dataclass(frozen=True)
class FoldPads:
    """Pad on spatial axes with zeros, or codes of zero, into Conv and into AveragePool that counts its padding."""

    name: str = "fold_pads"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            pad = edit.made_by(n.input(0), "Pad")
            amounts = None if pad is None else _spatial(edit, pad, int_attr(n, "pad_code", 0))
            if pad is None or amounts is None or not _accepts(n):
                continue
            old = ints_attr(n, "pads", [0] * len(amounts))
            both = tuple(a + b for a, b in zip(old, amounts))
            merged = n.with_inputs((pad.input(0), *n.inputs[1:])).with_attrs(pads=both)
            edit.replace(n, [merged.with_attrs(count_include_pad=1) if n.op == "AveragePool" else merged])
        return edit.finish()


def _accepts(n: Node) -> bool:
    if n.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
        return False
    if n.op == "Conv":
        return n.domain == SKIPJACK
    counts = int_attr(n, "count_include_pad", 0) or not any(ints_attr(n, "pads", ()))
    return n.op == "AveragePool" and n.domain == ONNX and bool(counts) and not int_attr(n, "ceil_mode", 0)


def _spatial(edit: Edit, pad: Node, value: int) -> tuple[int, ...] | None:
    """Begin amounts, then end amounts, of the spatial axes; None when the node pads otherwise."""
    rank, amounts = edit.rank(pad.input(0)), edit.array(pad.input(1))
    if str(pad.attrs.get("mode", "constant")) != "constant" or rank is None or amounts is None or pad.domain != ONNX:
        return None
    if (edit.scalar(pad.input(2)) if pad.input(2) else 0) != value:
        return None
    axes = edit.array(pad.input(3)) if pad.input(3) else np.arange(rank)
    if axes is None or bool(np.any(amounts < 0)):
        return None
    begin, end = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    half = amounts.size // 2
    begin[axes], end[axes] = amounts[:half], amounts[half:]
    if bool(begin[:2].any() or end[:2].any()):
        return None
    return (*(int(v) for v in begin[2:]), *(int(v) for v in end[2:]))
