"""What a model consists of and what it could gain: parameters, operations, zeros and their pattern, precision, times.

Nothing is run but the small kernels that measure the machine's peaks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import skipjack.ops.all  # noqa: F401  # pyright: ignore[reportUnusedImport]  every operator must be registered
from skipjack.benchmark import limits as machine
from skipjack.benchmark.advice import Advice, Candidate, advise, encoding_now
from skipjack.benchmark.limits import Limits
from skipjack.benchmark.operations import operations
from skipjack.benchmark.roofline import Load, least_time, predictions
from skipjack.benchmark.shapes import Shapes
from skipjack.core.errors import InputError, ModelError
from skipjack.core.trace import debug
from skipjack.frontend.onnx_file import Source, import_model
from skipjack.ir.graph import Graph, Node
from skipjack.ir.patterns import Pattern, detect
from skipjack.ops.weights import WEIGHTED, Scope, Weight, weight_of
from skipjack.passes.propagate_types import specialize
from skipjack.session.inputs import input_specs, parse_shapes, usual_shapes
from skipjack.session.teams import resolve_cores


@dataclass(frozen=True)
class Layer:
    """One node with a weight or with arithmetic. operations is None when a shape depends on data.

    weight_shape is (outputs, positions, inputs). predicted_us says what each encoding would take; now_us what the layer
    takes as it is stored, no zero skipped. Layers without a weight have only now_us, those whose operations are not
    known have neither.
    """

    name: str
    operator: str
    parameters: int
    operations: int | None
    weight_shape: tuple[int, ...]
    precision: str
    integers: bool
    pattern: Pattern | None
    now_us: float
    predicted_us: Mapping[str, float]


@dataclass(frozen=True)
class Analysis:
    """A whole model. sparsity and quantised are shares of the numbers in layers' weights; shared weights count once."""

    model: str
    input_shapes: Mapping[str, tuple[int, ...]]
    layers: tuple[Layer, ...]
    parameters: int
    weight_elements: int
    weight_zeros: int
    quantised_elements: int
    limits: Limits
    advice: tuple[Advice, ...]

    @property
    def operations(self) -> int:
        return sum(x.operations or 0 for x in self.layers)

    @property
    def sparsity(self) -> float:
        return self.weight_zeros / self.weight_elements if self.weight_elements else 0.0

    @property
    def quantised(self) -> float:
        return self.quantised_elements / self.weight_elements if self.weight_elements else 0.0

    @property
    def predicted_us(self) -> float:
        return sum(x.now_us for x in self.layers)

    def by_type(self) -> dict[str, dict[str, Any]]:
        """Per operator: layers, parameters, zeros, operations; the most operations first."""
        rows: dict[str, dict[str, Any]] = {}
        for x in self.layers:
            row = rows.setdefault(x.operator, {"layers": 0, "parameters": 0, "zeros": 0, "operations": 0})
            row["layers"] += 1
            row["parameters"] += x.parameters
            row["zeros"] += x.pattern.zeros if x.pattern else 0
            row["operations"] += x.operations or 0
        return dict(sorted(rows.items(), key=lambda item: -item[1]["operations"]))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        totals = {
            "operations": self.operations,
            "sparsity": self.sparsity,
            "quantised": self.quantised,
            "predicted_us": self.predicted_us,
        }
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {n: [_plain(x) for x in v] if n in ("layers", "advice") else v for n, v in fields.items()}
        return {**plain, "limits": dataclasses.asdict(self.limits), **totals, "by_type": self.by_type()}


def _plain(value: Layer | Advice) -> dict[str, Any]:
    if isinstance(value, Advice):
        return dataclasses.asdict(value)
    found = value.pattern
    shares = {} if found is None else {"sparsity": found.sparsity, "scattered": found.scattered}
    pattern = None if found is None else {**dataclasses.asdict(found), **shares}
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {**fields, "pattern": pattern, "predicted_us": dict(value.predicted_us)}


