"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Shapes(click.ParamType):
    """Shapes as text: "[1,128],[1,128]", one per input; "1,128" is one shape."""

    name = "shapes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[list[int]]:
        if not isinstance(value, str):
            return value
        try:
            shapes = json.loads(f"[{value}]")
        except json.JSONDecodeError:
            shapes = None
        if isinstance(shapes, list) and shapes and all(_is_size(d) for d in shapes):
            shapes = [shapes]
        if not isinstance(shapes, list) or not all(isinstance(s, list) and all(_is_size(d) for d in s) for s in shapes):
            self.fail(f"expected shapes such as [1,128],[1,128], got {value!r}", param, ctx)
        return shapes


def _is_size(d: object) -> bool:
    return isinstance(d, int) and not isinstance(d, bool) and d >= 0


def sized(command: F) -> F:
    """Add --batch-size, --input-shapes and --cores."""
    for option in (
        click.option("--cores", type=click.IntRange(min=0), default=None, help="Physical cores to use; 0 is all."),
        click.option("--input-shapes", type=Shapes(), default=None, help='One shape per input: "[1,128],[1,128]".'),
        click.option(
            "--batch-size",
            type=click.IntRange(min=0),
            default=1,
            show_default=True,
            help="First dimension of every input; 0 keeps the model's own.",
        ),
    ):
        command = option(command)
    return command
