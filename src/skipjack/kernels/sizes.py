"""Sizes as values: SizeVector needs no kernel, because binding knows it; Shape and Size store what binding found."""

from __future__ import annotations

import numpy as np

from skipjack.ir.graph import ONNX, SKIPJACK
from skipjack.kernels.launch import Launch, Lowering, Site, Work, lowering
from skipjack.kernels.strided import at_place, copy, whole


def sizes_of_input(work: Work) -> np.ndarray:
    """What a Shape or a Size gives for its bound input."""
    shape = work.input(0).shape
    if work.node.op == "Size":
        return np.array(work.input(0).elements, np.int64)
    end = work.attr("end")
    return np.array(shape[int(work.attr("start", 0)) : None if end is None else int(end)], np.int64)


def _accepts(site: Site) -> str:
    return ""


def _nothing(work: Work) -> list[Launch]:
    return []


def _store(work: Work) -> list[Launch]:
    out, table = work.output(), work.memory.constant(sizes_of_input(work))
    if out.place == table:
        return []
    return copy(out.shape, at_place(table, out.dtype, out.shape), whole(out), work.target)


lowering(Lowering("sizes", SKIPJACK, "SizeVector", _accepts, _nothing))
for _op in ("Shape", "Size"):
    lowering(Lowering("sizes", ONNX, _op, _accepts, _store))
