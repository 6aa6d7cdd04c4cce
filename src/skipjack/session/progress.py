"""A progress bar over a range, drawn only when asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import track


def progress(steps: Sequence[int], show: bool, label: str = "benchmark") -> Iterator[int]:
    """The steps, with a bar on stderr when show is set."""
    source: Iterable[int] = track(steps, label, console=Console(stderr=True)) if show else steps
    yield from source
