"""A child process that holds one loaded engine and runs it on command.

Speaks one JSON object a line. Commands: `load`, `outputs`, `run` (iterations), `quit`. Stdout belongs to the protocol:
whatever an engine prints goes to stderr. The process is pinned to one core before any engine is imported.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any, TextIO

import numpy as np

from benchmarks.peers import LOADERS, PeerSettings, RunOnce


def peak_rss_bytes() -> int:
    """The high-water mark of this process alone."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM line")


class Runner:
    def __init__(self) -> None:
        self.run_once: RunOnce | None = None

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        with np.load(request["inputs"]) as stored:
            feed = {name: stored[name] for name in stored.files}
        settings = PeerSettings(**request["settings"])
        before = peak_rss_bytes()
        start = time.perf_counter()
        self.run_once = LOADERS[request["engine"]](request["model"], feed, settings)
        return {"load_s": time.perf_counter() - start, "rss_before_bytes": before}

    def outputs(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.run_once is not None, "load comes first"
        start = time.perf_counter()
        arrays = self.run_once()
        first_run_s = time.perf_counter() - start
        rss = peak_rss_bytes()
        np.savez(request["path"], *[np.asarray(array) for array in arrays])
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        return {"first_run_s": first_run_s, "peak_rss_bytes": rss, "children_peak_rss_bytes": children}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """One untimed call brings weights back into the caches after another engine had the core."""
        assert self.run_once is not None, "load comes first"
        run_once = self.run_once
        for _ in range(request["warm"]):
            run_once()
        wall_s: list[float] = []
        cpu_s: list[float] = []
        for _ in range(request["iterations"]):
            cpu_start = time.process_time()
            start = time.perf_counter()
            run_once()
            wall_s.append(time.perf_counter() - start)
            cpu_s.append(time.process_time() - cpu_start)
        return {"wall_s": wall_s, "cpu_s": cpu_s}


def serve(requests: TextIO, replies: TextIO) -> None:
    runner = Runner()
    handlers = {"load": runner.load, "outputs": runner.outputs, "run": runner.run}
    for line in requests:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        try:
            reply = handlers[request["do"]](request)
        except Exception as error:  # the parent decides what a failed engine means
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[1])})
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
