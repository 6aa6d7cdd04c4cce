"""Bounds on memory and rounds: a tiny model can ask for terabytes and for centuries."""

from __future__ import annotations

import functools
import os

from skipjack.core.errors import ResourceError
from skipjack.core.knobs import MAX_MEMORY, MAX_ROUNDS

DEFAULT_LIMIT_BYTES = 16 << 30
"""The limit when the knob leaves it to the machine and the machine does not say what it has."""


def max_memory_bytes() -> int:
    """The most memory that a model may ask for."""
    return int(MAX_MEMORY.get()) or _machine_bytes()


@functools.cache
def _machine_bytes() -> int:
    """The memory of this machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return DEFAULT_LIMIT_BYTES


def check_allocation(elements: int, itemsize: int, what: str) -> None:
    """ResourceError when an array of that many elements would be larger than the limit; what names its owner."""
    limit = max_memory_bytes()
    if elements * itemsize > limit:
        raise ResourceError(
            f"{what}: expected at most {limit} bytes for one array, got {elements} elements of {itemsize} bytes;"
            " raise SKIPJACK_MAX_MEMORY if the model really needs this"
        )


def check_rounds(rounds: int, what: str) -> None:
    """ResourceError when a loop has run more rounds than any sensible model; what names it."""
    limit = MAX_ROUNDS.get()
    if rounds >= limit:
        raise ResourceError(
            f"{what}: expected to end within {limit} rounds, it has not; raise SKIPJACK_MAX_ROUNDS "
            "if the model needs more"
        )
