"""The interleaved comparison: engines in processes of their own take turns on the same cores.

Outputs are compared before anything is timed; an engine whose outputs differ gets no turn and so no ratio. In each
round every engine has one turn, in random order, and the ratio is formed inside the round, so that slow drifts of the
machine cancel. Only one engine computes at a time.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from skipjack.benchmark.engines import EngineSettings
from skipjack.benchmark.processes import Contender, RunnerError, RunnerProcess, save_inputs
from skipjack.benchmark.scenarios import Load, Turn
from skipjack.benchmark.slo import highest_rate
from skipjack.benchmark.statistics import Estimate, launched_estimate, median_estimate
from skipjack.session.teams import resolve_cores

QUIET_SHARE = 0.97
FEWEST_QUIET_ROUNDS = 5
ONE_AFTER_THE_OTHER = Load()

Watch = Callable[[str, float], None]
"""Called with what happens now and the share that is done."""


@dataclass(frozen=True)
class Agreement:
    """`max_error` is the largest absolute difference as a share of the output's largest value."""

    max_error: float
    cosine: float


@dataclass(frozen=True)
class Plan:
    """What a comparison does: time_s of calls for each contender, cut into rounds, after warmup_s that do not count.

    The processes are started anew `launches` times, spread over the rounds.
    load says how the calls come; its seconds and iterations are those of one round and are filled in from here.
    """

    load: Load = ONE_AFTER_THE_OTHER
    rounds: int = 15
    time_s: float = 3.0
    warmup_s: float = 0.0
    iterations: int | None = None
    slo_s: float | None = None
    with_reference: bool = True
    seed: int = 0
    launches: int = 1

    def turn(self, index: int) -> Load:
        """The load of one round."""
        iterations = None if self.iterations is None else max(1, round(self.iterations / self.rounds))
        seed = self.seed + index
        return replace(self.load, seconds=self.time_s / self.rounds, iterations=iterations, seed=seed)


@dataclass
class Startup:
    """What came before the steady state. cold_load_s is there when kernels had to be compiled."""

    cold_load_s: float | None
    load_s: float
    first_run_s: float
    about: dict[str, Any]


@dataclass
class Comparison:
    """Turns by contender, one a round; a contender that failed or differs stands in `refused` with the reason."""

    turns: dict[str, list[Turn]] = field(default_factory=dict[str, list[Turn]])
    round_s: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    quiet: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    agreement: dict[str, Agreement] = field(default_factory=dict[str, Agreement])
    startup: dict[str, Startup] = field(default_factory=dict[str, Startup])
    memory: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    launch: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    max_rate: dict[str, float] = field(default_factory=dict[str, float])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    differs: set[str] = field(default_factory=set[str])
    notes: list[str] = field(default_factory=list[str])

    def latencies_s(self, label: str) -> np.ndarray:
        """Every latency of a contender, disturbed ones included."""
        return np.concatenate([turn.latencies_s for turn in self.turns[label]])

    def milliseconds(self, label: str) -> Estimate:
        """The figure of a contender over its quiet rounds."""
        return median_estimate(self.round_s[label][self._kept(label)] * 1e3)

    def ratios(self, label: str, baseline: str) -> np.ndarray:
        """Per round, how many times longer `label` took than `baseline`."""
        kept = self._kept(label, baseline)
        return self.round_s[label][kept] / self.round_s[baseline][kept]

    def ratio_estimate(self, label: str, baseline: str) -> Estimate:
        """How many times longer `label` takes than `baseline`, with an interval that holds for other launches, too."""
        return launched_estimate(self.ratios(label, baseline), self.launch[self._kept(label, baseline)])

    def quiet_rounds(self) -> tuple[int, int]:
        """Rounds in which no engine lost its cores, and all rounds."""
        if not self.quiet:
            return 0, 0
        together = np.logical_and.reduce(list(self.quiet.values()))
        return int(together.sum()), len(together)

    def _kept(self, *labels: str) -> np.ndarray:
        quiet = np.logical_and.reduce([self.quiet[label] for label in labels])
        return quiet if quiet.sum() >= FEWEST_QUIET_ROUNDS else np.ones_like(quiet)


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