def analyze(
    model: Source, batch_size: int | None = 1, input_shapes: Any = None, num_cores: int | None = None
) -> Analysis:
    """Look at a model. Free sizes get usual values; operations and times are those of this size on so many cores."""
    imported = import_model(model)
    graph = _sized(imported.graph, batch_size, input_shapes)
    limits = machine.measure(resolve_cores(num_cores))
    found = list(_walk(graph, None))
    weights = {w.name: w for w in (weight_of(node, scope) for node, scope, _ in found) if w is not None}
    model_bytes = sum(w.nbytes for w in weights.values())
    patterns = {name: detect(w.zeros) for name, w in weights.items()}
    layers = [_layer(node, scope, shapes, patterns, model_bytes, limits) for node, scope, shapes in found]
    kept = [x for x in layers if x is not None]
    return Analysis(
        model=str(imported.path or ""),
        input_shapes={n: shape for n in graph.inputs if (shape := Shapes(graph, {})(n)) is not None},
        layers=tuple(layer for layer, _ in kept),
        parameters=_parameters(graph, weights),
        weight_elements=sum(w.elements for w in weights.values()),
        weight_zeros=sum(p.zeros for p in patterns.values()),
        quantised_elements=sum(w.elements for w in weights.values() if w.bits <= 8),
        limits=limits,
        advice=tuple(advise([c for _, c in kept if c is not None], limits)),
    )


def _sized(graph: Graph, batch_size: int | None, input_shapes: Any) -> Graph:
    """The graph with a number for every size; sizes stay free when the model accepts no usual ones."""
    shapes = parse_shapes(graph.inputs, input_shapes)
    if batch_size is not None:
        shapes = {name: [batch_size, *sizes[1:]] for name, sizes in shapes.items()}
    declared = specialize(graph, input_shapes=shapes, batch_size=batch_size)
    try:
        usual = {name: shape for name, (_, shape) in usual_shapes(input_specs(declared)).items()}
        return specialize(declared, input_shapes=usual)
    except (ModelError, InputError) as error:
        debug(1, f"operations stay unknown, give input shapes: {error}")
        return declared


def _walk(graph: Graph, outer: Scope | None) -> Iterator[tuple[Node, Scope, Shapes]]:
    """Every node, those of subgraphs included."""
    scope, shapes = Scope.of(graph, outer), Shapes(graph, {})
    for node in graph.nodes:
        yield node, scope, shapes
        for _, body in node.subgraphs():
            yield from _walk(body, scope)


def _layer(
    node: Node,
    scope: Scope,
    shapes: Shapes,
    patterns: Mapping[str, Pattern],
    model_bytes: int,
    limits: Limits,
) -> tuple[Layer, Candidate | None] | None:
    """The layer, and how advice sees it when its weight is multiplied; None for a node that does no arithmetic."""
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        return None
    weight, total = weight_of(node, scope), operations(node, shapes)
    if weight is None and not total:
        return None
    name = node.origin.name or next((o for o in node.outputs if o), "")
    moved = sum(shapes.nbytes(n) for n in (*node.inputs, *node.outputs) if n and n not in scope.constants)
    load = _load(weight, total or 0, moved, model_bytes)
    if weight is None:
        us = least_time(load, limits).us
        return Layer(name, node.op, 0, total, (), "", False, None, us, {}), None
    pattern = patterns[weight.name]
    integers = weight.bits <= 8 and weight.quantised_data
    if WEIGHTED[node.key].form == "table":
        us = least_time(dataclasses.replace(load, weight_bytes=0), limits).us
        layer = Layer(name, node.op, weight.elements, 0, weight.zeros.shape, weight.precision, False, pattern, us, {})
        return layer, None
    shape = tuple(int(n) for n in weight.zeros.shape)
    if total is None:
        return Layer(name, node.op, weight.elements, None, shape, weight.precision, integers, pattern, 0.0, {}), None
    times = predictions(load, pattern.sparsity, pattern.blocks.get("1x4", 0.0), limits)
    now = times[encoding_now(integers).name]
    layer = Layer(name, node.op, weight.elements, total, shape, weight.precision, integers, pattern, now, times)
    return layer, Candidate(name, (shape[0], shape[2]), pattern, load, integers, now, times)


def _load(weight: Weight | None, total: int, moved: int, model_bytes: int) -> Load:
    if weight is None:
        return Load(total, 0, 0, moved, 0)
    return Load(total, weight.elements, weight.nbytes, moved, model_bytes)


def _parameters(graph: Graph, weights: Mapping[str, Weight]) -> int:
    """Numbers that training made: layers' weights, and every other constant of a floating type."""
    rest: dict[str, int] = {}
    for scope in _graphs(graph):
        rest |= {n: a.size for n, a in scope.constants.items() if n not in weights and a.dtype.kind not in "iubOUS"}
    return sum(w.elements for w in weights.values()) + sum(rest.values())


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        for _, body in node.subgraphs():
            yield from _graphs(body)
