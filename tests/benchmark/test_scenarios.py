"""Loads: how many calls, from how many streams, and the names they go by."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from skipjack.benchmark.engines import engine_named
from skipjack.benchmark.interleave import round_figure, undisturbed_calls
from skipjack.benchmark.scenarios import Load, Turn, run_turn, scenario_named
from skipjack.core.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "scenario"),
    [("SingleStream", "sync"), ("multistream", "async"), ("Server", "poisson"), ("Offline", "offline")],
)
def test_older_names_are_understood(given: str, scenario: str) -> None:
    assert scenario_named(given) == scenario


def test_a_wrong_name_comes_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'async'"):
        scenario_named("asynk")
    with pytest.raises(ConfigError, match="did you mean 'onnxruntime'"):
        engine_named("onnxruntim")
    assert engine_named("ORT") == "onnxruntime"


@pytest.mark.parametrize("scenario", ["sync", "async", "offline", "elastic"])
def test_iterations_are_counted_over_all_streams(scenario: str) -> None:
    calls: list[int] = []
    turn = run_turn(lambda: lambda: calls.append(1), Load(scenario, iterations=7, streams=3))
    assert len(calls) == len(turn.latencies_s) == 7


def test_every_stream_has_a_caller_of_its_own() -> None:
    threads: set[int] = set()
    both = threading.Barrier(2)

    def make() -> object:
        def call() -> None:
            both.wait(timeout=10)
            threads.add(threading.get_ident())

        return call

    run_turn(make, Load("async", iterations=2, streams=2))  # type: ignore[arg-type]
    assert len(threads) == 2


def test_a_call_that_lost_its_core_does_not_count_in_the_figure() -> None:
    wall = np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0])
    turn = Turn(wall, float(wall.sum()), cpu_s=np.minimum(wall, 1.0))
    assert undisturbed_calls(turn, threads=1).tolist() == [True] * 3 + [False] * 4
    assert round_figure(turn, "sync", threads=1) == (1.0, True)
    assert round_figure(Turn(wall, 14.0, cpu_s=0.5 * wall), "sync", threads=1) == (3.0, False)


def test_several_threads_are_held_against_their_best_calls() -> None:
    wall = np.full(20, 1.0)
    cpu = np.array([1.6] * 18 + [0.8] * 2)
    assert undisturbed_calls(Turn(wall, 20.0, cpu_s=cpu), threads=2).tolist() == [True] * 18 + [False] * 2
