"""Operators that scale their input to a fixed norm or variance along axes."""

from __future__ import annotations

import numpy as np

from skipjack.ops.reduce import widened
from skipjack.ops.registry import Op, Ref, register
from skipjack.ops.rules import ref_axis, same_as_first
from skipjack.ops.softmax import infer_axis


def _lp_normalization(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    axis = ref_axis(r, r.attr("axis", -1), x.ndim)
    wide = widened(x)
    if r.attr("p", 2) == 1:
        norm = np.sum(np.abs(wide), axis=axis, keepdims=True)
    else:
        norm = np.sqrt(np.sum(np.square(wide), axis=axis, keepdims=True))
    return [np.where(norm == 0, 0, wide / norm).astype(x.dtype)]


def _mean_variance(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    axes = tuple(ref_axis(r, a, x.ndim) for a in r.attr("axes", (0, 2, 3)))
    wide = widened(x)
    mean = np.mean(wide, axis=axes, keepdims=True)
    variance = np.mean(np.square(wide), axis=axes, keepdims=True) - np.square(mean)
    return [((wide - mean) / (np.sqrt(variance) + wide.dtype.type(1e-9))).astype(x.dtype)]


register(Op("LpNormalization", infer_axis, _lp_normalization))
register(Op("MeanVarianceNormalization", same_as_first, _mean_variance))
