"""`skipjack tune`: measure how fast this CPU's kernels are and keep it for planning."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import click
from rich.table import Table

from skipjack.cli.output import console
from skipjack.core.errors import ConfigError
from skipjack.core.knobs import check_environment
from skipjack.cpu import cpu_architecture
from skipjack.kernels.digest import sources_digest
from skipjack.select.rates import Rates, cpu_name, current, fit, module_digest, text_of, tune_file, write_whole
from skipjack.select.sample_layers import samples
from skipjack.session.progress import progress
from skipjack.targets.target import Target, host
from skipjack.tune import layer_folder, measure_rates


@click.command()
@click.option("--quick", is_flag=True, help="Fewer layers: seconds instead of a minute.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the table to this file instead.")
@click.option("--show", is_flag=True, help="Print the table that is used, measure nothing.")
@click.option("--reset", is_flag=True, help="Remove what was measured on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tune(quick: bool, output: Path | None, show: bool, reset: bool, as_json: bool) -> None:
    """Measure kernels on this CPU, so that the quickest one is chosen for each layer.

    Typical layers are run with every kernel that can compute them. The table says how far each one is from its
    prediction; models loaded from now on are planned with it, as long as CPU, instruction set and kernels are the same.
    """
    check_environment()
    if show and reset:
        raise click.UsageError("--show and --reset exclude each other")
    target = host()
    if reset:
        _reset(target)
    elif not show:
        _measure(quick, output or tune_file(target), target)
    _print(current(target), target, as_json)


def _measure(quick: bool, path: Path, target: Target) -> None:
    layers = samples(quick)
    steps = progress(range(len(layers)), console().is_terminal, "tune")
    timings = measure_rates((layers[i].graph() for i in steps), target)
    source = f"tuned on {cpu_architecture().vendor_model}, {datetime.date.today().isoformat()}"
    try:
        factors, sources = fit(timings), {t.way: module_digest(t.module) for t in timings}
        write_whole(path, text_of(Rates(cpu_name(), target.name, sources_digest(), source, factors, sources)))
    except OSError as error:
        raise ConfigError(
            f"could not write {path}: {error.strerror or error}; name another file with --output"
        ) from None
    click.echo(f"wrote      {path} ({len(timings)} times)", err=True)


def _reset(target: Target) -> None:
    tune_file(target).unlink(missing_ok=True)
    shutil.rmtree(layer_folder(target), ignore_errors=True)


def _print(rates: Rates, target: Target, as_json: bool) -> None:
    if as_json:
        click.echo(text_of(rates), nl=False)
        return
    click.echo(f"cpu        {cpu_name()}, {target.name}")
    click.echo(f"rates      {rates.source}")
    click.echo(f"file       {tune_file(target)}{'' if tune_file(target).exists() else ' (not there)'}")
    table = Table(box=None, pad_edge=False)
    for name in ("kernel", "classes"):
        table.add_column(name)
    for name in ("least", "mean", "most"):
        table.add_column(name, justify="right")
    for way, factors in sorted(rates.factors.items()):
        known = list(factors.values())
        table.add_row(way, str(len(known)), f"{min(known):.2f}", f"{factors.get('*', 1.0):.2f}", f"{max(known):.2f}")
    if rates.factors:
        console().print(table)
