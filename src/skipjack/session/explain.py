"""How a program runs: its nodes with kernel, layout, times and reason; the steps they form; the memory they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from skipjack.core import knobs
from skipjack.core.dims import evaluate, symbols
from skipjack.ir.graph import Node
from skipjack.ir.types import TensorType
from skipjack.kernels.launch import KernelSpec
from skipjack.ops.weights import Scope
from skipjack.runtime.chunk import Chunk, Row
from skipjack.runtime.run import Program, Stream
from skipjack.runtime.shapes import Sizes
from skipjack.runtime.team import Team
from skipjack.select.choose import Choice
from skipjack.session.explain_weights import WeightReport, weight_report

_LEAST_RUNS, _MOST_RUNS, _SECONDS = 5, 50, 0.5


@dataclass(frozen=True)
class NodeReport:
    """One node of the plan. kernel is "host" for a host step and "none" when its output only renames memory.

    Times are None when nothing was measured or no candidate predicts; share is of the time of all nodes. encoding is
    how the kernel stores the zeros of its weight, empty without a weight. predicted_by_layout_us has the best of each
    kind of layout as the plan saw it; timed_us the lowerings that were timed when the model was loaded.
    """

    name: str
    origin: str
    operator: str
    kernel: str
    generators: tuple[str, ...]
    encoding: str
    weight: WeightReport | None
    layout: str
    dtype: str
    shape: tuple[int | str, ...]
    predicted_us: float | None
    measured_us: float | None
    share: float | None
    runner_up: str
    runner_up_predicted_us: float | None
    predicted_by_layout_us: Mapping[str, float]
    timed_us: Mapping[str, float]
    reason: str


@dataclass(frozen=True)
class StepReport:
    """Consecutive nodes [first, end) that run in one call ("segment"), or one node in Python ("host").

    A segment that works on parts of the batch is called once per part; launches counts the kernel calls of one part.
    """

    kind: str
    first: int
    end: int
    calls: int
    launches: int
    measured_us: float | None


@dataclass(frozen=True)
class Report:
    """A whole program.

    total_us is the wall time of the best call as an engine makes it; the times of nodes and steps come from runs that
    also count cycles, so they may add up to a little more. target is the instruction set, target_limit what
    SKIPJACK_ISA holds, rates where the corrections of predicted times come from.
    """

    target: str
    target_limit: str | None
    rates: str
    threads: int
    nodes: tuple[NodeReport, ...]
    steps: tuple[StepReport, ...]
    total_us: float | None
    runs: int
    constant_bytes: int
    packed_bytes: int
    arena_bytes: int
    kernels: Mapping[str, int]
    kernels_compiled: int
    kernels_from_disk: int

    @property
    def segments(self) -> int:
        """Stretches of nodes that run in jitted code."""
        return sum(s.kind == "segment" for s in self.steps)

    @property
    def host_steps(self) -> int:
        return sum(s.kind == "host" for s in self.steps)

    @property
    def kernel_share(self) -> float | None:
        """The part of all steps' time that segments take; None when nothing was measured."""
        total = sum(s.measured_us or 0.0 for s in self.steps)
        if self.total_us is None or not total:
            return None
        return sum(s.measured_us or 0.0 for s in self.steps if s.kind == "segment") / total


def explain(program: Program, feeds: Mapping[str, Any], team: Team, *, timed: bool = True) -> Report:
    """Run the program on these inputs, more than once when timed, and report the quickest runs."""
    stream = _Watched(program)
    stream.run(feeds, team)
    if not timed:
        return _report(program, stream, team, stream.events, None, 1)
    best: list[_Event] = []
    runs, start = 0, perf_counter()
    while runs < _LEAST_RUNS or (runs < _MOST_RUNS and perf_counter() - start < _SECONDS):
        stream.events = []
        stream.run(feeds, team)
        runs += 1
        if not best or _total_us(stream.events) < _total_us(best):
            best = stream.events
    return _report(program, stream, team, best, _best_call_us(program, feeds, team, runs), runs)


