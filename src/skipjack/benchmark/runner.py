"""A child process that holds one loaded engine and runs it on command.

Speaks one JSON object a line. Commands: `load`, `outputs`, `run`, `describe`, `memory`, `quit`. Stdout belongs to the
protocol: whatever an engine prints goes to stderr. The process is pinned to its cores before any engine is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from skipjack.benchmark.engines import LOADERS, EngineSettings, LoadedEngine, Loader, RunOnce
from skipjack.benchmark.scenarios import Load, run_turn


def peak_rss_bytes() -> int:
    """The high-water mark of this process alone; where the system does not say, that of its resource usage."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def loader_named(name: str) -> Loader:
    """One of the known engines, or `module:function` for one that is written elsewhere."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function) if function else LOADERS[name]


def _children_rss_bytes() -> int:
    """The largest child process that has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


class Runner:
    """One engine, from its load to its last run."""

    def __init__(self) -> None:
        self.engine: LoadedEngine | None = None
        self.first: RunOnce | None = None

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Reads inputs and model. Children of skipjack that ended meanwhile were compilers: its cache was cold."""
        with np.load(request["inputs"]) as stored:
            feed = {name: stored[name] for name in stored.files}
        settings = EngineSettings(**request["settings"])
        before, children = peak_rss_bytes(), _children_rss_bytes()
        start = time.perf_counter()
        self.engine = loader_named(request["engine"])(request["model"], feed, settings)
        self.first = self.engine.caller()
        load_s = time.perf_counter() - start
        compiled = request["engine"] == "skipjack" and _children_rss_bytes() > children
        return {"load_s": load_s, "rss_before_bytes": before, "compiled": compiled}

    def outputs(self, request: dict[str, Any]) -> dict[str, Any]:
        """The first run; its outputs are written to a file."""
        assert self.first is not None, "load comes first"
        start = time.perf_counter()
        arrays = self.first()
        first_run_s = time.perf_counter() - start
        memory = self.memory(request)
        np.savez(request["path"], *[np.asarray(array) for array in arrays])
        return {"first_run_s": first_run_s, **memory}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """One turn. Untimed calls before it bring weights back into the caches after another engine had the cores."""
        assert self.engine is not None, "load comes first"
        assert self.first is not None, "load comes first"
        for _ in range(request["warm"]):
            self.first()
        turn = run_turn(self.engine.caller, Load(**request["load"]))
        cpu_s = None if turn.cpu_s is None else turn.cpu_s.tolist()
        return {
            "latencies_s": turn.latencies_s.tolist(),
            "wall_s": turn.wall_s,
            "cpu_s": cpu_s,
            "unanswered": turn.unanswered,
        }

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.engine is not None, "load comes first"
        return self.engine.describe()

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """The peak of this process, and of the largest of its children, which the former does not hold."""
        return {"peak_rss_bytes": peak_rss_bytes(), "children_peak_rss_bytes": _children_rss_bytes()}


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until there are none."""
    runner = Runner()
    handlers = {
        "load": runner.load,
        "outputs": runner.outputs,
        "run": runner.run,
        "describe": runner.describe,
        "memory": runner.memory,
    }
    for line in requests:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        try:
            reply = handlers[request["do"]](request)
        except Exception as error:  # the parent decides what a failed engine means
            reply = {"error": str(error) or type(error).__name__, "kind": type(error).__name__}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    """The first argument is the cores, with commas; without any the process is not pinned."""
    cores = {int(core) for core in sys.argv[1].split(",") if core}
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
