"""Training losses: NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss."""

from __future__ import annotations

import numpy as np

from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.reduce import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import outputs
from skipjack.ops.softmax import log_softmax


def _infer_nll(i: Infer) -> list[ValueType]:
    dtype = i.tensor(0).dtype
    return [TensorType(dtype, i.shape(1) if i.attr("reduction", "mean") == "none" else ())]


def _infer_cross_entropy(i: Infer) -> list[ValueType]:
    scores = i.tensor(0)
    return outputs(i, *_infer_nll(i), TensorType(scores.dtype, scores.shape))


def _loss(r: Ref, log_prob: np.ndarray) -> np.ndarray:
    """The weighted loss of log_prob [N, C, ...] for labels [N, ...], reduced as the node asks."""
    labels = np.asarray(r.inputs[1]).astype(np.int64)
    ignore = r.attr("ignore_index")
    counted = np.ones(labels.shape, np.bool_) if ignore is None else labels != ignore
    classes = log_prob.shape[1]
    safe = np.where(counted, labels, 0)
    if np.any((safe < 0) | (safe >= classes)):
        r.fail(f"labels from 0 to {classes - 1}", f"{int(safe.min())} to {int(safe.max())}")
    weight = r.get(2)
    scale = np.ones(classes, log_prob.dtype) if weight is None else np.asarray(weight).astype(log_prob.dtype)
    factor = np.where(counted, scale[safe], 0).astype(log_prob.dtype)
    picked = np.take_along_axis(log_prob, np.expand_dims(safe, 1), axis=1).squeeze(1)
    loss = -np.where(counted, picked, 0) * factor
    reduction = str(r.attr("reduction", "mean"))
    if reduction == "none":
        return loss
    total = np.sum(loss, dtype=log_prob.dtype)
    return total if reduction == "sum" else total / np.sum(factor, dtype=log_prob.dtype)


def _nll(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    return [np.asarray(_loss(r, widened(x))).astype(x.dtype)]


def _cross_entropy(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    log_prob = log_softmax(widened(x), 1)
    return [np.asarray(_loss(r, log_prob)).astype(x.dtype), log_prob.astype(x.dtype)][: r.n_outputs]


register(Op("NegativeLogLikelihoodLoss", _infer_nll, _nll))
register(Op("SoftmaxCrossEntropyLoss", _infer_cross_entropy, _cross_entropy))
