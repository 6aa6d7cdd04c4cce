"""Which kernel and which layout every node gets: one decision per node, kept with its reason and the runner-up.

A node's options are its kernels by kind of layout. The plan with the least predicted time is looked for: forward, every
option gets the least time of everything before it (a value read by several nodes counts for each in part); backward,
from the outputs, every node takes the option that is best given what its readers chose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.ir.types import PLAIN, Layout, TensorType, ValueType
from skipjack.kernels.launch import Lowering, Site, lowerings
from skipjack.select.nominal import Nominal
from skipjack.select.options import Option, Options, options_of
from skipjack.select.prices import Prices, reorder_us
from skipjack.select.rates import Rates, current
from skipjack.targets.target import Target


@dataclass(frozen=True)
class Choice:
    """How one node runs. candidates are the accepted ways of one kind, best rank first; none means a host step.

    others: accepted ways that need other layouts. predicted: microseconds by kind of layout, at likely sizes.
    measured: microseconds by label of a lowering, where this very layer was timed; the first candidate then runs.
    """

    candidates: tuple[Lowering, ...]
    reason: str
    others: tuple[Lowering, ...] = ()
    predicted: tuple[tuple[str, float], ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def on_host(self) -> bool:
        return not self.candidates

    @property
    def name(self) -> str:
        return self.candidates[0].name if self.candidates else "host"


@dataclass(frozen=True)
class Plan:
    """A graph with layouts decided (Reorder nodes where they change) and a choice per node; threads share its work."""

    graph: Graph
    choices: tuple[Choice, ...]
    target: Target
    threads: int = 1
    rates: Rates = field(default_factory=Rates)


def plan(graph: Graph, target: Target, threads: int = 1, prices: Prices | None = None) -> Plan:
    """Choose for every node; values that change layout get explicit Reorder nodes."""
    known = prices or Prices(current(target))
    return replace(_Planner(graph, target, known).run(), threads=threads, rates=known.rates)


_HOST = Option((), (), (), 0.0)


class _Planner:
    def __init__(self, graph: Graph, target: Target, prices: Prices) -> None:
        self.graph, self.target, self.prices = graph, target, prices
        self.nominal = Nominal(graph, target)
        self.options: list[Options] = [options_of(graph, n, target, self.nominal.work(n), prices) for n in graph.nodes]
        self.makers = {o: (i, k) for i, n in enumerate(graph.nodes) for k, o in enumerate(n.outputs) if o}
        self.readers: dict[str, list[tuple[int, int]]] = {}
        for i, n in enumerate(graph.nodes):
            for k, name in enumerate(n.inputs):
                self.readers.setdefault(name, []).append((i, k))
        self.plain_readers = set(graph.outputs) | {
            name for n in graph.nodes for _, body in n.subgraphs() for name in body.captured
        }
        self.seconds: dict[tuple[str, Layout, Layout], float] = {}

    def run(self) -> Plan:
        chosen = self.backward(self.forward())
        return _Emitter(self, chosen).run()

    def ways(self, index: int) -> tuple[Option, ...]:
        return self.options[index].found or (_HOST,)

    def forward(self) -> list[list[float]]:
        """Per node and option: the least time of the node and what it depends on."""
        totals: list[list[float]] = []
        for i, node in enumerate(self.graph.nodes):
            totals.append([self._total(node, option, totals) for option in self.ways(i)])
        return totals

    def _total(self, node: Node, option: Option, totals: list[list[float]]) -> float:
        total = option.microseconds
        for k, name in enumerate(node.inputs):
            wanted = option.inputs[k] if option.inputs else PLAIN
            made = self.makers.get(name)
            if made is None:
                total += self.reorder_us(name, PLAIN, wanted)
                continue
            share = 1.0 / (len(self.readers[name]) + (name in self.plain_readers))
            total += min(
                share * before + self.reorder_us(name, _made(source, made[1]), wanted)
                for before, source in zip(totals[made[0]], self.ways(made[0]), strict=True)
            )
        return total

    def backward(self, totals: list[list[float]]) -> list[Option]:
        chosen: list[Option] = [_HOST] * len(self.graph.nodes)
        for i in reversed(range(len(self.graph.nodes))):
            options = self.ways(i)
            costs = [t + self._onward(i, option, chosen) for t, option in zip(totals[i], options, strict=True)]
            chosen[i] = options[costs.index(min(costs))]
        return chosen

    def _onward(self, index: int, option: Option, chosen: list[Option]) -> float:
        """The time to bring the node's outputs into the layouts that their readers chose."""
        total = 0.0
        for k, name in enumerate(self.graph.nodes[index].outputs):
            wanted = {PLAIN} if name in self.plain_readers else set[Layout]()
            for reader, at in self.readers.get(name, []):
                wanted.add(chosen[reader].inputs[at] if chosen[reader].inputs else PLAIN)
            total += sum(self.reorder_us(name, _made(option, k), to) for to in wanted)
        return total

    def reorder_us(self, name: str, source: Layout, to: Layout) -> float:
        """Predicted time to rearrange a value; infinite when no kernel can."""
        if source == to or not name:
            return 0.0
        key = (name, source, to)
        if key not in self.seconds:
            self.seconds[key] = self._reorder_us(name, source, to)
        return self.seconds[key]

    def _reorder_us(self, name: str, source: Layout, to: Layout) -> float:
        t, bound = self.graph.types.get(name), self.nominal.bound(name)
        if not isinstance(t, TensorType) or t.shape is None or bound is None:
            return math.inf
        if self.reorder_ways(t, source, to):
            return reorder_us(bound.nbytes)
        if PLAIN in (source, to):
            return math.inf
        return self.reorder_us(name, source, PLAIN) + self.reorder_us(name, PLAIN, to)

    def reorder_ways(self, t: TensorType, source: Layout, to: Layout) -> tuple[Lowering, ...]:
        """Kernels that bring a value of type t from one layout to another."""
        site = Site(
            reorder_node("x", "y", to), [replace(t, layout=source)], [replace(t, layout=to)], [None], self.target
        )
        return tuple(w for w in lowerings(SKIPJACK, "Reorder") if not w.accepts(site))


