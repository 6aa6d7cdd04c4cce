"""`skipjack knobs`: the environment variables, what they do and what they are."""

from __future__ import annotations

import json
import os

import click
from rich.table import Table

from skipjack.cli.output import console
from skipjack.core.errors import ConfigError
from skipjack.core.knobs import KNOBS, Knob


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def knobs(as_json: bool) -> None:
    """List the environment variables and their values."""
    rows = [_row(knob) for knob in KNOBS]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("variable", "value", "accepts", "what it does", box=None, pad_edge=False)
    for row in rows:
        value = f"[bold]{row['value']}[/] (set)" if row["set"] else row["value"]
        table.add_row(row["name"], row["error"] or value, row["accepts"], row["about"])
    console().print(table)


def _row(knob: Knob) -> dict[str, str]:
    try:
        value, error = knob.get(), ""
    except ConfigError:
        value, error = os.environ[knob.name], f"[red]{os.environ[knob.name]} is not accepted[/]"
    given = "yes" if os.environ.get(knob.name) else ""
    return {
        "name": knob.name,
        "value": "" if value is None else str(value),
        "default": "" if knob.default is None else str(knob.default),
        "set": given,
        "accepts": knob.accepts,
        "about": knob.about,
        "error": error,
    }
