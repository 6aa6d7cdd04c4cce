"""Teams: every thread sees what the others wrote, whatever sleeps, forks, fails or ends meanwhile."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import numpy as np
import pytest

from skipjack.core import trace
from skipjack.runtime.team import Team
from tests.runtime.walking import Chain

PLATFORMS = ["portable"] + (["linux"] if sys.platform == "linux" else [])
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(params=PLATFORMS)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SKIPJACK_PLATFORM", request.param)
    return request.param


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("skipjack-")]


def wait_until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_rows_see_what_all_threads_wrote(system: str, threads: int) -> None:
    team = Team(threads)
    chain = Chain(rows=2000, n=37)
    for _ in range(3):
        chain.reset()
        team.run(chain.table, 64)
        chain.check()
    team.close()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_fewer_units_than_threads(system: str, n: int) -> None:
    team = Team(4)
    chain = Chain(rows=200, n=n)
    chain.reset()
    team.run(chain.table, 64)
    chain.check()
    team.close()


def test_an_empty_table_and_growing_scratch(system: str) -> None:
    team = Team(3)
    team.run(np.zeros((0, 4), np.int64), 0)
    for scratch in (64, 1 << 20, 8):
        chain = Chain(rows=50, n=9)
        chain.reset()
        team.run(chain.table, scratch)
        chain.check()
    team.close()


def test_stamps_grow_with_the_rows(system: str) -> None:
    team = Team(2)
    chain = Chain(rows=20, n=64)
    stamps = np.zeros(21, np.int64)
    chain.reset()
    team.run(chain.table, 64, stamps)
    assert (np.diff(stamps) >= 0).all()
    assert stamps[0] > 0
    before = stamps.copy()
    team.run(chain.table, 64)
    np.testing.assert_array_equal(stamps, before)
    team.close()


@pytest.mark.parametrize("spin_us", [0, 1, 200])
def test_runs_after_sleeps_of_any_length(system: str, spin_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_SPIN_US", str(spin_us))
    rng = np.random.default_rng(spin_us)
    team = Team(3)
    chain = Chain(rows=6, n=12)
    for pause in np.concatenate([rng.exponential(300e-6, 150), np.zeros(400)]):
        if pause:
            time.sleep(pause)
        chain.reset()
        team.run(chain.table, 64)
        chain.check()
    team.close()


def test_tables_may_change_between_runs(system: str) -> None:
    team = Team(2)
    chains = [Chain(rows=r, n=n, seed=r) for r, n in [(1, 5), (30, 64), (2, 1)]]
    for i in range(60):
        chain = chains[i % 3]
        chain.reset()
        team.run(chain.table, 64)
        chain.check()
    team.close()


def test_many_teams_in_many_threads(system: str) -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            team = Team(1 + seed % 3)
            chain = Chain(rows=20, n=20, seed=seed)
            for _ in range(30):
                chain.reset()
                team.run(chain.table, 64)
                chain.check()
            team.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not errors
    assert not any(t.is_alive() for t in threads)


def test_a_forgotten_team_ends_its_workers(system: str) -> None:
    before = len(workers())
    chain = Chain(rows=4, n=8)
    team = Team(4)
    team.run(chain.table, 64)
    assert len(workers()) == before + 3
    del team
    gc.collect()
    wait_until(lambda: len(workers()) == before)


def test_a_closed_team_can_run_again(system: str) -> None:
    before = len(workers())
    team = Team(3)
    chain = Chain(rows=10, n=8)
    for _ in range(3):
        chain.reset()
        team.run(chain.table, 64)
        chain.check()
        team.close()
        assert len(workers()) == before


@pytest.mark.parametrize("possible", [0, 1, 2])
def test_fewer_threads_than_asked_for(system: str, possible: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trace._warned.clear()
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def fail(thread: threading.Thread) -> None:
        if len(started) == possible:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    team = Team(4)
    chain = Chain(rows=100, n=10)
    chain.reset()
    with pytest.warns(RuntimeWarning, match=f"running on {possible + 1}"):
        team.run(chain.table, 64)
    chain.check()
    assert team.threads == possible + 1
    chain.reset()
    team.run(chain.table, 64)
    chain.check()
    other = Team(4)
    started.clear()
    chain.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.run(chain.table, 64)
    chain.check()
    team.close()
    other.close()


def test_an_interrupted_start_leaves_no_workers(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(workers())
    start = threading.Thread.start
    calls: list[int] = []

    def interrupted(thread: threading.Thread) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        start(thread)

    chain = Chain(rows=100, n=10)
    team = Team(3)
    with monkeypatch.context() as m:
        m.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            team.run(chain.table, 64)
    wait_until(lambda: len(workers()) == before)
    chain.reset()
    team.run(chain.table, 64)
    chain.check()
    assert team.threads == 3
    team.close()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs affinity")
def test_workers_follow_the_cores_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_PLATFORM", "auto")
    allowed = sorted(os.sched_getaffinity(0))
    team = Team(2, [allowed[0], allowed[-1]])
    chain = Chain(rows=2, n=4)
    team.run(chain.table, 64)
    worker = team._workers[0].native_id
    assert worker is not None
    assert os.sched_getaffinity(worker) == {allowed[-1]}
    team.place([allowed[-1], allowed[0]])
    assert os.sched_getaffinity(worker) == {allowed[0]}
    monkeypatch.setenv("SKIPJACK_AFFINITY", "0")
    free = Team(2, [allowed[0]])
    free.run(chain.table, 64)
    assert os.sched_getaffinity(free._workers[0].native_id or 0) == set(allowed)
    team.close()
    free.close()


def script(body: str, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, from a file so that nothing hides behind a main guard."""
    text = "from skipjack.runtime.team import Team\nfrom tests.runtime.walking import Chain\n" + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ROOT, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


