"""A benchmark's report as one HTML file that needs nothing else: no network, no script, plots inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from skipjack.benchmark import plots
from skipjack.benchmark.profile import NodeProfile, Profile
from skipjack.core.errors import ConfigError

_HOT = 25
_RANKS = ("50.0%", "90.0%", "95.0%", "99.0%", "99.9%")
_COLOURS = ("#2a78d6", "#d9730d", "#2f9e63", "#a347ba", "#c9a500", "#7a7f87")
_STYLE = """
:root{color-scheme:light dark;--fg:#1c2024;--bg:#fff;--soft:#667;--line:#d5d9de;--card:#f6f7f9}
@media(prefers-color-scheme:dark){:root{--fg:#e6e8ea;--bg:#15181b;--soft:#9aa3ad;--line:#363c43;--card:#1d2125}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg)}
body{max-width:1000px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;overflow-wrap:anywhere}h2{font-size:1.1em;margin-top:2em}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:.25em .7em;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
svg{width:100%;max-width:760px;height:auto;display:block}svg text{fill:var(--fg);font-size:12px}
.axis{stroke:var(--soft)}.interval{stroke:var(--fg);stroke-width:2}
.note{background:var(--card);border-left:4px solid #d9730d;padding:.4em .8em;margin:.4em 0}.soft{color:var(--soft)}
pre{background:var(--card);padding:1em;overflow:auto;max-height:30em;font-size:12px}
"""


def write_html(
    path: str | Path,
    results: Mapping[str, Any],
    profile: Profile | None = None,
    latencies_ms: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write the report of one benchmark.

    results is what `results.as_json` gives; latencies_ms are all latencies per engine for the histogram.
    """
    text = html(results, profile, latencies_ms or {})
    try:
        Path(path).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"the report {path} cannot be written: {error.strerror}") from None


def html(results: Mapping[str, Any], profile: Profile | None, latencies_ms: Mapping[str, Sequence[float]]) -> str:
    """The whole page."""
    title = f"Benchmark of {Path(str(results.get('orig_model_path') or 'a model')).name}"
    series = {label: list(values) for label, values in latencies_ms.items()}
    sections = [
        f"<h1>{escape(title)}</h1>",
        _setting(results),
        *(f'<p class="note">{escape(text)}</p>' for text in _warnings(results)),
        _section("Engines", _engines(results)),
        _section("Ratio", _ratios(results)),
        _section("Percentiles", _percentiles(results)),
        _section("Latencies", plots.histogram("Histogram of latencies", series, "ms")),
        "" if profile is None else _profile(profile),
        *(f'<p class="soft">{escape(note)}</p>' for note in _texts(results, "notes")),
        _section("Everything measured", _raw(results)),
    ]
    body = "\n".join(s for s in sections if s)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}{_colours()}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _colours() -> str:
    fills = [f".c{i}{{fill:{c}}}.s{i}{{fill:{c};fill-opacity:.25;stroke:{c}}}" for i, c in enumerate(_COLOURS)]
    return "".join(fills)


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}" if content else ""


def _texts(results: Mapping[str, Any], key: str) -> list[str]:
    return [str(text) for text in results.get(key) or ()]


def _rows(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(results.get("engines") or ())


def _setting(results: Mapping[str, Any]) -> str:
    """One line: scenario, batch, cores, streams, version."""
    known = [("scenario", "scenario"), ("batch_size", "batch"), ("num_cores", "cores"), ("num_streams", "streams")]
    facts = [f"{name} {results[key]}" for key, name in known if results.get(key) is not None]
    facts.append(f"skipjack {results.get('version', '')}")
    return f'<p class="soft">{escape(", ".join(facts))}</p>'


def _warnings(results: Mapping[str, Any]) -> list[str]:
    """What spoils the figures: noise, engines whose outputs differ, engines that cannot run the model."""
    refused: Mapping[str, Any] = results.get("refused") or {}
    differs = [f"{name}: its outputs differ, so it has no figures" for name in _texts(results, "differs")]
    noise = _texts(results.get("machine") or {}, "warnings")
    return [
        *dict.fromkeys((*_texts(results, "warnings"), *noise)),
        *differs,
        *(f"{name}: {why}" for name, why in refused.items()),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _engines(results: Mapping[str, Any]) -> str:
    head = ("engine", *(f"p{rank.rstrip('%').removesuffix('.0')} ms" for rank in _RANKS))
    return _table((*head, "mean ms", "items/s", "variation", "peak memory"), [_engine(row) for row in _rows(results)])


def _engine(row: Mapping[str, Any]) -> list[str]:
    latencies: Mapping[str, Any] = row.get("latencies") or {}
    ranked: Mapping[str, Any] = latencies.get("percentiles_ms") or {}
    memory = row.get("peak_rss_bytes")
    return [
        str(row.get("label", "")),
        *(_number(ranked.get(rank)) for rank in _RANKS),
        _number(latencies.get("mean_ms")),
        "" if row.get("items_per_second") is None else f"{float(row['items_per_second']):,.1f}",
        "" if row.get("round_variation") is None else f"{float(row['round_variation']):.1%}",
        "" if not memory else f"{int(memory) / 2**20:.0f} MiB",
    ]


def _number(value: Any) -> str:
    return "" if value is None else f"{float(value):.4g}"


def _ratios(results: Mapping[str, Any]) -> str:
    """How many times faster the engine the benchmark is about is than each other one, with 99 % intervals."""
    rows = [
        (str(row["label"]), float(r["value"]), float(r["low"]), float(r["high"]))
        for row in _rows(results)
        if (r := row.get("speed_ratio")) is not None
    ]
    if not rows:
        return ""
    plot = plots.intervals("Ratios with their intervals", rows)
    table = [[label, f"{value:.3f}", f"{low:.3f} to {high:.3f}"] for label, value, low, high in rows]
    first = str(_rows(results)[0].get("label", ""))
    return f"{plot}{_table((f'{first} against', 'times as fast', '99 % interval'), table)}"


def _percentiles(results: Mapping[str, Any]) -> str:
    bars = [
        (f"{row.get('label', '')} p{rank.rstrip('%').removesuffix('.0')}", float(value), f"{float(value):.4g} ms")
        for row in _rows(results)
        for rank in _RANKS
        if (value := ((row.get("latencies") or {}).get("percentiles_ms") or {}).get(rank)) is not None
    ]
    return plots.bars("Latency percentiles", bars) if bars else ""


def _profile(profile: Profile) -> str:
    hot = sorted((n for n in profile.nodes if n.time_us > 0), key=lambda n: -n.time_us)[:_HOT]
    bars = plots.bars("Time per node", [(n.name, n.time_us, f"{n.time_us:.4g} us") for n in hot])
    head = ("node", "operator", "kernel", "us", "share", "zeros", "GOP/s", "dense GOP/s", "GB/s", "roofline")
    limits = profile.limits
    int8 = "" if limits.int8_gops is None else f", int8 {limits.int8_gops:.0f} GOP/s"
    memory = ", ".join(f"{x.name} {x.gb_per_s:.0f} GB/s" for x in limits.levels)
    peaks = f"Measured peaks of {limits.cores} core(s): f32 {limits.f32_gflops:.0f} GFLOP/s{int8}; reading {memory}."
    table = _table(head, [_node(n) for n in hot])
    return f'{_section("Time per node", bars)}{table}<p class="soft">{escape(peaks)}</p>'


def _node(n: NodeProfile) -> list[str]:
    return [
        n.name,
        n.operator,
        n.kernel,
        f"{n.time_us:.1f}",
        f"{n.share:.1%}",
        "" if n.sparsity is None else f"{n.sparsity:.1%}",
        f"{n.gops:.1f}",
        f"{n.dense_gops:.1f}",
        f"{n.gb_per_s:.1f}",
        "" if n.roofline is None else f"{n.bound} {n.roofline:.0%}",
    ]


def _raw(results: Mapping[str, Any]) -> str:
    text = json.dumps(dict(results), indent=1, default=str)
    return f"<details><summary>JSON</summary><pre>{escape(text)}</pre></details>"
