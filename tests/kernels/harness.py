"""Run one node through one lowering, with guard pages around every buffer and NaN in what is not written."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from skipjack.codegen.jit import Library, compile_here
from skipjack.core.dtypes import DType
from skipjack.ir.graph import Node
from skipjack.ir.types import PLAIN, Layout
from skipjack.kernels.kinds import kind_of_input, kind_of_outputs, layout_of
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Place, Work, float_word, trace
from skipjack.lang import interpreter
from skipjack.targets.instructions import meanings
from skipjack.targets.target import AVX2, AVX512, Target, host, runnable

_PAGE = mmap.PAGESIZE
_libraries: dict[tuple[str, KernelSpec], tuple[Library, int]] = {}
_libc = ctypes.CDLL(None, use_errno=True)


class GuardedMemory:
    """Every buffer ends right before a page that may not be touched."""

    def __init__(self) -> None:
        self.addresses: list[int] = []
        self._keep: list[mmap.mmap] = []

    def reserve(self, nbytes: int, fill: int = 0xFF) -> Place:
        """A buffer of nbytes, filled with 0xFF (NaN for floats), its end at the guard page up to 64-byte alignment of
        its start.
        """
        room = -(-nbytes // 64) * 64
        pages = -(-max(room, 1) // _PAGE)
        m = mmap.mmap(-1, (pages + 1) * _PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(m))
        _libc.mprotect(ctypes.c_void_p(base + pages * _PAGE), ctypes.c_size_t(_PAGE), 0)
        self._keep.append(m)
        start = base + pages * _PAGE - room
        ctypes.memset(start, fill, room)
        self.addresses.append(start)
        return Place(len(self.addresses) - 1)

    def put(self, array: np.ndarray) -> Place:
        a = np.ascontiguousarray(array)
        place = self.reserve(a.nbytes)
        ctypes.memmove(self.address(place), a.ctypes.data, a.nbytes)
        return place

    def temporary(self, nbytes: int) -> Place:
        return self.reserve(nbytes)

    def packed(self, source: Bound, recipe: str, pack) -> Place:
        assert source.value is not None, f"{source.name} is not a constant"
        return self.put(pack(source.value))

    def constant(self, array: np.ndarray) -> Place:
        return self.put(array)

    def address(self, place: Place) -> int:
        return self.addresses[place.buffer] + place.offset_bytes

    def read(self, place: Place, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
        n = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return np.frombuffer(ctypes.string_at(self.address(place), n), dtype).reshape(shape).copy()


def to_blocked(x: np.ndarray, block: int) -> np.ndarray:
    """[N, C, spatial] to [N, C/block, spatial, block], channels padded with zeros."""
    n, c, *s = x.shape
    blocks = -(-c // block)
    padded = np.zeros((n, blocks * block, *s), x.dtype)
    padded[:, :c] = x
    return np.ascontiguousarray(np.moveaxis(padded.reshape(n, blocks, block, *s), 2, -1))


def to_columns(x: np.ndarray, layout: Layout) -> np.ndarray:
    """[..., F] to [positions/block, F/pack, block, pack]; features padded with zeros, positions with 0xFF bytes."""
    rows = x.reshape(int(np.prod(x.shape[:-1], dtype=np.int64)), x.shape[-1])
    tiles, groups = -(-len(rows) // layout.block), -(-rows.shape[1] // layout.pack)
    padded = np.zeros((tiles * layout.block, groups * layout.pack), x.dtype)
    padded[len(rows) :] = np.frombuffer(b"\xff" * x.itemsize, x.dtype)[0]
    padded[: len(rows), : rows.shape[1]] = rows
    return np.ascontiguousarray(padded.reshape(tiles, layout.block, groups, layout.pack).transpose(0, 2, 1, 3))


def arranged(x: np.ndarray, layout: Layout) -> np.ndarray:
    """A plain array in a layout."""
    if layout.kind == "blocked":
        return to_blocked(x, layout.block)
    return to_columns(x, layout) if layout.kind == "columns" else x


def restored(raw: np.ndarray, layout: Layout, shape: Sequence[int]) -> np.ndarray:
    """The plain array of memory in a layout."""
    if layout.kind == "blocked":
        n, c, *s = shape
        return from_blocked(raw.reshape(n, -(-c // layout.block), *s, layout.block), c)
    if layout.kind == "columns":
        features, positions = shape[-1], int(np.prod(shape[:-1], dtype=np.int64))
        count, groups = -(-positions // layout.block), -(-features // layout.pack)
        tiles = raw.reshape(count, groups, layout.block, layout.pack).transpose(0, 2, 1, 3)
        rows = tiles.reshape(count * layout.block, groups * layout.pack)
        return rows[:positions, :features].reshape(shape)
    return raw.reshape(shape)


def from_blocked(x: np.ndarray, channels: int) -> np.ndarray:
    """The inverse of to_blocked."""
    n, blocks, *s, block = x.shape
    return np.ascontiguousarray(np.moveaxis(x, -1, 2).reshape(n, blocks * block, *s)[:, :channels])


Call = Callable[[int, int, int, int], None]
_INTERPRETED_INSTRUCTIONS = 150_000
TARGETS: tuple[Target, ...] = (AVX2, AVX512)


def executes(target: Target) -> bool:
    """Whether this machine runs code for the target."""
    return any(t.name == target.name for t in runnable())


def target_id(target: Target) -> str:
    """A target in the name of a test; says so when the kernel interpreter stands in for the machine."""
    return target.name if executes(target) else f"{target.name}-interpreted"


def _compiled(spec: KernelSpec, target: Target) -> tuple[Call, int]:
    key = (target.name, spec)
    if key not in _libraries:
        program = trace(spec, target, "kernel")
        _libraries[key] = (compile_here([program], target), program.scratch_bytes)
    library, scratch = _libraries[key]
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    return call(library.address("kernel")), scratch


def _interpreted(spec: KernelSpec, target: Target) -> tuple[Call, int]:
    program = trace(spec, target, "kernel")

    def call(arguments: int, lo: int, hi: int, scratch: int) -> None:
        try:
            interpreter.run(program, arguments, lo, hi, scratch, meanings(), _INTERPRETED_INSTRUCTIONS)
        except interpreter.BudgetSpent:
            pytest.skip(f"this machine lacks {target.name}, and the case is too long for the kernel interpreter")

    return call, program.scratch_bytes


def execute(
    launches: Sequence[Launch], memory: GuardedMemory, target: Target, threads: int = 1, interpret: bool = False
) -> None:
    """Run launches one after the other, their units split into `threads` parts.

    Interpreted where the machine lacks the ISA.
    """
    for launch in launches:
        way = _interpreted if interpret or not executes(target) else _compiled
        call, scratch = way(launch.spec, target)
        words = [
            memory.address(w) if isinstance(w, Place) else float_word(w) if isinstance(w, float) else int(w)
            for w in launch.words
        ]
        block = np.array(words, dtype=np.int64)
        room = memory.reserve(max(scratch, launch.scratch_bytes, 64))
        for t in range(threads):
            lo, hi = launch.units * t // threads, launch.units * (t + 1) // threads
            if lo < hi:
                call(block.ctypes.data, lo, hi, memory.address(room))


def run_lowering(
    entry: Lowering,
    node: Node,
    inputs: Sequence[np.ndarray | None],
    out_types: Sequence[tuple[DType, tuple[int, ...]]],
    *,
    constants: Sequence[int] = (),
    target: Target | None = None,
    threads: int = 1,
    layouts: Mapping[int, Layout] | None = None,
    interpret: bool = False,
) -> list[np.ndarray]:
    """The outputs of one node run by one lowering; constants lists the inputs given as constants.

    Inputs that are not constants and outputs have the layout that the lowering's kind of layout gives them.
    """
    t = target or host()
    memory = GuardedMemory()

    bound: list[Bound | None] = []
    for i, x in enumerate(inputs):
        if x is None:
            bound.append(None)
            continue
        dtype = DType.from_numpy(x.dtype)
        natural = PLAIN if i in constants else layout_of(kind_of_input(entry.layouts, i), dtype, x.ndim, t)
        lay = (layouts or {}).get(i, natural)
        data = arranged(x, lay)
        value = x if i in constants else None
        bound.append(Bound(f"in{i}", DType.from_numpy(x.dtype), x.shape, memory.put(data), lay, value))
    outs: list[Bound] = []
    for i, (dtype, shape) in enumerate(out_types):
        lay = layout_of(kind_of_outputs(entry.layouts), dtype, len(shape), t)
        b = Bound(f"out{i}", dtype, shape, Place(0), lay)
        outs.append(Bound(b.name, dtype, shape, memory.reserve(b.nbytes), lay))
    execute(entry.lower(Work(node, bound, outs, memory, t)), memory, t, threads, interpret)
    results: list[np.ndarray] = []
    for b in outs:
        raw = memory.read(b.place, b.dtype.np, (b.layout.elements(b.shape),))
        results.append(restored(raw, b.layout, b.shape))
    return results
