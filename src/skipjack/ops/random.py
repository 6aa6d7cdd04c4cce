"""Operators that draw random numbers. A seed makes a node repeat itself; without one every run differs."""

from __future__ import annotations

from typing import Any

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.reduce import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import attr_dtype, outputs


def _generator(r: Ref) -> np.random.Generator:
    seed = r.attr("seed")
    return np.random.default_rng(None if seed is None else int(np.float32(seed).view(np.uint32)))


def _draw(r: Ref, shape: Any) -> np.ndarray:
    random = _generator(r)
    if r.node.op.startswith("RandomNormal"):
        return random.normal(r.attr("mean", 0.0), r.attr("scale", 1.0), shape)
    return random.uniform(r.attr("low", 0.0), r.attr("high", 1.0), shape)


def _dtype(r: Ref, default: DType) -> np.dtype:
    number = int(r.attr("dtype", 0))
    return (DType.from_onnx(number) if number else default).np


def _infer_shaped(i: Infer) -> list[ValueType]:
    return [TensorType(attr_dtype(i, "dtype", DType.F32), tuple(int(d) for d in i.attr("shape", ())))]


def _shaped(r: Ref) -> list[np.ndarray]:
    shape = tuple(int(d) for d in r.attr("shape", ()))
    return [np.asarray(_draw(r, shape)).astype(_dtype(r, DType.F32))]


def _infer_like(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    return [TensorType(attr_dtype(i, "dtype", t.dtype), t.shape)]


def _like(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    return [np.asarray(_draw(r, x.shape)).astype(_dtype(r, DType.from_numpy(x.dtype)))]


def _bernoulli(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    drawn = _generator(r).uniform(size=x.shape) < widened(x)
    return [np.asarray(drawn).astype(_dtype(r, DType.from_numpy(x.dtype)))]


for _name in ("RandomNormal", "RandomUniform"):
    register(Op(_name, _infer_shaped, _shaped, random=True))
for _name in ("RandomNormalLike", "RandomUniformLike"):
    register(Op(_name, _infer_like, _like, random=True))
register(Op("Bernoulli", _infer_like, _bernoulli, random=True))


def _infer_multinomial(i: Infer) -> list[ValueType]:
    shape = i.shape(0)
    batch = i.fresh("batch") if shape is None else shape[0]
    return [TensorType(attr_dtype(i, "dtype", DType.I32), (batch, int(i.attr("sample_size", 1))))]


def _multinomial(r: Ref) -> list[np.ndarray]:
    """Samples of classes by unnormalised log probabilities: the largest after Gumbel noise wins."""
    logits = np.asarray(r.inputs[0]).astype(np.float64)
    count = int(r.attr("sample_size", 1))
    noise = _generator(r).gumbel(size=(logits.shape[0], count, logits.shape[1]))
    return [np.argmax(logits[:, None, :] + noise, axis=-1).astype(_dtype(r, DType.I32))]


register(Op("Multinomial", _infer_multinomial, _multinomial, random=True))


def _infer_dropout(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    return outputs(i, TensorType(t.dtype, t.shape), TensorType(DType.BOOL, t.shape))


def _dropout(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    ratio = 0.5 if r.get(1) is None else float(np.asarray(r.inputs[1]))
    training = r.get(2) is not None and bool(np.asarray(r.inputs[2]))
    if not training or ratio == 0:
        return [x, np.ones(x.shape, np.bool_)][: r.n_outputs]
    seed = r.attr("seed")
    kept = np.random.default_rng(None if seed is None else abs(int(seed))).uniform(size=x.shape) >= ratio
    return [(np.where(kept, widened(x), 0) / (1 - ratio)).astype(x.dtype), kept][: r.n_outputs]


register(Op("Dropout", _infer_dropout, _dropout, random=True))
