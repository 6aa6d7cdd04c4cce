"""Who runs a request: fixed teams for the sync and async schedulers, shares of the idle cores for elastic."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum

from skipjack.core import knobs
from skipjack.core.errors import ConfigError, nearest
from skipjack.core.forking import renew_in_child
from skipjack.core.trace import debug, warn_once
from skipjack.runtime.platform import platform
from skipjack.runtime.team import Team


class Scheduler(Enum):
    """How requests share the cores of an engine."""

    default = "single_stream"
    single_stream = "single_stream"  # noqa: PIE796  the default's other name
    multi_stream = "multi_stream"
    elastic = "elastic"

    @staticmethod
    def from_str(key: str) -> Scheduler:
        """sync, single and single_stream; async, multi and multi_stream; elastic; default."""
        accepted = {
            "default": Scheduler.single_stream,
            "sync": Scheduler.single_stream,
            "single": Scheduler.single_stream,
            "single_stream": Scheduler.single_stream,
            "async": Scheduler.multi_stream,
            "multi": Scheduler.multi_stream,
            "multi_stream": Scheduler.multi_stream,
            "elastic": Scheduler.elastic,
        }
        if key.lower() not in accepted:
            raise ConfigError(f"scheduler {key!r}: expected one of {sorted(accepted)}{nearest(key, accepted)}")
        return accepted[key.lower()]


def resolve_scheduler(scheduler: Scheduler | str | None) -> Scheduler:
    """A scheduler given as itself, as text, or not at all."""
    if scheduler is None:
        return Scheduler.single_stream
    return scheduler if isinstance(scheduler, Scheduler) else Scheduler.from_str(scheduler)


def resolve_cores(num_cores: int | None) -> list[int]:
    """The cores to use, one per physical core: num_cores of them, all when it is None or 0."""
    available = platform().cores()
    wanted = num_cores or knobs.NUM_CORES.get() or len(available)
    if wanted < 0:
        raise ConfigError(f"num_cores: expected a number of cores or None for all, got {num_cores}")
    if wanted > len(available):
        debug(1, f"num_cores={wanted} is more than the {len(available)} physical cores available; using those")
        wanted = len(available)
    return available[:wanted]


def resolve_streams(num_streams: int | None, scheduler: Scheduler, cores: int) -> int:
    """How many requests may run at once: one for single_stream, at most one per core for the others."""
    if num_streams is not None and num_streams < 0:
        raise ConfigError(f"num_streams: expected a number that is not negative, got {num_streams}")
    if scheduler is Scheduler.single_stream:
        if num_streams is not None and num_streams > 1:
            warn_once(f"num_streams={num_streams}: single_stream runs one request at a time; use multi_stream")
        return 1
    if not num_streams:
        return max(1, cores // 2)
    if num_streams > cores:
        warn_once(f"num_streams={num_streams} is more than the {cores} cores; using {cores}")
    return min(num_streams, cores)


class TeamPool:
    """Hands out teams of threads. A request waits until its scheduler has a team for it.

    With one stream, `sole` is the team of whoever holds the lock `turn`.
    """

    def __init__(self, cores: list[int], streams: int, scheduler: Scheduler) -> None:
        self.cores = cores
        self.streams = streams
        self.scheduler = scheduler
        self._renew()
        renew_in_child(self._renew)

    def _renew(self) -> None:
        self.turn = threading.Lock()
        self._sole: Team | None = None
        self._changed = threading.Condition()
        self._free_cores = list(self.cores)
        self._idle: dict[int, list[Team]] = {}
        self._busy: dict[Team, list[int]] = {}

    @property
    def sole(self) -> Team:
        """The team of a pool with one stream, for who holds its turn."""
        if self._sole is None:
            self._sole = Team(len(self.cores), self.cores)
        return self._sole

    @contextmanager
    def team(self) -> Generator[Team]:
        """A team for one run; waits until the scheduler has one."""
        if self.streams == 1:
            with self.turn:
                yield self.sole
            return
        held: list[Team] = []
        try:
            yield self._take(held)
        finally:
            for team in held:
                self._give(team)

    def _take(self, held: list[Team]) -> Team:
        """A team with cores of its own, noted in held before it counts as taken: an interrupt must not lose it."""
        with self._changed:
            while not (width := self._width()):
                self._changed.wait()
            taken = self._free_cores[:width]
            idle = self._idle.get(width)
            team = idle.pop() if idle else Team(width)
            held.append(team)
            if team.cores != taken:
                team.place(taken)
            self._busy[team] = taken
            self._free_cores = self._free_cores[width:]
            return team

    def _give(self, team: Team) -> None:
        """Take a team back; the next waiting request may run. One that a forked child never took is let go."""
        with self._changed:
            taken = self._busy.pop(team, None)
            if taken is None:
                return
            self._free_cores = sorted(self._free_cores + taken)
            self._idle.setdefault(len(taken), []).append(team)
            self._changed.notify()

    def _width(self) -> int:
        """Cores the next request gets; 0 when it must wait."""
        if len(self._busy) >= self.streams or not self._free_cores:
            return 0
        if self.scheduler is Scheduler.elastic:
            return -(-len(self._free_cores) // 2)
        return min(max(1, len(self.cores) // self.streams), len(self._free_cores))

    def close(self) -> None:
        """End the threads of idle teams."""
        with self._changed:
            idle = [t for teams in self._idle.values() for t in teams]
            self._idle = {}
        for team in [*idle, *(t for t in (self._sole,) if t)]:
            team.close()
