"""Constants in memory: each once, packed once per way, shared by every run, size and stream of an engine."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from skipjack.core.errors import ResourceError
from skipjack.core.forking import ForkLock
from skipjack.runtime.platform import platform

_ALIGN = 64
_CHUNK = 32 << 20


class Weights:
    """Owns the arrays that kernels read and nobody writes."""

    def __init__(self, constants: Mapping[str, np.ndarray]) -> None:
        self._constants = constants
        for array in constants.values():
            forget_pages(array)
        self._plain: dict[str, np.ndarray] = {}
        self._packed: dict[tuple[str, str], np.ndarray] = {}
        self._tables: dict[tuple[bytes, str], np.ndarray] = {}
        self._free: np.ndarray = np.zeros(0, np.uint8)
        self._lock = ForkLock()

    def plain(self, name: str) -> np.ndarray:
        """A constant as the graph has it, contiguous; kernels read it wherever it lies, the mapped file included."""
        with self._lock:
            if name not in self._plain:
                self._plain[name] = _contiguous(self._constants[name])
            return self._plain[name]

    def packed(self, name: str, recipe: str, pack: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A constant as pack rearranges it."""
        with self._lock:
            key = (name, recipe)
            if key not in self._packed:
                self._packed[key] = self._hold(pack(self._constants[name]))
                forget_pages(self._constants[name])
            return self._packed[key]

    def table(self, array: np.ndarray) -> np.ndarray:
        """A small read-only array; equal ones share memory."""
        with self._lock:
            contiguous = _contiguous(array)
            key = (contiguous.tobytes(), str((contiguous.dtype, contiguous.shape)))
            if key not in self._tables:
                self._tables[key] = self._hold(contiguous)
            return self._tables[key]

    def _hold(self, array: np.ndarray) -> np.ndarray:
        size = -(-array.nbytes // _ALIGN) * _ALIGN + _ALIGN
        if size > self._free.nbytes:
            self._free = aligned_memory(max(size, min(_CHUNK, 16 * size)))
        held = self._free[: array.nbytes].view(array.dtype) if array.nbytes else np.zeros(0, array.dtype)
        held = held.reshape(array.shape)
        np.copyto(held, array)
        self._free = self._free[size:]
        return held

    def packed_bytes(self, name: str) -> int:
        """Bytes of everything that was made of a constant."""
        with self._lock:
            return sum(a.nbytes for (source, _), a in self._packed.items() if source == name)

    @property
    def nbytes(self) -> int:
        """Bytes of packed constants and tables."""
        with self._lock:
            return sum(a.nbytes for a in (*self._packed.values(), *self._tables.values()))


def forget_pages(array: np.ndarray) -> None:
    """Let the system drop the pages of a mapped file that array covers; they come back when they are read again."""
    owner = _owner(array)
    if not isinstance(owner, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED") or not _maps_a_file(owner):
        return
    base = np.frombuffer(owner, np.uint8).ctypes.data
    start = -(-(array.ctypes.data - base) // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (array.ctypes.data - base + array.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0 and array.flags.c_contiguous:
        owner.madvise(mmap.MADV_DONTNEED, start, length)


def _maps_a_file(memory: mmap.mmap) -> bool:
    """Whether the memory mirrors a file: anonymous memory would be lost with its pages."""
    try:
        return memory.size() > 0
    except OSError:
        return False


def _owner(array: np.ndarray) -> Any:
    """What holds the memory of an array in the end."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner.obj if isinstance(owner, memoryview) else owner


def _contiguous(array: np.ndarray) -> np.ndarray:
    """C order, scalars kept scalars."""
    return np.ascontiguousarray(array).reshape(array.shape)


def aligned_memory(nbytes: int) -> np.ndarray:
    """Zeroed bytes that start on a huge page when there are many of them, else on a cache line."""
    try:
        memory = np.frombuffer(platform().reserve(nbytes + 4096), np.uint8)
    except (OSError, MemoryError) as error:
        raise ResourceError(f"could not reserve {nbytes} bytes of memory: {error}") from None
    align = (2 << 20) if memory.nbytes >= nbytes + (2 << 20) else 4096
    start = (-memory.ctypes.data) % align
    return memory[start : start + nbytes]
