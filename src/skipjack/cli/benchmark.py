"""`skipjack benchmark MODEL`: how fast a model is, here and beside other engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from skipjack.benchmark.measure import Request, measure, model_name, slower_than
from skipjack.benchmark.model import with_progress
from skipjack.benchmark.profile import profile_lines, profile_measured
from skipjack.benchmark.report_html import write_html
from skipjack.benchmark.results import Report, Row, as_json, labels
from skipjack.benchmark.sweep import COLUMNS, as_csv, parse_grid, requests_of, sweep
from skipjack.cli.options import Shapes
from skipjack.cli.output import console, in_bytes
from skipjack.core.errors import ConfigError

FAILED, VERIFICATION_FAILED = 1, 5


class Threshold(click.ParamType):
    """A ratio such as 1.0 or 1.0x, for one engine only as 1.0x:onnxruntime."""

    name = "ratio"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, str | None]:
        if not isinstance(value, str):
            return value
        number, _, engine = value.partition(":")
        try:
            return float(number.removesuffix("x")), engine or None
        except ValueError:
            self.fail(f"expected a ratio such as 1.0 or 1.0x:onnxruntime, got {value!r}", param, ctx)


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(name for name in (value or "").split(",") if name.strip())


@click.command()
@click.argument("model")
@click.option(
    "-s",
    "--scenario",
    default="sync",
    show_default=True,
    help="sync, async (several streams), elastic, poisson (random arrivals at --rate) or offline.",
)
@click.option(
    "-b",
    "--batch-size",
    "--batch_size",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="First dimension of every input; 0 keeps the model's own.",
)
@click.option(
    "-i", "--input-shapes", "--input_shapes", "-shapes", type=Shapes(), help='One shape per input: "[1,128],[1,128]".'
)
@click.option(
    "--sequence-length",
    "--sequence_length",
    "-seq_len",
    type=click.IntRange(min=1),
    help="Length of the inputs that are rows of positions.",
)
@click.option(
    "--num-cores", "--num_cores", "-ncores", type=click.IntRange(min=1), help="Physical cores; all if not given."
)
@click.option(
    "--num-streams",
    "--num_streams",
    "-nstreams",
    type=click.IntRange(min=1),
    help="Requests at once; half the cores if not given, one for sync.",
)
@click.option("-t", "--time", "time_s", type=float, default=10.0, show_default=True, help="Timed seconds per engine.")
@click.option(
    "-w",
    "--warmup",
    "--warmup-time",
    "--warmup_time",
    "warmup_s",
    type=float,
    default=2.0,
    show_default=True,
    help="Seconds before the timed ones, per engine.",
)
@click.option("--iterations", type=int, help="So many calls per engine instead of --time.")
@click.option("--rounds", type=click.IntRange(min=1), help="Turns per engine; 21 when engines are compared, else 5.")
@click.option("--rate", type=float, help="Requests per second of the scenario poisson.")
@click.option("-e", "--engine", default="skipjack", show_default=True, help="skipjack, onnxruntime, openvino or torch.")
@click.option("--compare", callback=_names, help="Other engines, with commas: ort,openvino,torch.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="A dense INT8 model of the same architecture, shown beside a sparse one.",
)
@click.option("--precision", default="fp32", show_default=True, help="fp32, or bf16 on engines that compute in it.")
@click.option("--isa", help="Use at most avx2, avx512, avx512vnni or amx (skipjack and OpenVINO).")
@click.option("-pin", "--thread-pinning", "--thread_pinning", default="core", show_default=True, help="core or none.")
@click.option("--memory", is_flag=True, help="Show the peak memory of each engine's process.")
@click.option(
    "--slo",
    "slo_ms",
    type=float,
    metavar="MS",
    help="A limit on latency: the share of calls within it, and the highest rate with p99 within it.",
)
@click.option("--sweep", "grid", metavar="GRID", help='A grid instead of one point: "batch=1,8 cores=1,2 streams=1".')
@click.option("--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a sweep here.")
@click.option(
    "--json",
    "-x",
    "--export-path",
    "--export_path",
    "json_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write everything here as JSON.",
)
@click.option(
    "--profile",
    "with_profile",
    is_flag=True,
    help="Per node of skipjack: time, kernel, zeros, rates, roofline against measured peaks.",
)
@click.option(
    "--html",
    "html_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a report with plots here, one file that needs no network.",
)
@click.option(
    "--fail-if-slower",
    type=Threshold(),
    metavar="RATIO[:ENGINE]",
    help="Exit code 5 when certainly slower than RATIO times a compared engine.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of inputs, arrivals and the order of turns.")
@click.option("-q", "--quiet", is_flag=True, help="Only the labelled figures, no progress, no tables.")
def benchmark(
    model: str,
    compare: tuple[str, ...],
    memory: bool,
    grid: str | None,
    csv_path: Path | None,
    json_path: Path | None,
    html_path: Path | None,
    with_profile: bool,
    fail_if_slower: tuple[float, str | None] | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure a model, alone or beside other engines.

    Engines run in processes of their own and take turns on the same cores, in random order, with the same inputs. Their
    outputs are compared before anything is timed: one that differs gets no figures. A ratio is formed inside each round
    and comes with its 99 % interval. The latencies of random arrivals count from the moment on the schedule.

    MODEL is a path, a directory, an hf: or a zoo: name. `skipjack benchmark ui` is the same as a web page.
    """
    request = Request(model, compare=compare, **options)
    if fail_if_slower and not compare:
        raise ConfigError("--fail-if-slower needs --compare: the engines to be held against")
    if with_profile and request.isa:
        raise ConfigError(f"--profile looks inside this process: set SKIPJACK_ISA={request.isa} instead of --isa")
    if grid is not None:
        if with_profile or html_path is not None:
            raise ConfigError("--profile and --html belong to one point, not to --sweep")
        _sweep(request, grid, csv_path, json_path, quiet)
        return
    if csv_path is not None:
        raise ConfigError("--csv belongs to --sweep; use --json for one point")
    report = with_progress(lambda watch: measure(request, watch), show=not quiet)
    _show(report, memory, quiet)
    profiled = profile_measured(report) if with_profile else None
    if profiled is not None:
        console().print("\n".join(profile_lines(profiled)), markup=False)
    found = {**as_json(report), "profile": profiled.as_dict() if profiled else None}
    if json_path is not None:
        _write(json_path, json.dumps(found, indent=2, default=float))
    if html_path is not None:
        milliseconds = {label: (1e3 * values).tolist() for label, values in report.latencies_s.items()}
        write_html(html_path, found, profiled, milliseconds)
    _leave(report, fail_if_slower)


