"""Running a plan: chunks of kernels in one call each, host steps in Python between them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.core.errors import ResourceError
from skipjack.ir.graph import Graph
from skipjack.ir.types import TensorType
from skipjack.kernels.launch import Bound
from skipjack.ops.execute import run_node
from skipjack.runtime.address import address_of
from skipjack.runtime.bind import Binder
from skipjack.runtime.chunk import Chunk
from skipjack.runtime.direct import Direct
from skipjack.runtime.regions import Batching, Region
from skipjack.runtime.remainder import gains_from_values, remaining_graph
from skipjack.runtime.shapes import Sizes
from skipjack.runtime.team import Team
from skipjack.runtime.weights import Weights, aligned_memory
from skipjack.select.choose import Plan, plan
from skipjack.select.prices import Prices
from skipjack.targets.target import Target

_CACHED_BINDINGS = 64
_CACHED_RESTS = 16


@dataclass(frozen=True)
class Program:
    """A plan and its constants: what all streams of an engine share."""

    plan: Plan
    weights: Weights

    @staticmethod
    def of(graph: Graph, target: Target, threads: int = 1, prices: Prices | None = None) -> Program:
        chosen = plan(graph, target, threads, prices)
        return Program(chosen, Weights(chosen.graph.constants))


class Stream:
    """One run at a time of a program: its bound chunks and their memory. Not for two threads at once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = program.plan.graph
        self.binder = Binder(program.plan, program.weights)
        self.batching = Batching(program.plan)
        self._chunks: OrderedDict[tuple[Any, ...], tuple[Chunk, dict[str, int]]] = OrderedDict()
        self._bodies: dict[int, tuple[Graph, Stream]] = {}
        self._live_in = _live_in(self.graph)
        self._direct: dict[tuple[tuple[int, ...], ...], Direct] = {}
        tensors = all(isinstance(self.graph.types.get(n), TensorType) for n in self.graph.inputs)
        self._can_be_direct = tensors and not self.binder.parameters & set(self.graph.inputs)
        self._kept: dict[tuple[Any, ...], np.ndarray] = {}
        self._rests: dict[tuple[Any, ...], tuple[Stream, tuple[str, ...]] | None] = {}
        self.kernel_seconds = 0.0

    def run(self, feeds: Mapping[str, Any], team: Team, outer_sizes: Mapping[str, int] | None = None) -> list[Any]:
        """The outputs in order. feeds are C-contiguous arrays (or lists for sequences) of the declared types."""
        values = self._walk(feeds, Sizes(dict(outer_sizes or {})), team)
        return [self._output(name, values) for name in self.graph.outputs]

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Compile, pack and lay out for inputs of these shapes, up to the first host step; nothing is computed."""
        self._walk(feeds, Sizes(), None)

    def _walk(self, feeds: Mapping[str, Any], sizes: Sizes, team: Team | None) -> dict[str, Any]:
        """All values after the last node; without a team kernels do not run and the first host step ends the walk."""
        self._team = team
        values: dict[str, Any] = dict(feeds)
        for name in feeds:
            self._learn(name, values[name], sizes)
        self._fresh: set[str] = set()
        index = 0
        regions = self.batching.regions(sizes.known)
        while index < len(self.graph.nodes):
            if index in regions:
                self._run_region(regions[index], values, sizes)
                index = regions[index].end
            else:
                stop = min((r.start for r in regions.values() if r.start > index), default=len(self.graph.nodes))
                index = self._advance(index, values, sizes, stop)
        return values

    def call(self, arrays: Sequence[Any], team: Team) -> list[Any]:
        """Like run, with the inputs in order.

        Models that are one chunk take the short way once their sizes were seen.
        """
        key = tuple([a.shape for a in arrays]) if self._can_be_direct else ()
        direct = self._direct.get(key)
        try:
            if direct is not None and self._can_be_direct:
                return direct.run(arrays, team)
            outputs = self.run(dict(zip(self.graph.inputs, arrays, strict=True)), team)
        except ResourceError:
            raise
        except MemoryError as error:
            raise ResourceError(f"a value of this run does not fit in memory: {error}") from error
        self._remember(key)
        return outputs

    def _remember(self, key: tuple[tuple[int, ...], ...]) -> None:
        if not self._can_be_direct or not self._chunks:
            return
        chunk, _ = next(reversed(self._chunks.values()))
        if Direct.fits(chunk, len(self.graph.nodes), self.graph.outputs):
            if len(self._direct) >= _CACHED_BINDINGS:
                self._direct.clear()
            self._direct[key] = Direct(chunk, self.graph.inputs, self.graph.outputs)

    @property
    def can_bind_early(self) -> bool:
        """Whether the first chunk depends on the shapes of the inputs only, not on what they hold."""
        return bool(self.graph.nodes) and not self.binder.parameters & set(self.graph.inputs)

    def chunks(self) -> list[Chunk]:
        """The chunks bound so far, the most recently used last."""
        return [c for c, _ in self._chunks.values()]

    def _output(self, name: str, values: Mapping[str, Any]) -> Any:
        """A value for the caller to keep: memory that belongs to nobody else, elements of sequences excepted."""
        value = self._value(name, values)
        if name in self._fresh:
            self._fresh.discard(name)
            return value
        if isinstance(value, list):
            return list(value)
        return value.copy() if isinstance(value, np.ndarray) else value

    def _learn(self, name: str, value: Any, sizes: Sizes) -> None:
        t = self.graph.types.get(name)
        if isinstance(t, TensorType) and isinstance(value, np.ndarray) and t.layout.kind == "plain":
            sizes.learn(t, value.shape, f"value {name!r}")

    def _advance(self, index: int, values: dict[str, Any], sizes: Sizes, stop: int) -> int:
        if not self.program.plan.choices[index].on_host or not self.graph.nodes[index].inputs:
            chunk = self._chunk(index, values, sizes, stop)
            if chunk.end > index:
                self._run_chunk(chunk, values)
                return chunk.end
        if self._team is None:
            return len(self.graph.nodes)
        if gains_from_values(self.graph, self.graph.nodes[index]) and self._run_rest(index, values, sizes, self._team):
            return len(self.graph.nodes)
        self._host_step(index, values, sizes, self._team)
        return index + 1

    def _run_rest(self, index: int, values: dict[str, Any], sizes: Sizes, team: Team) -> bool:
        """Run everything from a node on as a program planned for the ranks that are known by now, when that can be."""
        live = {n: values[n] for n in self._live_in[index] if n in values}
        shapes = tuple((n, str(v.dtype), v.shape) for n, v in live.items() if isinstance(v, np.ndarray))
        key = (index, shapes, tuple(sorted(sizes.known.items())))
        if key not in self._rests:
            if len(self._rests) >= _CACHED_RESTS:
                self._rests.pop(next(iter(self._rests)))
            planned = remaining_graph(self.graph, index, live, sizes.known)
            plan = self.program.plan
            self._rests[key] = planned and (Stream(Program.of(planned[0], plan.target, plan.threads)), planned[1])
        rest = self._rests[key]
        if rest is None:
            return False
        stream, names = rest
        made = dict(zip(stream.graph.outputs, stream.run(live, team), strict=True))
        self._take_over_seconds(stream)
        for name, renamed in zip(self.graph.outputs, names, strict=True):
            if name not in values and renamed not in self.graph.constants:
                values[name] = made[renamed] if renamed in made else live[renamed]
                if renamed in made:
                    self._fresh.add(name)
        return True

    def _take_over_seconds(self, inner: Stream) -> None:
        """Count the kernel time of a stream that ran inside this one."""
        self.kernel_seconds += inner.kernel_seconds
        inner.kernel_seconds = 0.0

    def _run_region(self, region: Region, values: dict[str, Any], sizes: Sizes) -> None:
        """Run nodes on a few items of the batch at a time; what leaves the region is whole again."""
        batch = str(self.batching.batch)
        total = sizes.known[batch]
        runs = total // region.items
        shared = {n for n in self._live_in[region.start] if n not in self.batching.values}
        part = {n: v if n in shared else _items(v, runs) for n, v in values.items() if isinstance(v, np.ndarray)}
        known = Sizes({**sizes.known, batch: region.items})
        chunk = self._chunk(region.start, part, known, region.end, part=True)
        assert chunk.end == region.end, "binding ended a region of separable nodes early"
        sizes.known.update({n: v for n, v in known.known.items() if n != batch})
        values.update(chunk.constants)
        for name in chunk.externals:
            if name not in values:
                values[name] = self._whole(region, chunk.shapes[name], runs)
        steps = {n: 0 if n in shared else values[n].nbytes // runs for n in chunk.patches}
        bases = {n: address_of(values[n]) for n in chunk.patches}
        for i in range(runs):
            self._launch(chunk, {n: bases[n] + i * step for n, step in steps.items()})

    def _whole(self, region: Region, b: Bound, runs: int) -> np.ndarray:
        """Memory for a value of the whole batch; what stays inside the stream is kept for the next run."""
        if b.name in self.graph.outputs:
            self._fresh.add(b.name)
            return np.empty((b.shape[0] * runs, *b.shape[1:]), b.dtype.np)
        key = (b.name, b.shape, runs)
        if key not in self._kept:
            memory = aligned_memory(b.nbytes * runs).view(b.dtype.np)
            self._kept[key] = memory.reshape(b.shape[0] * runs, *b.shape[1:]) if b.layout.kind == "plain" else memory
            if len(self._kept) > _CACHED_BINDINGS:
                self._kept.pop(next(iter(self._kept)))
        return self._kept[key]

    def _chunk(self, index: int, values: Mapping[str, Any], sizes: Sizes, stop: int, part: bool = False) -> Chunk:
        live = {n: values[n] for n in self._live_in[index] if isinstance(values.get(n), np.ndarray)}
        live = {n: a for n, a in live.items() if a.dtype.kind not in "OUS"}
        parameters = tuple((n, a.tobytes()) for n, a in live.items() if n in self.binder.parameters)
        shapes = tuple((n, a.shape) for n, a in live.items())
        key = (index, stop, part, shapes, parameters, tuple(sorted(sizes.known.items())))
        if key in self._chunks:
            self._chunks.move_to_end(key)
            chunk, learned = self._chunks[key]
            sizes.known.update(learned)
            return chunk
        chunk = self.binder.bind(index, live, sizes, stop, part)
        self._chunks[key] = (chunk, dict(sizes.known))
        if len(self._chunks) > _CACHED_BINDINGS:
            self._chunks.popitem(last=False)
        return chunk

    def _run_chunk(self, chunk: Chunk, values: dict[str, Any]) -> None:
        values.update(chunk.constants)
        for name in chunk.externals:
            if name not in values:
                b = chunk.shapes[name]
                values[name] = np.empty(b.shape, b.dtype.np)
                self._fresh.add(name)
        for name, b in chunk.shapes.items():
            if name not in values or name in chunk.views:
                values[name] = chunk.views[name] if name in chunk.views else _part_of(values, chunk, b)
        self._launch(chunk, {name: values[name].ctypes.data for name in chunk.patches})

    def _launch(self, chunk: Chunk, addresses: dict[str, int]) -> None:
        """One call of a chunk. Together with _host_step all that a run computes: what measures a run overrides both."""
        if self._team is None:
            return
        start = perf_counter()
        chunk.run(self._team, addresses)
        self.kernel_seconds += perf_counter() - start

    def _host_step(self, index: int, values: dict[str, Any], sizes: Sizes, team: Team) -> None:
        node = self.graph.nodes[index]
        inputs = [self._value(n, values) if n else None for n in node.inputs]

        def run_body(body: Graph, arguments: Sequence[Any]) -> list[Any]:
            stream = self._body(body)
            captured = {n: self._value(n, values) for n in body.captured}
            feeds = {**captured, **dict(zip(body.inputs, arguments, strict=True))}
            outputs = stream.run({n: _contiguous(v) for n, v in feeds.items()}, team, sizes.known)
            self._take_over_seconds(stream)
            return outputs

        results = run_node(node, inputs, run_body)
        for name, value in zip(node.outputs, results):
            if name:
                values[name] = self._stored(name, _detached(value, inputs))
                self._learn(name, values[name], sizes)

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        return values[name] if name in values else self.program.weights.plain(name)

    def _stored(self, name: str, value: Any) -> Any:
        t = self.graph.types.get(name)
        if isinstance(t, TensorType) and isinstance(value, np.ndarray | np.generic) and t.dtype is not DType.STRING:
            return np.ascontiguousarray(value, t.dtype.np).reshape(np.shape(value))
        return value

    def _body(self, body: Graph) -> Stream:
        if id(body) not in self._bodies:
            inputs = tuple(dict.fromkeys((*body.inputs, *body.captured)))
            types = {n: self.graph.types[n] for n in body.captured if n in self.graph.types}
            whole = Graph(body.name, inputs, body.outputs, body.nodes, {**types, **body.types}, body.constants)
            self._bodies[id(body)] = (
                body,
                Stream(Program.of(whole, self.program.plan.target, self.program.plan.threads)),
            )
        return self._bodies[id(body)][1]


def _items(array: np.ndarray, runs: int) -> np.ndarray:
    """The first of `runs` equal parts along the first dimension."""
    return array[: len(array) // runs]


def _part_of(values: Mapping[str, Any], chunk: Chunk, b: Bound) -> np.ndarray:
    """A value that lies in the memory of an external one."""
    owner: np.ndarray = values[chunk.buffers[b.place.buffer].external]
    raw = owner.reshape(-1).view(np.uint8)[b.place.offset_bytes : b.place.offset_bytes + b.nbytes]
    return raw.view(b.dtype.np).reshape(b.shape)


def _detached(value: Any, inputs: Sequence[Any]) -> Any:
    """A sequence without elements that lie in the memory of an input array, which the next run may overwrite."""
    if not isinstance(value, list):
        return value
    arrays = [x for x in inputs if isinstance(x, np.ndarray)]
    return [e.copy() if any(_overlap(e, a) for a in arrays) else e for e in value]


def _overlap(element: Any, array: np.ndarray) -> bool:
    return isinstance(element, np.ndarray) and np.may_share_memory(element, array)


def _contiguous(value: Any) -> Any:
    return np.ascontiguousarray(value).reshape(np.shape(value)) if isinstance(value, np.ndarray | np.generic) else value


def _live_in(graph: Graph) -> list[tuple[str, ...]]:
    """For every node: the values made before it (inputs too) that it or a later node reads, or that leave the graph."""
    needed: set[str] = set(graph.outputs)
    found: list[tuple[str, ...]] = []
    for node in reversed(graph.nodes):
        needed -= set(node.outputs)
        for _, body in node.subgraphs():
            needed |= set(body.captured)
        needed |= {n for n in node.inputs if n}
        found.append(tuple(sorted(needed - set(graph.constants))))
    return found[::-1]
