"""Operators that draw: ranges, moments, and that a seed repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import skipjack.ops.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import Node, Origin
from skipjack.ops.execute import run_node

MANY = 20000


def _run(op: str, *inputs: Any, outputs: int = 1, **attrs: Any) -> list[np.ndarray]:
    names = tuple(f"x{n}" for n in range(len(inputs)))
    return run_node(Node(op, names, tuple(f"y{n}" for n in range(outputs)), attrs, origin=Origin("n", op)), inputs)


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniform"])
def test_a_seed_repeats_and_its_absence_does_not(op: str) -> None:
    first, again, other = (_run(op, shape=(64,), seed=s)[0] for s in (1.5, 1.5, 2.0))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(_run(op, shape=(64,))[0], _run(op, shape=(64,))[0])


def test_uniform_stays_in_its_range_and_type() -> None:
    (y,) = _run("RandomUniform", shape=(MANY,), low=2.0, high=3.0, seed=1.0, dtype=DType.F64.onnx)
    assert y.dtype == np.float64
    assert y.min() >= 2
    assert y.max() < 3
    assert abs(y.mean() - 2.5) < 0.02


def test_normal_has_its_moments() -> None:
    (y,) = _run("RandomNormalLike", np.zeros(MANY, np.float32), mean=1.0, scale=2.0, seed=1.0)
    assert y.dtype == np.float32
    assert abs(y.mean() - 1) < 0.05
    assert abs(y.std() - 2) < 0.05


def test_bernoulli_draws_ones_as_often_as_asked() -> None:
    p = np.repeat(np.float32([0, 0.25, 1]), MANY)
    drawn = _run("Bernoulli", p, seed=3.0, dtype=DType.BOOL.onnx)[0].reshape(3, MANY).mean(axis=1)
    np.testing.assert_allclose(drawn, [0, 0.25, 1], atol=0.02)


def test_multinomial_follows_unnormalised_log_probabilities() -> None:
    chances = np.array([[0.5, 0.25, 0.25], [0.0, 0.1, 0.9]])
    with np.errstate(divide="ignore"):
        logits = (np.log(chances) + 7).astype(np.float32)
    (y,) = _run("Multinomial", logits, sample_size=MANY, seed=5.0)
    assert y.dtype == np.int32
    found = np.stack([np.bincount(row, minlength=3) / MANY for row in y])
    np.testing.assert_allclose(found, chances, atol=0.02)


def test_dropout_copies_unless_it_trains() -> None:
    x = np.ones(MANY, np.float32)
    y, mask = _run("Dropout", x, np.float32(0.3), outputs=2)
    np.testing.assert_array_equal(y, x)
    assert mask.all()
    y, mask = _run("Dropout", x, np.float32(0.3), np.bool_(True), outputs=2, seed=1)
    np.testing.assert_allclose(y, mask / 0.7, rtol=1e-6)
    assert abs(mask.mean() - 0.7) < 0.02
