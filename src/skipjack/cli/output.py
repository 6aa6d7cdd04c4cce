"""How the commands print: a console that keeps long lines whole in files and pipes, and sizes for people."""

from __future__ import annotations

import sys

from rich.console import Console

_FILE_WIDTH = 1000


def console() -> Console:
    """The console of stdout as it is now (tests replace it)."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _FILE_WIDTH, highlight=False)


def in_bytes(count: int) -> str:
    """A number of bytes for people: 512 B, 1.5 KiB, 3.0 GiB."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{int(value)} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def in_time(microseconds: float) -> str:
    """A duration for people, three digits: 4.12 us, 318 us, 1.20 ms, 2.50 s."""
    for scale, unit in ((1e6, "s"), (1e3, "ms"), (1.0, "us")):
        if microseconds >= scale:
            return f"{microseconds / scale:.3g} {unit}"
    return f"{microseconds:.2g} us"