def last_cores(threads: int) -> list[int]:
    """The physical cores to measure on: the last ones, the system likes the first ones better."""
    return resolve_cores(None)[-threads:]


def compare(
    contenders: Sequence[Contender],
    inputs: dict[str, np.ndarray],
    plan: Plan,
    *,
    cores: Sequence[int] = (),
    watch: Watch = lambda text, done: None,
) -> Comparison:
    """Runs all contenders on `inputs`. Outputs are held against those of unoptimised onnxruntime on the same file."""
    result = Comparison()
    live: dict[str, RunnerProcess] = {}
    with tempfile.TemporaryDirectory(prefix="skipjack-bench-") as name:
        folder = Path(name)
        save_inputs(folder / "inputs.npz", inputs)
        stand = _Stand(folder, list(cores), plan, result)
        try:
            for contender in contenders:
                watch(f"load {contender.label}", 0.0)
                runner = stand.admit(contender)
                if runner is not None:
                    live[contender.label] = runner
            _take_turns(live, plan, result, watch, stand.relaunch)
            if plan.slo_s is not None:
                _search_rates(live, plan, result, watch)
            for label, runner in live.items():
                result.memory[label] = runner.ask(do="memory")
        finally:
            for runner in live.values():
                runner.close()
    return result


class _Stand:
    """Where contenders are loaded and their outputs checked before they may take turns."""

    def __init__(self, folder: Path, cores: list[int], plan: Plan, result: Comparison) -> None:
        self.folder = folder
        self.cores = cores
        self.plan = plan
        self.result = result
        self.expected: dict[Path, list[np.ndarray]] = {}

    def admit(self, contender: Contender) -> RunnerProcess | None:
        """A process that is ready, or None and the reason in the result."""
        runner = RunnerProcess(contender, self.cores)
        try:
            loaded = runner.load(self.folder / "inputs.npz")
            cold_s = loaded["load_s"] if loaded["compiled"] else None
            if loaded["compiled"]:
                runner.close()
                runner = RunnerProcess(contender, self.cores)
                loaded = runner.load(self.folder / "inputs.npz")
            outputs, first = runner.outputs(self.folder)
            about = runner.ask(do="describe")
        except RunnerError as error:
            self.result.refused[contender.label] = str(error)
            runner.close()
            return None
        self.result.startup[contender.label] = Startup(cold_s, loaded["load_s"], first["first_run_s"], about)
        if self.plan.with_reference and not self._agrees(contender, outputs):
            runner.close()
            return None
        return runner

    def relaunch(self, runner: RunnerProcess) -> RunnerProcess:
        """The same contender in a new process; the old one ends."""
        runner.close()
        fresh = RunnerProcess(runner.contender, self.cores)
        try:
            fresh.load(self.folder / "inputs.npz")
            fresh.outputs(self.folder)
        except RunnerError:
            fresh.close()
            raise
        return fresh

    def _agrees(self, contender: Contender, outputs: list[np.ndarray]) -> bool:
        label, tolerance = contender.label, contender.tolerance
        if contender.model not in self.expected:
            self.expected[contender.model] = self._reference(contender) or outputs
        agreement = agree(outputs, self.expected[contender.model])
        self.result.agreement[label] = agreement
        if agreement.max_error <= tolerance.max_error and agreement.cosine >= tolerance.min_cosine:
            return True
        self.result.differs.add(label)
        self.result.refused[label] = (
            f"{label}: outputs differ by {agreement.max_error:.2g}, cosine {agreement.cosine:.5f}; "
            f"allowed {tolerance.max_error:.2g}, {tolerance.min_cosine:.5f}; no ratio is shown"
        )
        return False

    def _reference(self, contender: Contender) -> list[np.ndarray] | None:
        """The outputs of unoptimised onnxruntime; None when it is missing or cannot run the model."""
        settings = EngineSettings(optimise=False, free_sizes=contender.settings.free_sizes)
        runner = RunnerProcess(Contender("reference", "onnxruntime", contender.model, settings), self.cores)
        try:
            runner.load(self.folder / "inputs.npz")
            return runner.outputs(self.folder)[0]
        except RunnerError as error:
            self.result.notes.append(f"outputs are held against those of {contender.label}, because {error}")
            return None
        finally:
            runner.close()


