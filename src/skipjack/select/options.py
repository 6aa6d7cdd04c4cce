"""The ways a node can run, grouped by the kinds of layout they need, each with a predicted cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import Graph, Node
from skipjack.ir.types import PLAIN, Layout, TensorType, ValueType
from skipjack.kernels.kinds import kind_of_input, kind_of_outputs, layout_of
from skipjack.kernels.launch import Lowering, Site, Work, lowerings
from skipjack.select.prices import Prices
from skipjack.targets.target import Target

_LAUNCH_US = 0.3


@dataclass(frozen=True)
class Option:
    """Ways of one kind, best first: the layout of each input and output then, and what the best is expected to take."""

    ways: tuple[Lowering, ...]
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    microseconds: float

    @property
    def layouts(self) -> str:
        return self.ways[0].layouts if self.ways else "plain"


@dataclass(frozen=True)
class Options:
    """All ways of one node; refused says why the others cannot run it. On the host when there is none."""

    found: tuple[Option, ...]
    refused: Mapping[str, str]


def site_of(graph: Graph, node: Node, target: Target, types: Mapping[str, ValueType] | None = None) -> Site | None:
    """The node as `accepts` sees it; None when an input or output is no tensor of known rank."""
    known = graph.types if types is None else types
    inputs = [_tensor(known, n) for n in node.inputs]
    outputs = [_tensor(known, n) for n in node.outputs]
    strange = any(n and t is None for n, t in zip((*node.inputs, *node.outputs), (*inputs, *outputs), strict=True))
    if strange or any(t is not None and t.shape is None for t in (*inputs, *outputs)):
        return None
    constants: list[np.ndarray | None] = [graph.constants.get(n) for n in node.inputs]
    return Site(node, inputs, outputs, constants, target)


def options_of(graph: Graph, node: Node, target: Target, work: Work, prices: Prices) -> Options:
    """Every accepted way; work has likely sizes."""
    site = site_of(graph, node, target)
    if site is None:
        return Options((), {"kernels": "an input or output is not a tensor"})
    kinds: dict[str, list[Lowering]] = {}
    refused: dict[str, str] = {}
    for way in lowerings(node.domain, node.op):
        reason = way.accepts(site)
        if reason:
            refused[way.name] = reason
        else:
            kinds.setdefault(way.layouts, []).append(way)
    made = [_option(site, graph, prices.ranked(ways, work), work, prices) for ways in kinds.values()]
    return Options(tuple(o for o in made if o is not None), refused)


def _option(site: Site, graph: Graph, ways: Sequence[Lowering], work: Work, prices: Prices) -> Option | None:
    kind = ways[0].layouts
    inputs: list[Layout] = []
    for i, (name, t) in enumerate(zip(site.node.inputs, site.inputs, strict=True)):
        layout = PLAIN if t is None or name in graph.constants else _layout(kind_of_input(kind, i), t, site.target)
        if layout is None:
            return None
        inputs.append(layout)
    outputs = [PLAIN if t is None else _layout(kind_of_outputs(kind), t, site.target) for t in site.outputs]
    if any(o is None for o in outputs):
        return None
    known = [o for o in outputs if o is not None]
    return Option(tuple(ways), tuple(inputs), tuple(known), prices.least_us(ways, work) + _LAUNCH_US)


def _layout(kind: str, t: TensorType, target: Target) -> Layout | None:
    return layout_of(kind, t.dtype, t.rank or 0, target)


def _tensor(types: Mapping[str, ValueType], name: str) -> TensorType | None:
    t = types.get(name)
    return t if isinstance(t, TensorType) else None
