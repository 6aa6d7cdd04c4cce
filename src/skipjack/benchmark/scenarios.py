"""How requests reach an engine: one after the other, from several streams, at random times, or all at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.benchmark.open_loop import poisson_arrivals, run_open_loop
from skipjack.core.errors import ConfigError, nearest

Call = Callable[[], object]

SCHEDULERS = {
    "sync": "single_stream",
    "async": "multi_stream",
    "elastic": "elastic",
    "poisson": "multi_stream",
    "offline": "multi_stream",
}
"""Scenario -> the scheduler of skipjack that suits it."""

OLD_NAMES = {"sync": "singlestream", "async": "multistream", "elastic": "elastic"}
"""Scenario -> what the key `scenario` of the JSON has been called by tools before this one."""

_OTHER_NAMES = {
    "single": "sync",
    "single_stream": "sync",
    "singlestream": "sync",
    "multi": "async",
    "multi_stream": "async",
    "multistream": "async",
    "server": "poisson",
}


def scenario_named(name: str) -> str:
    """The scenario a user means, MLPerf's names included; ConfigError for a name that is none."""
    key = name.strip().lower().replace("-", "_")
    found = _OTHER_NAMES.get(key, key)
    if found not in SCHEDULERS:
        known = [*SCHEDULERS, *_OTHER_NAMES]
        raise ConfigError(f"scenario {name!r}: expected one of {list(SCHEDULERS)}{nearest(key, known)}")
    return found


@dataclass(frozen=True)
class Load:
    """What one turn of an engine is: how many calls, or how long, from how many streams.

    Iterations, when given, decide; rate is in requests per second and belongs to the scenario poisson.
    """

    scenario: str = "sync"
    seconds: float = 1.0
    iterations: int | None = None
    streams: int = 1
    rate: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Turn:
    """One turn as measured. cpu_s is there when calls came one after the other; unanswered only at random arrivals."""

    latencies_s: np.ndarray
    wall_s: float
    cpu_s: np.ndarray | None = None
    unanswered: int = 0


def run_turn(caller: Callable[[], Call], load: Load) -> Turn:
    """Run a load; caller() gives one function per stream."""
    if load.scenario == "sync":
        return timed_calls(caller(), load.seconds, load.iterations)
    callers = [caller() for _ in range(load.streams)]
    if load.scenario == "poisson":
        assert load.rate is not None, "the scenario poisson has a rate"
        result = run_open_loop(callers, poisson_arrivals(load.rate, load.seconds, load.seed))
        return Turn(result.latencies_s, result.wall_s, None, len(result.latencies_s) - result.answered)
    return timed_streams(callers, load.seconds, load.iterations)


def timed_calls(call: Call, seconds: float, iterations: int | None = None) -> Turn:
    """Calls one after the other: so many, or as many as begin within the time; at least one."""
    wall: list[float] = []
    cpu: list[float] = []
    perf_counter, process_time = time.perf_counter, time.process_time
    begin = perf_counter()
    deadline = begin + seconds
    while True:
        cpu_start = process_time()
        start = perf_counter()
        call()
        end = perf_counter()
        wall.append(end - start)
        cpu.append(process_time() - cpu_start)
        if (len(wall) >= iterations) if iterations is not None else (end >= deadline):
            break
    return Turn(np.array(wall), perf_counter() - begin, np.array(cpu))


def timed_streams(callers: Sequence[Call], seconds: float, iterations: int | None = None) -> Turn:
    """Every stream calls again and again; the iterations are those of all streams together."""
    shares = [None] * len(callers) if iterations is None else _shares(iterations, len(callers))
    ready = threading.Barrier(len(callers) + 1)
    turns: list[Turn] = []
    failures: list[BaseException] = []

    def work(call: Call, share: int | None) -> None:
        ready.wait()
        try:
            if share != 0:
                turns.append(timed_calls(call, seconds, share))
        except BaseException as error:  # it is raised again in the thread that asked for the run
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in zip(callers, shares, strict=True)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Turn(np.concatenate([turn.latencies_s for turn in turns]), time.perf_counter() - begin)


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]
