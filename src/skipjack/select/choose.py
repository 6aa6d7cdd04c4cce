"""Which kernel and which layout every node gets: one decision per node, kept with its reason and the runner-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from skipjack.ir.graph import ONNX, SKIPJACK, Graph, Node
from skipjack.ir.types import Layout, TensorType, ValueType
from skipjack.kernels.launch import Lowering, Site, lowerings
from skipjack.targets.target import Target

_BLOCKED_SUFFIX = "@blocked"
_ANCHORS = frozenset({(SKIPJACK, "Conv"), (SKIPJACK, "ConvTranspose"), (ONNX, "Conv"), (ONNX, "ConvTranspose")})


@dataclass(frozen=True)
class Choice:
    """How one node runs. candidates are the accepted ways of one layout, best rank first; none means a host step.

    others: accepted ways that need another layout.
    """

    candidates: tuple[Lowering, ...]
    reason: str
    others: tuple[Lowering, ...] = ()

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


def plan(graph: Graph, target: Target, threads: int = 1) -> Plan:
    """Choose for every node; values that change layout get explicit Reorder nodes."""
    return replace(_Planner(graph, target).run(), threads=threads)


class _Planner:
    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph = graph
        self.target = target
        self.types: dict[str, ValueType] = dict(graph.types)
        self.nodes: list[Node] = []
        self.choices: list[Choice] = []
        self.blocked: dict[str, str] = {}
        self.plain: set[str] = set(graph.inputs) | set(graph.constants) | set(graph.captured)

    def run(self) -> Plan:
        for node in self.graph.nodes:
            self.place(node)
        for name in self.graph.outputs:
            self.as_plain(name)
        graph = replace(self.graph, nodes=tuple(self.nodes), types=MappingProxyType(self.types))
        return Plan(graph, tuple(self.choices), self.target)

    def place(self, node: Node) -> None:
        accepted, refused = self.accepted(node)
        kind, why = self.layout(node, accepted)
        ways = tuple(w for w in accepted if w.layouts == kind)
        others = tuple(w for w in accepted if w.layouts != kind)
        reason = why if ways else "; ".join(f"{w}: {r}" for w, r in refused.items()) or "no kernel for this operator"
        inputs = tuple(self.wanted(name, kind, index) for index, name in enumerate(node.inputs))
        outputs = node.outputs
        for body in (b for _, b in node.subgraphs()):
            for name in body.captured:
                self.as_plain(name)
        if kind in ("blocked", "stem"):
            outputs = tuple(self.blocked_name(name) for name in node.outputs)
        else:
            self.plain.update(node.outputs)
        self.add(replace(node, inputs=inputs, outputs=outputs), Choice(ways, reason, others))

    def add(self, node: Node, choice: Choice) -> None:
        self.nodes.append(node)
        self.choices.append(choice)

    def accepted(self, node: Node) -> tuple[list[Lowering], dict[str, str]]:
        site = _site(self.graph, node, self.target)
        if site is None:
            return [], {"kernels": "an input or output is not a tensor"}
        accepted: list[Lowering] = []
        refused: dict[str, str] = {}
        for way in lowerings(node.domain, node.op):
            reason = way.accepts(site)
            if reason:
                refused[way.name] = reason
            else:
                accepted.append(way)
        return accepted, refused

    def layout(self, node: Node, accepted: list[Lowering]) -> tuple[str, str]:
        kinds = {w.layouts for w in accepted}
        data_blocked = any(name in self.blocked for name in node.inputs)
        if "stem" in kinds and node.inputs[0] not in self.blocked:
            return "stem", "reads the plain image, writes channel blocks"
        if "blocked" in kinds and (data_blocked or node.key in _ANCHORS or "plain" not in kinds):
            return "blocked", "channels in vector lanes"
        if "plain" in kinds or not kinds:
            return "plain", "plain layout"
        return "blocked", "only a blocked kernel accepts it"

    def wanted(self, name: str, kind: str, index: int) -> str:
        if not name or name in self.graph.constants:
            return name
        t = self.types.get(name)
        data = isinstance(t, TensorType) and t.rank is not None and t.rank >= 3
        if data and (kind == "blocked" or (kind == "stem" and index > 0)):
            return self.as_blocked(name)
        return self.as_plain(name)

    def blocked_name(self, name: str) -> str:
        if not name:
            return name
        made = name + _BLOCKED_SUFFIX
        self.types[made] = self.with_layout(name, Layout("blocked", self.target.vl))
        self.blocked[name] = made
        return made

    def with_layout(self, name: str, layout: Layout) -> TensorType:
        t = self.types[name]
        assert isinstance(t, TensorType), f"select asked for a layout of {name!r}, which is no tensor"
        return replace(t, layout=layout)

    def as_plain(self, name: str) -> str:
        if name in self.blocked and name not in self.plain:
            self.reorder(self.blocked[name], name, "plain")
            self.plain.add(name)
        return name

    def as_blocked(self, name: str) -> str:
        if name not in self.blocked:
            made = self.blocked_name(name)
            self.reorder(name, made, "blocked")
        return self.blocked[name]

    def reorder(self, source: str, made: str, to: str) -> None:
        node = Node("Reorder", (source,), (made,), MappingProxyType({"to": to}), SKIPJACK)
        ways = tuple(lowerings(SKIPJACK, "Reorder"))
        self.add(node, Choice(ways, f"the next kernel reads {to} values"))


def _site(graph: Graph, node: Node, target: Target) -> Site | None:
    inputs = [_tensor(graph.types, n) for n in node.inputs]
    outputs = [_tensor(graph.types, n) for n in node.outputs]
    strange = any(n and t is None for n, t in zip((*node.inputs, *node.outputs), (*inputs, *outputs), strict=True))
    if strange or any(t is not None and t.shape is None for t in (*inputs, *outputs)):
        return None
    constants: list[np.ndarray | None] = [graph.constants.get(n) for n in node.inputs]
    return Site(node, inputs, outputs, constants, target)


def _tensor(types: Mapping[str, ValueType], name: str) -> TensorType | None:
    t = types.get(name)
    return t if isinstance(t, TensorType) else None
