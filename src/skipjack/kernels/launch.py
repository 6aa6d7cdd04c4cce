"""How a node becomes calls of kernels: the vocabulary between kernels and the run time.

A lowering looks at one node whose sizes are numbers and answers with launches. A launch names a kernel (a generator
and its parameters, compiled once and shared), how many units of work there are, and the words of its argument block.
The run time owns memory: a lowering asks it for temporaries and packed constants and gets places, which become
addresses later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Node
from skipjack.ir.types import PLAIN, Layout, TensorType
from skipjack.lang.program import Program
from skipjack.targets.target import Target


@dataclass(frozen=True)
class KernelSpec:
    """Which kernel: the name of a registered generator and its (hashable, repr-stable) parameters."""

    generator: str
    params: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Place:
    """Memory that has no address yet: a buffer of the run time and an offset into it."""

    buffer: int
    offset_bytes: int = 0

    def at(self, offset_bytes: int) -> Place:
        return Place(self.buffer, self.offset_bytes + offset_bytes)


Word = int | float | Place


def float_word(x: float) -> int:
    """The argument word that a field of type F32 reads as x."""
    return struct.unpack("<I", struct.pack("<f", x))[0]


def double_word(x: float) -> int:
    """The argument word that a field of type F64 reads as x."""
    return struct.unpack("<q", struct.pack("<d", x))[0]


@dataclass(frozen=True)
class Launch:
    """One table entry. words follow the kernel's fields; a float is stored as F32. Threads share [0, units).

    reads and writes are the places it touches (any offset of a buffer stands for the whole buffer). scratch_bytes is
    what each thread needs.
    """

    spec: KernelSpec
    units: int
    words: tuple[Word, ...]
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]
    scratch_bytes: int = 0


@dataclass(frozen=True)
class Bound:
    """A value whose sizes are numbers. Plain tensors are C-contiguous at their place; others lie as Layout says.

    value is its array when it is a constant of the graph.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    place: Place
    layout: Layout = PLAIN
    value: np.ndarray | None = None

    @property
    def elements(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        """Bytes it takes in its layout."""
        return self.layout.elements(self.shape) * self.dtype.itemsize


class Memory(Protocol):
    """What the run time offers to a lowering."""

    def temporary(self, nbytes: int) -> Place:
        """Uninitialised, 64-byte aligned memory that lives for this node only."""
        ...

    def packed(self, source: Bound, recipe: str, pack: Callable[[np.ndarray], np.ndarray]) -> Place:
        """The constant `source` rearranged by pack; made once per (source, recipe) and shared by all runs and sizes."""
        ...

    def constant(self, array: np.ndarray) -> Place:
        """A read-only table (offsets, coefficients) with this content."""
        ...


@dataclass(frozen=True)
class Work:
    """One node with numbers for sizes: what a lowering sees. An absent input or unused output is None.

    threads is how many share the units at most: a hint for how finely to cut, never for what is computed.
    """

    node: Node
    inputs: Sequence[Bound | None]
    outputs: Sequence[Bound | None]
    memory: Memory
    target: Target
    threads: int = 1

    def attr(self, name: str, default: Any = None) -> Any:
        return self.node.attrs.get(name, default)

    def input(self, index: int) -> Bound:
        """An input that must be there."""
        b = self.inputs[index] if index < len(self.inputs) else None
        assert b is not None, f"{self.node.origin}: lowering needs input {index}"
        return b

    def output(self, index: int = 0) -> Bound:
        """An output that must be there."""
        b = self.outputs[index]
        assert b is not None, f"{self.node.origin}: lowering needs output {index}"
        return b

    def maybe(self, index: int) -> Bound | None:
        """An optional input."""
        return self.inputs[index] if index < len(self.inputs) else None


@dataclass(frozen=True)
class Site:
    """One node before sizes are known: what a lowering's `accepts` sees. types have symbolic shapes."""

    node: Node
    inputs: Sequence[TensorType | None]
    outputs: Sequence[TensorType | None]
    constants: Sequence[np.ndarray | None]
    target: Target


@dataclass(frozen=True)
class Lowering:
    """One way to run one kind of node.

    accepts: empty when it can run the node at every size, else the reason why not. lower: its launches (none for a node
    that only renames memory is allowed when the run time aliased it). layouts: the kind of layout (kernels/kinds.py) of
    all data it reads and makes, or "a>b": input 0 in kind a, everything else in kind b. Constants and vectors are
    always plain. cost: predicted microseconds on one thread; None when it moves memory and little else. It may look at
    the features, spatial sizes and values of constants, never at the batch, so that a sample's bits do not depend on
    its batch mates. rank decides between ways of one layout kind when one has no cost. parameters: inputs whose values
    lower() needs (`Bound.value`), such as the axes of a Slice; when they depend on data the run time computes them
    first. encoding: how it stores the zeros of a constant weight, for people.
    """

    name: str
    domain: str
    op: str
    accepts: Callable[[Site], str]
    lower: Callable[[Work], list[Launch]]
    layouts: str = "plain"
    rank: int = 0
    cost: Callable[[Work], float] | None = None
    parameters: tuple[int, ...] = ()
    encoding: str = "dense"

    @property
    def label(self) -> str:
        """The name, with the layouts where they are not plain: tells the ways of one node apart."""
        return self.name if self.layouts == "plain" else f"{self.name} ({self.layouts})"

    @property
    def is_last_resort(self) -> bool:
        """Whether its predictions are large on purpose, so that it is taken only where nothing else runs a node."""
        return self.rank < 0


Generator = Callable[..., Program]
_GENERATORS: dict[str, Generator] = {}
_LOWERINGS: dict[tuple[str, str], list[Lowering]] = {}


def generator(name: str) -> Callable[[Generator], Generator]:
    """Register a kernel generator: f(target, symbol, *params) -> Program."""

    def add(f: Generator) -> Generator:
        assert name not in _GENERATORS, f"kernel generator {name!r} is defined twice"
        _GENERATORS[name] = f
        return f

    return add


def trace(spec: KernelSpec, target: Target, symbol: str) -> Program:
    """The program of a kernel."""
    return _GENERATORS[spec.generator](target, symbol, *spec.params)


def lowering(entry: Lowering) -> Lowering:
    """Register a way to run (domain, op); higher rank is preferred when costs do not decide."""
    _LOWERINGS.setdefault((entry.domain, entry.op), []).append(entry)
    return entry


def lowerings(domain: str, op: str) -> list[Lowering]:
    """All ways to run an operator, best rank first."""
    return sorted(_LOWERINGS.get((domain, op), []), key=lambda e: -e.rank)


@dataclass
class Plainly:
    """A Memory for tests: every place is a numpy array."""

    arrays: list[np.ndarray] = field(default_factory=list[np.ndarray])

    def hold(self, array: np.ndarray) -> Place:
        """A place for an array."""
        self.arrays.append(array)
        return Place(len(self.arrays) - 1)

    def temporary(self, nbytes: int) -> Place:
        return self.hold(np.full(nbytes + 64, 0xFF, np.uint8))

    def packed(self, source: Bound, recipe: str, pack: Callable[[np.ndarray], np.ndarray]) -> Place:
        assert source.value is not None, f"{source.name} is not a constant"
        return self.hold(np.ascontiguousarray(pack(source.value)))

    def constant(self, array: np.ndarray) -> Place:
        return self.hold(np.ascontiguousarray(array))

    def address(self, place: Place) -> int:
        return self.arrays[place.buffer].ctypes.data + place.offset_bytes
