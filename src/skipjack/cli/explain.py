"""`skipjack explain MODEL`: why a model is as fast as it is."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click
from rich.table import Table

from skipjack.cli.options import sized
from skipjack.cli.output import console, in_bytes, in_time
from skipjack.core.knobs import check_environment
from skipjack.engine import compile_graph
from skipjack.runtime.team import Team
from skipjack.session.explain import NodeReport, Report
from skipjack.session.explain import explain as explain_program
from skipjack.session.inputs import input_specs, random_inputs
from skipjack.session.teams import resolve_cores


@click.command()
@click.argument("model")
@sized
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--tune", type=click.Choice(["load"]), default=None, help="Time the kernels of each layer first.")
@click.option("--no-time", is_flag=True, help="Run once and leave the times out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(
    model: str,
    batch_size: int | None,
    input_shapes: Any,
    cores: int | None,
    precision: str,
    tune: str | None,
    no_time: bool,
    as_json: bool,
) -> None:
    """Show how a model runs: kernel, layout, time and reason per node.

    The model runs on random inputs; the times are those of the best of several runs. Time of a node is the share of
    its segment's wall time that the first thread spent in its kernels and in waiting before them.
    """
    report = make_report(model, batch_size, input_shapes, cores, timed=not no_time, precision=precision, tune=tune)
    if as_json:
        click.echo(json.dumps(_as_json(model, report), indent=2))
        return
    console().print(_table(report))
    for line in summary(report):
        console().print(line, markup=False)


def make_report(
    model: Any,
    batch_size: int | None,
    input_shapes: Any,
    cores: int | None,
    *,
    timed: bool,
    precision: str = "fp32",
    tune: str | None = None,
) -> Report:
    """Compile a model and run it on random inputs to see what it does."""
    check_environment()
    compiled = compile_graph(model, batch_size or None, input_shapes, precision=precision, tune=tune)
    specs = input_specs(compiled.declared)
    arrays = random_inputs(specs, seed=0)
    chosen = resolve_cores(cores)
    team = Team(len(chosen), chosen if len(chosen) > 1 else None)
    try:
        return explain_program(compiled.program, {s.name: a for s, a in zip(specs, arrays)}, team, timed=timed)
    finally:
        team.close()


def _as_json(model: str, report: Report) -> dict[str, Any]:
    counts = {"segments": report.segments, "host_steps": report.host_steps, "kernel_share": report.kernel_share}
    return {"model": model, **counts, **dataclasses.asdict(report)}


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("node", "op", "kernel", "weights", "layout", "shape"):
        table.add_column(name, overflow="fold")
    for name in ("predicted", "time", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("runner-up", "reason"):
        table.add_column(name, overflow="fold")
    for node in report.nodes:
        table.add_row(*(cell.replace("[", r"\[") for cell in _cells(node)))
    return table


def _cells(node: NodeReport) -> list[str]:
    second = node.runner_up
    if node.runner_up_predicted_us is not None:
        second += f" {in_time(node.runner_up_predicted_us)}"
    return [
        node.name,
        node.operator,
        node.kernel,
        _weight(node),
        node.layout,
        f"{node.dtype}[{', '.join(map(str, node.shape))}]" if node.dtype else "",
        "" if node.predicted_us is None else in_time(node.predicted_us),
        "" if not node.measured_us else in_time(node.measured_us),
        "" if not node.share else f"{node.share:.1%}",
        second,
        node.reason,
    ]


def _weight(node: NodeReport) -> str:
    """The pattern of the zeros, and how the kernel stores them."""
    if node.weight is None or node.weight.pattern == node.encoding == "dense":
        return "" if node.weight is None else str(node.weight)
    return f"{node.weight}: {node.encoding}"


def summary(report: Report) -> list[str]:
    """Steps, time, memory and kernels of a report, a line each."""
    launches = sum(s.calls * s.launches for s in report.steps)
    lines = [
        f"{report.segments} segment(s) with {launches} kernel calls, {report.host_steps} host step(s)"
        f" on {report.threads} thread(s), {report.target}"
    ]
    if report.total_us is not None:
        in_kernels = f"{report.kernel_share:.1%}" if report.kernel_share is not None else "none"
        lines.append(f"time     {in_time(report.total_us)}, best of {report.runs} runs; {in_kernels} in kernels")
    limit = " (SKIPJACK_ISA)" if report.target_limit else ""
    lines.append(f"planned  for {report.target}{limit}; rates: {report.rates}")
    lines.append(
        f"memory   weights {in_bytes(report.constant_bytes)} as read and {in_bytes(report.packed_bytes)} packed,"
        f" activations {in_bytes(report.arena_bytes)}"
    )
    kernels = ", ".join(f"{name} x{count}" if count > 1 else name for name, count in report.kernels.items())
    lines.append(
        f"kernels  {sum(report.kernels.values())} ({report.kernels_compiled} compiled now,"
        f" {report.kernels_from_disk} from disk): {kernels}"
    )
    return lines
