"""`skipjack bench-kernels MODEL...`: was the quickest kernel chosen?"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import click
from rich.table import Table

from skipjack.cli.options import Shapes
from skipjack.cli.output import console, in_time
from skipjack.core.knobs import check_environment
from skipjack.engine import compile_graph
from skipjack.tune import Compared, compare

WITHIN, LEAST_SHARE = 0.10, 0.95


def _parse_us(ctx: click.Context, param: click.Parameter, value: str) -> float:
    try:
        us = float(value.removesuffix("us"))
    except ValueError:
        us = -1.0
    if not 0 <= us < 1e9:
        raise click.BadParameter(f"expected microseconds such as 20us, got {value!r}")
    return us


@click.command("bench-kernels")
@click.argument("models", nargs=-1, required=True)
@click.option("--layers", callback=_parse_us, default="20us", show_default=True, help="Leave out quicker layers.")
@click.option("--assert", "must", is_flag=True, help=f"Exit with 1 when fewer than {LEAST_SHARE:.0%} are chosen well.")
@click.option("--alone", is_flag=True, help="Do not count what rearranging values for another layout takes.")
@click.option("--batch-size", type=click.IntRange(min=0), default=1, show_default=True, help="0 keeps the model's own.")
@click.option("--input-shapes", type=Shapes(), default=None, help='One shape per input: "[1,128],[1,128]".')
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--tune", type=click.Choice(["load"]), default=None, help="Plan with times of the model's own layers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench_kernels(
    models: tuple[str, ...],
    layers: float,
    must: bool,
    alone: bool,
    batch_size: int,
    input_shapes: Any,
    precision: str,
    tune: str | None,
    as_json: bool,
) -> None:
    """Time every kernel that could run each layer of a model, beside the chosen one.

    Layers with a constant weight run alone on one thread, on random data. A choice is good when its kernel takes at
    most 10 % longer than the quickest; one that needs another layout also takes the time of rearranging the layer's
    values, unless --alone is given.
    """
    check_environment()
    found: dict[str, list[Compared]] = {}
    for model in models:
        compiled = compile_graph(model, batch_size or None, input_shapes, precision=precision, tune=tune)
        found[model] = compare(compiled.graph, compiled.program.plan, layers)
    everything = [one for layers_of in found.values() for one in layers_of]
    losses = [one.regret if alone else one.loss for one in everything]
    share = sum(loss <= WITHIN for loss in losses) / len(everything) if everything else 1.0
    if as_json:
        click.echo(json.dumps({"share": share, "models": {m: [_plain(o) for o in ls] for m, ls in found.items()}}))
    else:
        for model, compared in found.items():
            click.echo(model)
            console().print(_table(compared))
        click.echo(summary(everything, share))
    if must and share < LEAST_SHARE:
        sys.exit(1)


def summary(everything: list[Compared], share: float) -> str:
    """How many layers run by a kernel close to the quickest, and what the others lose together."""
    if not everything:
        return "no layer with a constant weight takes that long"
    lost = sum(one.measured_us[one.chosen] * (1 - 1 / (1 + one.loss)) for one in everything)
    total = sum(one.measured_us[one.chosen] for one in everything)
    return (
        f"{share:.1%} of {len(everything)} layers are within {WITHIN:.0%} of the quickest kernel;"
        f" {in_time(lost)} of {in_time(total)} lost"
    )


def _plain(one: Compared) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "best": one.best, "regret": one.regret, "loss": one.loss}


def _table(compared: list[Compared]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "op", "chosen"):
        table.add_column(name, overflow="fold")
    for name in ("time", "predicted", "loss", "alone"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("others: measured (predicted)", overflow="fold")
    for one in compared:
        others = sorted((n for n in one.measured_us if n != one.chosen), key=lambda n: one.measured_us[n])
        row = [one.name, one.operator, one.chosen, *_times(one), "; ".join(_other(one, n) for n in others)]
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    return table


def _times(one: Compared) -> list[str]:
    predicted = one.predicted_us.get(one.chosen)
    return [
        in_time(one.measured_us[one.chosen]),
        "" if predicted is None else in_time(predicted),
        f"{one.loss:.0%}",
        f"{one.regret:.0%}",
    ]


def _other(one: Compared, name: str) -> str:
    predicted = one.predicted_us.get(name)
    text = f"{name} {in_time(one.measured_us[name])}" + (f" ({in_time(predicted)})" if predicted is not None else "")
    reorders = one.reorder_us[name]
    return text + (f" and {in_time(reorders)} to rearrange" if name == one.best and reorders else "")
