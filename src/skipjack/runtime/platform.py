"""What is the operating system's own, behind one small interface with a portable fallback.

`linux` uses futexes, huge pages and affinity; `portable` uses what Python has everywhere. SKIPJACK_PLATFORM selects.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import sys
import threading
from pathlib import Path
from typing import Protocol

from skipjack.core import knobs
from skipjack.core.errors import HardwareError

HUGE = 2 << 20


class Platform(Protocol):
    """The calls the run time makes to the operating system."""

    name: str

    def cores(self) -> list[int]:
        """One CPU number per physical core this process may use, quota respected."""
        ...

    def pin(self, core: int) -> None:
        """Keep the calling thread on a core; does nothing where that cannot be done."""
        ...

    def sleep_while(self, address: int, value: int) -> None:
        """Return when the 32-bit word at address is no longer value and somebody called wake, or sooner."""
        ...

    def wake(self, address: int) -> None:
        """Wake every thread that sleeps on address."""
        ...

    def reserve(self, nbytes: int) -> mmap.mmap:
        """Zeroed private memory, in huge pages where possible."""
        ...

    def allow_amx(self) -> bool:
        """Ask for the permission to use AMX tiles; whether it was given."""
        ...


class Portable:
    """Works everywhere: condition variables instead of futexes, no affinity."""

    name = "portable"

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def cores(self) -> list[int]:
        return list(range(os.cpu_count() or 1))

    def pin(self, core: int) -> None:
        return

    def sleep_while(self, address: int, value: int) -> None:
        word = ctypes.c_uint32.from_address(address)
        with self._changed:
            if word.value == value & 0xFFFFFFFF:
                self._changed.wait(timeout=1.0)

    def wake(self, address: int) -> None:
        with self._changed:
            self._changed.notify_all()

    def reserve(self, nbytes: int) -> mmap.mmap:
        return mmap.mmap(-1, max(nbytes, 1))

    def allow_amx(self) -> bool:
        return False


_FUTEX = {"x86_64": 202, "aarch64": 98}
_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129
_ARCH_PRCTL, _REQ_XCOMP_PERM, _TILE_DATA = 158, 0x1023, 18


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


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
        allowed = sorted(os.sched_getaffinity(0))
        physical = _one_per_physical_core(allowed)
        quota = cgroup_quota()
        return physical if quota is None else physical[: max(1, math.ceil(quota))]

    def pin(self, core: int) -> None:
        try:
            os.sched_setaffinity(0, {core})
        except OSError:
            return

    def sleep_while(self, address: int, value: int) -> None:
        second = _TimeSpec(1, 0)
        self._libc.syscall(
            ctypes.c_long(_FUTEX[self._machine]),
            ctypes.c_void_p(address),
            ctypes.c_int(_FUTEX_WAIT_PRIVATE),
            ctypes.c_uint32(value & 0xFFFFFFFF),
            ctypes.byref(second),
        )

    def wake(self, address: int) -> None:
        self._libc.syscall(
            ctypes.c_long(_FUTEX[self._machine]),
            ctypes.c_void_p(address),
            ctypes.c_int(_FUTEX_WAKE_PRIVATE),
            ctypes.c_int(1 << 30),
        )

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

    def allow_amx(self) -> bool:
        if self._machine != "x86_64":
            return False
        return self._libc.syscall(_ARCH_PRCTL, _REQ_XCOMP_PERM, _TILE_DATA) == 0


def _one_per_physical_core(cpus: list[int]) -> list[int]:
    seen: set[str] = set()
    kept: list[int] = []
    for cpu in cpus:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            group = siblings.read_text().strip()
        except OSError:
            group = str(cpu)
        if group not in seen:
            seen.add(group)
            kept.append(cpu)
    return kept


def cgroup_quota() -> float | None:
    """CPUs' worth of time the control group grants, None when it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota_us <= 0 else quota_us / period_us


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
