"""The command `skipjack`: a group whose commands are imported when they are asked for."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

import skipjack
from skipjack.core import knobs
from skipjack.core.errors import SkipjackError, nearest

COMMANDS: dict[str, str] = {
    "analyze": "Count parameters, operations and zeros, and say what would make a model faster.",
    "benchmark": "Measure a model, alone or beside other engines.",
    "bench-kernels": "Time every kernel that could run each layer of a model, beside the chosen one.",
    "cache": "Show, shrink or clear the cache of compiled kernels.",
    "check": "Read a model and say what is in it, without compiling.",
    "demo": "Classify handwritten digits with the model that comes along.",
    "doctor": "Say what this machine offers and what is missing.",
    "explain": "Show how a model runs: kernel, layout, time and reason per node.",
    "knobs": "List the environment variables and their values.",
    "run": "Run a model on arrays or on random inputs.",
    "tune": "Measure kernels on this CPU, so that the quickest one is chosen for each layer.",
    "zoo": "Find, fetch and name models.",
}
"""Command -> its line in the help text; the command `x-y` is the object `x_y` of module skipjack.cli.x_y."""


class LazyGroup(click.Group):
    """A group that knows the names of its commands and imports one only to run it or show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = cmd_name.replace("-", "_")
        return getattr(importlib.import_module(f"skipjack.cli.{module}"), module)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[:2] == ["benchmark", "ui"]:
            return "benchmark ui", importlib.import_module("skipjack.cli.benchmark_ui").benchmark_ui, args[2:]
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes one line on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except SkipjackError as error:
            if _debugging():
                raise
            click.echo(f"skipjack: {error}", err=True)
            ctx.exit(1)


def _debugging() -> bool:
    """Whether tracebacks are wanted. A bad value of the variable may be what is being reported, so it means no."""
    try:
        return knobs.DEBUG.get() >= 1
    except SkipjackError:
        return False


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(skipjack.__version__, prog_name="skipjack")
def cli() -> None:
    """Run ONNX models fast on CPUs, and see why they run as they do."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    try:
        cli.main(args=list(arguments) if arguments is not None else None, prog_name="skipjack")
    except BrokenPipeError:
        # The reader of our output (head, less) has left; Python would complain again while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
