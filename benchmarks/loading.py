"""Load times and peak memory of each engine on one file, every figure from a fresh process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skipjack.benchmark.interleave import last_cores
from skipjack.benchmark.processes import Contender, RunnerError, RunnerProcess, save_inputs

MIB = 1 << 20


@dataclass(frozen=True)
class LoadReport:
    """`children_bytes` is the largest child process (compilers), which `peak_bytes` does not hold."""

    cold_s: float
    warm_s: float
    first_run_s: float
    peak_bytes: int
    children_bytes: int


def measure_load(contender: Contender, inputs: dict[str, np.ndarray]) -> LoadReport:
    """Loads twice over one empty compile cache; memory is that of the warm process after one run."""
    with tempfile.TemporaryDirectory(prefix="skipjack-load-") as name:
        folder = Path(name)
        save_inputs(folder / "inputs.npz", inputs)
        cache = {"SKIPJACK_CACHE_DIR": str(folder / "cache")}
        fresh = Contender(contender.label, contender.engine, contender.model, contender.settings, cache)
        cold_s, _ = _load_once(fresh, folder)
        warm_s, run = _load_once(fresh, folder)
    return LoadReport(cold_s, warm_s, run["first_run_s"], run["peak_rss_bytes"], run["children_peak_rss_bytes"])


def _load_once(contender: Contender, folder: Path) -> tuple[float, dict]:
    runner = RunnerProcess(contender, last_cores(1))
    try:
        loaded = runner.load(folder / "inputs.npz")
        return loaded["load_s"], runner.outputs(folder)[1]
    finally:
        runner.close()


def print_loads(contenders: list[Contender], inputs: dict[str, np.ndarray]) -> dict[str, LoadReport]:
    """One line an engine; the share of memory is against the last engine's."""
    reports: dict[str, LoadReport] = {}
    for contender in contenders:
        try:
            reports[contender.label] = measure_load(contender, inputs)
        except RunnerError as error:
            print(f"  {error}")
    print(f"  {'engine':24}{'cold s':>8}{'warm s':>8}{'run s':>8}{'peak MiB':>10}{'children MiB':>14}")
    for label, report in reports.items():
        print(
            f"  {label:24}{report.cold_s:8.2f}{report.warm_s:8.2f}{report.first_run_s:8.3f}"
            f"{report.peak_bytes / MIB:10.0f}{report.children_bytes / MIB:14.0f}"
        )
    return reports
