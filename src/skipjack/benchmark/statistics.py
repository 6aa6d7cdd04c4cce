"""Medians, means and ratios with bootstrap intervals, and what is said of a set of latencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
LEVEL = 0.99
PERCENTILES = (25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True)
class Estimate:
    """A value and the interval that holds it with 99 % confidence."""

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


_T_QUANTILES = (63.66, 9.92, 5.84, 4.60, 4.03, 3.71, 3.50, 3.36, 3.25)
"""Student's t at 99.5 %, by degrees of freedom from one."""


def launched_estimate(ratios: np.ndarray, launches: np.ndarray) -> Estimate:
    """The median of positive ratios and an interval that holds for other launches of the same programs, too.

    Where a process happens to lie in memory changes its speed for as long as it lives. The interval is therefore at
    least Student's over the medians of the launches; with one launch it is that of the rounds alone.
    """
    plain = median_estimate(ratios)
    medians = np.array([np.log(np.median(ratios[launches == launch])) for launch in np.unique(launches)])
    if len(medians) < 2:
        return plain
    quantile = _T_QUANTILES[min(len(medians) - 1, len(_T_QUANTILES)) - 1]
    reach = quantile * float(medians.std(ddof=1)) / np.sqrt(len(medians))
    low, high = np.exp([medians.mean() - reach, medians.mean() + reach])
    return Estimate(plain.value, min(plain.low, float(low)), max(plain.high, float(high)))


def geometric_mean_estimate(groups: list[np.ndarray]) -> Estimate:
    """The geometric mean of the groups' medians; each group is resampled on its own."""
    rng = np.random.default_rng(0)
    value = float(np.exp(np.mean([np.log(np.median(group)) for group in groups])))
    resampled = np.exp(np.mean([np.log(_resampled_medians(group, rng)) for group in groups], axis=0))
    return _interval(value, resampled)


@dataclass(frozen=True)
class Latencies:
    """What is said of many latencies, in milliseconds; percentiles by their rank in percent."""

    count: int
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    percentiles_ms: dict[float, float]

    @property
    def median_ms(self) -> float:
        return self.percentiles_ms[50.0]

    @property
    def variation(self) -> float:
        """Standard deviation as a share of the mean."""
        return self.std_ms / self.mean_ms if self.mean_ms else 0.0


def summarise(seconds: np.ndarray) -> Latencies:
    """The summary of at least one latency."""
    ms = seconds * 1e3
    ranked = np.percentile(ms, PERCENTILES)
    return Latencies(
        count=len(ms),
        mean_ms=float(ms.mean()),
        std_ms=float(ms.std()),
        min_ms=float(ms.min()),
        max_ms=float(ms.max()),
        percentiles_ms={rank: float(value) for rank, value in zip(PERCENTILES, ranked, strict=True)},
    )


def share_within(seconds: np.ndarray, limit_s: float) -> float:
    """The share of latencies at or under a limit."""
    return float(np.mean(seconds <= limit_s))
