"""Schedulers: how many requests run at once, and on which cores."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from skipjack.core import trace
from skipjack.core.errors import ConfigError
from skipjack.runtime.team import Team
from skipjack.session import teams
from skipjack.session.teams import Scheduler, TeamPool, resolve_cores, resolve_scheduler, resolve_streams


@pytest.fixture(autouse=True)
def _no_warning_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_warned", set())
    monkeypatch.delenv("SKIPJACK_NUM_CORES", raising=False)


@pytest.mark.parametrize(
    "text, expected",
    [("sync", "single_stream"), ("single", "single_stream"), ("SINGLE_STREAM", "single_stream"), ("default", "default")]
    + [("async", "multi_stream"), ("multi", "multi_stream"), ("multi_stream", "multi_stream"), ("elastic", "elastic")],
)
def test_names_of_schedulers(text: str, expected: str) -> None:
    assert Scheduler.from_str(text) is Scheduler[expected]
    assert resolve_scheduler(text) is resolve_scheduler(Scheduler[expected])


def test_scheduler_defaults_and_refusals() -> None:
    assert resolve_scheduler(None) is Scheduler.single_stream is Scheduler.default
    with pytest.raises(ConfigError, match="did you mean 'elastic'"):
        resolve_scheduler("elastik")


@pytest.mark.parametrize(
    "asked, scheduler, cores, expected",
    [
        (None, "sync", 8, 1),
        (0, "sync", 8, 1),
        (1, "sync", 8, 1),
        (None, "async", 8, 4),
        (0, "elastic", 8, 4),
        (None, "async", 1, 1),
        (3, "async", 8, 3),
        (8, "elastic", 8, 8),
    ],
)
def test_streams(asked: int | None, scheduler: str, cores: int, expected: int) -> None:
    assert resolve_streams(asked, Scheduler.from_str(scheduler), cores) == expected


def test_streams_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="num_streams: expected a number that is not negative, got -1"):
        resolve_streams(-1, Scheduler.multi_stream, 4)
    with pytest.warns(RuntimeWarning, match="more than the 4 cores; using 4"):
        assert resolve_streams(9, Scheduler.multi_stream, 4) == 4
    with pytest.warns(RuntimeWarning, match="single_stream runs one request at a time"):
        assert resolve_streams(2, Scheduler.single_stream, 4) == 1


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    class Eight:
        def cores(self) -> list[int]:
            return list(range(0, 16, 2))

    monkeypatch.setattr(teams, "platform", Eight)
    assert resolve_cores(None) == resolve_cores(0) == list(range(0, 16, 2))
    assert resolve_cores(3) == [0, 2, 4]
    assert len(resolve_cores(99)) == 8
    with pytest.raises(ConfigError, match="num_cores"):
        resolve_cores(-1)
    monkeypatch.setenv("SKIPJACK_NUM_CORES", "2")
    assert resolve_cores(None) == [0, 2]
    assert resolve_cores(4) == [0, 2, 4, 6]


def pool(cores: int, streams: int, scheduler: str) -> TeamPool:
    return TeamPool(list(range(cores)), streams, Scheduler.from_str(scheduler))


class Taker(threading.Thread):
    """Asks for a team in the background and holds it until told."""

    def __init__(self, source: TeamPool) -> None:
        super().__init__(daemon=True)
        self.source, self.got, self.done = source, threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.source.team():
            self.got.set()
            self.done.wait(30)

    def waits(self) -> bool:
        return not self.got.wait(0.1)

    def end(self) -> None:
        self.done.set()
        self.join(30)
        assert not self.is_alive()


def test_sync_runs_one_at_a_time_on_all_cores() -> None:
    p = pool(4, 1, "sync")
    with p.team() as first:
        assert (first.wanted, first.cores) == (4, [0, 1, 2, 3])
        second = Taker(p)
        assert second.waits()
    assert second.got.wait(30)
    second.end()
    with p.team() as again:
        assert again is first


def test_async_gives_every_stream_its_share() -> None:
    p = pool(5, 2, "async")
    a, b = p._take([]), p._take([])
    assert [(t.wanted, t.cores) for t in (a, b)] == [(2, [0, 1]), (2, [2, 3])]
    third = Taker(p)
    assert third.waits()
    p._give(b)
    assert third.got.wait(30)
    third.end()
    p._give(a)
    assert p._take([]) in (a, b)


def test_elastic_takes_half_of_what_is_idle() -> None:
    p = pool(8, 8, "elastic")
    held = [p._take([]) for _ in range(4)]
    assert [t.cores for t in held] == [[0, 1, 2, 3], [4, 5], [6], [7]]
    waiting = Taker(p)
    assert waiting.waits()
    p._give(held[0])
    assert waiting.got.wait(30)
    for t in held[1:]:
        p._give(t)
    waiting.end()
    again = p._take([])
    assert again is held[0]


def test_elastic_runs_at_most_its_streams() -> None:
    p = pool(8, 2, "elastic")
    held = [p._take([]), p._take([])]
    third = Taker(p)
    assert third.waits()
    p._give(held[0])
    assert third.got.wait(30)
    third.end()


def test_a_team_moves_to_the_cores_it_is_given() -> None:
    p = pool(4, 4, "async")
    held = [p._take([]) for _ in range(4)]
    for t in held:
        p._give(t)
    again = [p._take([]) for _ in range(4)]
    assert set(again) == set(held)
    assert sorted(t.cores[0] for t in again) == [0, 1, 2, 3]


@pytest.mark.parametrize("streams, scheduler", [(1, "sync"), (2, "async")])
def test_a_team_that_cannot_be_made_blocks_nobody(
    streams: int, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    p = pool(2, streams, scheduler)
    with monkeypatch.context() as m:
        m.setattr(teams, "Team", fail)
        for _ in range(5):
            with pytest.raises(MemoryError), p.team():
                pass
    with contextlib.ExitStack() as stack:
        assert all(isinstance(stack.enter_context(p.team()), Team) for _ in range(streams))


@pytest.mark.parametrize("streams, scheduler", [(1, "sync"), (2, "async"), (3, "elastic")])
def test_many_callers(streams: int, scheduler: str) -> None:
    p = pool(4, streams, scheduler)
    busy: list[set[int]] = []
    most: list[int] = []
    lock = threading.Lock()
    errors: list[str] = []

    def call() -> None:
        for _ in range(50):
            with p.team() as team:
                mine = set(team.cores)
                with lock:
                    if any(mine & other for other in busy):
                        errors.append(f"{mine} is used twice: {busy}")
                    busy.append(mine)
                    most.append(len(busy))
                time.sleep(0)
                with lock:
                    busy.remove(mine)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not errors
    assert max(most) <= streams
    p.close()
