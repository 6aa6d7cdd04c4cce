"""Reorder: a value rearranged in memory, its elements and shape unchanged."""

from __future__ import annotations

from typing import Any

from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import Layout, TensorType, ValueType
from skipjack.ops.registry import Infer, Op, Ref, register


def _infer(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    try:
        layout = Layout.parse(str(i.attr("to")))
    except ValueError:
        i.fail("attribute to = plain, blocked16 or columns64x4, say", i.attr("to"))
    least = {"blocked": 3, "columns": 2}.get(layout.kind, 0)
    if t.rank is not None and t.rank < least:
        i.fail(f"at least {least} axes", t.rank)
    return [TensorType(t.dtype, t.shape, layout, t.encoding, t.quant)]


def _reference(r: Ref) -> list[Any]:
    return [r.inputs[0]]


register(Op("Reorder", _infer, _reference, SKIPJACK))
