"""The highest rate of arrivals at which an engine still keeps a limit on latency."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

KEPT_PERCENTILE = 99.0
_STEPS = 7


def highest_rate(attempt: Callable[[float], np.ndarray], limit_s: float, capacity: float) -> float:
    """Bisection between nothing and `capacity` requests per second; 0 when even a small part of it is too much.

    attempt(rate) runs at that rate and returns the latencies.
    """
    kept, missed = 0.0, capacity
    for _ in range(_STEPS):
        rate = (kept + missed) / 2
        if np.percentile(attempt(rate), KEPT_PERCENTILE) <= limit_s:
            kept = rate
        else:
            missed = rate
    return kept
