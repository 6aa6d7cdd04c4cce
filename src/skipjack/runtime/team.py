"""A team: the calling thread and its workers, which walk tables together.

Workers are Python threads that live inside jitted code: idle ones spin for a bounded time and then sleep.
A team belongs to the process that made it: a forked child makes workers of its own on its first run.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import weakref
from typing import Any

import numpy as np

from skipjack.core import knobs
from skipjack.core.forking import renew_in_child
from skipjack.core.trace import warn_once
from skipjack.runtime import walker
from skipjack.runtime.platform import platform

_SPINS_PER_US = 30
_JOIN_SECONDS = 5.0
_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_teams: weakref.WeakSet[Team] = weakref.WeakSet()


def _yield_address() -> int:
    if sys.platform == "win32":
        return 0
    return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0


def _aligned_words(count: int) -> np.ndarray:
    raw = np.zeros(count + 8, np.int64)
    start = (-raw.ctypes.data // 8) % 8
    return raw[start : start + count]


class Team:
    """A number of threads, the caller among them. One run at a time: the owner locks.

    threads is how many run: what was asked for, or fewer where the system gives no more. Workers are pinned to cores.
    A team that is forgotten ends its workers.
    """

    def __init__(self, threads: int, cores: list[int] | None = None) -> None:
        self.wanted = threads
        self.cores: list[int] = cores or []
        library = walker.library()
        self._run: Any = _RUN(library.address("run"))
        self._renew()
        renew_in_child(self._renew)
        _teams.add(self)

    def _renew(self) -> None:
        """Forget the workers and everything they share with this thread; the next run starts new ones."""
        self.threads = self.wanted
        self._table: np.ndarray | None = None
        self._scratch = np.zeros(0, np.uint8)
        self._stride = 0
        self.control = _aligned_words(walker.control_words(self.threads))
        self._argument = ctypes.c_void_p(self.control.ctypes.data)
        self.control[walker.THREADS] = self.threads
        self.control[walker.YIELD] = _yield_address()
        self.control[walker.FUTEX], self.control[walker.FUTEX_NUMBER] = platform().futex()
        self.control[walker.SPINS] = knobs.SPIN_US.get() * _SPINS_PER_US
        self._workers: list[threading.Thread] = []
        self._end: weakref.finalize[[np.ndarray, int], Team] | None = None

    def run(self, table: np.ndarray, scratch_bytes: int, stamps: np.ndarray | None = None) -> None:
        """Walk a table (int64 rows of kernel, arguments, units, barrier) with every thread, to its end."""
        if self._table is not table or stamps is not None:
            self._load(table, scratch_bytes, stamps)
        self._run(self._argument)

    def _load(self, table: np.ndarray, scratch_bytes: int, stamps: np.ndarray | None) -> None:
        if self.threads > 1 and not self._workers:
            self._spawn()
        if scratch_bytes > self._stride or not self._scratch.nbytes:
            self._grow(scratch_bytes)
        self._table = None
        self.control[walker.TABLE] = table.ctypes.data
        self.control[walker.ROWS] = len(table)
        self.control[walker.STAMPS] = 0 if stamps is None else stamps.ctypes.data
        self._table = table if stamps is None else None

    def _grow(self, scratch_bytes: int) -> None:
        stride = -(-max(scratch_bytes, 64) // 4096) * 4096 + 4096
        self._stride = stride - 4096
        self._scratch = np.zeros(stride * self.wanted + 4096, np.uint8)
        start = self._scratch.ctypes.data
        self.control[walker.SCRATCH] = -(-start // 4096) * 4096
        self.control[walker.SCRATCH_STRIDE] = stride

    def _spawn(self) -> None:
        work: Any = _WORK(walker.library().address("work"))
        self._end = weakref.finalize(self, _stop, self.control, os.getpid())
        self._end.atexit = False
        workers: list[threading.Thread] = []
        try:
            for index in range(1, self.threads):
                args = (work, self.control, index, int(self.control[walker.GENERATION]))
                worker = threading.Thread(target=_live, args=args, daemon=True, name=f"skipjack-{index}")
                worker.start()
                workers.append(worker)
        except (RuntimeError, MemoryError) as error:
            self.threads = 1 + len(workers)
            self.control[walker.THREADS] = self.threads
            warn_once(
                f"could not start thread {self.threads + 1} of {self.wanted} ({error}); running on {self.threads}"
            )
        except BaseException:
            self.stop()
            raise
        self._workers = workers
        self.place(self.cores)

    def place(self, cores: list[int]) -> None:
        """Pin the workers to these cores, now or when they start. The caller's thread stays where its owner put it."""
        self.cores = cores
        if not cores or not knobs.AFFINITY.get():
            return
        for index, worker in enumerate(self._workers, start=1):
            if worker.native_id is not None:
                platform().pin(worker.native_id, cores[index % len(cores)])

    def stop(self) -> list[threading.Thread]:
        """Tell the workers to end, and give their threads; a later run starts new ones."""
        workers = self._workers
        if self._end is not None and self._end.detach() is not None:
            _stop(self.control, os.getpid())
            self._renew()
        return workers

    def close(self) -> None:
        """End the workers and wait for them; a later run starts new ones."""
        for worker in self.stop():
            worker.join(_JOIN_SECONDS)


def _live(work: Any, control: np.ndarray, index: int, seen: int) -> None:
    """A worker's life: the array keeps the memory alive that its code looks at."""
    work(control.ctypes.data, index, seen)


def _stop(control: np.ndarray, pid: int) -> None:
    """Tell the workers of a control block to end. A forked child has none of its parent's."""
    if pid == os.getpid():
        stop: Any = _RUN(walker.library().address("stop"))
        stop(control.ctypes.data)


@atexit.register
def _close_all() -> None:
    for worker in [w for team in list(_teams) for w in team.stop()]:
        worker.join(_JOIN_SECONDS)
