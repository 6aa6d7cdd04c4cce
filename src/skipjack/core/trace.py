"""What the stages say while they work: SKIPJACK_DEBUG prints, SKIPJACK_DUMP writes numbered files."""

from __future__ import annotations

import itertools
import re
import sys
import warnings

from skipjack.core import knobs

_numbers = itertools.count()


def debug(level: int, message: str) -> None:
    """Print to stderr when SKIPJACK_DEBUG is at least level."""
    if knobs.DEBUG.get() >= level:
        print(f"skipjack: {message}", file=sys.stderr, flush=True)


def dumping() -> bool:
    """Whether SKIPJACK_DUMP asks for files."""
    return knobs.DUMP.get() is not None


def dump(name: str, content: str, suffix: str = "txt") -> None:
    """Write a numbered file when SKIPJACK_DUMP names a directory."""
    folder = knobs.DUMP.get()
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^\w.-]+", "_", name)[:80]
    (folder / f"{next(_numbers):04d}-{safe}.{suffix}").write_text(content)


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """A RuntimeWarning, the first time this process says it."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(f"skipjack: {message}", RuntimeWarning, stacklevel=2)