FORK = """
import os, threading, time
chain, team = Chain(rows=40, n=16), Team(3)

def good():
    chain.reset(); team.run(chain.table, 64); chain.check()

def in_child():
    status = 1
    try:
        for _ in range(5):
            good()
        status = 0
    finally:
        os._exit(status)

def fork():
    pid = os.fork()
    if pid == 0:
        in_child()
    return pid

pids = []
good()
pids.append(fork())            # workers spin
time.sleep(0.05)
pids.append(fork())            # workers sleep
good()
others = [Chain(rows=300, n=500), Team(3)]
stop = threading.Event()
def busy():
    while not stop.is_set():
        others[1].run(others[0].table, 64)
t = threading.Thread(target=busy)
t.start()
for _ in range(5):
    pids.append(fork())        # workers of another team run
    good()
stop.set()
t.join()
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0, pid
good()
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_and_their_parent_go_on(system: str) -> None:
    done = script(FORK, SKIPJACK_PLATFORM=system)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


@pytest.mark.parametrize("pause", ["0", "0.02"])
def test_the_interpreter_ends_while_workers_spin_or_sleep(system: str, pause: str) -> None:
    begin = time.monotonic()
    done = script(
        f"""
        import time
        teams = [Team(3) for _ in range(3)]
        chain = Chain(rows=10, n=16)
        for team in teams:
            team.run(chain.table, 64)
        time.sleep({pause})
        """,
        SKIPJACK_PLATFORM=system,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - begin < 10


def test_the_interpreter_ends_while_another_thread_runs(system: str) -> None:
    done = script(
        """
        import threading, time
        team, chain = Team(3), Chain(rows=1000, n=200)
        def forever():
            while True:
                team.run(chain.table, 64)
        threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.2)
        """,
        SKIPJACK_PLATFORM=system,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_teams_run_in_exit_handlers(system: str) -> None:
    done = script(
        """
        import atexit
        import skipjack.runtime.team as t
        team, chain = Team(2), Chain(rows=10, n=16)
        def last():
            chain.reset(); team.run(chain.table, 64); chain.check(); print("ran")
        atexit.unregister(t._close_all)
        atexit.register(last)
        atexit.register(t._close_all)
        team.run(chain.table, 64)
        """,
        SKIPJACK_PLATFORM=system,
        PYTHONWARNINGS="default",
    )
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


def test_interrupts_leave_a_team_usable(system: str) -> None:
    done = script(
        """
        import os, random, signal, threading, time
        team, chain = Team(3), Chain(rows=60, n=40)
        team.run(chain.table, 64)
        going = True
        def pester():
            random.seed(0)
            while going:
                time.sleep(random.random() * 0.002)
                os.kill(os.getpid(), signal.SIGINT)
        pesterer = threading.Thread(target=pester)
        hits = 0
        def quiet(*_):
            pass
        pesterer.start()
        while hits < 100:
            try:
                while True:
                    chain.reset()
                    team.run(chain.table, 64)
                    chain.check()
            except KeyboardInterrupt:
                hits += 1
        signal.signal(signal.SIGINT, quiet)
        going = False
        pesterer.join()
        chain.reset()
        team.run(chain.table, 64)
        chain.check()
        print("fine")
        """,
        SKIPJACK_PLATFORM=system,
    )
    assert done.stdout == "fine\n" or done.returncode == -signal.SIGINT, done.stderr
