"""Requests that arrive when a clock says so, whatever the engine does.

The arrivals are drawn before the run. A latency counts from the arrival on the schedule, never from the moment a
worker got round to the request, so that a stall of the engine is charged to every request that it kept waiting.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_SPIN_S = 1e-4
GRACE = 2.0
"""A run that lasts longer than this many times its schedule is given up."""


@dataclass(frozen=True)
class OpenLoop:
    """Latencies and waits before the start, by arrival, from the schedule; without an answer they last to the end."""

    latencies_s: np.ndarray
    waits_s: np.ndarray
    answered: int
    wall_s: float


def poisson_arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Arrival times in seconds of a Poisson process of `rate` per second; at least one."""
    rng = np.random.default_rng(seed)
    expected = rate * seconds
    gaps = rng.exponential(1.0 / rate, int(expected + 10 * np.sqrt(expected) + 20))
    times = np.cumsum(gaps)
    kept = times[times < seconds]
    return kept if len(kept) else np.array([min(float(times[0]), seconds)])


def run_open_loop(callers: Sequence[Callable[[], object]], arrivals: np.ndarray) -> OpenLoop:
    """Run one request per arrival. Each caller is a worker; the next free one takes the oldest request."""
    finished = np.full(len(arrivals), np.nan)
    started = np.full(len(arrivals), np.nan)
    tickets = itertools.count()
    failures: list[BaseException] = []
    origin = time.perf_counter() + 0.001
    limit = origin + GRACE * float(arrivals[-1]) + 1.0

    def work(call: Callable[[], object]) -> None:
        try:
            while (ticket := next(tickets)) < len(arrivals) and not failures:
                wait_until(origin + arrivals[ticket])
                now = time.perf_counter()
                if now > limit:
                    return
                started[ticket] = now
                call()
                finished[ticket] = time.perf_counter()
        except BaseException as error:  # it is raised again in the thread that asked for the run
            failures.append(error)

    threads = [threading.Thread(target=work, args=(call,), daemon=True) for call in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    end = time.perf_counter()
    due = origin + arrivals
    answered = ~np.isnan(finished)
    latencies = np.where(answered, finished, max(end, limit)) - due
    waits = np.where(np.isnan(started), max(end, limit), started) - due
    return OpenLoop(latencies, waits, int(answered.sum()), end - origin)


def wait_until(moment: float) -> None:
    """Return at this reading of perf_counter, or at once when it has passed; the last stretch spins."""
    left = moment - time.perf_counter()
    if left > _SPIN_S:
        time.sleep(left - _SPIN_S)
    while time.perf_counter() < moment:
        pass
