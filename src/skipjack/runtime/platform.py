"""What is the operating system's own, behind one small interface with a portable fallback.

`linux` uses futexes, huge pages and affinity; `portable` uses what Python has everywhere. SKIPJACK_PLATFORM selects.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import threading
from typing import Protocol

from skipjack.core import knobs
from skipjack.core.errors import HardwareError
from skipjack.core.forking import renew_in_child
from skipjack.runtime.cores import usable_cores

HUGE = 2 << 20
FUTEX_WAIT, FUTEX_WAKE = 128, 129


class Platform(Protocol):
    """The calls the run time makes to the operating system."""

    name: str

    def cores(self) -> list[int]:
        """One CPU number per physical core this process may use, quota respected."""
        ...

    def pin(self, thread: int, core: int) -> None:
        """Keep a thread (its native id) on a core; does nothing where that cannot be done."""
        ...

    def futex(self) -> tuple[int, int]:
        """A C function and its first argument: called as f(number, address, operation, value, timeout, 0, 0).

        FUTEX_WAIT sleeps while the 32-bit word at address is value and may return sooner; FUTEX_WAKE wakes all who
        sleep there.
        """
        ...

    def reserve(self, nbytes: int) -> mmap.mmap:
        """Zeroed private memory, in huge pages where possible."""
        ...


_FUTEX_CALL = ctypes.CFUNCTYPE(
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
)


class Portable:
    """Works everywhere: condition variables instead of futexes, no affinity."""

    name = "portable"

    def __init__(self) -> None:
        self._renew()
        self._call = _FUTEX_CALL(self._wait_or_wake)
        renew_in_child(self._renew)

    def _renew(self) -> None:
        self._changed = threading.Condition()

    def cores(self) -> list[int]:
        if hasattr(os, "sched_getaffinity"):
            return sorted(os.sched_getaffinity(0))
        return list(range(os.cpu_count() or 1))

    def pin(self, thread: int, core: int) -> None:
        return

    def futex(self) -> tuple[int, int]:
        return ctypes.cast(self._call, ctypes.c_void_p).value or 0, 0

    def _wait_or_wake(
        self, number: int, address: int, operation: int, value: int, timeout: int, address2: int, value3: int
    ) -> int:
        with self._changed:
            if operation == FUTEX_WAKE:
                self._changed.notify_all()
            elif ctypes.c_uint32.from_address(address).value == value:
                self._changed.wait(timeout=1.0)
        return 0

    def reserve(self, nbytes: int) -> mmap.mmap:
        return mmap.mmap(-1, max(nbytes, 1))


_FUTEX = {"x86_64": 202, "aarch64": 98}


class Linux(Portable):
    """Futexes, huge pages, affinity and cgroup quotas."""

    name = "linux"

    def __init__(self) -> None:
        super().__init__()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._machine = os.uname().machine
        if self._machine not in _FUTEX:
            raise HardwareError(f"SKIPJACK_PLATFORM=linux: no futex number is known for {self._machine}; use portable")

    def cores(self) -> list[int]:
        return usable_cores(sorted(os.sched_getaffinity(0)))

    def pin(self, thread: int, core: int) -> None:
        try:
            os.sched_setaffinity(thread, {core})
        except OSError:
            return

    def futex(self) -> tuple[int, int]:
        return ctypes.cast(self._libc.syscall, ctypes.c_void_p).value or 0, _FUTEX[self._machine]

    def reserve(self, nbytes: int) -> mmap.mmap:
        size = max(nbytes, 1)
        if size < HUGE:
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory = mmap.mmap(-1, -(-size // HUGE) * HUGE + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, AttributeError):
            return memory
        return memory


@functools.cache
def _make(name: str) -> Platform:
    return Linux() if name == "linux" else Portable()


def platform() -> Platform:
    """The platform interface of this process."""
    wanted = knobs.PLATFORM.get()
    if wanted == "auto":
        wanted = "linux" if sys.platform == "linux" and os.uname().machine in _FUTEX else "portable"
    if wanted == "linux" and sys.platform != "linux":
        raise HardwareError(f"SKIPJACK_PLATFORM=linux: this is {sys.platform}; use portable")
    return _make(wanted)
