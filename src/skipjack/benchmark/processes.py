"""The parent's side of an engine that lives in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skipjack.benchmark.engines import EngineSettings
from skipjack.benchmark.scenarios import Load, Turn
from skipjack.core.errors import RunError

_LONGEST_FAILURE = 300
FLOAT32 = EngineSettings()


class RunnerError(RunError):
    """An engine failed to load or run; the text is its own message."""


def save_inputs(path: Path, inputs: dict[str, np.ndarray]) -> None:
    """Write the inputs of a model for the processes that load it; any name of an input will do."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in inputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may lie from the reference and still be the same model's."""

    max_error: float
    min_cosine: float


FLOAT32_TOLERANCE = Tolerance(1e-3, 0.9999)
LOW_PRECISION_TOLERANCE = Tolerance(1.0, 0.97)


@dataclass(frozen=True)
class Contender:
    """One engine on one file; `label` names it in tables."""

    label: str
    engine: str
    model: Path
    settings: EngineSettings = FLOAT32
    environment: dict[str, str] = field(default_factory=dict[str, str])
    tolerance: Tolerance = FLOAT32_TOLERANCE


class RunnerProcess:
    """A process with one engine, pinned to cores; none leaves it where the system puts it."""

    def __init__(self, contender: Contender, cores: Sequence[int] = ()) -> None:
        self.contender = contender
        threads = str(contender.settings.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, **contender.environment}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "skipjack.benchmark.runner", ",".join(map(str, cores))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("SKIPJACK_DEBUG") else subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The reply to one command; RunnerError when the engine failed or the process is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            raise RunnerError(f"{self.contender.label}: the process ended with status {status}")
        reply = json.loads(line)
        if "error" in reply:
            text = " ".join(str(reply["error"]).split())[:_LONGEST_FAILURE]
            raise RunnerError(f"{self.contender.label}: {text}")
        return reply

    def load(self, inputs: Path) -> dict[str, Any]:
        contender = self.contender
        return self.ask(
            do="load",
            engine=contender.engine,
            model=str(contender.model.resolve()),
            inputs=str(inputs),
            settings=asdict(contender.settings),
        )

    def outputs(self, folder: Path) -> tuple[list[np.ndarray], dict[str, Any]]:
        """The outputs of a first run and what it cost."""
        path = folder / "outputs.npz"
        reply = self.ask(do="outputs", path=str(path))
        with np.load(path) as stored:
            return [stored[name] for name in stored.files], reply

    def turn(self, load: Load, warm: int = 1) -> Turn:
        """Let the engine have its turn."""
        reply = self.ask(do="run", load=asdict(load), warm=warm)
        cpu_s = None if reply["cpu_s"] is None else np.array(reply["cpu_s"])
        return Turn(np.array(reply["latencies_s"]), reply["wall_s"], cpu_s, reply["unanswered"])

    def close(self) -> None:
        """End the process."""
        if self.process.poll() is None and self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
