"""Compile children: processes started with `python -m` that turn LLVM text into objects, several at once."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from skipjack.codegen.compile_object import ANSWER
from skipjack.core import knobs
from skipjack.core.errors import CompileError
from skipjack.core.trace import debug
from skipjack.targets.target import Target

_LAST_WORDS = 400


@dataclass(frozen=True)
class CompileJob:
    """One LLVM module; name is for error messages."""

    name: str
    source: str


def compile_in_children(jobs: Sequence[CompileJob], target: Target) -> list[bytes]:
    """The objects of all jobs, in order. CompileError names a job whose child failed, crashed or took too long."""
    return _Work(jobs, target).run(min(len(jobs), knobs.COMPILE_JOBS.get() or _usable_cores()))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Work:
    """Jobs that several children share: whoever is free takes the next one."""

    def __init__(self, jobs: Sequence[CompileJob], target: Target) -> None:
        self.jobs = jobs
        self.target = target
        self.results: list[bytes | CompileError | None] = [None] * len(jobs)
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._children: list[_Child] = []
        self._given_up = False
        for index in range(len(jobs)):
            self._waiting.put(index)

    def run(self, at_once: int) -> list[bytes]:
        """Compile everything; this thread serves a child too, and all of them when no thread can be started."""
        helpers: list[threading.Thread] = []
        try:
            for _ in range(at_once - 1):
                helper = threading.Thread(target=self._serve, daemon=True, name="skipjack-compile")
                with contextlib.suppress(RuntimeError):
                    helper.start()
                    helpers.append(helper)
            self._serve()
            for helper in helpers:
                helper.join()
        except BaseException:
            self._given_up = True
            for child in list(self._children):
                child.kill()
            raise
        failed = [r for r in self.results if isinstance(r, CompileError)]
        if failed:
            raise failed[0]
        return [r for r in self.results if isinstance(r, bytes)]

    def _serve(self) -> None:
        child: _Child | None = None
        while not self._given_up:
            try:
                index = self._waiting.get_nowait()
            except queue.Empty:
                break
            job = self.jobs[index]
            try:
                if child is None:
                    child = _Child()
                    self._children.append(child)
                self.results[index] = child.compile(job, self.target)
                debug(3, f"compiled {job.name}")
            except (OSError, RuntimeError) as error:
                where = f"kernel {job.name} for {self.target.name}"
                self.results[index] = CompileError(f"{where} could not be compiled: {error}")
                if child is not None:
                    child.kill()
                    child = None
        if child is not None:
            child.close()


class _Child:
    """One process. OSError when it cannot be started; RuntimeError says why a job failed."""

    def __init__(self) -> None:
        if not sys.executable:
            raise RuntimeError("sys.executable is not set, so no Python can be started to compile in")
        self._said: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            self._said = tempfile.TemporaryFile()  # noqa: SIM115
        # -P: a stray json.py in the working directory must not be imported.
        command = [sys.executable, "-P", "-m", "skipjack.codegen.compile_object"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said or subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )

    def compile(self, job: CompileJob, target: Target) -> bytes:
        """The object of one job."""
        seconds: int = knobs.COMPILE_TIMEOUT.get()
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        with contextlib.suppress(RuntimeError):
            timer.start()
        try:
            return self._ask(job, target)
        except EOFError:
            status = self._process.wait()
            if late.is_set():
                raise RuntimeError(f"it took more than {seconds} s; SKIPJACK_COMPILE_TIMEOUT allows more") from None
            raise RuntimeError(f"the compile child ended with {status}{self._last_words()}") from None
        finally:
            timer.cancel()

    def _ask(self, job: CompileJob, target: Target) -> bytes:
        source = job.source.encode()
        request = {"triple": target.triple, "cpu": target.cpu, "features": target.feature_string, "bytes": len(source)}
        to, back = self._pipes()
        try:
            to.write(json.dumps(request).encode() + b"\n" + source)
            to.flush()
        except OSError:
            raise EOFError from None
        line = back.readline()
        # What site hooks of the user's Python print comes before the answer.
        while line and not line.startswith(ANSWER):
            line = back.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer = json.loads(line[len(ANSWER) :])
        if "error" in answer:
            raise RuntimeError(answer["error"])
        code = back.read(answer["bytes"])
        if len(code) != answer["bytes"]:
            raise EOFError
        return code

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None, "codegen started a child without stdin"
        assert back is not None, "codegen started a child without stdout"
        return to, back

    def _last_words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        text = " ".join(self._said.read().decode(errors="replace").split())
        return f" ({text[:_LAST_WORDS]})" if text else ""

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Let it end by itself."""
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()
        if self._said is not None:
            self._said.close()
