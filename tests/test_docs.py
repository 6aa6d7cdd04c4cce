"""The documentation keeps its word: snippets run, links lead somewhere, and nothing public is left out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import skipjack
from skipjack.cli.main import COMMANDS
from skipjack.core import errors
from skipjack.core.knobs import KNOBS, Knob

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def snippets(page: Path) -> str:
    """The Python of a page; what comes later may use what came before."""
    return "\n".join(_SNIPPET.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p)], ids=lambda p: p.name)
def test_snippets_run(page: Path) -> None:
    environment = {**os.environ, "SKIPJACK_CACHE": "0"}
    command = [sys.executable, "-W", "error::DeprecationWarning:skipjack", "-c", snippets(page)]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    gone = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert gone == []


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert named == {p.name for p in (ROOT / "docs").glob("*.md")}


def test_every_knob_is_documented_as_it_is_defined() -> None:
    text = (ROOT / "docs/knobs.md").read_text(encoding="utf-8")
    rows = [f"| `{k.name}` | {_default(k)} | {k.accepts} | {k.about} |" for k in KNOBS]
    missing = [row for row in rows if row not in text]
    assert not missing, "put these rows into docs/knobs.md:\n" + "\n".join(missing)
    gone = set(re.findall(r"^\| `(SKIPJACK_\w+)`", text, re.MULTILINE)) - {k.name for k in KNOBS}
    assert gone == set()


def _default(knob: Knob) -> str:
    if isinstance(knob.default, bool):
        return "1" if knob.default else "0"
    return "" if knob.default is None else str(knob.default)


def test_every_public_name_is_documented() -> None:
    text = "".join(p.read_text(encoding="utf-8") for p in PAGES)
    assert [name for name in skipjack.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", text)] == []


def test_every_error_and_command_is_documented() -> None:
    classes = [n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.SkipjackError)]
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert [name for name in classes if f"| `{name}` |" not in page] == []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`skipjack {name}" not in readme] == []


def test_public_names_load() -> None:
    assert all(getattr(skipjack, name) is not None for name in skipjack.__all__)
    with pytest.raises(AttributeError, match="no attribute 'compile_modle'"):
        skipjack.compile_modle  # noqa: B018
