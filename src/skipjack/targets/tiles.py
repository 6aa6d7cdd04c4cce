"""The permission to use matrix tiles, which Linux gives to a process that asks for it."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@functools.cache
def tiles_permitted() -> bool:
    """Asks once per process; its threads and the children it forks have the permission then, too."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None, use_errno=True).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0
