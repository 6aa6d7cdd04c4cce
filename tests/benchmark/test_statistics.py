"""What is claimed about speed: equal engines come out equal, a slowdown is found, on a machine with noise."""

from __future__ import annotations

import numpy as np

from skipjack.benchmark.measure import ROUNDS_COMPARED as ROUNDS
from skipjack.benchmark.statistics import (
    PERCENTILES,
    geometric_mean_estimate,
    launched_estimate,
    median_estimate,
    share_within,
    summarise,
)


def noisy_rounds(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Medians of rounds: 2 % of jitter, and in every tenth round another process."""
    times = seconds * rng.lognormal(0.0, 0.02, ROUNDS)
    return times * np.where(rng.random(ROUNDS) < 0.1, rng.uniform(1.2, 2.5, ROUNDS), 1.0)


def test_an_engine_against_itself_has_one_inside_the_interval() -> None:
    rng = np.random.default_rng(1)
    estimates = [median_estimate(noisy_rounds(rng, 1.0) / noisy_rounds(rng, 1.0)) for _ in range(200)]
    assert sum(e.low <= 1.0 <= e.high for e in estimates) >= 190


def test_ten_percent_are_found() -> None:
    rng = np.random.default_rng(2)
    estimates = [median_estimate(noisy_rounds(rng, 1.1) / noisy_rounds(rng, 1.0)) for _ in range(200)]
    assert sum(e.low > 1.0 for e in estimates) >= 180


def test_an_interval_covers_what_differs_between_launches() -> None:
    rng = np.random.default_rng(5)
    launches = np.repeat(np.arange(5), 4)
    found = 0
    for _ in range(200):
        ratios = rng.lognormal(0.0, 0.03, 5)[launches] * rng.lognormal(0.0, 0.002, 20)
        estimate = launched_estimate(ratios, launches)
        found += estimate.low <= 1.0 <= estimate.high
    assert found >= 190
    assert launched_estimate(ratios, np.zeros(20)) == median_estimate(ratios)


def test_a_geometric_mean_lies_between_its_groups() -> None:
    rng = np.random.default_rng(3)
    estimate = geometric_mean_estimate([noisy_rounds(rng, 1.0), noisy_rounds(rng, 4.0)])
    assert 1.9 < estimate.value < 2.1
    assert estimate.low < 2.0 < estimate.high


def test_a_summary_has_every_percentile_in_milliseconds() -> None:
    said = summarise(np.arange(1, 1001) / 1e3)
    assert list(said.percentiles_ms) == list(PERCENTILES)
    assert said.median_ms == 500.5
    assert said.percentiles_ms[99.9] > said.percentiles_ms[99.0] > said.percentiles_ms[90.0]
    assert (said.min_ms, said.max_ms, said.count) == (1.0, 1000.0, 1000)


def test_the_share_within_a_limit_counts_the_limit() -> None:
    assert share_within(np.array([0.1, 0.2, 0.3, 0.4]), 0.2) == 0.5
