"""Warnings about the machine, from texts of the kernel."""

from __future__ import annotations

from dataclasses import replace

from skipjack.benchmark.noise import (
    Machine,
    Snapshot,
    machine,
    quota_cores,
    snapshot,
    steal_and_total,
    throttled_periods,
    warnings_between,
)

QUIET = Machine("a processor", 4, "performance", 0.0, None)
BEFORE = Snapshot(100.0, (10, 1000), 3, (3_000_000,), {10: 100, 11: 100})
AFTER = Snapshot(110.0, (10, 5000), 3, (3_000_000,), {10: 100, 11: 100})


def test_a_quiet_machine_gives_no_warning() -> None:
    assert warnings_between(BEFORE, AFTER, set(), QUIET) == []


def test_each_disturbance_has_its_line() -> None:
    after = replace(AFTER, steal=(210, 5000), throttled=8, clocks_khz=(2_000_000,), process_ticks={10: 600, 11: 600})
    start = Machine("a processor", 4, "powersave", 2.5, 1.5)
    text = "\n".join(warnings_between(BEFORE, after, {11}, start))
    clock, load = "3.00 to 2.00 GHz", "average was 2.50"
    for part in ("5.0% of the processor time", "5 times", "1.5 cores", clock, "powersave", load, "process 10"):
        assert part in text
    assert "process 11" not in text


def test_the_kernels_texts_are_read() -> None:
    assert steal_and_total("cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1") == (8, 36)
    assert steal_and_total("") is None
    assert throttled_periods("nr_periods 5\nnr_throttled 2\n") == 2
    assert throttled_periods("usage_usec 5\n") is None
    assert quota_cores("150000 100000\n") == 1.5
    assert quota_cores("max 100000\n") is None


def test_this_machine_can_be_read() -> None:
    assert machine(2).cores == 2
    assert warnings_between(snapshot(), snapshot(), set(), QUIET) is not None