def _best_call_us(program: Program, feeds: Mapping[str, Any], team: Team, runs: int) -> float:
    """The shortest of some calls as an engine makes them."""
    stream, arrays = Stream(program), list(feeds.values())
    stream.call(arrays, team)
    times: list[float] = []
    for _ in range(runs):
        start = perf_counter()
        stream.call(arrays, team)
        times.append((perf_counter() - start) * 1e6)
    return min(times)


@dataclass(frozen=True)
class _Event:
    """One step of a run: a chunk with the cycle counts between its rows, or a host step (chunk is None)."""

    first: int
    chunk: Chunk | None
    cycles: np.ndarray
    us: float
    calls: int = 1


def _total_us(events: list[_Event]) -> float:
    return sum(e.us for e in events)


class _Watched(Stream):
    """A stream that notes every step with its time."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.events: list[_Event] = []

    def _launch(self, chunk: Chunk, addresses: dict[str, int]) -> None:
        assert self._team is not None, "a program is explained by running it"
        stamps = np.zeros(len(chunk.rows) + 1, np.int64)
        start = perf_counter()
        chunk.run(self._team, addresses, stamps)
        us = (perf_counter() - start) * 1e6
        cycles, calls = np.diff(stamps), 1
        if self.events and self.events[-1].chunk is chunk:
            before = self.events.pop()
            cycles, us, calls = cycles + before.cycles, us + before.us, before.calls + 1
        self.events.append(_Event(chunk.start, chunk, cycles, us, calls))

    def _host_step(self, index: int, values: dict[str, Any], sizes: Sizes, team: Team) -> None:
        start = perf_counter()
        super()._host_step(index, values, sizes, team)
        self.events.append(_Event(index, None, np.zeros(0, np.int64), (perf_counter() - start) * 1e6))

    def known_sizes(self) -> dict[str, int]:
        """Every size that a bound chunk knew; of the whole batch where a chunk works on part of it."""
        found: dict[str, int] = {}
        for _, learned in self._chunks.values():
            found.update({name: max(n, found.get(name, 0)) for name, n in learned.items()})
        return found


def _report(
    program: Program, stream: _Watched, team: Team, events: list[_Event], total_us: float | None, runs: int
) -> Report:
    plan, sizes = program.plan, stream.known_sizes()
    rows: dict[int, list[Row]] = {}
    spent: dict[int, float] = {}
    for event in events:
        _spread(event, rows, spent)
    chunks = [e.chunk for e in events if e.chunk is not None]
    specs: dict[KernelSpec, None] = {s: None for c in chunks for s in c.kernels.codes}
    generators = [s.generator for s in specs]
    busy_us = None if total_us is None else _total_us(events)
    scope = Scope.of(plan.graph)
    nodes = tuple(
        _node(program, i, rows.get(i, []), spent.get(i, 0.0), sizes, busy_us, scope)
        for i in range(len(plan.graph.nodes))
    )
    return Report(
        target=plan.target.name,
        target_limit=knobs.ISA.get(),
        rates=plan.rates.source,
        threads=team.threads,
        nodes=nodes,
        steps=tuple(_step(e, total_us is not None) for e in events if e.chunk is None or e.chunk.rows),
        total_us=total_us,
        runs=runs,
        constant_bytes=sum(a.nbytes for a in plan.graph.constants.values()),
        packed_bytes=program.weights.nbytes,
        arena_bytes=sum(c.arena.nbytes for c in chunks),
        kernels={g: generators.count(g) for g in sorted(set(generators))},
        kernels_compiled=sum(c.kernels.compiled for c in chunks),
        kernels_from_disk=sum(c.kernels.from_disk for c in chunks),
    )


def _spread(event: _Event, rows: dict[int, list[Row]], spent: dict[int, float]) -> None:
    """Share the wall time of a step among its nodes as the cycle counts say."""
    if event.chunk is None:
        spent[event.first] = event.us
        return
    cycles = int(event.cycles.sum()) or 1
    for row, taken in zip(event.chunk.rows, event.cycles, strict=True):
        rows.setdefault(row.node, []).append(row)
        spent[row.node] = spent.get(row.node, 0.0) + event.us * int(taken) / cycles


def _step(event: _Event, timed: bool) -> StepReport:
    us = event.us if timed else None
    if event.chunk is None:
        return StepReport("host", event.first, event.first + 1, 1, 0, us)
    return StepReport("segment", event.chunk.start, event.chunk.end, event.calls, len(event.chunk.rows), us)


def _node(
    program: Program,
    index: int,
    rows: list[Row],
    us: float,
    sizes: Mapping[str, int],
    busy_us: float | None,
    scope: Scope,
) -> NodeReport:
    graph, choice = program.plan.graph, program.plan.choices[index]
    node = graph.nodes[index]
    made = graph.types.get(next((o for o in node.outputs if o), ""))
    t = made if isinstance(made, TensorType) else None
    kernel = rows[0].lowering.name if rows else "host" if choice.on_host and us else "none"
    predicted = rows[0].predicted_us if rows else {}
    second = _runner_up(choice, kernel, predicted)
    return NodeReport(
        name=node.origin.name or next((o for o in node.outputs if o), ""),
        origin=node.origin.op,
        operator=f"{node.domain}.{node.op}" if node.domain else node.op,
        kernel=kernel,
        generators=tuple(dict.fromkeys(r.launch.spec.generator for r in rows)),
        encoding=_encoding(program, node, rows),
        weight=weight_report(node, scope, program.weights),
        layout=str(t.layout) if t else "",
        dtype=t.dtype.value if t else "",
        shape=_shape(t, sizes),
        predicted_us=predicted.get(kernel),
        measured_us=None if busy_us is None else us,
        share=us / busy_us if busy_us else None,
        runner_up=second,
        runner_up_predicted_us=predicted.get(second),
        predicted_by_layout_us=dict(choice.predicted),
        timed_us=dict(choice.measured),
        reason=_reason(choice, kernel, predicted),
    )


def _runner_up(choice: Choice, kernel: str, predicted: Mapping[str, float]) -> str:
    """The next best way: by the time it took, else by predicted time, else by rank, ways of another layout last."""
    if kernel == "none":
        return ""
    if len(choice.measured) > 1:
        others = [label for label in choice.measured if label != choice.candidates[0].label]
        return min(others, key=lambda label: choice.measured[label])
    names = [c.name for c in choice.candidates if c.name != kernel]
    names.sort(key=lambda n: predicted.get(n, float("inf")))
    names += [c.label for c in choice.others]
    return names[0] if names else ""


def _reason(choice: Choice, kernel: str, predicted: Mapping[str, float]) -> str:
    if kernel == "none":
        return "its output lies in memory that holds the value already"
    if choice.measured:
        return f"{choice.reason}; least time with its neighbours of {len(choice.measured)} that were timed"
    if len(choice.predicted) > 1:
        return f"{choice.reason}; least predicted time with its neighbours of {len(choice.predicted)} kinds of layout"
    if kernel in predicted and len(predicted) > 1:
        return f"{choice.reason}; least predicted time of {len(predicted)}"
    return choice.reason


def _encoding(program: Program, node: Node, rows: list[Row]) -> str:
    """How the kernel stores the zeros of weights (constants with a row and a column); empty for a node without any."""
    constants = program.plan.graph.constants
    if not any(n in constants and constants[n].ndim > 1 for n in node.inputs):
        return ""
    return rows[0].lowering.encoding if rows else "dense"


def _shape(t: TensorType | None, sizes: Mapping[str, int]) -> tuple[int | str, ...]:
    if t is None or t.shape is None:
        return ()
    return tuple(str(d) if symbols(d) - sizes.keys() else evaluate(d, sizes) for d in t.shape)
