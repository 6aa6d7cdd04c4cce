"""Corrections of predicted times, measured on a CPU: how much longer or shorter a lowering takes than its cost says.

A table holds factors by lowering and class of layer. The first that exists is used: the one that `skipjack tune` stored
for this CPU and these kernels, the one that ships for this CPU, the one that ships for its family.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import llvmlite.binding as llvm
import numpy as np
import platformdirs

from skipjack.core import knobs
from skipjack.core.trace import debug, warn_once
from skipjack.kernels.digest import sources_digest
from skipjack.kernels.launch import Bound, Lowering, Work
from skipjack.kernels.sparsity import zeros_of
from skipjack.targets.target import Target

ANY = "*"
_VERSION = 1
_MOST_BYTES = 1 << 20
_MOST_ENTRIES = 10_000
_FACTORS = (1e-3, 1e3)
_DENSITIES = (5, 10, 20, 35, 60, 100)
_FAMILIES: dict[str, str] = dict.fromkeys(
    (
        "skylake-avx512",
        "cascadelake",
        "cooperlake",
        "icelake-server",
        "sapphirerapids",
        "emeraldrapids",
        "graniterapids",
    ),
    "xeon",
)


@dataclass(frozen=True)
class Rates:
    """factors: lowering -> class of layer, or ANY for its other classes -> measured time / predicted time.

    cpu is LLVM's name of the CPU (ANY: all), target that of the instruction set, kernels the digest of what was timed
    (empty: not checked). sources: lowering -> hash of its module when it was timed; where a module is another one now,
    the factors of the lowering count no more. source says for people where the table comes from.
    """

    cpu: str = ANY
    target: str = ANY
    kernels: str = ""
    source: str = "predictions as written"
    factors: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    sources: Mapping[str, str] = field(default_factory=dict[str, str])

    def knows(self, way: Lowering) -> bool:
        """Whether there are factors for a lowering as it is now."""
        if way.name not in self.factors:
            return False
        return way.name not in self.sources or self.sources[way.name] == module_digest(way.lower.__module__)

    def factor(self, way: str, layer: str) -> float:
        """The correction for a lowering at a class of layer: that of the class most alike, 1 when none is known."""
        known = self.factors.get(way, {})
        if layer not in known:
            alike = _most_alike(layer, tuple(known))
            return math.exp(sum(math.log(known[a]) for a in alike) / len(alike)) if alike else known.get(ANY, 1.0)
        return known[layer]


@functools.lru_cache(maxsize=4096)
def _most_alike(layer: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The classes of least distance; none for a text that is no class, and none that is a layer of another kind."""
    own = _steps(layer)
    far = {name: _distance(own, steps) for name in known if (steps := _steps(name)) and len(steps) == len(own)}
    least = min(far.values(), default=0.0)
    return tuple(name for name, d in far.items() if d == least)


