"""A team: the calling thread and its workers, which walk tables together.

Workers are Python threads that live inside jitted code while there is work; idle ones spin for a bounded time and then sleep.
A team belongs to the process that made it: after a fork the child makes new workers on its first run.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import weakref

import numpy as np

from skipjack.core import knobs
from skipjack.runtime import walker
from skipjack.runtime.platform import Platform, platform

_SPINS_PER_US = 30
_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_POST = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
_WORK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
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
    """A fixed number of threads, the caller among them. One run at a time: the owner locks.

    cores are where workers are pinned when they start; the owner may change them before the first run.
    """

    def __init__(self, threads: int, cores: list[int] | None = None) -> None:
        self.threads = threads
        self.cores: list[int] = cores or []
        self._platform: Platform = platform()
        library = walker.library()
        self._run = _RUN(library.address("run"))
        self._post = _POST(library.address("post"))
        self._work = _WORK(library.address("work"))
        self._start()
        _teams.add(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self.control = _aligned_words(walker.control_words(self.threads))
        self._address = self.control.ctypes.data
        self._argument = ctypes.c_void_p(self._address)
        self.control[walker.THREADS] = self.threads
        self.control[walker.YIELD] = _yield_address()
        self._scratch = np.zeros(0, np.uint8)
        self._stride = 0
        self._table: np.ndarray | None = None
        self._workers: list[threading.Thread] = []

    def _spawn(self) -> None:
        spins = knobs.SPIN_US.get() * _SPINS_PER_US
        for index in range(1, self.threads):
            core = self.cores[index % len(self.cores)] if self.cores else None
            args = (self._work, self._platform, self.control, index, spins, core)
            worker = threading.Thread(target=_live, args=args, daemon=True, name=f"skipjack-{index}")
            worker.start()
            self._workers.append(worker)

    def run(self, table: np.ndarray, scratch_bytes: int, stamps: np.ndarray | None = None) -> None:
        """Walk a table (int64 rows of kernel, arguments, units, barrier) with every thread; returns when all are done."""
        if self._table is not table or self._pid != os.getpid() or stamps is not None:
            self._load(table, scratch_bytes, stamps)
        if self.threads > 1:
            if not self._workers:
                self._spawn()
            if self._post(self._argument):
                self._platform.wake(self._address)
        self._run(self._argument)

    def _load(self, table: np.ndarray, scratch_bytes: int, stamps: np.ndarray | None) -> None:
        if self._pid != os.getpid():
            self._start()
        if scratch_bytes > self._stride or not self._scratch.nbytes:
            self._grow(scratch_bytes)
        self.control[walker.TABLE] = table.ctypes.data
        self.control[walker.ROWS] = len(table)
        self.control[walker.STAMPS] = 0 if stamps is None else stamps.ctypes.data
        self._table = table if stamps is None else None

    def _grow(self, scratch_bytes: int) -> None:
        stride = -(-max(scratch_bytes, 64) // 4096) * 4096 + 4096
        self._stride = stride - 4096
        self._scratch = np.zeros(stride * self.threads + 4096, np.uint8)
        start = self._scratch.ctypes.data
        self.control[walker.SCRATCH] = -(-start // 4096) * 4096
        self.control[walker.SCRATCH_STRIDE] = stride

    def close(self) -> None:
        """End the workers; the team may not run again."""
        if self._pid != os.getpid() or not self._workers:
            return
        self.control[walker.STOP] = 1
        self._post(self._argument)
        self._platform.wake(self._address)
        for worker in self._workers:
            worker.join(timeout=5)
        self._workers = []


def _live(work: _WORK, system: Platform, control: np.ndarray, index: int, spins: int, core: int | None) -> None:  # type: ignore[valid-type]
    """A worker's life: run jobs in jitted code, sleep when idle, leave when told."""
    if core is not None and knobs.AFFINITY.get():
        system.pin(core)
    address = control.ctypes.data
    seen = 0
    sleepers = ctypes.c_int64.from_address(address + 8 * walker.SLEEPERS)
    lock = _sleep_lock
    while True:
        seen = work(address, index, seen, spins)  # type: ignore[operator]
        if seen == walker.STOPPED:
            return
        with lock:
            sleepers.value += 1
        while control[walker.GENERATION] == seen:
            system.sleep_while(address, seen)
        with lock:
            sleepers.value -= 1


_sleep_lock = threading.Lock()


def _renew_lock() -> None:
    global _sleep_lock
    _sleep_lock = threading.Lock()


@atexit.register
def _close_all() -> None:
    for team in list(_teams):
        team.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
