"""Benchmarks over a grid of batch sizes, cores and streams."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from skipjack.benchmark.measure import Request, model_name
from skipjack.benchmark.results import Report
from skipjack.core.errors import ConfigError, nearest

_FIELDS = {"batch": "batch_size", "cores": "num_cores", "streams": "num_streams"}
COLUMNS = (
    "Model",
    "Engine",
    "Batch Size",
    "Num Cores",
    "Scenario",
    "Num Streams",
    "Items per second",
    "Mean Latency",
    "Median Latency",
    "Std Latency",
    "Input Shape",
    "Command",
)


def parse_grid(text: str) -> dict[str, list[int]]:
    """A grid such as "batch=1,8 cores=1,2 streams=1"; ConfigError for anything else."""
    grid: dict[str, list[int]] = {}
    for part in text.replace(";", " ").split():
        name, _, values = part.partition("=")
        if name not in _FIELDS:
            raise ConfigError(f"--sweep {part!r}: expected batch=, cores= or streams={nearest(name, _FIELDS)}")
        try:
            sizes = [int(value) for value in values.split(",")]
        except ValueError:
            sizes = []
        if not sizes or min(sizes) < 1:
            raise ConfigError(f"--sweep {part!r}: expected positive numbers with commas, such as {name}=1,2")
        grid[name] = sizes
    if not grid:
        raise ConfigError('--sweep: expected a grid such as "batch=1,8 cores=1,2"')
    return grid


def requests_of(grid: dict[str, list[int]], request: Request) -> list[Request]:
    """One request per point of the grid, the last name varying fastest."""
    points = itertools.product(*grid.values())
    return [replace(request, **{_FIELDS[n]: v for n, v in zip(grid, point, strict=True)}) for point in points]


def sweep(requests: Sequence[Request], run: Callable[[Request], Report]) -> list[dict[str, Any]]:
    """The table of a sweep: one line per engine and point, by COLUMNS."""
    lines: list[dict[str, Any]] = []
    for request in requests:
        lines += _lines(run(request))
    return lines


def _lines(report: Report) -> list[dict[str, Any]]:
    settings = report.settings
    command = (
        f"skipjack benchmark {settings['orig_model_path']} --scenario {settings['scenario']}"
        f" --batch-size {settings['batch_size']} --num-cores {settings['num_cores']}"
        f" --num-streams {settings['num_streams']} --time {settings['time_s']:g} --engine "
    )
    rate = "" if settings["rate"] is None else f" --rate {settings['rate']:g}"
    found: list[dict[str, Any]] = []
    for row in report.rows:
        values = (
            model_name(report),
            row.label,
            settings["batch_size"],
            settings["num_cores"],
            settings["scenario"],
            settings["num_streams"],
            round(row.items_per_second, 4),
            round(row.latencies.mean_ms, 4),
            round(row.latencies.median_ms, 4),
            round(row.latencies.std_ms, 4),
            settings["input_shapes"],
            command + row.engine + rate,
        )
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def as_csv(lines: list[dict[str, Any]]) -> str:
    """The table as text with commas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([line[column] for column in COLUMNS] for line in lines)
    return text.getvalue()
