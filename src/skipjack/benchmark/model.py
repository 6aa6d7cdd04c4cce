"""Benchmarks as Python calls."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from skipjack.benchmark.interleave import Watch
from skipjack.benchmark.measure import Request, measure
from skipjack.benchmark.results import Report, as_json, labels
from skipjack.benchmark.scenarios import Turn, timed_calls, timed_streams
from skipjack.benchmark.statistics import summarise
from skipjack.core.errors import ConfigError
from skipjack.session.calls import Calls


def benchmark_model(
    model_path: str | os.PathLike[str],
    batch_size: int = 1,
    input_shapes: Any = "",
    num_cores: int | None = None,
    scenario: str = "sync",
    time: float = 10,
    warmup_time: float = 2,
    num_streams: int | None = None,
    sequence_length: int | None = None,
    input_ids_length: int = 1,
    thread_pinning: str = "core",
    engine: str = "skipjack",
    internal_kv_cache: bool = True,
    quiet: bool = False,
    export_path: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Measure one engine on one model and return the figures, which export_path also receives as JSON.

    Models with a cache of keys and values are measured as they are: input_ids_length other than 1 is refused.
    """
    if input_ids_length != 1 or not internal_kv_cache:
        raise ConfigError("benchmark_model: the cache of keys and values of a decoder cannot be set; give input_shapes")
    request = Request(
        model_path,
        batch_size=batch_size,
        input_shapes=shapes_of(input_shapes),
        sequence_length=sequence_length,
        num_cores=num_cores,
        num_streams=num_streams,
        scenario=scenario,
        time_s=time,
        warmup_s=warmup_time,
        engine=engine,
        thread_pinning=thread_pinning,
    )
    report = with_progress(lambda watch: measure(request, watch), show=not quiet)
    if report.main is None:
        raise ConfigError("; ".join(report.refused.values()))
    if not quiet:
        Console(stderr=True).print("\n".join(labels(report)), markup=False, highlight=False)
    found = as_json(report)
    if export_path is not None:
        Path(export_path).write_text(json.dumps(found, indent=2))
    return found


def shapes_of(given: Any) -> Any:
    """Shapes as text, "[1,128],[1,128]", or as lists; nothing for the model's own."""
    if not isinstance(given, str):
        return given or None
    try:
        return json.loads(f"[{given}]") or None
    except json.JSONDecodeError:
        raise ConfigError(f"input_shapes: expected shapes such as [1,128],[1,128], got {given!r}") from None


def with_progress(work: Callable[[Watch], Report], *, show: bool) -> Report:
    """Do the work with a bar on stderr, when that is a terminal and a bar is wanted."""
    console = Console(stderr=True)
    if not show or not console.is_terminal:
        return work(lambda text, done: None)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("benchmark", total=1.0)
        return work(lambda text, done: bar.update(task, description=text, completed=done))


def singlestream_benchmark(engine: Calls, inputs: list[Any], seconds_to_run: float) -> dict[str, float]:
    """Run an engine in this process, one call after the other."""
    arrays = engine.checked(inputs)
    return _figures(engine, timed_calls(lambda: engine.run(arrays, val_inp=False), seconds_to_run))


def multistream_benchmark(
    engine: Calls, inputs: list[Any], seconds_to_run: float, num_streams: int
) -> dict[str, float]:
    """Run an engine in this process from several threads at once."""
    if num_streams < 1:
        raise ConfigError(f"num_streams: expected at least 1, got {num_streams}")
    arrays = engine.checked(inputs)
    calls = [lambda: engine.run(arrays, val_inp=False)] * num_streams
    return _figures(engine, timed_streams(calls, seconds_to_run))


def _figures(engine: Calls, turn: Turn) -> dict[str, float]:
    said = summarise(turn.latencies_s)
    return {
        "items_per_sec": said.count * (engine.batch_size or 1) / turn.wall_s,
        "seconds_ran": turn.wall_s,
        "iterations": said.count,
        "median": said.median_ms,
        "mean": said.mean_ms,
        "std": said.std_ms,
        **{f"{rank}%": value for rank, value in said.percentiles_ms.items()},
    }
