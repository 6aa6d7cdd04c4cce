"""Variant names and how each is made from another file.

A name is `fp32`, or parts joined by dashes: `pNN` (NN % of the weights zero), `b4` after it (whole 1x4 blocks), and
one of `qdq` (layer inputs quantised), `qdqio` (inputs and outputs), `dynamic`. Examples: p90, p90-b4, p90-b4-qdqio.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.builders.pruning import prune
from benchmarks.builders.quantizing import quantise_dynamic, quantise_static
from benchmarks.builders.registry import BUILDERS

PATTERN = re.compile(r"(?:p(?P<percent>\d\d)(?P<blocks>-b4)?)?-?(?P<quant>qdqio|qdq|dynamic)?")


@dataclass(frozen=True)
class Variant:
    percent: int
    blocks: bool
    quant: str | None


def parse_variant(name: str) -> Variant:
    if name == "fp32":
        return Variant(0, False, None)
    match = PATTERN.fullmatch(name)
    if not name or match is None or name.startswith("-") or name.endswith("-"):
        raise SystemExit(f"unknown variant {name!r}; expected fp32 or pNN[-b4], qdq, qdqio, dynamic, joined by dashes")
    return Variant(int(match["percent"] or 0), bool(match["blocks"]), match["quant"])


def model_path(folder: Path, model: str, variant: str = "fp32") -> Path:
    return folder / f"{model}-{variant}.onnx"


def build(folder: Path, model: str, name: str, *, rebuild: bool = False) -> Path:
    """Writes the variant and the files it is made from, unless they are there."""
    if model not in BUILDERS:
        raise SystemExit(f"unknown model {model!r}; expected one of {', '.join(BUILDERS)}")
    variant = parse_variant(name)
    target = model_path(folder, model, name)
    if target.exists() and not rebuild:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    print(f"building {target}", flush=True)
    if name == "fp32":
        BUILDERS[model](target)
    elif variant.quant is None:
        prune(build(folder, model, "fp32"), target, variant.percent / 100, blocks=variant.blocks)
    else:
        float_name = name.removesuffix(variant.quant).rstrip("-") or "fp32"
        source = build(folder, model, float_name)
        if variant.quant == "dynamic":
            quantise_dynamic(source, target)
        else:
            quantise_static(source, target, outputs_too=variant.quant == "qdqio")
    return target
