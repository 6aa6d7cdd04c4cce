"""Operators that write to places given by data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.index import checked, grid, index_tensor, places
from skipjack.ops.movement import follow
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axis_of, ref_axis

_REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _scatter_rule(i: Infer) -> list[ValueType]:
    x, index, updates = i.tensor(0), index_tensor(i, 1), i.tensor(2)
    reduction = i.attr("reduction", "none")
    if reduction != "none" and reduction not in _REDUCTIONS:
        i.fail(f"reduction none or one of {list(_REDUCTIONS)}", reduction)
    if updates.dtype is not x.dtype:
        i.fail(f"updates of type {x.dtype.value}", updates.dtype.value)
    if x.shape is not None and index.shape is not None and i.node.op == "ScatterElements":
        axis_of(i, i.attr("axis", 0), len(x.shape))
        if len(index.shape) != len(x.shape):
            i.fail(f"indices of rank {len(x.shape)}", f"rank {len(index.shape)}")
    return [TensorType(x.dtype, x.shape)]


def _write(r: Ref, out: np.ndarray, where: tuple[np.ndarray, ...], updates: np.ndarray) -> None:
    """Later updates win; a reduction combines with what is there, one update after the other."""
    reduction = r.attr("reduction", "none")
    if reduction == "none":
        out[where] = updates
        return
    combine = _REDUCTIONS[reduction]
    if isinstance(combine, np.ufunc) and out.dtype.kind in "iufb":
        combine.at(out, where, updates)
        return
    wide = np.broadcast_arrays(*where)
    for at in np.ndindex(*wide[0].shape):
        place = tuple(w[at] for w in wide)
        out[place] = combine(out[place], updates[at])


def _scatter_elements(r: Ref) -> list[Any]:
    out, index, updates = np.array(r.get(0)), np.asarray(r.get(1)), np.asarray(r.get(2))
    if index.shape != updates.shape:
        r.fail(f"updates of shape {list(index.shape)}", list(updates.shape))
    axis = ref_axis(r, r.attr("axis", 0), out.ndim)
    if index.size:
        _write(r, out, grid(r, index, out.shape, axis), updates)
    return [out]


def _scatter_nd(r: Ref) -> list[Any]:
    out, index, updates = np.array(r.get(0)), np.asarray(r.get(1)), np.asarray(r.get(2))
    where = places(r, index, out.shape)
    expected = index.shape[:-1] + out.shape[index.shape[-1] :]
    if updates.shape != expected:
        r.fail(f"updates of shape {list(expected)}", list(updates.shape))
    if index.size:
        _write(r, out, where, updates)
    return [out]


def _cache_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    if i.attr("mode", "linear") not in ("linear", "circular"):
        i.fail("mode linear or circular", i.attr("mode"))
    if x.shape is not None and axis_of(i, i.attr("axis", -2), len(x.shape)) == 0:
        i.fail("an axis other than the batch axis", 0)
    return [TensorType(x.dtype, x.shape)]


def _cache(r: Ref) -> list[Any]:
    out, update = np.array(r.get(0)), np.asarray(r.get(1))
    axis = ref_axis(r, r.attr("axis", -2), out.ndim)
    starts = np.zeros(len(out), np.int64) if r.get(2) is None else np.asarray(r.get(2)).reshape(-1)
    size, length = out.shape[axis], update.shape[axis]
    for sample, start in enumerate(starts):
        positions = start + np.arange(length)
        positions = positions % size if r.attr("mode", "linear") == "circular" else checked(r, positions, size)
        np.moveaxis(out[sample], axis - 1, 0)[positions] = np.moveaxis(update[sample], axis - 1, 0)
    return [out]


def _known(reference: Callable[[Ref], list[Any]]) -> Callable[[Infer], Sequence[Any]]:
    """Sizes can be written, added and multiplied; which of two is larger may be unknown."""
    write, compare = follow(reference, (0, 2)), follow(reference, ())

    def propagate(i: Infer) -> Sequence[Any]:
        return (compare if i.attr("reduction", "none") in ("max", "min") else write)(i)

    return propagate


register(Op("ScatterElements", _scatter_rule, _scatter_elements, propagate=_known(_scatter_elements)))
register(Op("ScatterND", _scatter_rule, _scatter_nd, propagate=_known(_scatter_nd)))
register(Op("TensorScatter", _cache_rule, _cache))
