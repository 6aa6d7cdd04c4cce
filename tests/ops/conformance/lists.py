"""The two lists: cases that pass, and patterns of cases that do not, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_PASSING = Path(__file__).with_name("passing.txt")
_FAILING = Path(__file__).with_name("failing.txt")
_VERSION = "# onnx "


def onnx_version() -> str:
    """The version of onnx that passing.txt was made with."""
    return _PASSING.read_text().split("\n", 1)[0].removeprefix(_VERSION)


def passing() -> frozenset[str]:
    """The names of cases that must pass."""
    return frozenset(line for line in _PASSING.read_text().splitlines() if line and not line.startswith("#"))


def failing() -> list[tuple[str, str]]:
    """(pattern of whole case names, reason)."""
    lines = (line for line in _FAILING.read_text().splitlines() if line and not line.startswith("#"))
    return [(pattern, reason.strip()) for pattern, _, reason in (line.partition(" ") for line in lines)]


def write_passing(version: str, names: Iterable[str]) -> None:
    """Replace passing.txt."""
    _PASSING.write_text("\n".join([_VERSION + version, *sorted(names)]) + "\n")