def _take_turns(
    live: dict[str, RunnerProcess],
    plan: Plan,
    result: Comparison,
    watch: Watch,
    relaunch: Callable[[RunnerProcess], RunnerProcess],
) -> None:
    order = random.Random(plan.seed)
    turns: dict[str, list[Turn]] = {label: [] for label in live}
    quiet: dict[str, list[bool]] = {label: [] for label in live}
    figures: dict[str, list[float]] = {label: [] for label in live}
    launch = np.arange(plan.rounds) * plan.launches // plan.rounds
    warm = replace(plan.load, seconds=max(plan.warmup_s / plan.launches, 1e-3), iterations=None, seed=plan.seed)
    for index in range(plan.rounds):
        if index == 0 or launch[index] != launch[index - 1]:
            for label in live:
                watch(f"warm up {label}", index / plan.rounds)
                live[label] = relaunch(live[label]) if index else live[label]
                live[label].turn(warm)
        labels = list(live)
        order.shuffle(labels)
        for label in labels:
            watch(f"round {index + 1} of {plan.rounds}: {label}", index / plan.rounds)
            turn = live[label].turn(plan.turn(index))
            figure, undisturbed = round_figure(turn, plan.load.scenario, live[label].contender.settings.threads)
            turns[label].append(turn)
            figures[label].append(figure)
            quiet[label].append(undisturbed)
    result.turns = turns
    result.launch = launch
    result.round_s = {label: np.array(values) for label, values in figures.items()}
    result.quiet = {label: np.array(values) for label, values in quiet.items()}


def round_figure(turn: Turn, scenario: str, threads: int) -> tuple[float, bool]:
    """Seconds a call of one round, and whether the machine left it undisturbed.

    Calls one after the other: the median of those that kept their cores. Random arrivals: the median latency. All
    else: time by the number of calls.
    """
    if turn.cpu_s is not None:
        kept = undisturbed_calls(turn, threads)
        return float(np.median(turn.latencies_s[kept] if kept.any() else turn.latencies_s)), bool(kept.any())
    if scenario == "poisson":
        return float(np.median(turn.latencies_s)), True
    return turn.wall_s / len(turn.latencies_s), True


def undisturbed_calls(turn: Turn, threads: int) -> np.ndarray:
    """Which calls had processor time throughout. Threads of an engine may wait for each other, so with several of
    them a call is held against the calls of its round that had most."""
    assert turn.cpu_s is not None, "only calls one after the other have processor times"
    share = turn.cpu_s / np.maximum(turn.latencies_s, 1e-9)
    usual = 1.0 if threads == 1 else float(np.quantile(share, 0.9))
    return share >= QUIET_SHARE * usual


def _search_rates(live: dict[str, RunnerProcess], plan: Plan, result: Comparison, watch: Watch) -> None:
    """The most requests per second at which 99 of 100 answers still come within the limit."""
    assert plan.slo_s is not None, "there is a limit to search for"
    for label, runner in live.items():
        watch(f"search the highest rate: {label}", 1.0)
        seconds = float(np.mean(result.latencies_s(label)))
        if plan.load.scenario == "poisson":
            seconds = float(np.median(runner.turn(Load("sync", seconds=0.5)).latencies_s))
        load = replace(plan.load, scenario="poisson", iterations=None, seconds=plan.time_s / 3)

        def attempt(rate: float, runner: RunnerProcess = runner, load: Load = load) -> np.ndarray:
            return runner.turn(replace(load, rate=rate)).latencies_s

        result.max_rate[label] = highest_rate(attempt, plan.slo_s, plan.load.streams / seconds)
