"""Compile children: processes started with `python -m` that turn LLVM text into objects, several at once."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skipjack.core import knobs
from skipjack.core.errors import CompileError
from skipjack.targets.target import Target


@dataclass(frozen=True)
class CompileJob:
    """One LLVM module; name is for error messages."""

    name: str
    source: str


def compile_in_children(jobs: Sequence[CompileJob], target: Target) -> list[bytes]:
    """The objects of all jobs, in order. CompileError names a job whose child failed, crashed or took too long."""
    workers = min(len(jobs), knobs.COMPILE_JOBS.get() or max(1, len(_usable_cores())))
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(jobs)):
        waiting.put(index)
    results: list[bytes | CompileError | None] = [None] * len(jobs)
    with tempfile.TemporaryDirectory(prefix="skipjack-") as folder:
        threads = [
            threading.Thread(target=_serve, args=(jobs, waiting, results, target, Path(folder)), daemon=True)
            for _ in range(workers)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    for result in results:
        if isinstance(result, CompileError):
            raise result
    return [r for r in results if isinstance(r, bytes)]


def _usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _serve(
    jobs: Sequence[CompileJob],
    waiting: queue.SimpleQueue[int],
    results: list[bytes | CompileError | None],
    target: Target,
    folder: Path,
) -> None:
    child: subprocess.Popen[str] | None = None
    while True:
        try:
            index = waiting.get_nowait()
        except queue.Empty:
            break
        child = child or _start()
        answer = _ask(child, jobs[index], target, folder / str(index))
        if answer == "ok":
            results[index] = (folder / f"{index}.o").read_bytes()
        else:
            results[index] = CompileError(f"kernel {jobs[index].name} for {target.name} could not be compiled: {answer}")
            child.kill()
            child.wait()
            child = None
    if child is not None:
        assert child.stdin is not None, "codegen started a child without stdin"
        child.stdin.close()
        child.wait()


def _start() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "skipjack.codegen.compile_object"]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def _ask(child: subprocess.Popen[str], job: CompileJob, target: Target, stem: Path) -> str:
    source, code = stem.with_suffix(".ll"), stem.with_suffix(".o")
    source.write_text(job.source)
    request = {
        "source": str(source),
        "object": str(code),
        "triple": target.triple,
        "cpu": target.cpu,
        "features": target.feature_string,
    }
    assert child.stdin is not None, "codegen started a child without stdin"
    assert child.stdout is not None, "codegen started a child without stdout"
    timer = threading.Timer(knobs.COMPILE_TIMEOUT.get(), child.kill)
    timer.daemon = True
    timer.start()
    try:
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
        answer = child.stdout.readline().strip()
    except OSError as error:
        answer = f"the compile child is gone ({error})"
    finally:
        timer.cancel()
    return answer or f"the compile child ended with {child.wait()}"
