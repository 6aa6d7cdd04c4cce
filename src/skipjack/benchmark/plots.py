"""Plots as SVG text, by hand: bars, histograms, intervals. Colours are classes, so that a page decides them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

_WIDTH = 720
_LABEL = 190
_RIGHT = 90
_ROW = 24
_BINS = 60


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: label, value, text beside the bar."""
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    room = _WIDTH - _LABEL - _RIGHT
    parts: list[str] = []
    for i, (label, value, text) in enumerate(rows):
        y = i * _ROW
        parts.append(_row_label(label, y))
        parts.append(
            f'<rect class="c0" x="{_LABEL}" y="{y + 4}" width="{_n(room * value / most)}" height="{_ROW - 8}"/>'
        )
        parts.append(_text(_LABEL + room * value / most + 6, y + 16, text))
    return _svg(title, len(rows) * _ROW, parts)


def histogram(title: str, series: Mapping[str, Sequence[float]], unit: str) -> str:
    """How often which value came, a line per series; values over the 99.5 % mark count into the last bin."""
    kept = {label: np.asarray(values, np.float64) for label, values in series.items() if len(values)}
    if not kept:
        return ""
    low = min(float(v.min()) for v in kept.values())
    high = max(float(np.quantile(v, 0.995)) for v in kept.values())
    high = high if high > low else low + 1e-9
    edges = np.linspace(low, high, _BINS + 1)
    height, parts = 180, list[str]()
    for i, (label, values) in enumerate(kept.items()):
        counts = np.histogram(np.minimum(values, high), edges)[0]
        parts.append(_steps(counts / counts.max(), height, i))
        parts.append(f'<rect class="c{i % 6}" x="{_WIDTH - 180}" y="{18 * i}" width="10" height="10"/>')
        parts.append(_text(_WIDTH - 164, 10 + 18 * i, _short(label, 22)))
    parts.append(f'<line class="axis" x1="0" y1="{height}" x2="{_WIDTH}" y2="{height}"/>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(_text(share * _WIDTH, height + 16, f"{low + share * (high - low):.3g} {unit}", anchor))
    return _svg(title, height + 22, parts)


def intervals(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """A point with its interval per row (label, value, low, high), on a logarithmic axis with a line at 1."""
    numbers = [n for _, *triple in rows for n in triple if n > 0]
    low, high = math.log(min([*numbers, 0.9]) * 0.95), math.log(max([*numbers, 1.1]) * 1.05)
    room = _WIDTH - _LABEL - _RIGHT

    def x(value: float) -> float:
        return _LABEL + room * (math.log(max(value, 1e-9)) - low) / (high - low)

    parts = [f'<line class="axis" x1="{_n(x(1))}" y1="0" x2="{_n(x(1))}" y2="{len(rows) * _ROW}"/>']
    parts.append(_text(x(1), len(rows) * _ROW + 14, "1x", "middle"))
    for i, (label, value, least, most) in enumerate(rows):
        y = i * _ROW + 12
        parts.append(_row_label(label, i * _ROW))
        parts.append(f'<line class="interval" x1="{_n(x(least))}" y1="{y}" x2="{_n(x(most))}" y2="{y}"/>')
        parts.append(f'<circle class="c0" cx="{_n(x(value))}" cy="{y}" r="4"/>')
        parts.append(_text(_LABEL + room + 12, y + 4, f"{value:.2f}x"))
    return _svg(title, len(rows) * _ROW + 20, parts)


def _steps(shares: np.ndarray, height: int, index: int) -> str:
    """A histogram's outline; shares are heights between 0 and 1."""
    width = _WIDTH / len(shares)
    points = [f"M0 {height}"]
    for i, share in enumerate(shares):
        top = _n(height * (1 - 0.95 * float(share)))
        points.append(f"L{_n(i * width)} {top} L{_n((i + 1) * width)} {top}")
    return f'<path class="s{index % 6}" d="{" ".join(points)} L{_WIDTH} {height} Z"/>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    body = "".join(parts)
    name = escape(title, quote=True)
    return f'<svg viewBox="0 -4 {_WIDTH} {_n(height + 8)}" role="img" aria-label="{name}">{body}</svg>'


def _row_label(label: str, y: float) -> str:
    return f"<g>{_text(_LABEL - 8, y + 16, _short(label, 28), 'end')}<title>{escape(label)}</title></g>"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else "…" + text[1 - most :]


def _n(value: float) -> str:
    return f"{value:.1f}"
