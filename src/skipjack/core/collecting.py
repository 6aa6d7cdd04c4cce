"""Python's search for cycles of garbage, put off while many objects are made that all stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def put_off() -> Generator[None, None, None]:
    """No search while this lasts: loading a model makes many objects and no garbage to speak of."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