def _distance(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    return float(sum(abs(x - y) for x, y in zip(a, b, strict=True)))


def _steps(layer: str) -> tuple[int, ...]:
    """A class as numbers that differ by one from its neighbours."""
    found = re.fullmatch(r"w(\d{1,2}) d(\d{1,3})(?: p(\d{1,2}))?", layer)
    if found is None or int(found[2]) not in _DENSITIES:
        return ()
    size, density = int(found[1]), _DENSITIES.index(int(found[2]))
    return (size, density) if found[3] is None else (size, density, int(found[3]))


@functools.cache
def module_digest(module: str) -> str:
    """A hash of a module's source."""
    return hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()[:16]


def class_of(work: Work) -> str:
    """What a correction may depend on: how large a layer's weight is and how dense, and how many pixels it has.

    Never the batch, so that a sample's bits do not depend on its batch mates. Empty without a constant weight.
    """
    w = weight_of(work)
    if w is None or w.value is None:
        return ""
    size = min(max(round(math.log2(max(w.elements, 1)) / 2), 5), 12)
    density = zeros_of(w.value).density
    dense = next(d for d in _DENSITIES if density * 100 <= d * 1.25 or d == 100)
    y = work.outputs[0]
    pixels = math.prod(y.shape[2:]) if work.node.op.startswith("Conv") and y is not None else 0
    scale = f" p{min(max(round(math.log2(pixels) / 2), 2), 7)}" if pixels else ""
    return f"w{size} d{dense}{scale}"


def weight_of(work: Work) -> Bound | None:
    """The constant matrix or filter that a layer multiplies with."""
    w = work.maybe(1)
    return w if w is not None and w.value is not None and w.value.ndim >= 2 and w.value.dtype.kind in "fiu" else None


def cpu_name() -> str:
    """LLVM's name of this CPU: one per microarchitecture, such as znver4."""
    return llvm.get_host_cpu_name() or "unknown"


def tune_file(target: Target) -> Path:
    """Where `skipjack tune` stores what it measured."""
    chosen: Path | None = knobs.TUNE_FILE.get()
    if chosen is not None:
        return chosen
    root: Path = knobs.CACHE_DIR.get() or Path(platformdirs.user_cache_dir("skipjack"))
    return root / "tune" / f"{cpu_name()}-{target.name}.json"


def current(target: Target) -> Rates:
    """The table for this machine."""
    path = tune_file(target)
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return _shipped(target.name, cpu_name())
    return _tuned(path, changed, target) or _shipped(target.name, cpu_name())


@functools.lru_cache(maxsize=4)
def _tuned(path: Path, changed: int, target: Target) -> Rates | None:
    """A stored table; None when it is damaged or for another CPU, instruction set or other kernels."""
    try:
        found = parse(_bounded(path))
    except (OSError, ValueError) as error:
        warn_once(f"{path} is not a table of `skipjack tune` ({error}); going on without")
        return None
    if (found.cpu, found.target) != (cpu_name(), target.name) or found.kernels != sources_digest():
        debug(1, f"{path} was measured on {found.cpu} {found.target} with other kernels or elsewhere; not used")
        return None
    return found


def _bounded(path: Path) -> str:
    with path.open("rb") as f:
        data = f.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
    return data.decode()


@functools.cache
def _shipped(target: str, cpu: str) -> Rates:
    """The table that comes along for a CPU, else for its family; else the predictions as they are written."""
    folder = files("skipjack.select") / "tables"
    for name in (f"{cpu}-{target}.json", f"{_FAMILIES.get(cpu, ANY)}-{target}.json"):
        entry = folder / name
        if entry.is_file():
            return parse(entry.read_text(encoding="utf-8"))
    return Rates()


def parse(text: str) -> Rates:
    """A table from JSON; ValueError when it is anything else, holds too much or numbers that no time can have."""
    try:
        found: Any = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        raise ValueError(f"expected an object of version {_VERSION}")
    facts = cast("dict[str, Any]", found)
    words = [facts.get(k) for k in ("cpu", "target", "kernels", "source")]
    if not all(isinstance(w, str) and len(w) <= 200 and w.isprintable() for w in words):
        raise ValueError("cpu, target, kernels and source are short texts")
    cpu, target, kernels, source = cast("list[str]", words)
    sources = facts.get("sources", {})
    if not isinstance(sources, dict) or not all(type(s) is str for s in cast("dict[Any, Any]", sources).values()):
        raise ValueError("sources are an object of texts")
    return Rates(cpu, target, kernels, source, _factors(facts.get("factors")), cast("dict[str, str]", sources))


def _factors(value: Any) -> dict[str, dict[str, float]]:
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in cast("dict[Any, Any]", value).values()):
        raise ValueError("factors are an object of objects")
    table = cast("dict[str, dict[str, Any]]", value)
    if sum(map(len, table.values())) > _MOST_ENTRIES:
        raise ValueError(f"more than {_MOST_ENTRIES} factors")
    for row in table.values():
        for number in row.values():
            if type(number) not in (int, float) or not _FACTORS[0] <= number <= _FACTORS[1]:
                raise ValueError(f"a factor is a number from {_FACTORS[0]} to {_FACTORS[1]}")
    return {way: {layer: float(x) for layer, x in row.items()} for way, row in table.items()}


def text_of(rates: Rates) -> str:
    """The table as `parse` reads it."""
    return json.dumps({"version": _VERSION, **asdict(rates)}, indent=1, sort_keys=True) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Replace a file; nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, part = tempfile.mkstemp(dir=path.parent, prefix=".part")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(text)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Timing:
    """A lowering (of a module) at one layer: what its cost says and what was measured."""

    way: str
    layer: str
    predicted_us: float
    measured_us: float
    module: str = __name__


def fit(timings: list[Timing]) -> dict[str, dict[str, float]]:
    """Factors by lowering: the mean (of logarithms) per class of layer, and over classes for the others."""
    ratios: dict[str, dict[str, list[float]]] = {}
    for t in timings:
        ratios.setdefault(t.way, {}).setdefault(t.layer, []).append(t.measured_us / max(t.predicted_us, 1e-3))
    factors: dict[str, dict[str, float]] = {}
    for way, classes in sorted(ratios.items()):
        means = {layer: float(np.exp(np.mean(np.log(r)))) for layer, r in sorted(classes.items())}
        means[ANY] = float(np.exp(np.mean(np.log(list(means.values())))))
        factors[way] = {k: round(min(max(m, _FACTORS[0]), _FACTORS[1]), 4) for k, m in means.items()}
    return factors


def corrected_us(rates: Rates, way: Lowering, work: Work) -> float | None:
    """What a lowering is expected to take on this CPU; None when it predicts nothing."""
    if way.cost is None:
        return None
    predicted = way.cost(work)
    return (
        predicted * rates.factor(way.name, class_of(work)) if not way.is_last_resort and rates.knows(way) else predicted
    )
