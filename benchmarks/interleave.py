"""The interleaved comparison: engines in processes of their own take turns on one core.

Outputs are compared before anything is timed; an engine whose outputs differ gets no ratio. In each round every engine
has one turn, in random order, and the ratio is formed inside the round, so that slow drifts of the machine cancel. Only
one engine computes at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.estimates import Estimate, median_estimate
from benchmarks.peers import PeerSettings

ROOT = Path(__file__).resolve().parent.parent
QUIET_SHARE = 0.97
FLOAT32 = PeerSettings()
FEWEST_QUIET_ROUNDS = 5


class RunnerError(RuntimeError):
    """An engine failed to load or run; the text is its own message."""


@dataclass(frozen=True)
class Contender:
    """One engine on one file; `label` names it in tables."""

    label: str
    engine: str
    model: Path
    settings: PeerSettings = FLOAT32
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Agreement:
    """`max_error` is the largest absolute difference as a share of the output's largest value."""

    max_error: float
    cosine: float


@dataclass
class Comparison:
    """Seconds per call, one entry a round; a contender that failed or differs stands in `refused` with the reason."""

    round_s: dict[str, np.ndarray]
    quiet: dict[str, np.ndarray]
    agreement: dict[str, Agreement]
    refused: dict[str, str]

    def milliseconds(self, label: str) -> Estimate:
        return median_estimate(self.round_s[label][self._kept(label)] * 1e3)

    def ratios(self, label: str, baseline: str) -> np.ndarray:
        """Per round, how many times longer `label` took than `baseline`."""
        kept = self._kept(label, baseline)
        return self.round_s[label][kept] / self.round_s[baseline][kept]

    def quiet_rounds(self) -> tuple[int, int]:
        """Rounds in which no engine lost the core, and all rounds."""
        if not self.quiet:
            return 0, 0
        together = np.logical_and.reduce(list(self.quiet.values()))
        return int(together.sum()), len(together)

    def _kept(self, *labels: str) -> np.ndarray:
        quiet = np.logical_and.reduce([self.quiet[label] for label in labels])
        return quiet if quiet.sum() >= FEWEST_QUIET_ROUNDS else np.ones_like(quiet)


class RunnerProcess:
    def __init__(self, contender: Contender, core: int) -> None:
        self.contender = contender
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **contender.environment}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.runner", str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RunnerError(f"{self.contender.label}: the process ended with status {self.process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RunnerError(f"{self.contender.label}: {reply['error']}")
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
        path = folder / "outputs.npz"
        reply = self.ask(do="outputs", path=str(path))
        with np.load(path) as stored:
            return [stored[name] for name in stored.files], reply

    def close(self) -> None:
        if self.process.poll() is None and self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def agree(outputs: list[np.ndarray], reference: list[np.ndarray]) -> Agreement:
    """The worst output counts; a wrong shape or a non-finite value is an infinite error."""
    worst = Agreement(0.0, 1.0)
    if [array.shape for array in outputs] != [array.shape for array in reference]:
        return Agreement(float("inf"), 0.0)
    for ours, theirs in zip(outputs, reference, strict=True):
        ours = ours.astype(np.float64).ravel()
        theirs = theirs.astype(np.float64).ravel()
        if not np.isfinite(ours).all():
            return Agreement(float("inf"), 0.0)
        scale = float(np.abs(theirs).max(initial=1e-30))
        error = float(np.abs(ours - theirs).max(initial=0.0)) / scale
        norms = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
        cosine = float(ours @ theirs) / norms if norms else 1.0
        worst = Agreement(max(worst.max_error, error), min(worst.cosine, cosine))
    return worst


def compare(
    contenders: list[Contender],
    inputs: dict[str, np.ndarray],
    *,
    max_error: float,
    min_cosine: float = 0.0,
    rounds: int = 15,
    time_s: float = 3.0,
    core: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Runs all contenders on `inputs`; each gets about `time_s` of timed calls.

    Each contender's outputs are held against those of unoptimised onnxruntime on the same file.
    """
    core = max(os.sched_getaffinity(0)) if core is None else core
    result = Comparison({}, {}, {}, {})
    with tempfile.TemporaryDirectory(prefix="skipjack-bench-") as name:
        folder = Path(name)
        np.savez(folder / "inputs.npz", **inputs)
        models = {contender.model for contender in contenders}
        expected = {model: _reference_outputs(model, folder, core) for model in models}
        live: dict[str, RunnerProcess] = {}
        try:
            for contender in contenders:
                _admit(contender, folder, core, expected[contender.model], max_error, min_cosine, live, result)
            if live:
                _take_turns(live, rounds, time_s, random.Random(seed), result)
        finally:
            for runner in live.values():
                runner.close()
    return result


def _reference_outputs(model: Path, folder: Path, core: int) -> list[np.ndarray]:
    runner = RunnerProcess(Contender("reference", "onnxruntime", model, PeerSettings(optimise=False)), core)
    try:
        runner.load(folder / "inputs.npz")
        return runner.outputs(folder)[0]
    finally:
        runner.close()


def _admit(
    contender: Contender,
    folder: Path,
    core: int,
    expected: list[np.ndarray],
    max_error: float,
    min_cosine: float,
    live: dict[str, RunnerProcess],
    result: Comparison,
) -> None:
    runner = RunnerProcess(contender, core)
    try:
        runner.load(folder / "inputs.npz")
        agreement = agree(runner.outputs(folder)[0], expected)
    except RunnerError as error:
        result.refused[contender.label] = str(error)
        runner.close()
        return
    result.agreement[contender.label] = agreement
    if agreement.max_error <= max_error and agreement.cosine >= min_cosine:
        live[contender.label] = runner
        return
    result.refused[contender.label] = (
        f"{contender.label}: outputs differ by {agreement.max_error:.2g}, cosine {agreement.cosine:.5f}; "
        f"allowed {max_error:.2g}, {min_cosine:.5f}"
    )
    runner.close()


def _take_turns(
    live: dict[str, RunnerProcess], rounds: int, time_s: float, order: random.Random, result: Comparison
) -> None:
    iterations: dict[str, int] = {}
    for label, runner in live.items():
        probe = min(runner.ask(do="run", warm=2, iterations=2)["wall_s"])
        iterations[label] = max(1, round(time_s / rounds / probe))
    seconds: dict[str, list[float]] = {label: [] for label in live}
    quiet: dict[str, list[bool]] = {label: [] for label in live}
    for _ in range(rounds):
        labels = list(live)
        order.shuffle(labels)
        for label in labels:
            reply = live[label].ask(do="run", warm=1, iterations=iterations[label])
            wall = np.array(reply["wall_s"])
            kept = np.array(reply["cpu_s"]) >= QUIET_SHARE * wall
            seconds[label].append(float(np.median(wall[kept] if kept.any() else wall)))
            quiet[label].append(bool(kept.any()))
    result.round_s = {label: np.array(values) for label, values in seconds.items()}
    result.quiet = {label: np.array(values) for label, values in quiet.items()}
