"""The exceptions a user can meet. Each says where, what was expected and got, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SkipjackError(Exception):
    """Base of every error that skipjack raises on purpose."""


class ModelError(SkipjackError, ValueError):
    """The model file is not usable: damaged, inconsistent, hostile, or outside what ONNX allows."""


class UnsupportedError(ModelError):
    """The model is valid but asks for something skipjack does not run; lists every such node."""


class InputError(SkipjackError, ValueError):
    """The arrays or options of a call do not fit the model."""


class ConfigError(SkipjackError, ValueError):
    """An option, knob or configuration file holds a value that is not accepted."""


class CompileError(SkipjackError, RuntimeError):
    """Machine code could not be made."""


class RunError(SkipjackError, RuntimeError):
    """A run failed half way; the engine stays usable."""


class ResourceError(SkipjackError, MemoryError):
    """A bound on memory or time would be exceeded; nothing was allocated."""


class HardwareError(SkipjackError, OSError):
    """This machine lacks what was asked for."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest of known, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
