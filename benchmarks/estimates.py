"""Medians, geometric means and their bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
LEVEL = 0.99


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def _resampled_medians(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picks = rng.integers(0, len(samples), (RESAMPLES, len(samples)))
    return np.median(samples[picks], axis=1)


def _interval(value: float, resampled: np.ndarray) -> Estimate:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def median_estimate(samples: np.ndarray) -> Estimate:
    """The median and its 99 % bootstrap interval."""
    return _interval(float(np.median(samples)), _resampled_medians(samples, np.random.default_rng(0)))


def geometric_mean_estimate(groups: list[np.ndarray]) -> Estimate:
    """The geometric mean of the groups' medians; each group is resampled on its own."""
    rng = np.random.default_rng(0)
    value = float(np.exp(np.mean([np.log(np.median(group)) for group in groups])))
    resampled = np.exp(np.mean([np.log(_resampled_medians(group, rng)) for group in groups], axis=0))
    return _interval(value, resampled)
