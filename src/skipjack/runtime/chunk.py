"""A chunk: consecutive nodes bound to sizes, ready to run in one call. Memory is laid out, arguments are addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from skipjack.codegen.objects import Code, load
from skipjack.core.limits import check_allocation
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Place, float_word
from skipjack.runtime.arena import Interval, place_intervals
from skipjack.runtime.team import Team
from skipjack.runtime.walker import ROW_WORDS
from skipjack.runtime.weights import Weights, aligned_memory
from skipjack.targets.target import Target


@dataclass
class Buffer:
    """Memory a chunk uses: of the arena (nbytes and lifetime), fixed (a constant), or given at each run (a name)."""

    nbytes: int = 0
    first: int = 1 << 60
    last: int = -1
    array: np.ndarray | None = None
    external: str = ""
    offset: int = 0

    @property
    def in_arena(self) -> bool:
        return self.array is None and not self.external


@dataclass
class Buffers:
    """The buffers of a chunk being built, and the Memory its lowerings see."""

    weights: Weights
    items: list[Buffer] = field(default_factory=list[Buffer])
    step: int = 0
    fixed: dict[int, int] = field(default_factory=dict[int, int])

    def add(self, buffer: Buffer) -> Place:
        self.items.append(buffer)
        return Place(len(self.items) - 1)

    def temporary(self, nbytes: int) -> Place:
        return self.add(Buffer(nbytes=nbytes, first=self.step, last=self.step))

    def hold(self, array: np.ndarray) -> Place:
        """The place of an array that does not move."""
        address = array.ctypes.data
        if address not in self.fixed or not array.nbytes:
            self.fixed[address] = self.add(Buffer(array.nbytes, array=array)).buffer
        return Place(self.fixed[address])

    def packed(self, source: Bound, recipe: str, pack: Callable[[np.ndarray], np.ndarray]) -> Place:
        return self.hold(self.weights.packed(source.name, recipe, pack))

    def constant(self, array: np.ndarray) -> Place:
        return self.hold(self.weights.table(array))

    def touch(self, launches: Sequence[Launch]) -> None:
        """Record that the buffers of these launches are alive at the current step."""
        for launch in launches:
            for word in (*launch.words, *launch.reads, *launch.writes):
                if isinstance(word, Place):
                    b = self.items[word.buffer]
                    b.first, b.last = min(b.first, self.step), max(b.last, self.step)


@dataclass(frozen=True)
class Row:
    """One launch of a chunk and what it came from."""

    launch: Launch
    node: int
    lowering: Lowering
    predicted_us: Mapping[str, float]
    """Lowering name -> predicted time, of those candidates of the node that predict one."""


@dataclass(frozen=True)
class Patch:
    """Argument words that hold an address given at each run: word indices and byte offsets."""

    words: np.ndarray
    offsets: np.ndarray


class Chunk:
    """Bound nodes [start, end). One run at a time."""

    def __init__(self, span: tuple[int, int], buffers: Buffers, rows: list[Row], target: Target) -> None:
        self.start, self.end = span
        self.rows = rows
        self.buffers = buffers.items
        self._lay_out()
        self.kernels = load([r.launch.spec for r in rows], target)
        self._fill(self.kernels.codes)
        self.externals = [b.external for b in self.buffers if b.external]
        self.views: dict[str, np.ndarray] = {}
        self.shapes: dict[str, Bound] = {}
        self.constants: dict[str, np.ndarray] = {}

    def _lay_out(self) -> None:
        arena = [b for b in self.buffers if b.in_arena]
        offsets, total = place_intervals([Interval(b.nbytes, b.first, max(b.last, b.first)) for b in arena])
        held = sum(b.nbytes for b in self.buffers if b.array is not None)
        check_allocation(total + held, 1, "the values and constants of one run")
        self.arena = aligned_memory(total + 64)
        for b, offset in zip(arena, offsets, strict=True):
            b.offset = offset

    def _fill(self, codes: Mapping[KernelSpec, Code]) -> None:
        words: list[int] = []
        patches: dict[str, list[tuple[int, int]]] = {}
        starts: list[int] = []
        for row in self.rows:
            starts.append(len(words))
            for word in row.launch.words:
                if isinstance(word, Place) and (name := self.buffers[word.buffer].external):
                    patches.setdefault(name, []).append((len(words), word.offset_bytes))
                    words.append(0)
                else:
                    words.append(self._resolve(word))
        self.words = np.array(words, np.int64)
        self.table = np.zeros((len(self.rows), ROW_WORDS), np.int64)
        needs_barrier = self._barriers()
        self.scratch_bytes = 64
        for i, row in enumerate(self.rows):
            code = codes[row.launch.spec]
            self.table[i] = (code.address, self.words.ctypes.data + 8 * starts[i], row.launch.units, needs_barrier[i])
            self.scratch_bytes = max(self.scratch_bytes, code.scratch_bytes, row.launch.scratch_bytes)
        self._codes = codes
        self.patches = {
            name: Patch(np.array([w for w, _ in p]), np.array([o for _, o in p], np.int64))
            for name, p in patches.items()
        }

    def _resolve(self, word: int | float | Place) -> int:
        if isinstance(word, Place):
            return self.address(word)
        return float_word(word) if isinstance(word, float) else int(word)

    def address(self, place: Place) -> int:
        """The address of a place that is not external."""
        b = self.buffers[place.buffer]
        base = self.arena.ctypes.data + b.offset if b.array is None else b.array.ctypes.data
        return base + place.offset_bytes

    def _range(self, place: Place) -> tuple[str, int, int] | None:
        b = self.buffers[place.buffer]
        if b.array is not None:
            return None
        return (b.external, 0, 1) if b.external else ("", b.offset, b.offset + max(b.nbytes, 1))

    def _barriers(self) -> list[bool]:
        """A barrier stands before a row that reads or writes what others wrote, or writes what others read, since the
        last.
        """
        flags: list[bool] = []
        reads: list[tuple[str, int, int]] = []
        writes: list[tuple[str, int, int]] = []
        for row in self.rows:
            r = [x for p in row.launch.reads if (x := self._range(p))]
            w = [x for p in row.launch.writes if (x := self._range(p))]
            conflict = _overlap(r, writes) or _overlap(w, writes) or _overlap(w, reads)
            if conflict:
                reads, writes = [], []
            flags.append(conflict)
            reads += r
            writes += w
        return flags

    def run(self, team: Team, externals: dict[str, int], stamps: np.ndarray | None = None) -> None:
        """Run on a team with the addresses of the external values.

        stamps receives a cycle count before each row and at the end.
        """
        for name, patch in self.patches.items():
            self.words[patch.words] = patch.offsets + externals[name]
        team.run(self.table, self.scratch_bytes, stamps)


def _overlap(a: list[tuple[str, int, int]], b: list[tuple[str, int, int]]) -> bool:
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)
