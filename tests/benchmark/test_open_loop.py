"""Random arrivals: the schedule goes on while the engine stalls, and those who waited say so."""

from __future__ import annotations

import time

import numpy as np
import pytest

from skipjack.benchmark.open_loop import poisson_arrivals, run_open_loop
from skipjack.benchmark.slo import highest_rate

PAUSE_S = 0.25
GAP_S = 0.005


def test_a_pause_is_charged_to_every_request_it_kept_waiting() -> None:
    calls = 0

    def pausing_once() -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            time.sleep(PAUSE_S)

    arrivals = GAP_S * np.arange(1, 101)
    result = run_open_loop([pausing_once], arrivals)
    assert calls == result.answered == 100
    assert result.latencies_s.max() >= PAUSE_S
    # A closed loop would see one slow request; on the schedule those of the whole pause are late, each a gap less.
    expected = PAUSE_S - GAP_S * np.arange(40)
    assert (result.latencies_s[19:59] >= expected - 0.002).all()
    assert result.wall_s < arrivals[-1] + PAUSE_S


def test_requests_come_at_their_time_and_not_before() -> None:
    moments: list[float] = []
    start = time.perf_counter()
    run_open_loop([lambda: moments.append(time.perf_counter() - start)], np.array([0.02, 0.05, 0.09]))
    assert (np.array(moments) >= [0.02, 0.05, 0.09]).all()


def test_an_engine_that_is_far_too_slow_is_given_up_and_said_to_be() -> None:
    result = run_open_loop([lambda: time.sleep(0.3)], np.linspace(0.01, 0.1, 50))
    assert result.answered < 10
    assert len(result.latencies_s) == 50
    assert result.latencies_s[-1] > 1.0


def test_an_error_of_the_engine_reaches_the_caller() -> None:
    def failing() -> None:
        raise ValueError("no such input")

    with pytest.raises(ValueError, match="no such input"):
        run_open_loop([failing, failing], np.array([0.001, 0.002]))


def test_arrivals_have_the_rate_and_repeat_with_the_seed() -> None:
    arrivals = poisson_arrivals(200.0, 50.0, seed=4)
    assert 9500 < len(arrivals) < 10500
    assert (np.diff(arrivals) > 0).all()
    assert arrivals[-1] < 50.0
    np.testing.assert_array_equal(arrivals, poisson_arrivals(200.0, 50.0, seed=4))
    assert len(poisson_arrivals(0.001, 1.0, seed=0)) == 1


def test_the_highest_rate_is_where_the_limit_breaks() -> None:
    found = highest_rate(lambda rate: np.full(10, 0.001 if rate < 300 else 0.1), limit_s=0.01, capacity=1000.0)
    assert 285 < found < 300
    assert highest_rate(lambda rate: np.ones(10), limit_s=0.01, capacity=1000.0) == 0.0
