"""Reorder: a value rearranged in memory, its elements and shape unchanged."""

from __future__ import annotations

from typing import Any

from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import PLAIN, Layout, TensorType, ValueType
from skipjack.ops.registry import Infer, Op, Ref, register


def _infer(i: Infer) -> list[ValueType]:
    t, to = i.tensor(0), i.attr("to")
    if to not in ("plain", "blocked"):
        i.fail("attribute to = plain or blocked", to)
    if t.rank is not None and t.rank < 3:
        i.fail("at least three axes", t.rank)
    layout = PLAIN if to == "plain" else Layout("blocked", int(i.attr("block", 1)))
    return [TensorType(t.dtype, t.shape, layout, t.encoding, t.quant)]


def _reference(r: Ref) -> list[Any]:
    return [r.inputs[0]]


register(Op("Reorder", _infer, _reference, SKIPJACK))
