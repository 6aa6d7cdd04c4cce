"""Tables of rates: what is read back, what is refused, when one is used, and what it changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skipjack.kernels.all  # noqa: F401
from skipjack.kernels.digest import sources_digest
from skipjack.kernels.launch import lowerings
from skipjack.select import rates
from skipjack.select.choose import plan
from skipjack.select.nominal import Nominal
from skipjack.select.prices import Prices
from skipjack.select.rates import (
    ANY,
    Rates,
    Timing,
    class_of,
    corrected_us,
    cpu_name,
    current,
    fit,
    module_digest,
    parse,
    text_of,
    write_whole,
)
from skipjack.select.sample_layers import Sample, samples
from skipjack.targets.target import KNOWN, host

LAYER = Sample("Conv", (64, 64, 3, 14), 1.0)
GOOD = {"version": 1, "cpu": "a", "target": "b", "kernels": "", "source": "c", "factors": {"w": {"*": 2.0}}}


@pytest.fixture(autouse=True)
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "rates.json"
    monkeypatch.setenv("SKIPJACK_TUNE_FILE", str(path))
    return path


def test_a_table_is_read_as_it_was_written() -> None:
    table = Rates("cpu", "isa", "digest", "by hand", {"gemm": {ANY: 1.5, "w8 d100": 0.25}})
    assert parse(text_of(table)) == table


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"cpu": 3}, {"source": "x" * 201}, {"source": "a\u001b[2J"}, {"factors": []},
        {"factors": {"w": 1}}, {"factors": {"w": {"*": "fast"}}}, {"factors": {"w": {"*": 0}}},
        {"factors": {"w": {"*": -1.0}}}, {"factors": {"w": {"*": 1e9}}}, {"factors": {"w": {"*": True}}},
        {"factors": {"w": {"*": float("nan")}}}, {"sources": [1]}, {"sources": {"w": 1}},
        {"factors": {"w": {str(i): 1 for i in range(10_001)}}},
    ],
    ids=lambda c: str(c)[:40],
)  # fmt: skip
def test_what_is_no_table_is_refused(change: dict[str, Any]) -> None:
    assert parse(json.dumps(GOOD)).factors == {"w": {"*": 2.0}}
    with pytest.raises(ValueError):
        parse(json.dumps({**GOOD, **change}))


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "null", "\x00"])
def test_damaged_files_are_told_and_not_used(text: str, own_file: Path) -> None:
    own_file.write_text(text)
    with pytest.warns(match=r"is not a table of `skipjack tune`"):
        assert current(host()).source == rates._shipped(host().name, cpu_name()).source


def test_a_file_that_is_too_large_is_not_used(own_file: Path) -> None:
    own_file.write_bytes(b" " * (1 << 20) + json.dumps(GOOD).encode())
    with pytest.warns(match="larger than"):
        current(host())


def test_a_table_is_used_on_its_cpu_with_its_kernels_alone(own_file: Path) -> None:
    table = Rates(cpu_name(), host().name, sources_digest(), "mine", {"conv_direct": {ANY: 3.0}})
    write_whole(own_file, text_of(table))
    assert current(host()) == table
    for other in (
        Rates("another", table.target, table.kernels, "theirs"),
        Rates(table.cpu, "another", table.kernels, "theirs"),
        Rates(table.cpu, table.target, "older", "theirs"),
    ):
        write_whole(own_file, text_of(other))
        assert current(host()).source != "theirs"
    assert [p.name for p in own_file.parent.iterdir()] == [own_file.name]


@pytest.mark.parametrize("target", KNOWN, ids=lambda t: t.name)
def test_tables_that_ship_are_valid(target: Any) -> None:
    for cpu in ("znver4", "sapphirerapids", "unheard-of"):
        assert rates._shipped(target.name, cpu).target in (target.name, ANY)


def test_classes_depend_on_the_weight_and_never_on_the_batch() -> None:
    graph, node = LAYER.graph()
    work = Nominal(graph, host()).work(node)
    many = Nominal(graph, host()).work(node)
    y = many.outputs[0]
    assert y is not None
    larger = type(many)(node, many.inputs, [type(y)("y", y.dtype, (32, *y.shape[1:]), y.place)], many.memory, host())
    assert class_of(work) == class_of(larger) != ""
    sparse, its_node = Sample("Conv", (64, 64, 3, 14), 0.1).graph()
    assert class_of(Nominal(sparse, host()).work(its_node)) != class_of(work)


def test_factors_are_means_per_class_and_over_classes() -> None:
    made = fit([Timing("a", "x", 10, 20), Timing("a", "x", 10, 80), Timing("a", "y", 10, 10), Timing("b", "x", 1, 1e9)])
    assert made == {"a": {"x": 4.0, "y": 1.0, ANY: 2.0}, "b": {"x": 1000.0, ANY: 1000.0}}
    table = Rates(factors=made)
    assert [table.factor("a", c) for c in ("x", "y", "z")] == [4.0, 1.0, 2.0]
    assert table.factor("c", "x") == 1.0


def test_a_class_that_was_not_measured_takes_the_factor_of_the_most_alike() -> None:
    known = {"w8 d20 p4": 2.0, "w10 d20 p4": 8.0, "w9 d100 p4": 3.0, "w9 d20": 50.0, "w9 nonsense": 7.0, ANY: 5.0}
    table = Rates(factors={"a": known})
    wanted = {"w8 d20 p5": 2.0, "w9 d20 p4": 4.0, "w9 d60 p4": 3.0, "w12 d5": 50.0, "": 5.0, "w8 d21 p4": 5.0}
    assert {layer: table.factor("a", layer) for layer in wanted} == pytest.approx(wanted)


def test_a_plan_follows_the_rates_and_keeps_the_runner_up() -> None:
    graph, _ = LAYER.graph()
    first = plan(graph, host(), prices=Prices()).choices
    chosen = next(c for c in first if c.predicted)
    slow = {way.name: {ANY: 900.0} for way in chosen.candidates}
    second = next(c for c in plan(graph, host(), prices=Prices(Rates(factors=slow))).choices if c.predicted)
    assert second.name not in slow
    assert {w.name for w in chosen.candidates} <= {w.name for w in (*second.candidates, *second.others)}
    assert len(second.predicted) == len(chosen.predicted) > 1


def test_factors_of_a_module_that_changed_count_no_more() -> None:
    graph, node = LAYER.graph()
    work = Nominal(graph, host()).work(node)
    way = next(w for w in lowerings("skipjack", "Conv") if w.name == "conv_direct")
    assert way.cost is not None
    factors = {way.name: {ANY: 3.0}}
    same = Rates(factors=factors, sources={way.name: module_digest(way.lower.__module__)})
    other = Rates(factors=factors, sources={way.name: "another"})
    assert corrected_us(same, way, work) == 3.0 * way.cost(work) == corrected_us(Rates(factors=factors), way, work)
    assert corrected_us(other, way, work) == way.cost(work)


def test_a_plan_follows_measured_times_over_predictions() -> None:
    graph, node = LAYER.graph()
    names = [w.label for c in plan(graph, host(), prices=Prices()).choices for w in (*c.candidates, *c.others)
             if c.predicted]  # fmt: skip
    for favourite in names:
        times = {name: 1.0 if name == favourite else 1e5 for name in names}
        choices = plan(graph, host(), prices=Prices(measured={node.outputs[0]: times})).choices
        choice = next(c for c in choices if c.predicted)
        assert choice.candidates[0].label == favourite
        assert choice.measured == times


def test_samples_are_layers_that_kernels_accept() -> None:
    assert {s.operator for s in samples(True)} == {"Linear", "Conv"}
    assert len({s.name for s in samples(False)}) == len(samples(False)) > len(samples(True))
    for s in samples(True):
        graph, node = s.graph()
        w = graph.constants["w"]
        assert np.mean(w != 0) == pytest.approx(s.density, abs=0.02), s.name
        assert plan(graph, host()).choices, (s.name, node)
