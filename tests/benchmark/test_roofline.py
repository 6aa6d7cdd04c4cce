"""Predicted times: bounded by arithmetic or memory, sparse only where it pays."""

from __future__ import annotations

import pytest

from skipjack.benchmark.roofline import (
    BLOCKS_INT8,
    DENSE_F32,
    DENSE_INT8,
    ENCODINGS,
    SPARSE_F32,
    Load,
    break_even,
    least_time,
    predicted_us,
    predictions,
)
from tests.benchmark.test_limits import PLAIN

BUSY = Load(operations=2_000_000, elements=1000, weight_bytes=4000, activation_bytes=500, model_bytes=5000)
IDLE = Load(operations=2_000, elements=1_000_000, weight_bytes=4_000_000, activation_bytes=500, model_bytes=5_000_000)


def test_the_longer_of_arithmetic_and_memory_decides() -> None:
    assert least_time(BUSY, PLAIN).by == "compute"
    assert least_time(BUSY, PLAIN).us == pytest.approx(20.0)
    assert least_time(IDLE, PLAIN).by == "memory"
    assert least_time(IDLE, PLAIN).us == pytest.approx(400.0, rel=1e-3)


def test_no_prediction_beats_the_peaks() -> None:
    for load in (BUSY, IDLE):
        dense = predicted_us(load, DENSE_F32, 0.0, PLAIN)
        assert dense >= least_time(load, PLAIN).us
    assert set(predictions(BUSY, 0.5, 0.0, PLAIN)) == {e.name for e in ENCODINGS}


def test_sparse_pays_from_the_break_even_on() -> None:
    for encoding, dense in ((SPARSE_F32, DENSE_F32), (BLOCKS_INT8, DENSE_INT8)):
        least = break_even(encoding, dense, PLAIN)
        assert 0.2 < least < 0.6
        assert predicted_us(BUSY, encoding, least - 0.02, PLAIN) > predicted_us(BUSY, dense, 0.0, PLAIN)
        assert predicted_us(BUSY, encoding, least + 0.02, PLAIN) < predicted_us(BUSY, dense, 0.0, PLAIN)


def test_zeros_outside_of_blocks_do_not_help_a_block_encoding() -> None:
    inside, outside = (predictions(BUSY, 0.9, share, PLAIN)[BLOCKS_INT8.name] for share in (1.0, 0.0))
    assert outside > 5 * inside
