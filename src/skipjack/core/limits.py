"""Bounds that are checked before memory is taken: a tiny model can ask for terabytes."""

from __future__ import annotations

from skipjack.core.errors import ResourceError
from skipjack.core.knobs import MAX_MEMORY

DEFAULT_LIMIT_BYTES = 16 << 30
"""The limit when the knob leaves it to the machine."""


def max_memory_bytes() -> int:
    """The largest single allocation that a model may ask for."""
    return int(MAX_MEMORY.get()) or DEFAULT_LIMIT_BYTES


def check_allocation(elements: int, itemsize: int, what: str) -> None:
    """ResourceError when an array of that many elements would be larger than the limit; what names its owner."""
    limit = max_memory_bytes()
    if elements * itemsize > limit:
        raise ResourceError(
            f"{what}: expected at most {limit} bytes for one array, got {elements} elements of {itemsize} bytes;"
            " raise SKIPJACK_MAX_MEMORY if the model really needs this"
        )
