"""Binding: from a node on, as many nodes as their sizes allow become one chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dims import evaluate, parse_dim
from skipjack.core.dtypes import DType
from skipjack.core.limits import check_allocation
from skipjack.ir.graph import ONNX, SKIPJACK, Graph, Node, reads
from skipjack.ir.types import TensorType
from skipjack.kernels.launch import Bound, Lowering, Place, Work, lowerings
from skipjack.kernels.sizes import sizes_of_input
from skipjack.runtime.aliases import aliased_bytes
from skipjack.runtime.chunk import Buffer, Buffers, Chunk, Row
from skipjack.runtime.shapes import Sizes, output_shapes
from skipjack.runtime.weights import Weights
from skipjack.select.choose import Choice, Plan
from skipjack.select.rates import Rates, corrected_us

_NOWHERE = Place(-1)
_KNOWN_ELEMENTS = 4096


@dataclass(frozen=True)
class Alias:
    """A value that lies in another one's memory."""

    root: str
    offset_bytes: int


def last_reads(graph: Graph) -> dict[str, int]:
    """Value name -> the index of the last node that reads it; graph outputs are read after the end."""
    found = {name: i for i, node in enumerate(graph.nodes) for name in reads(node)}
    return {**found, **dict.fromkeys(graph.outputs, len(graph.nodes))}


def parameter_names(plan: Plan) -> frozenset[str]:
    """Values that some lowering needs to know, and the values those are renamed from."""
    names: set[str] = set()
    for node, choice in zip(reversed(plan.graph.nodes), reversed(plan.choices), strict=True):
        if node.domain == ONNX and node.op in KEEPS_VALUES and node.outputs[0] in names:
            names.add(node.inputs[0])
        for way in choice.candidates:
            names |= {node.inputs[i] for i in way.parameters if i < len(node.inputs)}
    return frozenset(names - set(plan.graph.constants) - {""})


_SIZES = frozenset({(ONNX, "Shape"), (ONNX, "Size")})
KEEPS_VALUES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


class Binder:
    """Builds chunks of one plan."""

    def __init__(self, plan: Plan, weights: Weights) -> None:
        self.plan = plan
        self.graph: Graph = plan.graph
        self.weights = weights
        self.last_read = last_reads(plan.graph)
        self.outputs = frozenset(plan.graph.outputs)
        self.parameters = parameter_names(plan)

    def bind(self, start: int, live: Mapping[str, np.ndarray], sizes: Sizes, stop: int, part: bool = False) -> Chunk:
        """The chunk that begins at node start and ends before stop; live holds the arrays of values made before it.

        A part is one of several runs over a batch: every value that leaves it is given its memory from outside.
        """
        return _Builder(self, (start, stop), live, sizes, part).build()


