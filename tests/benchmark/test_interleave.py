"""The comparison with planted faults, in real processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skipjack.benchmark.interleave import Comparison, Plan, agree, compare, last_cores
from skipjack.benchmark.processes import Contender
from skipjack.benchmark.statistics import median_estimate
from skipjack.cli.demo import FOLDER

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[2]
INPUTS = {"image": np.random.default_rng(0).random((1, 1, 8, 8), np.float32)}


def planted(label: str, kind: str) -> Contender:
    environment = {"PYTHONPATH": str(ROOT)}
    return Contender(label, f"tests.benchmark.planted:{kind}", FOLDER / "digits.onnx", environment=environment)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    contenders = [
        planted("first", "steady"),
        planted("second", "steady"),
        planted("slower", "slower"),
        planted("wrong", "wrong"),
        planted("broken", "broken"),
    ]
    return compare(contenders, INPUTS, Plan(time_s=1.0), cores=last_cores(1))


def test_a_planted_slowdown_is_found(comparison: Comparison) -> None:
    ratio = median_estimate(comparison.ratios("slower", "first"))
    assert ratio.low > 1.0
    assert ratio.value == pytest.approx(1.1, abs=0.05)


def test_an_engine_against_itself_is_as_fast(comparison: Comparison) -> None:
    ratio = median_estimate(comparison.ratios("second", "first"))
    assert ratio.low - 0.02 <= 1.0 <= ratio.high + 0.02


def test_wrong_outputs_get_no_figure_and_no_ratio(comparison: Comparison) -> None:
    assert comparison.differs == {"wrong"}
    assert "no ratio is shown" in comparison.refused["wrong"]
    assert set(comparison.turns) == {"first", "second", "slower"}


def test_an_engine_that_fails_is_one_line_and_the_others_go_on(comparison: Comparison) -> None:
    assert comparison.refused["broken"] == "broken: this engine does not like the model"


def test_startup_memory_and_agreement_are_known_for_all_that_ran(comparison: Comparison) -> None:
    for label in comparison.turns:
        assert comparison.startup[label].first_run_s > 0
        assert comparison.memory[label]["peak_rss_bytes"] > 1 << 20
        assert comparison.agreement[label].max_error < 1e-6


def test_agreement_is_that_of_the_worst_output() -> None:
    one = np.array([1.0, 2.0])
    assert agree([one, one], [one, one]).max_error == 0
    assert agree([one, one + [0, 0.2]], [one, one]).max_error == pytest.approx(0.1)
    assert agree([one[:1]], [one]).max_error == float("inf")
    assert agree([one * np.nan], [one]).cosine == 0.0
