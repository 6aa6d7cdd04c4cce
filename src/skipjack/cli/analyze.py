"""`skipjack analyze MODEL`: what a model consists of, how sparse it is, and what would make it faster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from skipjack.benchmark.advice import about
from skipjack.benchmark.analyze import Analysis, Layer
from skipjack.benchmark.analyze import analyze as analyze_model
from skipjack.benchmark.profile import Profile, print_profile, profile
from skipjack.cli.options import sized
from skipjack.cli.output import console
from skipjack.core.errors import ConfigError
from skipjack.engine import Engine

_SHOWN = 20


@click.command()
@click.argument("model")
@sized
@click.option("--by-layers", is_flag=True, help="Every layer, and no table by types.")
@click.option("--by-types", is_flag=True, help="Tables by types, and no layers.")
@click.option("--time", "timed", is_flag=True, help="Run the model too and show the time of every node.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def analyze(
    model: str,
    batch_size: int | None,
    input_shapes: Any,
    cores: int | None,
    by_layers: bool,
    by_types: bool,
    timed: bool,
    as_json: bool,
    save: Path | None,
) -> None:
    """Count parameters, operations and zeros, and say what would make a model faster.

    Predicted times come from the peaks of this machine, measured now, and from what part of them kernels for each
    encoding reach; they compare ways to store a weight and are no measurements of this model.
    """
    found = analyze_model(model, batch_size or None, input_shapes, cores)
    nodes = profile(Engine(model, batch_size or None, cores, input_shapes=input_shapes)) if timed else None
    text = json.dumps(_as_json(found, nodes), indent=2)
    if save is not None:
        _write(save, text)
    if as_json:
        click.echo(text)
        return
    both = by_layers == by_types
    if by_layers or both:
        _print_layers(found, everything=by_layers)
    if by_types or both:
        _print_types(found)
    if nodes is not None:
        click.echo("\nNode Timings:")
        print_profile(nodes, most=None if by_layers else _SHOWN)
    for line in summary(found, nodes):
        click.echo(line)


def _as_json(found: Analysis, nodes: Profile | None) -> dict[str, Any]:
    timings = {} if nodes is None else {"node_timings": nodes.as_dict()}
    return {**found.as_dict(), **timings}


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--save {path}: cannot be written: {error.strerror}") from None


def _table(*columns: str, words: int) -> Table:
    """A table whose first columns hold words, the rest numbers."""
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < words else "right", no_wrap=i >= words, overflow="fold")
    return table


def _print_layers(found: Analysis, everything: bool) -> None:
    encodings = list(dict.fromkeys(e for x in found.layers for e in x.predicted_us))
    shown = [x for x in found.layers if x.weight_shape or everything]
    if not everything:
        shown = sorted(shown, key=lambda x: -x.now_us)[:_SHOWN]
    table = _table("layer", "op", "pattern", "precision", "params", "ops", "zeros", *encodings, words=4)
    for layer in shown:
        times = [about(layer.predicted_us[e]) if e in layer.predicted_us else "" for e in encodings]
        table.add_row(*(cell.replace("[", r"\[") for cell in (*_cells(layer), *times)))
    click.echo("Analysis by Layers:" if everything else f"Analysis by Layers (the {len(shown)} slowest with weights):")
    console().print(table)


def _cells(layer: Layer) -> list[str]:
    pattern = layer.pattern
    return [
        layer.name,
        layer.operator,
        pattern.kind if pattern else "",
        _precision(layer),
        f"{layer.parameters:,}" if layer.parameters else "",
        "unknown" if layer.operations is None else f"{layer.operations:,}",
        f"{pattern.sparsity:.1%}" if pattern else "",
    ]


def _precision(layer: Layer) -> str:
    """How the weight is stored; "weights" says that the other operand is not quantised."""
    return f"{layer.precision} weights" if layer.precision.startswith("int") and not layer.integers else layer.precision


def _print_types(found: Analysis) -> None:
    rows = found.by_type()
    click.echo("\nParameters by types:")
    table = _table("op", "layers", "params", "share", "zeros", words=1)
    total = sum(row["parameters"] for row in rows.values())
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["parameters"]):
        if row["parameters"]:
            numbers = [str(row["layers"]), f"{row['parameters']:,}", f"{row['parameters'] / total:.1%}"]
            table.add_row(name, *numbers, f"{row['zeros'] / row['parameters']:.1%}")
    console().print(table)
    click.echo("\nOps by types:")
    table = _table("op", "layers", "ops", "share", words=1)
    for name, row in rows.items():
        if row["operations"]:
            share = row["operations"] / found.operations
            table.add_row(name, str(row["layers"]), f"{row['operations']:,}", f"{share:.1%}")
    console().print(table)


def summary(found: Analysis, nodes: Profile | None) -> list[str]:
    """The sections Params, Ops and Overall, and the advice, a line each."""
    kept = sum((x.operations or 0) * (1 - x.pattern.sparsity if x.pattern else 1.0) for x in found.layers)
    shapes = ", ".join(f"{n} {list(s)}" for n, s in found.input_shapes.items())
    lines = [
        "",
        "Params:",
        f"  total {found.parameters:,}, in layers' weights {found.weight_elements:,}, zero {found.weight_zeros:,}",
        "Ops:",
        f"  total {found.operations:,}, on weights that are not zero {round(kept):,}",
        "Overall:",
        f"  model {found.model or 'in memory'} with {shapes}",
        f"  sparsity {found.sparsity:.2%}, quantized {found.quantised:.2%}",
        f"  predicted {about(found.predicted_us)} as stored, no zero skipped, on {found.limits.cores} core(s)",
    ]
    unknown = sum(x.operations is None for x in found.layers)
    if unknown:
        lines.append(f"  {unknown} layer(s) left out: their sizes are not known, give --input-shapes")
    if nodes is not None:
        lines.append(f"  measured {about(nodes.total_us)}, {1e6 / nodes.total_us:.4g} calls/s")
    advice = [x.text for x in found.advice] or ["nothing that these figures show"]
    return [*lines, "What would make it faster:", *(f"  {text}" for text in advice)]