class _Builder:
    def __init__(
        self, binder: Binder, span: tuple[int, int], live: Mapping[str, np.ndarray], sizes: Sizes, part: bool
    ) -> None:
        self.b = binder
        self.graph = binder.graph
        self.start, self.stop = span
        self.part = part
        self.sizes = sizes
        self.buffers = Buffers(binder.weights)
        self.bound: dict[str, Bound] = {}
        self.alias: dict[str, Alias] = {}
        self.places: dict[str, Place] = {}
        self.work: list[tuple[int, Work]] = []
        self.sized: dict[str, np.ndarray] = {}
        self.live = live
        for name, array in live.items():
            known = array if name in binder.parameters else None
            t = self.graph.types[name]
            assert isinstance(t, TensorType), f"value {name!r} reached a kernel without a tensor type"
            shape = sizes.shape(t) if t.layout.kind != "plain" else array.shape
            assert shape is not None, f"the sizes of {name!r} are not known after it was made"
            self.bound[name] = Bound(name, DType.from_numpy(array.dtype), shape, _NOWHERE, t.layout, known)

    def build(self) -> Chunk:
        end = self.start
        while end < self.stop and self.admit(end):
            end += 1
        self.end = end
        self.join_concats()
        rows = self.lower()
        chunk = Chunk((self.start, end), self.buffers, rows, self.b.plan.target)
        chunk.shapes = {n: self.placed(n) for n in self.made() if n in self.b.outputs or self.escapes(n)}
        chunk.constants = self.sized
        for name, b in chunk.shapes.items():
            if not self.buffers.items[b.place.buffer].external:
                chunk.views[name] = _view(chunk.address(b.place), b, chunk)
        return chunk

    def made(self) -> list[str]:
        return [o for _, w in self.work for o in w.node.outputs if o]

    def escapes(self, name: str) -> bool:
        return self.b.last_read.get(name, -1) >= self.end

    def leaves(self, name: str) -> bool:
        """Whether the value gets its memory from outside at each run."""
        if name in self.graph.constants:
            return False
        return name in self.b.outputs or (self.part and self.b.last_read.get(name, -1) >= self.stop)

    def admit(self, index: int) -> bool:
        """Take the node into the chunk; False when it must wait for values of this chunk or runs on the host."""
        node, choice = self.graph.nodes[index], self.b.plan.choices[index]
        if node.key == (SKIPJACK, "SizeVector"):
            self.size_vector(node)
            return True
        if choice.on_host:
            return False
        inputs = [self.of(n) for n in node.inputs]
        needed = {p for way in choice.candidates for p in way.parameters}
        if any(i < len(inputs) and (b := inputs[i]) is not None and b.value is None for i in needed):
            return False
        shapes = output_shapes(self.graph, node, inputs, self.sizes)
        if shapes is None:
            return False
        outputs = [self.output(n, s) for n, s in zip(node.outputs, shapes, strict=True)]
        work = Work(node, inputs, outputs, self.buffers, self.b.plan.target, self.b.plan.threads)
        self.work.append((index, work))
        for i, name in enumerate(node.outputs):
            offset = aliased_bytes(work, i) if name else None
            if offset is not None:
                self.share(work, name, offset)
        self.propagate(work)
        return True

    def of(self, name: str) -> Bound | None:
        if not name:
            return None
        if name not in self.bound:
            array = self.b.weights.plain(name)
            self.bound[name] = Bound(name, DType.from_numpy(array.dtype), array.shape, _NOWHERE, value=array)
        return self.bound[name]

    def output(self, name: str, shape: tuple[int, ...]) -> Bound | None:
        if not name:
            return None
        t = self.graph.types[name]
        assert isinstance(t, TensorType), f"value {name!r} reached a kernel without a tensor type"
        b = Bound(name, t.dtype, shape, _NOWHERE, t.layout)
        check_allocation(b.nbytes, 1, f"value {name!r} of shape {list(shape)}")
        self.bound[name] = b
        return b

    def propagate(self, work: Work) -> None:
        """Sizes, and small integers that only changed their shape, are known."""
        if work.node.key in _SIZES:
            self.bound[work.output().name] = _with(work.output(), value=self.b.weights.table(sizes_of_input(work)))
        if work.node.domain == ONNX and work.node.op in KEEPS_VALUES:
            source, made = work.input(0), work.output()
            if source.value is not None and made.elements <= _KNOWN_ELEMENTS:
                self.bound[made.name] = _with(made, value=np.asarray(source.value).reshape(made.shape))

    def size_vector(self, node: Node) -> None:
        texts, dtype = node.attrs["dims"], DType(str(node.attrs["dtype"]))
        shape = node.attrs.get("shape", ())
        assert isinstance(texts, tuple), "dims of a SizeVector is a tuple of texts"
        numbers = [evaluate(parse_dim(str(t)), self.sizes.known) for t in texts]
        array = self.b.weights.table(np.array(numbers, dtype.np).reshape(shape))  # type: ignore[arg-type]
        name = node.outputs[0]
        self.bound[name] = Bound(name, dtype, array.shape, _NOWHERE, value=array)
        self.sized[name] = array

    def share(self, work: Work, name: str, offset: int) -> None:
        """Let a renamed output lie in its input's memory.

        For a graph output the input lies in the output's, if it can.
        """
        source = self._resolved(work.node.inputs[0])
        if not self.leaves(name):
            self.rename(name, source.root, source.offset_bytes + offset)
            return
        root = self.bound[source.root]
        ours = any(source.root in w.node.outputs for _, w in self.work) and not self.leaves(source.root)
        if ours and source.offset_bytes + offset == 0 and root.nbytes == self.bound[name].nbytes:
            self.rename(source.root, name, 0)

    def rename(self, name: str, source: str, offset: int) -> None:
        self.alias[name] = Alias(source, offset)

    def join_concats(self) -> None:
        """Let inputs of a concatenation along the outermost axis be made where they will lie."""
        made_here = {o for _, w in self.work for o in w.node.outputs if o}
        roots_used = {a.root for a in self.alias.values()}
        for _, work in self.work:
            if work.node.key != (ONNX, "Concat"):
                continue
            offsets = _concat_offsets(work)
            names = [b.name for b in work.inputs if b is not None]
            if offsets is None or len(set(names)) != len(names) or work.output().name in self.alias:
                continue
            for b, offset in zip(work.inputs, offsets, strict=True):
                assert b is not None, "a concatenation has all its inputs"
                free = b.name in made_here and b.name not in self.alias and not self.leaves(b.name)
                if free and b.name not in roots_used:
                    self.rename(b.name, work.output().name, offset)
                    made_here.discard(b.name)
                    roots_used.add(work.output().name)

    def place(self, name: str) -> Place:
        """Where a value lies; makes the buffer of its root on first use."""
        alias = self._resolved(name)
        if alias.root not in self.places:
            self.places[alias.root] = self.make_root(alias.root)
        return self.places[alias.root].at(alias.offset_bytes)

    def _resolved(self, name: str) -> Alias:
        offset = 0
        while name in self.alias:
            offset += self.alias[name].offset_bytes
            name = self.alias[name].root
        return Alias(name, offset)

    def make_root(self, name: str) -> Place:
        b = self.bound[name]
        if name in self.live or self.leaves(name):
            return self.buffers.add(Buffer(b.nbytes, external=name))
        if b.value is not None:
            return self.buffers.hold(b.value)
        return self.buffers.add(Buffer(b.nbytes))

    def placed(self, name: str) -> Bound:
        return _with(self.bound[name], place=self.place(name))

    def lower(self) -> list[Row]:
        rows: list[Row] = []
        for index, work in self.work:
            self.buffers.step = index
            inputs = [None if b is None else self.placed(b.name) for b in work.inputs]
            outputs = [None if b is None else self.placed(b.name) for b in work.outputs]
            bound = Work(work.node, inputs, outputs, self.buffers, work.target, work.threads)
            if all(b is None or b.elements == 0 for b in outputs):
                continue
            for way, part in self.ways(index, bound):
                launches = way.lower(part)
                self.buffers.touch(launches)
                candidates = self.b.plan.choices[index].candidates
                predicted = predicted_us(candidates, part, self.b.plan.rates) if way in candidates else {}
                rows += [Row(x, index, way, predicted) for x in launches if x.units > 0]
        for name in self.made():
            if self.escapes(name) or name in self.b.outputs:
                buffer = self.buffers.items[self.place(name).buffer]
                buffer.last = max(buffer.last, self.end)
                buffer.first = min(buffer.first, self.end)
        return rows

    def ways(self, index: int, work: Work) -> list[tuple[Lowering, Work]]:
        """How this node runs: nothing when every output lies where it should, a copy when a renamed output must
        move.
        """
        aliases = [aliased_bytes(work, i) for i in range(len(work.outputs))]
        if any(a is not None for a in aliases):
            moved: list[tuple[Lowering, Work]] = []
            for i, offset in enumerate(aliases):
                o = work.outputs[i]
                if o is None or (offset is not None and work.input(0).place.at(offset) == o.place):
                    continue
                if offset is None:
                    return [(cheapest(self.b.plan.choices[index], work, self.b.plan.rates), work)]
                source = _with(work.input(0), place=work.input(0).place.at(offset), shape=o.shape)
                moved.append((_copy(), Work(work.node, [source], [o], work.memory, work.target, work.threads)))
            return moved
        return [(cheapest(self.b.plan.choices[index], work, self.b.plan.rates), work)]