def _sweep(request: Request, grid: str, csv_path: Path | None, json_path: Path | None, quiet: bool) -> None:
    reports: list[Report] = []

    def run(point: Request) -> Report:
        reports.append(with_progress(lambda watch: measure(point, watch), show=not quiet))
        return reports[-1]

    lines = sweep(requests_of(parse_grid(grid), request), run)
    table = Table(*COLUMNS[:-2], box=None, pad_edge=False)
    for line in lines:
        table.add_row(*(str(line[column]) for column in COLUMNS[:-2]))
    if not quiet:
        console().print(table)
    for reason in dict.fromkeys(reason for report in reports for reason in report.refused.values()):
        click.echo(f"left out: {reason}", err=True)
    if csv_path is not None:
        _write(csv_path, as_csv(lines))
    if json_path is not None:
        _write(json_path, json.dumps([as_json(report) for report in reports], indent=2))
    if not lines:
        click.get_current_context().exit(FAILED)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _show(report: Report, memory: bool, quiet: bool) -> None:
    out = console()
    if not quiet:
        for line in _heading(report):
            out.print(line, markup=False)
        out.print(_table(report, memory))
    for label, reason in report.refused.items():
        out.print(reason if reason.startswith(label) else f"{label}: {reason}", markup=False)
    if not quiet:
        for line in (*report.notes, *(f"warning: {warning}" for warning in report.warnings)):
            out.print(line, markup=False)
    for line in labels(report):
        out.print(line, markup=False)


def _heading(report: Report) -> list[str]:
    settings, machine = report.settings, report.machine
    contents = report.contents["text"] if report.contents else "not a model that skipjack runs"
    lines = [
        f"Model    {model_name(report)}: {contents}",
        f"Machine  {machine['processor']}, governor {machine['governor']}, load {machine['load_average']:.2f}",
        f"Run      {settings['scenario']}, {settings['num_cores']} core(s), {settings['num_streams']} stream(s),"
        f" batch {settings['batch_size']}, inputs {settings['input_shapes']}, seed {settings['seed']},"
        f" {settings['precision']}",
    ]
    for row in report.rows:
        lines.append(f"Start    {row.label}: {_startup(row)}")
    agreements = [f"{r.label} {r.agreement.max_error:.1e}" for r in report.rows if r.agreement]
    if agreements:
        lines.append(f"Outputs  agree; largest difference as a share of the largest value: {', '.join(agreements)}")
    return lines


def _startup(row: Row) -> str:
    start = row.startup
    compile_s = "" if start.cold_load_s is None else f"compile and load {start.cold_load_s:.2f} s (cold cache), "
    warm = " (warm cache)" if row.engine == "skipjack" else ""
    version = start.about.get("version", "")
    return f"{version}, {compile_s}load {start.load_s:.2f} s{warm}, first run {start.first_run_s * 1e3:.2f} ms"


def _table(report: Report, memory: bool) -> Table:
    slo, first = report.settings["slo_ms"], report.settings["label"]
    compared = any(row.speed_ratio for row in report.rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("engine")
    headings = ["p50 ms", "p90", "p95", "p99", "p99.9", "mean", "items/s", "CoV", "calls"]
    headings += [f"{first} is faster by"] if compared else []
    headings += [f"within {slo:g} ms", "highest rate/s"] if slo else []
    headings += ["peak memory"] if memory else []
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in report.rows:
        table.add_row(row.label, *_cells(row, compared, bool(slo), memory))
    return table


def _cells(row: Row, compared: bool, with_slo: bool, memory: bool) -> list[str]:
    said = row.latencies
    cells = [f"{said.percentiles_ms[rank]:.3f}" for rank in (50.0, 90.0, 95.0, 99.0, 99.9)]
    cells += [f"{said.mean_ms:.3f}", f"{row.items_per_second:.1f}", f"{row.round_variation:.1%}", str(said.count)]
    if compared:
        cells.append(f"{row.speed_ratio}x".replace(" [", "x [").removesuffix("x") if row.speed_ratio else "-")
    if with_slo:
        cells.append("-" if row.within_slo is None else f"{row.within_slo:.2%}")
        cells.append("-" if row.highest_rate is None else f"{row.highest_rate:.1f}")
    if memory:
        cells.append(in_bytes(row.peak_rss_bytes))
    return cells


def _leave(report: Report, threshold: tuple[float, str | None] | None) -> None:
    """Exit with what went wrong: outputs that differ or a missed threshold, the engine in question not running."""
    ctx = click.get_current_context()
    slow = slower_than(report, *threshold) if threshold else []
    for label in slow:
        click.echo(f"skipjack: slower than {label}: the ratio is below {threshold[0] if threshold else 0:g}", err=True)
    if report.differs or slow:
        ctx.exit(VERIFICATION_FAILED)
    if report.main is None:
        ctx.exit(FAILED)
