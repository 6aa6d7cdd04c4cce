"""Times lowerings through their real kernels, a node at a time: for tables of rates and for the layers of one model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np

import skipjack.kernels.all  # noqa: F401  # pyright: ignore[reportUnusedImport]  every kernel must be registered
from skipjack.codegen.cache_files import prune
from skipjack.core import knobs
from skipjack.core.trace import debug, warn_once
from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.ir.types import PLAIN, Layout
from skipjack.kernels.digest import sources_digest
from skipjack.kernels.kinds import kind_of_input, kind_of_outputs, layout_of
from skipjack.kernels.launch import Bound, Lowering, Work
from skipjack.runtime.bind import cheapest
from skipjack.runtime.chunk import Buffers, Chunk, Row
from skipjack.runtime.team import Team
from skipjack.runtime.weights import Weights, aligned_memory
from skipjack.select.choose import Plan
from skipjack.select.nominal import Nominal
from skipjack.select.options import options_of
from skipjack.select.prices import Prices, moved_us, reorder_us
from skipjack.select.rates import Rates, Timing, class_of, cpu_name, tune_file, weight_of, write_whole
from skipjack.targets.target import Target

Run = Callable[[], None]
Timer = Callable[[Sequence[Run]], list[float]]
"""Runs each of some calls as often as it likes and gives the microseconds of each."""

LEAST_US = 20.0
_ROUNDS, _LEAST_RUNS, _SECONDS_PER_ROUND = 4, 2, 0.002
_HOPELESS = 5.0
_SUSPICIOUS = 1.25
_STORED_BYTES = 16 << 20
_MOST_TEXT = 1 << 16


def quickest(calls: Sequence[Run]) -> list[float]:
    """The least time of each call, measured in turns so that a slow spell of the machine meets all alike.

    What takes many times as long as the quickest gets fewer runs.
    """
    best = [min(_once(call), _once(call)) for call in calls]
    for _ in range(_ROUNDS):
        for i, call in enumerate(calls):
            worth = best[i] <= _HOPELESS * min(best)
            end, runs = perf_counter() + _SECONDS_PER_ROUND, 0
            while runs < (_LEAST_RUNS if worth else 1) or (worth and perf_counter() < end):
                best[i] = min(best[i], _once(call))
                runs += 1
    return best


def _once(call: Run) -> float:
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1e6


def prepared(work: Work, way: Lowering, team: Team) -> Run:
    """A call that runs the node once by one lowering, on random data of the sizes of work."""
    held = {b.name: b.value for b in work.inputs if b is not None and b.value is not None}
    buffers = Buffers(Weights(held))
    inputs = [None if b is None else _input(b, kind_of_input(way.layouts, i), work.target, buffers)
              for i, b in enumerate(work.inputs)]  # fmt: skip
    outputs = [None if b is None else _output(b, kind_of_outputs(way.layouts), work.target, buffers)
               for b in work.outputs]  # fmt: skip
    launches = way.lower(Work(work.node, inputs, outputs, buffers, work.target, work.threads))
    buffers.touch(launches)
    chunk = Chunk((0, 1), buffers, [Row(launch, 0, way, {}) for launch in launches if launch.units > 0], work.target)
    return lambda: chunk.run(team, {})


def _input(b: Bound, kind: str, target: Target, buffers: Buffers) -> Bound:
    if b.value is not None:
        array = np.ascontiguousarray(b.value).reshape(b.value.shape)
        return replace(b, place=buffers.hold(array), value=array)
    laid = _laid(b, kind, target)
    return replace(laid, place=buffers.hold(_random(laid)))


def _output(b: Bound, kind: str, target: Target, buffers: Buffers) -> Bound:
    laid = _laid(b, kind, target)
    return replace(laid, place=buffers.hold(aligned_memory(laid.nbytes + 64)))


def _laid(b: Bound, kind: str, target: Target) -> Bound:
    layout: Layout | None = layout_of(kind, b.dtype, len(b.shape), target)
    assert layout is not None, "a way was timed in a layout its values cannot have"
    return replace(b, layout=layout if b.elements else PLAIN)


def _random(b: Bound) -> np.ndarray:
    """Memory of a value with numbers that arithmetic neither overflows nor underflows on."""
    memory = aligned_memory(b.nbytes + 64)
    rng = np.random.default_rng(0)
    count = -(-b.nbytes // b.dtype.itemsize)
    few = min(count, 1 << 14)
    block = rng.random(few) - 0.5 if b.dtype.is_float else rng.integers(0, 2 if b.dtype.itemsize > 2 else 200, few)
    data = np.resize(block.astype(b.dtype.np), count)
    memory[: data.nbytes] = data.view(np.uint8)
    return memory


def ways_of(graph: Graph, node: Node, work: Work) -> list[Lowering]:
    """Every lowering that can run a node, whatever the layout."""
    options = options_of(graph, node, work.target, work, Prices())
    return [way for option in options.found for way in option.ways]


def time_ways(work: Work, ways: Iterable[Lowering], timer: Timer, team: Team) -> dict[str, float]:
    """Microseconds by label of a lowering."""
    found = list(ways)
    calls = [prepared(work, way, team) for way in found]
    return {way.label: us for way, us in zip(found, timer(calls), strict=True)}


def time_model(graph: Graph, target: Target, rates: Rates, timer: Timer = quickest) -> Prices:
    """The prices of a model's own layers: those with a constant weight that are expected to take over LEAST_US.

    Times are kept on disk by content of the layer, so that the next load does not measure.
    """
    nominal, team = Nominal(graph, target), Team(1, None)
    folder = layer_folder(target) if knobs.CACHE.get() else None
    measured: dict[str, Mapping[str, float]] = {}
    known: dict[str, dict[str, float]] = {}
    try:
        for node in graph.nodes:
            work = nominal.work(node)
            if weight_of(work) is None:
                continue
            options = options_of(graph, node, target, work, Prices(rates)).found
            ways = [way for option in options for way in option.ways]
            if len(ways) < 2 or min(o.microseconds for o in options) < LEAST_US:
                continue
            key = layer_key(work, ways)
            if key not in known:
                known[key] = _stored(folder, key, ways) or _store(folder, key, time_ways(work, ways, timer, team))
            measured[node.outputs[0]] = known[key]
    finally:
        team.close()
    debug(1, f"tune: times of {len(measured)} layers, {len(known)} of them different")
    return Prices(rates, measured)


def layer_key(work: Work, ways: Sequence[Lowering]) -> str:
    """A hash of what decides the times of a layer: its operator, sizes and weight, the CPU, the kernels."""
    h = hashlib.sha256()
    node, target = work.node, work.target
    values = [None if b is None else (b.dtype.value, b.shape, b.value is None) for b in (*work.inputs, *work.outputs)]
    facts = (node.key, sorted((k, repr(v)) for k, v in node.attrs.items()), values, [w.label for w in ways])
    h.update(repr((facts, cpu_name(), target.name, target.feature_string, sources_digest())).encode())
    w = weight_of(work)
    if w is not None and w.value is not None:
        h.update(np.ascontiguousarray(w.value).data.cast("B"))
    return h.hexdigest()


def layer_folder(target: Target) -> Path:
    """Where times of single layers are kept."""
    return tune_file(target).parent / "layers"


def _stored(folder: Path | None, key: str, ways: Sequence[Lowering]) -> dict[str, float] | None:
    """Times from disk; None unless the file holds a possible time for each of the ways."""
    if folder is None:
        return None
    try:
        with (folder / key).open("rb") as f:
            found: Any = json.loads(f.read(_MOST_TEXT))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    times = cast("dict[str, Any]", found)
    known = {w.label: times.get(w.label) for w in ways}
    good = {name: us for name, us in known.items() if isinstance(us, float) and 0 < us < 1e9}
    return good if len(good) == len(known) else None


def _store(folder: Path | None, key: str, times: dict[str, float]) -> dict[str, float]:
    if folder is not None:
        try:
            write_whole(folder / key, json.dumps(times))
            prune(folder, _STORED_BYTES)
        except OSError as error:
            warn_once(f"{folder}: could not store times of layers: {error.strerror or error}; going on without")
    return times


def measure_rates(
    layers: Iterable[tuple[Graph, Node]], target: Target, timer: Timer = quickest, threads: int = 1
) -> list[Timing]:
    """Every lowering of some layers timed; what takes longer than its other layers let expect is timed again."""
    team = Team(threads, None)
    found: list[tuple[Timing, Work, Lowering]] = []
    try:
        for graph, node in layers:
            work = Nominal(graph, target).work(node)
            ways = [way for way in ways_of(graph, node, work) if not way.is_last_resort]
            times = time_ways(work, ways, timer, team)
            for way in ways:
                predicted = max(way.cost(work) if way.cost is not None else moved_us(work), 1e-3)
                timing = Timing(way.name, class_of(work), predicted, times[way.label], way.lower.__module__)
                found.append((timing, work, way))
        for i in _slow([timing for timing, _, _ in found]):
            timing, work, way = found[i]
            again = time_ways(work, [way], timer, team)[way.label]
            found[i] = replace(timing, measured_us=min(timing.measured_us, again)), work, way
    finally:
        team.close()
    return [timing for timing, _, _ in found]


def _slow(timings: Sequence[Timing]) -> list[int]:
    """The timings that are too far from what others of the lowering let expect: the machine may have been busy."""
    ratios: dict[str, list[float]] = {}
    for t in timings:
        ratios.setdefault(t.way, []).append(t.measured_us / t.predicted_us)
    middle = {way: float(np.median(r)) for way, r in ratios.items()}
    return [i for i, t in enumerate(timings) if t.measured_us / t.predicted_us > _SUSPICIOUS * middle[t.way]]


@dataclass(frozen=True)
class Compared:
    """One layer of a plan: what each of its lowerings takes (by label), alone, beside what it was expected to.

    reorder_us is what the values of the layer are expected to take to be brought from the layouts of the chosen one
    into those of each lowering, and back.
    """

    name: str
    operator: str
    chosen: str
    measured_us: Mapping[str, float]
    predicted_us: Mapping[str, float]
    reorder_us: Mapping[str, float]

    @property
    def best(self) -> str:
        return min(self.measured_us, key=lambda n: self.measured_us[n])

    @property
    def regret(self) -> float:
        """How much longer than the quickest the chosen one takes: 0.1 is 10 %."""
        return self.measured_us[self.chosen] / self.measured_us[self.best] - 1.0

    @property
    def loss(self) -> float:
        """The same where one that needs other layouts takes the time of rearranging as well; never below 0."""
        least = min(us + self.reorder_us[label] for label, us in self.measured_us.items())
        return self.measured_us[self.chosen] / least - 1.0


def compare(graph: Graph, plan: Plan, least_us: float = LEAST_US, timer: Timer = quickest) -> list[Compared]:
    """The layers of a plan that take over least_us; graph is what the plan was made of."""
    nominal, prices, team = Nominal(graph, plan.target), Prices(plan.rates), Team(1, None)
    planned = [c for n, c in zip(plan.graph.nodes, plan.choices, strict=True) if n.key != (SKIPJACK, "Reorder")]
    found: list[Compared] = []
    try:
        for node, choice in zip(graph.nodes, planned, strict=True):
            work = nominal.work(node)
            if choice.on_host or weight_of(work) is None:
                continue
            ways = ways_of(graph, node, work)
            times = time_ways(work, ways, timer, team)
            chosen = cheapest(choice, work, plan.rates).label
            if times[chosen] < least_us:
                continue
            predicted = {w.label: us for w in ways if (us := prices.us(w, work)) is not None}
            own = next(w.layouts for w in ways if w.label == chosen)
            reorders = {w.label: _reorder_us(work, own, w.layouts) for w in ways}
            found.append(Compared(_name(node), node.op, chosen, times, predicted, reorders))
    finally:
        team.close()
    return found


def _name(node: Node) -> str:
    return node.origin.name or next((o for o in node.outputs if o), "")


def _reorder_us(work: Work, held: str, wanted: str) -> float:
    """The time to bring the inputs of a node from some layouts into others, and the outputs back."""
    total = 0.0
    for i, b in enumerate(work.inputs):
        if b is not None and b.value is None and b.elements > 1 and _differs(work, b, held, wanted, i):
            total += reorder_us(b.nbytes)
    for b in work.outputs:
        if b is not None and _differs(work, b, held, wanted, None):
            total += reorder_us(b.nbytes)
    return total


def _differs(work: Work, b: Bound, held: str, wanted: str, index: int | None) -> bool:
    kinds = [kind_of_outputs(x) if index is None else kind_of_input(x, index) for x in (held, wanted)]
    first, second = (layout_of(kind, b.dtype, len(b.shape), work.target) for kind in kinds)
    return first != second