def cheapest(choice: Choice, work: Work, rates: Rates) -> Lowering:
    """The first candidate where they were measured, else the one of least predicted time.

    The first, too, when one of them predicts nothing.
    """
    candidates = choice.candidates
    if len(candidates) == 1 or choice.measured or any(c.cost is None for c in candidates):
        return candidates[0]
    return min(candidates, key=lambda c: corrected_us(rates, c, work) or 0.0)


def predicted_us(candidates: tuple[Lowering, ...], work: Work, rates: Rates) -> dict[str, float]:
    """What the candidates of a node expect to take, by name; those without a cost are left out."""
    return {c.name: us for c in candidates if (us := corrected_us(rates, c, work)) is not None}


def _copy() -> Lowering:
    return lowerings(SKIPJACK, "Copy")[0]


def _with(b: Bound, **changes: object) -> Bound:
    return replace(b, **changes)  # type: ignore[arg-type]


def _view(address: int, b: Bound, chunk: Chunk) -> np.ndarray:
    """A value of the chunk's arena (or of a constant) as an array."""
    for buffer in (chunk.arena, *(x.array for x in chunk.buffers if x.array is not None)):
        start = buffer.ctypes.data
        if start <= address and address + b.nbytes <= start + buffer.nbytes:
            raw = buffer.reshape(-1).view(np.uint8)[address - start : address - start + b.nbytes]
            return raw.view(b.dtype.np).reshape(b.shape if b.layout.kind == "plain" else (-1,))
    raise AssertionError(f"the value {b.name!r} lies outside the memory of its chunk")


def _concat_offsets(work: Work) -> list[int] | None:
    """Byte offsets of the inputs in the output when they follow each other in memory, else None."""
    out = work.output()
    bounds = [b for b in work.inputs if b is not None]
    axis = int(work.attr("axis", 0)) % len(out.shape)
    if any(b.layout != out.layout or b.dtype is not out.dtype for b in bounds) or any(d != 1 for d in out.shape[:axis]):
        return None
    if out.layout.kind == "columns":
        return None
    if out.layout.kind == "blocked" and (axis != 1 or any(b.shape[1] % out.layout.block for b in bounds)):
        return None
    offsets: list[int] = []
    total = 0
    for b in bounds:
        offsets.append(total)
        total += b.nbytes
    return offsets
