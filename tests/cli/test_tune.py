"""`skipjack tune` and `skipjack bench-kernels`, with a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from skipjack import tune as timing
from skipjack.cli.demo import FOLDER
from skipjack.select import sample_layers
from skipjack.select.rates import cpu_name
from skipjack.targets.target import host
from tests.cli.conftest import Invoke

DIGITS = FOLDER / "digits.onnx"


def first_is_best(calls: Sequence[timing.Run]) -> list[float]:
    return [30.0 + 100 * i for i in range(len(calls))]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small layers, no real timing, a table of its own."""
    few = [sample_layers.Sample("Linear", (32, 48), 0.5), sample_layers.Sample("Conv", (16, 32, 1, 7), 1.0)]
    monkeypatch.setattr("skipjack.cli.tune.samples", lambda quick: few[: 1 if quick else 2])
    monkeypatch.setattr("skipjack.cli.tune.measure_rates", lambda g, t: timing.measure_rates(g, t, first_is_best))
    monkeypatch.setattr("skipjack.cli.bench_kernels.compare", lambda g, p, us: timing.compare(g, p, us, first_is_best))
    path = tmp_path / "mine" / "rates.json"
    monkeypatch.setenv("SKIPJACK_TUNE_FILE", str(path))
    return path


def test_what_is_measured_is_stored_shown_and_removed(skipjack: Invoke, quick: Path) -> None:
    before = json.loads(skipjack("tune", "--show", "--json").stdout)
    assert not quick.exists()
    made = skipjack("tune")
    assert made.exit_code == 0
    assert str(quick) in made.stdout
    table = json.loads(quick.read_text())
    assert (table["cpu"], table["target"]) == (cpu_name(), host().name)
    assert any("p" in layer for row in table["factors"].values() for layer in row)
    shown = json.loads(skipjack("tune", "--show", "--json").stdout)
    assert shown == table != before
    assert f"rates: {table['source']}" in skipjack("explain", DIGITS, "--no-time").stdout
    assert skipjack("tune", "--reset").exit_code == 0
    assert not quick.exists()
    assert json.loads(skipjack("tune", "--show", "--json").stdout) == before


def test_quick_measures_less_and_another_file_can_be_named(skipjack: Invoke, quick: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    assert skipjack("tune", "--quick", "--output", other).exit_code == 0
    assert not quick.exists()
    assert not any("p" in layer for row in json.loads(other.read_text())["factors"].values() for layer in row)


def test_a_place_that_cannot_be_written_is_an_error(skipjack: Invoke, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = skipjack("tune", "--quick", "--output", blocked / "x.json")
    assert result.exit_code == 1
    assert "name another file with --output" in result.stderr


def test_show_and_reset_exclude_each_other(skipjack: Invoke) -> None:
    assert skipjack("tune", "--show", "--reset").exit_code == 2


def test_every_kernel_of_a_layer_is_shown_beside_the_chosen_one(skipjack: Invoke) -> None:
    report = json.loads(skipjack("bench-kernels", DIGITS, "--layers", "0", "--json").stdout)
    layers = report["models"][str(DIGITS)]
    assert len(layers) >= 3
    for layer in layers:
        assert layer["chosen"] in layer["measured_us"]
        assert min(layer["measured_us"].values()) == layer["measured_us"][layer["best"]]
        assert 0 <= layer["loss"] <= layer["regret"]
    assert report["share"] == sum(layer["loss"] <= 0.1 for layer in layers) / len(layers)
    alone = json.loads(skipjack("bench-kernels", DIGITS, "--layers", "0", "--json", "--alone").stdout)["share"]
    assert alone == sum(layer["regret"] <= 0.1 for layer in layers) / len(layers)
    text = skipjack("bench-kernels", DIGITS, "--layers", "0us").stdout
    assert f"of {len(layers)} layers are within 10% of the quickest kernel" in text


def test_assert_fails_when_choices_are_bad(skipjack: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen_is(last: bool) -> None:
        def clock(calls: Sequence[timing.Run]) -> list[float]:
            return [30.0 for _ in calls] if last else [30.0 * 100**i for i in range(len(calls))][::-1]

        monkeypatch.setattr("skipjack.cli.bench_kernels.compare", lambda g, p, us: timing.compare(g, p, us, clock))

    chosen_is(True)
    assert skipjack("bench-kernels", DIGITS, "--assert").exit_code == 0
    chosen_is(False)
    assert skipjack("bench-kernels", DIGITS, "--assert").exit_code == 1
    assert skipjack("bench-kernels", DIGITS).exit_code == 0


def test_models_without_such_layers_pass(skipjack: Invoke) -> None:
    result = skipjack("bench-kernels", DIGITS, "--layers", "1e6us", "--assert")
    assert (result.exit_code, "no layer" in result.stdout) == (0, True)


@pytest.mark.parametrize("text", ["fast", "-1", "1s", "nan"])
def test_times_that_are_none_are_refused(skipjack: Invoke, text: str) -> None:
    assert skipjack("bench-kernels", DIGITS, f"--layers={text}").exit_code == 2
