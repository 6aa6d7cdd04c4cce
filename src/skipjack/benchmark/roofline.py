"""How long work must take at least, and how long a layer would take with its weight stored in another way.

A layer takes the longer of two times. Arithmetic: its operations at the measured peak times `efficiency`, the part of
the peak that kernels of this encoding reach. Memory: its weight from where the whole model fits, its activations from
where they fit. The efficiencies were measured on products of 768 x 768 weights with 128 columns on one AVX-512 core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from skipjack.benchmark.limits import Limits

_AT = (0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Encoding:
    """A way to store a weight. efficiency holds the reached part of the peak at 80, 90 and 95 % zeros.

    stored_bytes is what one kept number takes, its place included; skips says whether zeros are left out; block is the
    pattern they must have.
    """

    name: str
    int8: bool
    skips: bool
    block: str
    stored_bytes: float
    efficiency: tuple[float, float, float]

    def reached(self, sparsity: float) -> float:
        return float(np.interp(sparsity, _AT, self.efficiency))


DENSE_F32 = Encoding("dense fp32", False, False, "", 4.0, (0.70, 0.70, 0.70))
SPARSE_F32 = Encoding("unstructured fp32", False, True, "", 8.0, (0.48, 0.42, 0.38))
DENSE_INT8 = Encoding("dense int8", True, False, "", 1.0, (0.85, 0.85, 0.85))
SPARSE_INT8 = Encoding("unstructured int8", True, True, "", 5.0, (0.23, 0.22, 0.21))
BLOCKS_INT8 = Encoding("1x4 int8", True, True, "1x4", 2.0, (0.49, 0.45, 0.38))
ENCODINGS: tuple[Encoding, ...] = (DENSE_F32, SPARSE_F32, DENSE_INT8, SPARSE_INT8, BLOCKS_INT8)


@dataclass(frozen=True)
class Load:
    """What a layer does at one size; model_bytes is what one run of the model reads of weights, stored as they are."""

    operations: int
    elements: int
    weight_bytes: int
    activation_bytes: int
    model_bytes: int


@dataclass(frozen=True)
class Bound:
    """The least time of some work and what decides it."""

    us: float
    by: str


def least_time(load: Load, limits: Limits, *, int8: bool = False) -> Bound:
    """What peaks allow when every operation is executed and every byte is moved once."""
    return _longer(limits.arithmetic_us(load.operations, int8), _memory_us(load, load.weight_bytes, limits))


def predicted_us(load: Load, encoding: Encoding, sparsity: float, limits: Limits) -> float:
    """The time of a layer whose weight is stored like this."""
    kept = 1.0 - sparsity if encoding.skips else 1.0
    arithmetic = limits.arithmetic_us(load.operations * kept, encoding.int8) / encoding.reached(sparsity)
    return _longer(arithmetic, _memory_us(load, int(load.elements * kept * encoding.stored_bytes), limits)).us


def predictions(load: Load, sparsity: float, in_blocks: float, limits: Limits) -> Mapping[str, float]:
    """Encoding -> predicted microseconds; for blocks only the zeros count that lie in them (share in_blocks)."""
    times = {e.name: predicted_us(load, e, sparsity * (in_blocks if e.block else 1.0), limits) for e in ENCODINGS}
    return MappingProxyType(times)


def break_even(encoding: Encoding, dense: Encoding, limits: Limits) -> float:
    """The share of zeros from which a layer bound by arithmetic is faster so than dense; 1.0 for never."""
    load = Load(1_000_000_000, 0, 0, 0, 0)
    target = predicted_us(load, dense, 0.0, limits)
    shares = np.linspace(0.0, 0.999, 1000)
    return next((float(s) for s in shares if predicted_us(load, encoding, float(s), limits) < target), 1.0)


def _memory_us(load: Load, weight_bytes: int, limits: Limits) -> float:
    weights = limits.read_us(weight_bytes, max(load.model_bytes, weight_bytes))
    return weights + limits.read_us(load.activation_bytes, load.activation_bytes)


def _longer(arithmetic: float, memory: float) -> Bound:
    return Bound(arithmetic, "compute") if arithmetic >= memory else Bound(memory, "memory")
