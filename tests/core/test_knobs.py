"""Every environment variable: its type, its default, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skipjack.core import knobs
from skipjack.core.errors import ConfigError

CASES: dict[str, tuple[Any, dict[str, Any], list[str], str]] = {
    "SKIPJACK_DEBUG": (0, {"0": 0, "5": 5}, ["-1", "6", "x", "1.5"], "0 to 5"),
    "SKIPJACK_DUMP": (None, {"/tmp/x-not-there": Path("/tmp/x-not-there")}, [__file__], "a directory"),
    "SKIPJACK_ISA": (None, {"avx2": "avx2", "amx": "amx"}, ["AVX2", "sse", "avx3"], "one of avx2, avx512, avx512vnni"),
    "SKIPJACK_CACHE_DIR": (None, {"/tmp": Path("/tmp")}, [__file__], "a directory"),
    "SKIPJACK_CACHE": (True, {"0": False, "1": True, "off": False, "TRUE": True}, ["2", "no way"], "0 or 1"),
    "SKIPJACK_CACHE_LIMIT": (4 << 30, {"0": 0, "2g": 2 << 30, "64k": 65536}, ["-1", "x", "1e30", "nan"], "2g"),
    "SKIPJACK_TUNE_FILE": (None, {"/tmp/t.json": Path("/tmp/t.json")}, ["/tmp"], "the path of a file"),
    "SKIPJACK_NUM_CORES": (0, {"3": 3}, ["-1", "all", "1.5"], "0 for all"),
    "SKIPJACK_AFFINITY": (True, {"0": False, "on": True}, ["maybe"], "0 or 1"),
    "SKIPJACK_SPIN_US": (200, {"0": 0, "1000": 1000}, ["-1", "1ms", "99999999999999999999"], "microseconds"),
    "SKIPJACK_PLATFORM": ("auto", {"portable": "portable"}, ["windows", "Linux"], "auto, linux or portable"),
    "SKIPJACK_MAX_MEMORY": (0, {"1.5G": 3 << 29, "8gib": 8 << 30}, ["lots", "-1g", "inf"], "8g"),
    "SKIPJACK_MAX_ROUNDS": (50_000, {"7": 7}, ["0", "-1", "many"], "at least 1"),
    "SKIPJACK_COMPILE_JOBS": (0, {"2": 2}, ["-2", "two"], "0 for one per core"),
    "SKIPJACK_COMPILE_TIMEOUT": (300, {"1": 1}, ["0", "-1", "soon"], "seconds"),
    "SKIPJACK_OFFLINE": (False, {"1": True, "off": False}, ["maybe"], "0 or 1"),
    "SKIPJACK_ZOO": (None, {"/models": "/models"}, [], "directories"),
    "SKIPJACK_ZOO_ENDPOINT": (None, {"http://localhost:1": "http://localhost:1"}, [], "address"),
}


def test_every_knob_has_a_case() -> None:
    assert [k.name for k in knobs.KNOBS] == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_default_values_and_refusals(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default, accepted, refused, words = CASES[name]
    knob = next(k for k in knobs.KNOBS if k.name == name)
    monkeypatch.delenv(name, raising=False)
    assert knob.get() == knob.default == default
    assert type(knob.get()) is type(default)
    monkeypatch.setenv(name, "")
    assert knob.get() == default
    for text, value in accepted.items():
        monkeypatch.setenv(name, text)
        assert knob.get() == value
        knobs.check_environment()
    for text in refused:
        monkeypatch.setenv(name, text)
        with pytest.raises(ConfigError) as error:
            knob.get()
        assert name in str(error.value)
        assert repr(text) in str(error.value)
        assert words in str(error.value)
        with pytest.raises(ConfigError):
            knobs.check_environment()
    assert knob.about.endswith(".")


def test_unknown_variables_are_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_NUM_CORE", "2")
    with pytest.raises(ConfigError, match="SKIPJACK_NUM_CORE is not known; did you mean 'SKIPJACK_NUM_CORES'"):
        knobs.check_environment()


def test_variables_of_others_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACKDAW", "2")
    monkeypatch.setenv("SKIPJACK_TEST_ASSETS", "/anywhere")
    knobs.check_environment()
