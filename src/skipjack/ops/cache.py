"""AppendToCache: keys or values of new positions behind those of the past, at a start of each item's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from skipjack.core.dims import dim_max
from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.registry import Infer, Op, Ref, register


def _infer(i: Infer) -> list[ValueType]:
    """Inputs: new [B, S, heads * D], starts [B], total [1], past [B, heads, P, D]."""
    t, heads = i.tensor(0), int(i.attr("heads"))
    total, past = i.ints(2), i.shape(3) if i.has(3) else (0, 0, 0, 0)
    if t.shape is None:
        return [TensorType(t.dtype, None)]
    length = i.fresh("cache") if past is None or total is None else dim_max(past[2], total[0])
    return [TensorType(t.dtype, (t.shape[0], heads, length, t.shape[2] // heads))]


def _ref(r: Ref) -> list[Any]:
    new, starts, total, past = r.inputs[0], r.inputs[1], int(np.asarray(r.inputs[2]).reshape(-1)[0]), r.get(3)
    batch, steps, features = new.shape
    heads = int(r.attr("heads"))
    parted = new.reshape(batch, steps, heads, features // heads).transpose(0, 2, 1, 3)
    out = np.zeros((batch, heads, max(total, 0 if past is None else past.shape[2]), features // heads), new.dtype)
    for b, start in enumerate(np.clip(np.asarray(starts).reshape(-1), 0, out.shape[2]).tolist()):
        if past is not None:
            out[b, :, : min(start, past.shape[2])] = past[b, :, :start]
        end = min(start + steps, out.shape[2])
        out[b, :, start:end] = parted[b, :, : end - start]
    return [out]


register(Op("AppendToCache", _infer, _ref, domain=SKIPJACK))
