"""The group: help, version, unknown commands, and errors as one line."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest

import skipjack as package
from skipjack.cli.main import COMMANDS
from skipjack.core.errors import ModelError
from tests.cli.conftest import Invoke


def test_help_lists_every_command_with_its_own_first_line(skipjack: Invoke) -> None:
    text = skipjack("--help").stdout
    for name, about in COMMANDS.items():
        module = name.replace("-", "_")
        command = getattr(importlib.import_module(f"skipjack.cli.{module}"), module)
        assert isinstance(command, click.Command)
        assert command.help is not None
        assert command.help.splitlines()[0] == about
        assert f"{name} " in text


def test_version_is_the_package_version(skipjack: Invoke) -> None:
    assert package.__version__ in skipjack("--version").stdout


def test_an_unknown_command_suggests_the_nearest(skipjack: Invoke) -> None:
    result = skipjack("explian", "x")
    assert result.exit_code == 2
    assert "no command 'explian'; did you mean 'explain'?" in result.stderr


def test_an_error_is_one_line_on_stderr(skipjack: Invoke, tmp_path: Path) -> None:
    result = skipjack("check", tmp_path / "gone.onnx")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("skipjack: ")
    assert "gone.onnx" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_debugging_shows_the_traceback(skipjack: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_DEBUG", "1")
    assert isinstance(skipjack("check", tmp_path / "gone.onnx").exception, ModelError)


def test_a_bad_debug_level_is_reported_like_any_error(skipjack: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_DEBUG", "loud")
    result = skipjack("cache")
    assert result.exit_code == 1
    assert "SKIPJACK_DEBUG='loud': expected an integer" in result.stderr


def test_help_loads_neither_numpy_nor_the_engine() -> None:
    code = "import sys, skipjack.cli.main; print([m for m in ('numpy', 'llvmlite', 'onnx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_package_runs_as_a_module() -> None:
    answer = subprocess.run([sys.executable, "-m", "skipjack", "--version"], capture_output=True, text=True, check=True)
    assert package.__version__ in answer.stdout
