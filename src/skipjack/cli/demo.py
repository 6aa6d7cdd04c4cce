"""`skipjack demo`: handwritten digits, read by the model that comes with the package."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from statistics import median

import click
import numpy as np
from rich.text import Text

from skipjack.cli.explain import make_report, summary
from skipjack.cli.output import console, in_time
from skipjack.core.errors import ConfigError
from skipjack.engine import Engine

_WHITE = 16.0
_SHADES = " ░▒▓█"
FOLDER = Path(str(resources.files("skipjack"))) / "models/digits"


@click.command()
@click.option("--image", "index", type=click.IntRange(min=0), default=0, show_default=True, help="Which one to draw.")
@click.option("--cores", type=click.IntRange(min=0), default=1, show_default=True, help="Cores to use; 0 is all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo(index: int, cores: int, as_json: bool) -> None:
    """Classify handwritten digits with the model that comes along."""
    with np.load(FOLDER / "held_out.npz", allow_pickle=False) as data:
        pixels, labels = data["images"], data["labels"]
    if index >= len(pixels):
        raise ConfigError(f"--image {index}: expected a number below {len(pixels)}")
    names = (FOLDER / "labels.txt").read_text().split()
    engine = Engine(FOLDER / "digits.onnx", num_cores=cores)
    images = (pixels[:, None] / _WHITE).astype(np.float32)
    guesses, seconds = _classify(engine, images)
    right = int((guesses.argmax(1) == labels).sum())
    us = median(seconds) * 1e6
    what_ran = summary(make_report(FOLDER / "digits.onnx", 1, None, cores, timed=False))[0]
    if as_json:
        facts = {"images": len(labels), "right": right, "accuracy": right / len(labels), "us_per_image": us}
        click.echo(json.dumps({**facts, "ran": what_ran}, indent=2))
        return
    out = console()
    out.print((draw if out.color_system else draw_plain)(pixels[index] / _WHITE))
    best = int(guesses[index].argmax())
    out.print(f"this is a {names[best]} ({guesses[index][best]:.1%} sure; labelled {names[labels[index]]})")
    out.print(f"accuracy   {right} of {len(labels)} held-out images ({right / len(labels):.1%})")
    out.print(f"time       {in_time(us)} per image, one at a time (median), on {engine.num_cores} core(s)")
    out.print(f"what ran   {what_ran}")
    out.print("look closer: skipjack explain MODEL; another digit: skipjack demo --image 7")


def _classify(engine: Engine, images: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Probabilities of every image, and the seconds each took, one image per run."""
    engine.run([images[:1]])
    runs = [engine.timed_run([images[i : i + 1]]) for i in range(len(images))]
    return np.concatenate([outputs[0] for outputs, _ in runs]), [seconds for _, seconds in runs]


def draw(image: np.ndarray) -> Text:
    """An image of values 0 to 1 as blocks: two rows of pixels per line, two columns per pixel."""
    text = Text()
    for upper, lower in zip(image[::2], image[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            text.append("▀▀", style=f"{_grey(top)} on {_grey(bottom)}")
        text.append("\n")
    return text


def draw_plain(image: np.ndarray) -> str:
    """The same without colours: a line per row of pixels, two characters per pixel."""
    last = len(_SHADES) - 1
    return "\n".join("".join(2 * _SHADES[round(float(value) * last)] for value in row) for row in image) + "\n"


def _grey(value: float) -> str:
    level = round(float(value) * 255)
    return f"rgb({level},{level},{level})"
