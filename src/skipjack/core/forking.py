"""What a forked child must make anew: locks that a vanished thread may hold, threads that do not exist there."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

_renewals: list[weakref.WeakMethod[Callable[[], Any]]] = []


def renew_in_child(method: Callable[[], Any]) -> None:
    """Call this bound method in every forked child, as long as its object lives."""
    _renewals[:] = [r for r in _renewals if r() is not None]
    _renewals.append(weakref.WeakMethod(method))


def _renew() -> None:
    for reference in list(_renewals):
        method = reference()
        if method is not None:
            method()


class ForkLock:
    """A lock that is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._renew()
        renew_in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
