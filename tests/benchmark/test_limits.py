"""Peaks of the machine: plausible, cached, usable as bounds."""

from __future__ import annotations

import time

import pytest

from skipjack.benchmark.limits import Level, Limits, measure
from skipjack.session.teams import resolve_cores
from skipjack.targets.target import host

LEVELS = (Level("L1", 1000, 200.0), Level("L2", 10_000, 100.0), Level("DRAM", None, 10.0))
PLAIN = Limits("none", 1, 100.0, 400.0, LEVELS)


def test_peaks_are_measured_once_and_quickly() -> None:
    start = time.perf_counter()
    found = measure(resolve_cores(1))
    assert time.perf_counter() - start < 10  # 1 s when nothing else runs
    assert measure(resolve_cores(1)) is found
    assert 1 < found.f32_gflops < 1000
    assert (found.int8_gops is not None) == host().has("avx512vnni")
    if found.int8_gops is not None:
        assert found.int8_gops > found.f32_gflops
    assert [x.name for x in found.levels][:2] == ["L1", "L2"]
    assert found.levels[-1].holds_bytes is None
    rates = [x.gb_per_s for x in found.levels]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0.5


def test_a_working_set_is_read_from_the_nearest_level_that_holds_it() -> None:
    assert [PLAIN.level_of(n).name for n in (1, 1000, 1001, 10_001)] == ["L1", "L1", "L2", "DRAM"]
    assert PLAIN.read_us(500, 500) == pytest.approx(500 / 200e3)
    assert PLAIN.read_us(500, 50_000) == pytest.approx(500 / 10e3)


def test_bytes_without_dot_products_run_at_the_peak_of_floats() -> None:
    assert PLAIN.arithmetic_us(1000, int8=True) == pytest.approx(1000 / 400e3)
    plain = Limits("none", 1, 100.0, None, PLAIN.levels)
    assert plain.arithmetic_us(1000, int8=True) == pytest.approx(1000 / 100e3)
