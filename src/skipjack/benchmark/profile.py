"""Where the time of one run goes: per node its time, work and bytes, beside what the machine could do at most."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from skipjack.benchmark import limits as machine
from skipjack.benchmark import results
from skipjack.benchmark.limits import Limits
from skipjack.benchmark.operations import operations
from skipjack.benchmark.roofline import Load, least_time
from skipjack.benchmark.shapes import Shapes, learn
from skipjack.engine import Compiled, Engine
from skipjack.frontend.onnx_file import import_model
from skipjack.ir.graph import Node
from skipjack.ops.weights import Scope, Weight, weight_of
from skipjack.runtime.team import Team
from skipjack.session.explain import NodeReport, Report, explain
from skipjack.session.teams import resolve_cores


@dataclass(frozen=True)
class NodeProfile:
    """One node. operations counts zeros like any number, executed leaves out those its encoding skips.

    gops is the achieved rate (executed operations), dense_gops the rate of a dense kernel that would take this time;
    both in billions per second. nbytes is its inputs, weights and outputs, once each. roofline is the least time the
    measured peaks allow as a share of the time taken, bound what sets it. It exceeds 1 where a kernel needs fewer
    operations than the definition (minimal filtering of convolutions), and is None without operations or bytes.
    """

    name: str
    operator: str
    kernel: str
    encoding: str
    dtype: str
    time_us: float
    share: float
    sparsity: float | None
    operations: int
    executed: int
    nbytes: int
    gops: float
    dense_gops: float
    gb_per_s: float
    roofline: float | None
    bound: str


@dataclass(frozen=True)
class Profile:
    """One model. total_us is the wall time of the best call; nodes are in the order they run."""

    model: str
    threads: int
    total_us: float
    limits: Limits
    nodes: tuple[NodeProfile, ...]

    @property
    def operations(self) -> int:
        return sum(n.operations for n in self.nodes)

    @property
    def memory_bound_share(self) -> float:
        """The part of the time in nodes whose least time memory decides."""
        return sum(n.share for n in self.nodes if n.bound == "memory")

    @property
    def host_nodes(self) -> list[NodeProfile]:
        """Nodes without a kernel that take time."""
        return [n for n in self.nodes if n.kernel == "host"]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def profile(engine: Engine, inputs: Sequence[np.ndarray] | None = None) -> Profile:
    """Run an engine's model on one request at a time with all its cores, on these inputs or on random ones.

    Measures the peaks of the same cores in the same process when that has not been done.
    """
    arrays = list(inputs) if inputs is not None else engine.generate_random_inputs(seed=0)
    feeds = dict(zip(engine.input_names, arrays, strict=True))
    cores = resolve_cores(engine.num_cores)
    limits = machine.measure(cores)
    team = Team(len(cores), cores if len(cores) > 1 else None)
    try:
        report = explain(engine.compiled.program, feeds, team)
    finally:
        team.close()
    graph = engine.compiled.program.plan.graph
    sizes: dict[str, int] = {}
    for name, array in feeds.items():
        learn(sizes, graph, name, np.shape(array))
    for node, seen in zip(graph.nodes, report.nodes, strict=True):
        learn(sizes, graph, next((o for o in node.outputs if o), ""), seen.shape)
    nodes = _nodes(engine.compiled, report, Shapes(graph, sizes), limits)
    return Profile(engine.model_path, report.threads, report.total_us or 0.0, limits, nodes)


def profile_measured(measured: results.Report) -> Profile | None:
    """What skipjack spends its time on, at the sizes and precision that were measured; None when it did not run."""
    if not any(row.engine == "skipjack" for row in measured.rows):
        return None
    settings = measured.settings
    shapes = json.loads(settings["input_shapes"])
    batch, cores, precision = (settings[n] for n in ("batch_size", "num_cores", "precision"))
    return profile(Engine(settings["model_path"], batch, cores, input_shapes=shapes, precision=precision))


def _nodes(compiled: Compiled, report: Report, shapes: Shapes, limits: Limits) -> tuple[NodeProfile, ...]:
    graph, weights = compiled.program.plan.graph, _weights_in_file(compiled.imported.path)
    return tuple(
        _node(node, seen, weights.get(node.origin.name), shapes, report.packed_bytes, limits)
        for node, seen in zip(graph.nodes, report.nodes, strict=True)
    )


def _weights_in_file(path: Path | None) -> dict[str, Weight]:
    """Node name -> its weight, read again: a plan keeps no numbers it has packed. None for a model that is no file."""
    if path is None:
        return {}
    graph = import_model(path).graph
    scope = Scope.of(graph)
    found = ((node.origin.name, weight_of(node, scope)) for node in graph.nodes if node.origin.name)
    return {name: weight for name, weight in found if weight is not None}


def _node(
    node: Node, seen: NodeReport, weight: Weight | None, shapes: Shapes, model_bytes: int, limits: Limits
) -> NodeProfile:
    sparsity = float(weight.zeros.mean()) if weight is not None and weight.elements else None
    skips = sparsity is not None and seen.encoding not in ("", "dense")
    kept = 1.0 - sparsity if sparsity is not None and skips else 1.0
    total = (operations(node, shapes) or 0) if seen.kernel != "none" else 0
    constants = {n for n in node.inputs if shapes.is_constant(n)}
    weight_bytes = int(sum(shapes.nbytes(n) for n in constants) * kept)
    moved = [n for n in dict.fromkeys((*node.inputs, *node.outputs)) if n and n not in constants]
    activation_bytes = sum(map(shapes.nbytes, moved)) if seen.kernel != "none" else 0
    load = Load(int(total * kept), weight.elements if weight else 0, weight_bytes, activation_bytes, model_bytes)
    us = seen.measured_us or 0.0
    integers = seen.dtype in ("i8", "u8") or (weight is not None and weight.bits <= 8)
    bound = least_time(load, limits, int8=integers)
    return NodeProfile(
        name=seen.name,
        operator=seen.operator,
        kernel=seen.kernel,
        encoding=seen.encoding,
        dtype=seen.dtype,
        time_us=us,
        share=seen.share or 0.0,
        sparsity=sparsity,
        operations=total,
        executed=load.operations,
        nbytes=weight_bytes + activation_bytes,
        gops=_rate(load.operations, us),
        dense_gops=_rate(total, us),
        gb_per_s=_rate(weight_bytes + activation_bytes, us),
        roofline=bound.us / us if us and bound.us and seen.kernel != "host" else None,
        bound=bound.by if us and bound.us else "",
    )


def _rate(count: int, us: float) -> float:
    """Billions per second."""
    return 1e-3 * count / us if us else 0.0


def profile_lines(found: Profile, most: int | None = 20) -> list[str]:
    """The hottest nodes as a table, the peaks, and one sentence; most None shows every node that takes time."""
    hot = sorted((n for n in found.nodes if n.time_us > 0), key=lambda n: -n.time_us)[:most]
    width = max([len("node"), *(min(len(n.name), 48) for n in hot)])
    head = f"{'node':{width}s}  {'us':>9s} {'share':>6s} {'zeros':>6s} {'GOP/s':>7s} {'dense':>7s} {'GB/s':>6s}"
    lines = [f"{head} {'roofline':>12s}  kernel"]
    for n in hot:
        zeros = "" if n.sparsity is None else f"{n.sparsity:.1%}"
        roofline = "" if n.roofline is None else f"{n.bound} {min(n.roofline, 9.99):.0%}"
        name = n.name if len(n.name) <= 48 else "…" + n.name[-47:]
        lines.append(
            f"{name:{width}s}  {n.time_us:9.1f} {n.share:6.1%} {zeros:>6s} {n.gops:7.1f} {n.dense_gops:7.1f}"
            f" {n.gb_per_s:6.1f} {roofline:>12s}  {n.kernel}"
        )
    return [*lines, _peaks(found.limits), _sentence(found)]


def _peaks(limits: Limits) -> str:
    int8 = "" if limits.int8_gops is None else f", int8 {limits.int8_gops:.0f} GOP/s"
    memory = ", ".join(f"{x.name} {x.gb_per_s:.0f}" for x in limits.levels)
    return f"Peaks of {limits.cores} core(s): f32 {limits.f32_gflops:.0f} GFLOP/s{int8}; GB/s: {memory}"


def _sentence(found: Profile) -> str:
    text = f"{found.memory_bound_share:.0%} of the time is in nodes that memory bounds"
    operators = sorted({n.operator for n in found.host_nodes})
    if operators:
        text += f"; {len(found.host_nodes)} node(s) have no kernel ({', '.join(operators)})"
    return text + "."


def print_profile(found: Profile, most: int | None = 20, file: TextIO | None = None) -> None:
    """Print the table of `profile_lines`."""
    print("\n".join(profile_lines(found, most)), file=file or sys.stdout)
