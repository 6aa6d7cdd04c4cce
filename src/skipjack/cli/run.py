"""`skipjack run MODEL`: one run on given or random arrays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import numpy as np

from skipjack.cli.options import sized
from skipjack.cli.output import console, in_time
from skipjack.core.errors import ConfigError, InputError, nearest
from skipjack.engine import Engine
from skipjack.passes.lower_precision import FP32, PRECISIONS


@click.command()
@click.argument("model")
@sized
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE.npy", help="An input array; give one per input.")
@click.option("--random", "seed", type=int, default=None, metavar="SEED", help="Random inputs from this seed.")
@click.option("--precision", type=click.Choice(PRECISIONS), default=FP32, show_default=True)
@click.option("--output-dir", type=click.Path(file_okay=False, path_type=Path), help="Write the outputs here as .npy.")
def run(
    model: str,
    batch_size: int | None,
    input_shapes: Any,
    cores: int | None,
    inputs: tuple[str, ...],
    seed: int | None,
    precision: str,
    output_dir: Path | None,
) -> None:
    """Run a model on arrays or on random inputs.

    Without --input the inputs are random (seed 0). Without --batch-size the arrays decide the batch.
    """
    given = dict(_load(text) for text in inputs)
    if given and seed is not None:
        raise ConfigError("give either --input or --random, not both")
    ctx = click.get_current_context()
    chosen = ctx.get_parameter_source("batch_size") is not click.core.ParameterSource.DEFAULT
    batch_size = batch_size if chosen or not given else None
    engine = Engine(model, batch_size, cores, input_shapes=input_shapes, precision=precision)
    arrays = _in_order(engine, given) if given else engine.generate_random_inputs(seed=seed or 0)
    outputs, seconds = engine.timed_run(arrays, val_inp=True)
    for name, value in zip(engine.output_names, outputs, strict=True):
        console().print(f"{name}: {summarise(value)}", markup=False)
        if output_dir is not None:
            console().print(f"  written to {_write(output_dir, name, value)}", markup=False)
    console().print(f"first run {in_time(seconds * 1e6)} on {engine.num_cores} core(s)")


def _load(text: str) -> tuple[str, np.ndarray]:
    name, _, path = text.rpartition("=") if "=" in text else ("", "", "")
    if not name:
        raise ConfigError(f"--input {text!r}: expected NAME=FILE.npy")
    try:
        return name, np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--input {name}: cannot read an array from {path}: {error}") from None


def _in_order(engine: Engine, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    for name in given:
        if name not in engine.input_names:
            hint = nearest(name, engine.input_names)
            raise InputError(f"--input {name}: the model's inputs are {engine.input_names}{hint}")
    missing = [name for name in engine.input_names if name not in given]
    if missing:
        raise InputError(f"expected --input for each of {engine.input_names}, missing {missing}")
    return [np.ascontiguousarray(given[name]).reshape(given[name].shape) for name in engine.input_names]


def _write(folder: Path, name: str, value: Any) -> Path:
    if not isinstance(value, np.ndarray) or value.dtype.kind == "O":
        raise ConfigError(f"output {name!r} is no array of numbers, which --output-dir cannot write; leave it out")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^\w.-]+", "_", name) + ".npy")
    np.save(path, value, allow_pickle=False)
    return path


def summarise(value: Any) -> str:
    """Type, shape and range of an output in one line."""
    if not isinstance(value, np.ndarray):
        return f"{type(value).__name__} with {len(value)} items" if hasattr(value, "__len__") else str(value)
    text = f"{value.dtype}{list(value.shape)}"
    if value.size == 0 or value.dtype.kind not in "fiub":
        return text
    wide = value.astype(np.float64)
    return f"{text} min {wide.min():.6g} mean {wide.mean():.6g} max {wide.max():.6g}"
