"""What a forked child finds."""

from __future__ import annotations

import os
import threading

import pytest

from skipjack.core import forking
from skipjack.core.forking import ForkLock, renew_in_child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_lock_is_free_in_the_child() -> None:
    lock, held, done = ForkLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with lock:
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    done.set()
    thread.join()


def test_forgotten_objects_are_not_renewed() -> None:
    class Thing:
        count = 0

        def renew(self) -> None:
            Thing.count += 1

    kept, gone = Thing(), Thing()
    renew_in_child(kept.renew)
    renew_in_child(gone.renew)
    del gone
    forking._renew()
    assert Thing.count == 1
