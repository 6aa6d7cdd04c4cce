"""What would make a model faster, from what each of its layers would take with its weight stored in another way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skipjack.benchmark.limits import Limits
from skipjack.benchmark.roofline import (
    BLOCKS_INT8,
    DENSE_F32,
    DENSE_INT8,
    SPARSE_F32,
    Encoding,
    Load,
    break_even,
    predicted_us,
)
from skipjack.ir.patterns import Pattern

_PRUNED_TO = 0.9
_IN_BLOCKS = 0.95
_WORTH_SHARE = 0.9
_OF_THE_GAIN = 0.8
_MOST_LAYERS = 8
_LEAST_ELEMENTS = 4096
_LEAST_WIDTH = 16


@dataclass(frozen=True)
class Candidate:
    """A layer as advice sees it: its weight's shape (outputs, inputs), how it runs now, what that takes."""

    name: str
    width: tuple[int, int]
    pattern: Pattern
    load: Load
    integers: bool
    now_us: float
    predicted: Mapping[str, float]


@dataclass(frozen=True)
class Advice:
    """One thing to do to some layers, with their predicted time before and after."""

    action: str
    layers: tuple[str, ...]
    before_us: float
    after_us: float
    text: str

    @property
    def saved_us(self) -> float:
        return self.before_us - self.after_us


def advise(layers: Sequence[Candidate], limits: Limits) -> list[Advice]:
    """What to do, the largest gain first; at last what needs no change but is worth knowing."""
    found: list[Advice | None] = []
    if limits.int8_gops is not None:
        floats = [(x, x.predicted[DENSE_INT8.name]) for x in layers if not x.integers]
        found.append(_chosen("quantise", "quantise {} to int8", floats))
        blocks = [(x, predicted_us(x.load, BLOCKS_INT8, _PRUNED_TO, limits)) for x in layers if _can_have_blocks(x)]
        text = f"prune {{}} to {_PRUNED_TO:.0%} zeros in 1x4 blocks and quantise to int8"
        found.append(_chosen("prune", text, blocks))
    floats = [x for x in layers if not x.integers]
    sparse = [(x, x.predicted[SPARSE_F32.name]) for x in floats if x.pattern.kind != "dense"]
    found.append(_chosen("skip", "skip the zeros already in {}", sparse))
    gains = sorted((a for a in found if a is not None), key=lambda a: -a.saved_us)
    return [*gains, *_below_break_even(floats, limits), *_empty(layers)]


def _can_have_blocks(layer: Candidate) -> bool:
    return (
        min(layer.width) >= _LEAST_WIDTH
        and layer.load.elements >= _LEAST_ELEMENTS
        and layer.pattern.sparsity < _PRUNED_TO
        and layer.pattern.blocks.get("1x4", 0.0) < _IN_BLOCKS
    )


def _chosen(action: str, text: str, options: Sequence[tuple[Candidate, float]]) -> Advice | None:
    """The few layers that bring most of the gain."""
    worth = [(x, after) for x, after in options if after < _WORTH_SHARE * x.now_us]
    worth.sort(key=lambda pair: pair[1] - pair[0].now_us)
    possible = sum(x.now_us - after for x, after in worth)
    taken: list[tuple[Candidate, float]] = []
    while worth and len(taken) < _MOST_LAYERS and sum(x.now_us - after for x, after in taken) < _OF_THE_GAIN * possible:
        taken.append(worth.pop(0))
    if not taken:
        return None
    before, after = sum(x.now_us for x, _ in taken), sum(us for _, us in taken)
    names = tuple(x.name for x, _ in taken)
    said = f"{text.format(_counted(names))}: {about(before)} to {about(after)} predicted ({', '.join(names)})"
    return Advice(action, names, before, after, said)


def _below_break_even(layers: Sequence[Candidate], limits: Limits) -> list[Advice]:
    """Layers with zeros that are too few to be skipped."""
    least = break_even(SPARSE_F32, DENSE_F32, limits)
    few = [x for x in layers if x.pattern.kind == "unstructured" and 0.1 <= x.pattern.sparsity < least]
    if not few:
        return []
    names = tuple(x.name for x in few)
    zeros = f"{min(x.pattern.sparsity for x in few):.0%} to {max(x.pattern.sparsity for x in few):.0%}"
    advice = f"skipping them pays from about {least:.0%} on: prune further or not at all"
    text = f"too few zeros ({zeros}) in {_counted(names)}; {advice}"
    return [_remark("break-even", names, text)]


def _empty(layers: Sequence[Candidate]) -> list[Advice]:
    holders = [x for x in layers if x.pattern.empty_rows or x.pattern.empty_columns]
    if not holders:
        return []
    rows, columns = sum(x.pattern.empty_rows for x in holders), sum(x.pattern.empty_columns for x in holders)
    names = tuple(x.name for x in holders)
    text = f"remove {rows} output(s) and {columns} input(s) with nothing but zero weights in {_counted(names)}"
    return [_remark("remove", names, text)]


def _remark(action: str, names: tuple[str, ...], text: str) -> Advice:
    shown = names if len(names) <= _MOST_LAYERS else (*names[:_MOST_LAYERS], "…")
    return Advice(action, names, 0.0, 0.0, f"{text} ({', '.join(shown)})")


def _counted(names: Sequence[str]) -> str:
    return "this layer" if len(names) == 1 else f"these {len(names)} layers"


def about(us: float) -> str:
    """A predicted time, two digits."""
    for scale, unit in ((1e6, "s"), (1e3, "ms"), (1.0, "us")):
        if us >= scale or unit == "us":
            return f"{float(f'{us / scale:.2g}'):g} {unit}"
    raise AssertionError("the last unit takes every time")


def encoding_now(integers: bool) -> Encoding:
    """How a weight is stored when nothing skips its zeros."""
    return DENSE_INT8 if integers else DENSE_F32
