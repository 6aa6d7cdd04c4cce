"""What this machine can do at most: peaks of arithmetic and of reading memory, measured by small kernels of our own."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from skipjack.codegen.jit import Library, compile_here
from skipjack.cpu import cpu_architecture
from skipjack.lang.kernel import Kernel
from skipjack.lang.program import F32, I8, I32, I64, PTR, Program
from skipjack.targets.instructions import DOT_U8_S8_512
from skipjack.targets.target import Target, host

_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_SECONDS = 0.12
_CHAINS = 12
_MIB = 1 << 20
_MOST_DRAM_BYTES = 512 * _MIB
_ROUNDS = 1_000_000
_BYTES_A_RUN = 512 * _MIB
_SCRATCH_BYTES = 256


@dataclass(frozen=True)
class Level:
    """One level of memory: its name, how much it holds (None: no end), and how fast all cores together read it."""

    name: str
    holds_bytes: int | None
    gb_per_s: float


@dataclass(frozen=True)
class Limits:
    """Peaks of some cores working at once. int8_gops is None when the target has no dot product of bytes.

    levels run from the nearest memory to the farthest; what a level holds is that of all cores together.
    """

    target: str
    cores: int
    f32_gflops: float
    int8_gops: float | None
    levels: tuple[Level, ...]

    def level_of(self, nbytes: int) -> Level:
        """The nearest level that holds so many bytes."""
        return next(x for x in self.levels if x.holds_bytes is None or nbytes <= x.holds_bytes)

    def read_us(self, nbytes: int, out_of_bytes: int) -> float:
        """Least microseconds to read nbytes of a working set of out_of_bytes."""
        return 1e-3 * nbytes / self.level_of(out_of_bytes).gb_per_s

    def arithmetic_us(self, operations: float, int8: bool = False) -> float:
        """Least microseconds for so many operations; a target without byte dot products does int8 at the f32 peak."""
        peak = self.int8_gops if int8 and self.int8_gops is not None else self.f32_gflops
        return 1e-3 * operations / peak


def measure(cores: Sequence[int] | None = None, target: Target | None = None) -> Limits:
    """The peaks of these cores (default: the one this thread runs on), measured once per process."""
    return _measured(None if cores is None else tuple(cores), target or host())


@functools.cache
def _measured(cores: tuple[int, ...] | None, target: Target) -> Limits:
    with _Probe(cores, target) as probe:
        f32 = probe.rate(_fma_kernel, 2 * _CHAINS * target.vl)
        int8 = probe.rate(_dot_kernel, 2 * _CHAINS * 64) if target.has(DOT_U8_S8_512.feature) else None
        levels = tuple(Level(name, holds, probe.read(nbytes)) for name, holds, nbytes in _plan(probe.cores))
    return Limits(target.name, probe.cores, f32, int8, _never_slower_when_nearer(levels))


def _never_slower_when_nearer(levels: tuple[Level, ...]) -> tuple[Level, ...]:
    """A nearer level serves at least as fast as a farther one; noise may have said otherwise."""
    rates = [max(x.gb_per_s for x in levels[i:]) for i in range(len(levels))]
    return tuple(Level(x.name, x.holds_bytes, rate) for x, rate in zip(levels, rates, strict=True))


def _plan(cores: int) -> list[tuple[str, int | None, int]]:
    """(level, what all cores' share of it holds, bytes each core reads to see it)."""
    cpu = cpu_architecture()
    l1, l2, l3 = (int(cpu.get(f"{name}_cache_size") or 0) for name in ("L1_data", "L2", "L3"))
    l1 = l1 or 32 << 10
    l2 = max(l2, 4 * l1)
    plan: list[tuple[str, int | None, int]] = [("L1", cores * l1, l1 // 2), ("L2", cores * l2, l2 // 2)]
    if l3 >= 2 * l2:
        plan.append(("L3", l3, min(4 * l2, l3 // 2) // cores))
    far = min(max(4 * l3, 64 * _MIB), _MOST_DRAM_BYTES)
    return [*plan, ("DRAM", None, far // cores)]


class _Probe:
    """Runs one kernel on every core at once and takes the best of several repeats."""

    def __init__(self, cores: tuple[int, ...] | None, target: Target) -> None:
        self.cores = 1 if cores is None else len(cores)
        self._target = target
        self._where = cores or ()
        self._pool = ThreadPoolExecutor(self.cores, initializer=self._settle)
        self._unsettled = list(self._where)
        self._scratch = [_aligned(_SCRATCH_BYTES) for _ in range(self.cores)]
        self._read: Library | None = None

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def _settle(self) -> None:
        if self._unsettled and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {self._unsettled.pop()})

    def rate(self, make: Callable[[Target], Program], per_round: int) -> float:
        """Billions of operations per second of a loop that does per_round of them."""
        library = compile_here([make(self._target)], self._target)
        call = _CALL(library.address("probe"))
        block = np.array([_ROUNDS], np.int64)
        seconds = self._best(lambda i: call(block.ctypes.data, 0, 1, self._scratch[i].ctypes.data))
        return 1e-9 * _ROUNDS * per_round * self.cores / seconds

    def read(self, nbytes: int) -> float:
        """GB/s when every core reads its own nbytes again and again."""
        if self._read is None:
            self._read = compile_here([_read_kernel(self._target)], self._target)
        call = _CALL(self._read.address("probe"))
        step = _READS * self._target.vector_bytes
        nbytes = nbytes // step * step
        passes = max(1, _BYTES_A_RUN // nbytes)
        memory = [np.ones(nbytes + 64, np.uint8) for _ in range(self.cores)]
        blocks = [np.array([-(-m.ctypes.data // 64) * 64, nbytes, passes], np.int64) for m in memory]
        seconds = self._best(lambda i: call(blocks[i].ctypes.data, 0, 1, self._scratch[i].ctypes.data))
        return 1e-9 * nbytes * passes * self.cores / seconds

    def _best(self, run: Callable[[int], object]) -> float:
        """The shortest wall time of all cores running once."""
        if not self._where:
            return _shortest(lambda: run(0))
        return _shortest(lambda: list(self._pool.map(run, range(self.cores))))


def _shortest(run: Callable[[], object]) -> float:
    best, end, runs = float("inf"), perf_counter() + _SECONDS, 0
    while runs < 3 or perf_counter() < end:
        start = perf_counter()
        run()
        best = min(best, perf_counter() - start)
        runs += 1
    return best


def _aligned(nbytes: int) -> np.ndarray:
    room = np.zeros(nbytes + 64, np.uint8)
    skip = -room.ctypes.data % 64
    return room[skip : skip + nbytes]


def _fma_kernel(target: Target) -> Program:
    """Independent multiply-adds in registers."""
    k = Kernel("probe", [("rounds", I64)], target.vector_bytes * 8)
    ty = F32.vec(target.vl)
    chains = [k.var(k.constant(ty, float(i))) for i in range(_CHAINS)]
    factor = k.scratch.load(ty)
    with k.loop(k.arg.rounds):
        for c in chains:
            c.set(k.fma(factor, factor, c))
    total = chains[0].get()
    for c in chains[1:]:
        total = total + c.get()
    k.scratch.store(total)
    return k.finish()


def _dot_kernel(target: Target) -> Program:
    """Independent dot products of bytes in registers."""
    k = Kernel("probe", [("rounds", I64)], target.vector_bytes * 8)
    chains = [k.var(k.constant(DOT_U8_S8_512.result, i)) for i in range(_CHAINS)]
    factor = k.scratch.load(I8.vec(64))
    with k.loop(k.arg.rounds):
        for c in chains:
            c.set(k.intrinsic(DOT_U8_S8_512.name, DOT_U8_S8_512.result, c.get(), factor, factor))
    total = chains[0].get()
    for c in chains[1:]:
        total = total + c.get()
    k.scratch.store(total)
    return k.finish()


_READS = 8


def _read_kernel(target: Target) -> Program:
    """Reads `nbytes` at `memory`, `passes` times, eight vectors a round."""
    k = Kernel("probe", [("memory", PTR), ("nbytes", I64), ("passes", I64)], target.vector_bytes * 8)
    ty, step = I32.vec(target.vl), target.vector_bytes
    sums = [k.var(k.zero(ty)) for _ in range(_READS)]
    with k.loop(k.arg.passes), k.loop(k.arg.nbytes, step=_READS * step) as at:
        here = k.arg.memory.at(at)
        for i, s in enumerate(sums):
            s.set(s.get() + here.at(i * step).load(ty, step))
    total = sums[0].get()
    for s in sums[1:]:
        total = total + s.get()
    k.scratch.store(total)
    return k.finish()
