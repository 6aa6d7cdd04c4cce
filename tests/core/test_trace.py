"""What stages print and dump."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from skipjack.core import trace


def test_debug_prints_at_its_level(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SKIPJACK_DEBUG", "2")
    trace.debug(2, "seen")
    trace.debug(3, "not seen")
    assert capsys.readouterr().err == "skipjack: seen\n"


def test_dumps_are_numbered_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SKIPJACK_DUMP", raising=False)
    trace.dump("nothing", "x")
    folder = tmp_path / "a" / "b"
    monkeypatch.setenv("SKIPJACK_DUMP", str(folder))
    assert trace.dumping()
    trace.dump("first", "1")
    trace.dump("../second/one" + "x" * 200, "2", "ll")
    files = sorted(p.name for p in folder.iterdir())
    assert [f[5:] for f in files] == ["first.txt", ".._second_one" + "x" * 67 + ".ll"]
    assert [f[:4].isdigit() for f in files] == [True, True]


def test_a_warning_is_said_once() -> None:
    trace._warned.discard("only once")
    with pytest.warns(RuntimeWarning, match="only once"):
        trace.warn_once("only once")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace.warn_once("only once")
