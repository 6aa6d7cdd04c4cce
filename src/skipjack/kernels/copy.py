"""Copies of whole values: what a view operator needs when its output must lie elsewhere."""

from __future__ import annotations

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK
from skipjack.kernels.launch import Bound, Launch, Lowering, Site, Work, lowering
from skipjack.kernels.strided import apply, at_place, copy, whole
from skipjack.lang.expr import const
from skipjack.targets.target import Target

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout")
_SIZES = (1, 2, 4, 8, 16)


def copy_whole(source: Bound, out: Bound, target: Target) -> list[Launch]:
    """Every byte of a value to another place, padding of its layout included."""
    if source.place == out.place:
        return []
    n = source.nbytes
    size = next(s for s in (4, 2, 1) if n % s == 0)
    dtype = {4: DType.U32, 2: DType.U16, 1: DType.U8}[size]
    shape = (n // size,)
    return copy(shape, at_place(source.place, dtype, shape), at_place(out.place, dtype, shape), target)


def held(site: Site) -> str:
    """Empty when all values are held in memory that can be copied byte by byte."""
    types = [t for t in (*site.inputs, *site.outputs) if t is not None]
    strange = [t.dtype.value for t in types if t.dtype is DType.STRING or t.dtype.itemsize not in _SIZES]
    return f"elements of type {strange[0]} have no bytes of their own" if strange else ""


def _accepts(site: Site) -> str:
    training = site.constants[2] if len(site.constants) > 2 else None
    if len(site.inputs) > 2 and site.node.op == "Dropout" and site.inputs[2] is not None:
        if training is None or bool(training.reshape(-1)[0]):
            return "the node drops elements at random"
    return held(site)


def _lower(work: Work) -> list[Launch]:
    launches = copy_whole(work.input(0), work.output(), work.target)
    mask = work.outputs[1] if len(work.outputs) > 1 else None
    if mask is not None:
        # Nothing is dropped, so the mask of Dropout holds True everywhere.
        launches += apply(const(1, DType.BOOL), mask.shape, [], whole(mask), work.target)
    return launches


def _accepts_blocked(site: Site) -> str:
    return "a mask is asked for" if len(site.outputs) > 1 and site.outputs[1] is not None else _accepts(site)


lowering(Lowering("copy", SKIPJACK, "Copy", held, _lower))
for _op in _VIEWS:
    lowering(Lowering("copy", ONNX, _op, _accepts, _lower))
lowering(Lowering("copy-blocked", ONNX, "Identity", _accepts, _lower, layouts="blocked"))
lowering(Lowering("copy-blocked", ONNX, "Dropout", _accepts_blocked, _lower, layouts="blocked"))
