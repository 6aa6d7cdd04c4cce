"""Every SKIPJACK_* environment variable: type, default, one sentence. A bad value raises; it is never ignored."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipjack.core.errors import ConfigError, nearest


@dataclass(frozen=True)
class Knob:
    """One variable: how its text is read, its default, what it does."""

    name: str
    default: Any
    parse: Callable[[str], Any]
    accepts: str
    about: str

    def get(self) -> Any:
        """Its value now; ConfigError when the environment holds something else."""
        text = os.environ.get(self.name)
        if text is None or text == "":
            return self.default
        try:
            return self.parse(text)
        except (ValueError, KeyError):
            raise ConfigError(f"environment variable {self.name}={text!r}: expected {self.accepts}") from None


def _one_of(*accepted: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in accepted:
            raise ValueError(text)
        return text

    return parse


def _flag(text: str) -> bool:
    return {"0": False, "1": True, "false": False, "true": True, "off": False, "on": True}[text.lower()]


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _at_most(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = _natural(text)
        if value > most:
            raise ValueError(text)
        return value

    return parse


def _positive(text: str) -> int:
    value = _natural(text)
    if value == 0:
        raise ValueError(text)
    return value


def _directory(text: str) -> Path:
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError(text)
    return path


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if path.is_dir():
        raise ValueError(text)
    return path


_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(text: str) -> int:
    """A number of bytes such as 512, 64k, 3g or 1.5G."""
    t = text.strip().lower().removesuffix("ib").removesuffix("b")
    scale = _UNITS.get(t[-1:], 1)
    value = float(t[:-1] if scale > 1 else t)
    if not 0 <= value < 1e18:
        raise ValueError(text)
    return int(value * scale)


ISAS = ("avx2", "avx512", "avx512vnni", "amx", "neon", "neon-dotprod", "neon-i8mm")

DEBUG = Knob("SKIPJACK_DEBUG", 0, _at_most(5), "an integer 0 to 5", "Print what each stage does; higher prints more.")
DUMP = Knob(
    "SKIPJACK_DUMP", None, _directory, "a directory", "Write a numbered text file per stage into this directory."
)
ISA = Knob(
    "SKIPJACK_ISA",
    None,
    _one_of(*ISAS),
    "one of " + ", ".join(ISAS),
    "Use at most this instruction set (for tests and comparisons).",
)
CACHE_DIR = Knob(
    "SKIPJACK_CACHE_DIR", None, _directory, "a directory", "Where compiled kernels and packed weights are kept."
)
CACHE = Knob("SKIPJACK_CACHE", True, _flag, "0 or 1", "Keep compiled kernels and packed weights on disk.")
CACHE_LIMIT = Knob(
    "SKIPJACK_CACHE_LIMIT", 4 << 30, parse_bytes, "a number of bytes such as 2g", "The most the disk cache may hold."
)
TUNE_FILE = Knob(
    "SKIPJACK_TUNE_FILE",
    None,
    _file,
    "the path of a file",
    "The table of measured rates that `skipjack tune` writes and models are planned with.",
)
NUM_CORES = Knob(
    "SKIPJACK_NUM_CORES", 0, _natural, "an integer, 0 for all", "Cores an engine uses when it is not told."
)
AFFINITY = Knob("SKIPJACK_AFFINITY", True, _flag, "0 or 1", "Pin worker threads to physical cores.")
SPIN_US = Knob(
    "SKIPJACK_SPIN_US",
    200,
    _at_most(10_000_000),
    "microseconds, at most 10000000",
    "How long an idle worker spins before it sleeps.",
)
PLATFORM = Knob(
    "SKIPJACK_PLATFORM",
    "auto",
    _one_of("auto", "linux", "portable"),
    "auto, linux or portable",
    "Which operating-system interface to use; portable avoids futexes, huge pages and affinity.",
)
MAX_MEMORY = Knob(
    "SKIPJACK_MAX_MEMORY",
    0,
    parse_bytes,
    "a number of bytes such as 8g, 0 for what the machine has",
    "The most memory the tensors of one model may take.",
)
MAX_ROUNDS = Knob(
    "SKIPJACK_MAX_ROUNDS",
    50_000,
    _positive,
    "an integer, at least 1",
    "Rounds of one Loop after which it counts as endless.",
)
COMPILE_JOBS = Knob("SKIPJACK_COMPILE_JOBS", 0, _natural, "an integer, 0 for one per core", "Compile children at once.")
COMPILE_TIMEOUT = Knob(
    "SKIPJACK_COMPILE_TIMEOUT",
    300,
    _positive,
    "a number of seconds, at least 1",
    "How long one kernel may take to compile.",
)

OFFLINE = Knob("SKIPJACK_OFFLINE", False, _flag, "0 or 1", "Never fetch anything; use what the caches hold.")
ZOO = Knob(
    "SKIPJACK_ZOO",
    None,
    str,
    "directories and mapping files, separated as in PATH",
    "Where zoo: names are looked up before the table that comes along.",
)
ZOO_ENDPOINT = Knob(
    "SKIPJACK_ZOO_ENDPOINT", None, str, "an http or https address", "A mirror that serves the files of zoo: names."
)

KNOBS: tuple[Knob, ...] = tuple(k for k in list(globals().values()) if isinstance(k, Knob))


def check_environment() -> None:
    """Raise ConfigError for a SKIPJACK_* variable that does not exist or holds a bad value."""
    names = [k.name for k in KNOBS] + ["SKIPJACK_TEST_ASSETS"]
    for name in os.environ:
        if name.startswith("SKIPJACK_") and name not in names:
            raise ConfigError(f"environment variable {name} is not known{nearest(name, names)}; see `skipjack knobs`")
    for knob in KNOBS:
        knob.get()
