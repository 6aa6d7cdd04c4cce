"""Timing of lowerings, with clocks that say what the test wants: what is timed, kept, read back and chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from skipjack import tune
from skipjack.cli.demo import FOLDER
from skipjack.core.errors import ConfigError
from skipjack.engine import Engine, compile_graph, compile_model
from skipjack.runtime.team import Team
from skipjack.select.choose import plan
from skipjack.select.nominal import Nominal
from skipjack.select.prices import Prices
from skipjack.select.rates import Rates
from skipjack.select.sample_layers import Sample, samples
from skipjack.targets.target import host
from skipjack.tune import Run, compare, measure_rates, prepared, time_model, ways_of

LAYER = Sample("Conv", (64, 64, 3, 28), 0.2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_TUNE_FILE", str(tmp_path / "rates.json"))


class Clock:
    """Runs every call once and says that the last one is the quickest."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, calls: Sequence[Run]) -> list[float]:
        self.asked += 1
        for call in calls:
            call()
        return [100.0 * (len(calls) - i) for i in range(len(calls))]


@pytest.mark.parametrize("sample", [s for s in samples(True) if s.size != (768, 3072)], ids=lambda s: s.name)
def test_every_way_of_a_layer_runs_alone(sample: Sample) -> None:
    graph, node = sample.graph()
    work = Nominal(graph, host()).work(node)
    team = Team(1, None)
    for way in ways_of(graph, node, work):
        prepared(work, way, team)()
    team.close()


def test_timings_hold_prediction_and_measurement() -> None:
    graph, node = LAYER.graph()
    found = measure_rates([(graph, node)], host(), Clock())
    ways = ways_of(graph, node, Nominal(graph, host()).work(node))
    assert [t.way for t in found] == [w.name for w in ways if not w.is_last_resort]
    assert found[-1].measured_us == 100.0
    assert all(t.predicted_us > 0 and t.layer for t in found)


def test_a_time_that_is_too_long_for_its_lowering_is_measured_again() -> None:
    asked: list[int] = []

    def clock(calls: Sequence[Run]) -> list[float]:
        asked.append(len(calls))
        slow = len(asked) == 2
        return [1000.0 if slow else 10.0 for _ in calls]

    layers = [LAYER.graph() for _ in range(5)]
    found = measure_rates(layers, host(), clock)
    assert {t.measured_us for t in found} == {10.0}
    assert asked == [asked[0]] * 5 + [1] * asked[0]


def test_times_are_kept_by_content_of_the_layer() -> None:
    graph, _ = LAYER.graph()
    clock = Clock()
    first = time_model(graph, host(), Rates(), clock)
    again = time_model(graph, host(), Rates(), clock)
    assert clock.asked == 1
    assert first.measured == again.measured
    best = min(first.measured["y"], key=lambda n: first.measured["y"][n])
    assert next(c for c in plan(graph, host(), prices=first).choices if c.measured).candidates[0].label == best
    other = dict(graph.constants)
    other["w"] = np.where(graph.constants["w"] != 0, 2 * graph.constants["w"], 0)
    time_model(graph.with_nodes(graph.nodes, constants=other), host(), Rates(), clock)
    assert clock.asked == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"conv_direct": 1.0}', "[" * 70_000], ids=lambda t: t[:12])
def test_damaged_times_are_measured_again(text: str) -> None:
    graph, _ = LAYER.graph()
    clock = Clock()
    time_model(graph, host(), Rates(), clock)
    for file in tune.layer_folder(host()).iterdir():
        file.write_text(text)
    time_model(graph, host(), Rates(), clock)
    assert clock.asked == 2


def test_impossible_times_are_measured_again() -> None:
    graph, _ = LAYER.graph()
    clock = Clock()
    for number in ("-1.0", "0.0", "NaN", "Infinity", "1e99", '"1"', "null", "true"):
        known = time_model(graph, host(), Rates(), clock).measured["y"]
        for file in tune.layer_folder(host()).iterdir():
            file.write_text("{" + ", ".join(f'"{n}": {number}' for n in known) + "}")
    time_model(graph, host(), Rates(), clock)
    assert clock.asked == 9


def test_nothing_is_kept_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_CACHE", "0")
    graph, _ = LAYER.graph()
    clock = Clock()
    time_model(graph, host(), Rates(), clock)
    time_model(graph, host(), Rates(), clock)
    assert clock.asked == 2
    assert not tune.layer_folder(host()).exists()


def test_small_layers_are_not_timed() -> None:
    clock = Clock()
    graph, _ = Sample("Linear", (16, 16), 1.0).graph()
    assert time_model(graph, host(), Rates(), clock).measured == {}
    assert clock.asked == 0


def test_layers_that_are_alike_are_timed_once() -> None:
    clock = Clock()
    compiled = compile_graph(FOLDER / "digits.onnx", 1)
    prices = time_model(compiled.graph, host(), Rates(), clock)
    assert clock.asked == len({id(times) for times in prices.measured.values()})


def test_comparing_names_the_best_and_what_the_choice_loses() -> None:
    graph, node = LAYER.graph()
    found = compare(graph, plan(graph, host(), prices=Prices()), 20, Clock())
    assert [one.operator for one in found] == ["Conv"]
    ways = ways_of(graph, node, Nominal(graph, host()).work(node))
    one = found[0]
    assert one.best == ways[-1].label
    position = [w.label for w in ways].index(one.chosen)
    assert one.regret == pytest.approx(len(ways) - position - 1)
    own = ways[position].layouts
    assert all((one.reorder_us[w.label] > 0) == (w.layouts != own) for w in ways)
    assert 0 <= one.loss <= one.regret
    assert compare(graph, plan(graph, host(), prices=Prices()), 1e6, Clock()) == []


def test_the_least_time_of_a_call_is_taken() -> None:
    runs = [0, 0]

    def call(i: int) -> None:
        runs[i] += 1

    times = tune.quickest([lambda: call(0), lambda: call(1)])
    assert min(runs) >= 2
    assert all(0 < t < 1e6 for t in times)


def test_models_compile_with_times_of_their_layers_and_give_the_same_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("skipjack.engine.time_model", lambda g, t, r: time_model(g, t, r, clock))
    monkeypatch.setattr(tune, "LEAST_US", 0.0)
    plain: Engine = compile_model(FOLDER / "digits.onnx")
    tuned: Engine = compile_model(FOLDER / "digits.onnx", tune="load")
    assert clock.asked > 0
    assert any(c.measured for c in tuned.compiled.program.plan.choices)
    inputs = plain.generate_random_inputs(seed=1)
    for a, b in zip(plain(inputs), tuned(inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="tune='always': expected 'load'"):
        compile_model(FOLDER / "digits.onnx", tune="always")