def _made(option: Option, output: int) -> Layout:
    return option.outputs[output] if option.outputs else PLAIN


def reorder_node(source: str, made: str, to: Layout) -> Node:
    """The node that rearranges a value."""
    return Node("Reorder", (source,), (made,), MappingProxyType({"to": str(to)}), SKIPJACK)


class _Emitter:
    """Writes the graph of a decision down, with Reorder nodes where a value is wanted in another layout."""

    def __init__(self, planner: _Planner, chosen: list[Option]) -> None:
        self.p, self.chosen, self.graph = planner, chosen, planner.graph
        self.types: dict[str, ValueType] = dict(self.graph.types)
        self.nodes: list[Node] = []
        self.choices: list[Choice] = []
        self.home: dict[str, Layout] = {}
        self.held: dict[tuple[str, Layout], str] = {}

    def run(self) -> Plan:
        for i, node in enumerate(self.graph.nodes):
            self.place(node, self.chosen[i], self.p.options[i])
        for name in self.graph.outputs:
            self.wanted(name, PLAIN)
        graph = replace(self.graph, nodes=tuple(self.nodes), types=MappingProxyType(self.types))
        return Plan(graph, tuple(self.choices), self.p.target)

    def place(self, node: Node, option: Option, options: Options) -> None:
        layouts = option.inputs or (PLAIN,) * len(node.inputs)
        inputs = tuple(self.wanted(name, layout) for name, layout in zip(node.inputs, layouts, strict=True))
        for body in (b for _, b in node.subgraphs()):
            for name in body.captured:
                self.wanted(name, PLAIN)
        outputs = tuple(self.made(name, _made(option, k)) for k, name in enumerate(node.outputs))
        self.nodes.append(replace(node, inputs=inputs, outputs=outputs))
        self.choices.append(_choice(option, options, self.p.prices.known(node)))

    def made(self, name: str, layout: Layout) -> str:
        """The name of a value that a node makes in a layout."""
        if not name:
            return name
        self.home[name] = layout
        return self.hold(name, layout)

    def hold(self, name: str, layout: Layout) -> str:
        made = name if layout == PLAIN else f"{name}@{layout}"
        if layout != PLAIN:
            t = self.types[name]
            assert isinstance(t, TensorType), f"select asked for a layout of {name!r}, which is no tensor"
            self.types[made] = replace(t, layout=layout)
        self.held[name, layout] = made
        return made

    def wanted(self, name: str, layout: Layout) -> str:
        """The name of a value in the layout its reader needs; rearranged when it does not lie so."""
        home = self.home.get(name, PLAIN)
        if home == layout:
            return self.held.get((name, layout), name)
        if (name, layout) in self.held:
            return self.held[name, layout]
        t = self.graph.types[name]
        assert isinstance(t, TensorType), f"select asked for a layout of {name!r}, which is no tensor"
        ways, source = self.p.reorder_ways(t, home, layout), self.held.get((name, home), name)
        if not ways:
            source = self.wanted(name, PLAIN)
            ways = self.p.reorder_ways(t, PLAIN, layout)
        assert ways, f"no kernel brings {name!r} from {home} to {layout}"
        made = self.hold(name, layout)
        self.nodes.append(reorder_node(source, made, layout))
        self.choices.append(Choice(ways, f"the next kernel reads {layout} values"))
        return made


_REASONS = {
    "plain": "plain layout",
    "blocked": "channels in vector lanes",
    "plain>blocked": "reads the plain image, writes channel blocks",
    "quads": "pixels in vector lanes, four channels together",
    "columns": "positions in vector lanes",
}


def _choice(option: Option, options: Options, measured: Mapping[str, float]) -> Choice:
    predicted = tuple((o.layouts, o.microseconds) for o in sorted(options.found, key=lambda o: o.microseconds))
    if not option.ways:
        refused = "; ".join(f"{w}: {r}" for w, r in options.refused.items())
        return Choice((), refused or "no kernel for this operator")
    others = tuple(w for o in options.found if o is not option for w in o.ways)
    return Choice(option.ways, _REASONS.get(option.layouts, f"layouts {option.layouts}"), others, predicted, measured)
