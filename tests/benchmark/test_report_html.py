"""The HTML report: well formed, needs no network, shows what it was given, and trusts no text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipjack.benchmark.profile import NodeProfile, Profile
from skipjack.benchmark.report_html import write_html
from skipjack.core.errors import ConfigError
from tests.benchmark.test_limits import PLAIN

HOSTILE = """<script>alert("x")</script>'"&<img src=http://example.org/x onerror=alert(1)>]]></style>"""
_VOID = {"meta", "link", "br", "img"}


class _Reader(HTMLParser):
    """Notes tags, attributes and text; fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(path: Path) -> _Reader:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    assert [x for x in reader.links if not x.startswith("data:")] == []
    assert reader.handlers == []
    assert not {"script", "iframe", "img", "object", "embed"} & set(reader.tags)
    return reader


def _results(name: str = "model.onnx") -> dict[str, Any]:
    ranks = {f"{rank}%": 1.0 + rank / 100 for rank in (25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)}
    row = {
        "label": "skipjack",
        "items_per_second": 812.5,
        "round_variation": 0.014,
        "peak_rss_bytes": 150 << 20,
        "speed_ratio": None,
        "latencies": {"mean_ms": 1.25, "percentiles_ms": ranks},
    }
    other = {**row, "label": name, "speed_ratio": {"value": 4.02, "low": 3.96, "high": 4.08}}
    return {
        "orig_model_path": f"folder/{name}",
        "scenario": "singlestream",
        "batch_size": 1,
        "num_cores": 2,
        "version": "0.1",
        "engines": [row, other],
        "refused": {name: f"cannot run {name}"},
        "differs": ["torch"],
        "machine": {"warnings": [f"noisy {name}"]},
        "notes": [f"a note on {name}"],
    }


def _profile(name: str) -> Profile:
    node = NodeProfile(
        name, "Conv", "conv_direct", "dense", "f32", 12.5, 1.0, 0.9, 1000, 1000, 100, 0.1, 0.1, 0.01, 0.5, "memory"
    )
    return Profile(name, 1, 12.5, PLAIN, (node,))


def test_the_report_shows_figures_and_plots(tmp_path: Path) -> None:
    latencies = {"skipjack": np.linspace(1, 2, 500), "model.onnx": np.full(3, 4.0), "none": np.zeros(0)}
    write_html(tmp_path / "r.html", _results(), _profile("conv_17"), latencies)
    page = _read(tmp_path / "r.html")
    for text in ("812.5", "4.020", "3.960 to 4.080", "90.0%", "conv_17", "torch: its outputs differ", "150 MiB"):
        assert text in page.text, text
    assert page.tags.count("svg") == 4
    assert "prefers-color-scheme:dark" in page.text


@pytest.mark.parametrize("results", [{}, {"engines": []}, {"engines": [{"label": "one"}]}], ids=str)
def test_missing_figures_leave_their_section_out(tmp_path: Path, results: dict[str, Any]) -> None:
    write_html(tmp_path / "r.html", results)
    assert "svg" not in _read(tmp_path / "r.html").tags


def test_no_name_becomes_markup(tmp_path: Path) -> None:
    write_html(tmp_path / "r.html", _results(HOSTILE), _profile(HOSTILE), {HOSTILE: [1.0, 2.0]})
    page = _read(tmp_path / "r.html")
    assert HOSTILE in page.text
    assert page.tags.count("style") == 1


def test_names_that_are_no_unicode_are_written(tmp_path: Path) -> None:
    write_html(tmp_path / "r.html", _results("bad\udcff.onnx"), _profile("\udcff"))
    _read(tmp_path / "r.html")


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        write_html(tmp_path / "none" / "r.html", {})
