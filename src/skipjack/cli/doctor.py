"""`skipjack doctor`: what this machine offers, what is missing, and whether a kernel compiles and runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import click
from rich.table import Table

from skipjack.cli import checkup, packages
from skipjack.cli.output import console

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]", "": ""}


@dataclass(frozen=True)
class Finding:
    """One line. status: "ok", "note" (works, but read this), "missing" (essential), or empty for a plain fact."""

    topic: str
    value: str
    status: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Say what this machine offers and what is missing.

    Ends with exit code 1 when something essential is missing or a kernel cannot be compiled and run.
    """
    found = list(findings())
    if as_json:
        click.echo(json.dumps([asdict(f) for f in found], indent=2))
    else:
        table = Table("", "", "", box=None, pad_edge=False, show_header=False)
        for f in found:
            table.add_row(f.topic, _MARKS[f.status], f.value.replace("[", r"\["))
        console().print(table)
    if any(f.status == "missing" for f in found):
        sys.exit(1)


def findings() -> Iterator[Finding]:
    """Every finding in order; a check that fails is a finding, never an error."""
    for topic, look in checkup.FACTS.items():
        yield Finding(topic, _fact(look))
    for topic, examine in {**checkup.CHECKS, **packages.CHECKS}.items():
        yield _examined(topic, examine)


def _fact(look: Callable[[], str]) -> str:
    try:
        return look()
    except OSError as error:
        return f"unknown: {error}"


def _examined(topic: str, examine: Callable[[], tuple[str, str]]) -> Finding:
    try:
        status, value = examine()
    except Exception as error:
        return Finding(topic, f"{type(error).__name__}: {error}", "missing")
    return Finding(topic, value, status)
