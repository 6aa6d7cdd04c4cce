"""What a benchmark found: rows, labels and the keys that scripts read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

import skipjack
from skipjack.benchmark.interleave import Agreement, Comparison, Startup
from skipjack.benchmark.scenarios import OLD_NAMES, SCHEDULERS
from skipjack.benchmark.statistics import Estimate, Latencies, share_within, summarise

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One engine on one file. speed_ratio is how many times faster the first engine is than this one."""

    label: str
    engine: str
    model: str
    latencies: Latencies
    items_per_second: float
    seconds_ran: float
    rounds: int
    quiet_rounds: int
    round_variation: float
    startup: Startup
    peak_rss_bytes: int
    unanswered: int = 0
    agreement: Agreement | None = None
    speed_ratio: Estimate | None = None
    within_slo: float | None = None
    highest_rate: float | None = None


@dataclass(frozen=True)
class Report:
    """One benchmark. The first row is that of the engine the benchmark is about, unless it is among the refused."""

    settings: dict[str, Any]
    rows: list[Row]
    refused: dict[str, str]
    differs: list[str]
    warnings: list[str]
    notes: list[str]
    machine: dict[str, Any]
    contents: dict[str, Any] | None
    latencies_s: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    @property
    def main(self) -> Row | None:
        """The row of the engine the benchmark is about."""
        label = self.settings["label"]
        return next((row for row in self.rows if row.label == label), None)


def make_rows(
    comparison: Comparison, engines: dict[str, tuple[str, str]], batch_size: int, first: str, slo_s: float | None
) -> list[Row]:
    """A row for every contender that had its turns; engines gives engine and file by label."""
    rows: list[Row] = []
    for label, turns in comparison.turns.items():
        latencies = comparison.latencies_s(label)
        seconds = sum(turn.wall_s for turn in turns)
        answered = len(latencies) - sum(turn.unanswered for turn in turns)
        figures = comparison.round_s[label]
        compared = first in comparison.turns and label != first and label in comparison.agreement
        rows.append(
            Row(
                label=label,
                engine=engines[label][0],
                model=engines[label][1],
                latencies=summarise(latencies),
                items_per_second=answered * batch_size / seconds,
                seconds_ran=seconds,
                rounds=len(turns),
                quiet_rounds=int(comparison.quiet[label].sum()),
                round_variation=float(figures.std() / figures.mean()),
                startup=comparison.startup[label],
                peak_rss_bytes=comparison.memory[label]["peak_rss_bytes"],
                unanswered=len(latencies) - answered,
                agreement=comparison.agreement.get(label),
                speed_ratio=comparison.ratio_estimate(label, first) if compared else None,
                within_slo=None if slo_s is None else share_within(latencies, slo_s),
                highest_rate=comparison.max_rate.get(label),
            )
        )
    return rows


def old_scenario_name(scenario: str) -> str:
    """The scenario as scripts know it."""
    return OLD_NAMES.get(scenario, scenario)


def labels(report: Report) -> list[str]:
    """The lines `Label: value` that scripts read; empty when the engine did not run."""
    row = report.main
    if row is None:
        return []
    settings = report.settings
    length = settings["sequence_length"]
    return [
        f"Original Model Path: {settings['orig_model_path']}",
        f"Batch Size: {settings['batch_size']}",
        *([f"Sequence Length: {length}"] if length else []),
        f"Scenario: {settings['scenario']}",
        f"Throughput (items/sec): {row.items_per_second:.4f}",
        f"Latency Mean (ms/batch): {row.latencies.mean_ms:.4f}",
        f"Latency Median (ms/batch): {row.latencies.median_ms:.4f}",
        f"Latency Std (ms/batch): {row.latencies.std_ms:.4f}",
        f"Iterations: {row.latencies.count}",
    ]


def _percentiles(latencies: Latencies) -> dict[str, float]:
    return {f"{rank}%": value for rank, value in latencies.percentiles_ms.items()}


def _benchmark_result(row: Row, scenario: str) -> dict[str, Any]:
    return {
        "scenario": old_scenario_name(scenario),
        "items_per_sec": row.items_per_second,
        "seconds_ran": row.seconds_ran,
        "iterations": row.latencies.count,
        "median": row.latencies.median_ms,
        "mean": row.latencies.mean_ms,
        "std": row.latencies.std_ms,
        **_percentiles(row.latencies),
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    plain = asdict(row)
    latencies = plain.pop("latencies")
    latencies["percentiles_ms"] = _percentiles(row.latencies)
    return {**plain, "latencies": latencies}


def as_json(report: Report) -> dict[str, Any]:
    """Everything as plain values: the keys that scripts know, then what this benchmark adds."""
    settings, row = report.settings, report.main
    scenario = settings["scenario"]
    about = row.startup.about if row else {}
    known: dict[str, Any] = {
        "engine": about.get("repr", settings["engine"]),
        "version": skipjack.__version__,
        "orig_model_path": settings["orig_model_path"],
        "model_path": settings["model_path"],
        "batch_size": settings["batch_size"],
        "input_shapes": settings["input_shapes"],
        "num_cores": settings["num_cores"],
        "scenario": old_scenario_name(scenario),
        "scheduler": SCHEDULERS[scenario],
        "seconds_to_run": settings["time_s"],
        "num_streams": settings["num_streams"],
        "benchmark_result": _benchmark_result(row, scenario) if row else {},
        "fraction_of_supported_ops": about.get("fraction_of_supported_ops"),
    }
    if settings["sequence_length"]:
        known["sequence_length"] = settings["sequence_length"]
        known["input_ids_length"] = settings["sequence_length"]
    return {
        **known,
        "schema_version": SCHEMA_VERSION,
        "settings": settings,
        "engines": [_row_as_json(each) for each in report.rows],
        "refused": report.refused,
        "differs": report.differs,
        "warnings": report.warnings,
        "machine": report.machine,
        "model": report.contents,
        "notes": report.notes,
    }
