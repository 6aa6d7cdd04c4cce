"""A whole benchmark: a model, engines, a scenario; a report comes back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipjack.benchmark import noise
from skipjack.benchmark.engines import EngineSettings, engine_named
from skipjack.benchmark.interleave import Comparison, Plan, Watch, compare, last_cores
from skipjack.benchmark.processes import FLOAT32_TOLERANCE, LOW_PRECISION_TOLERANCE, Contender, RunnerError
from skipjack.benchmark.results import Report, make_rows
from skipjack.benchmark.scenarios import SCHEDULERS, Load, scenario_named
from skipjack.benchmark.subject import Subject, read_subject
from skipjack.core.errors import ConfigError, nearest
from skipjack.core.knobs import check_environment

# oneDNN has no name for AVX-512 without VNNI but with the byte and word instructions other than AVX512_CORE.
ONEDNN_ISA = {"avx2": "AVX2", "avx512": "AVX512_CORE", "avx512vnni": "AVX512_CORE_VNNI", "amx": "AVX512_CORE_AMX"}
PRECISIONS = {"fp32": "float32", "float32": "float32", "bf16": "bfloat16", "bfloat16": "bfloat16"}
PINNINGS = ("core", "none")
ROUNDS_COMPARED, ROUNDS_ALONE = 21, 5
LAUNCHES_COMPARED = 5
SHORTEST_S = 3.0


@dataclass(frozen=True)
class Request:
    """What to measure. Names of engines, scenarios and precisions may be any that users know."""

    model: str | os.PathLike[str]
    batch_size: int | None = 1
    input_shapes: Any = None
    sequence_length: int | None = None
    num_cores: int | None = None
    num_streams: int | None = None
    scenario: str = "sync"
    time_s: float = 10.0
    warmup_s: float = 2.0
    iterations: int | None = None
    rounds: int | None = None
    rate: float | None = None
    engine: str = "skipjack"
    compare: tuple[str, ...] = ()
    baseline: str | os.PathLike[str] | None = None
    precision: str = "fp32"
    isa: str | None = None
    thread_pinning: str = "core"
    slo_ms: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class _Resolved:
    """A request with its names read and its defaults filled in."""

    request: Request
    scenario: str
    engines: list[str]
    cores: list[int]
    streams: int
    precision: str

    @property
    def rounds(self) -> int:
        most = ROUNDS_COMPARED if len(self.engines) > 1 or self.request.baseline else ROUNDS_ALONE
        wanted = self.request.rounds or most
        return min(wanted, self.request.iterations or wanted)


def measure(request: Request, watch: Watch = lambda text, done: None) -> Report:
    """Run a benchmark. Engines that fail or differ stand in the report; mistakes in the request are a SkipjackError."""
    check_environment()
    resolved = _resolve(request)
    watch("read the model", 0.0)
    sizes = (request.batch_size, request.input_shapes, request.sequence_length)
    subject = read_subject(request.model, *sizes, request.seed)
    contenders = _contenders(resolved, subject)
    start, before = noise.machine(os.cpu_count() or 1), noise.snapshot()
    pinned = resolved.cores if request.thread_pinning == "core" else []
    try:
        comparison = compare(contenders, subject.inputs, _plan(resolved), cores=pinned, watch=watch)
    except RunnerError as error:
        raise RunnerError(f"the benchmark ended half way: {error}") from None
    warnings = noise.warnings_between(before, noise.snapshot(), {os.getpid()}, start)
    return _report(resolved, subject, contenders, comparison, start, warnings)


def _resolve(request: Request) -> _Resolved:
    scenario = scenario_named(request.scenario)
    engines = list(dict.fromkeys(engine_named(name) for name in (request.engine, *request.compare)))
    _check(request, scenario)
    cores = last_cores(request.num_cores or 0)
    streams = request.num_streams or (1 if scenario == "sync" else max(1, len(cores) // 2))
    if scenario == "sync" and streams > 1:
        raise ConfigError(f"--num-streams {streams}: the scenario sync has one stream; use --scenario async")
    return _Resolved(request, scenario, engines, cores, streams, PRECISIONS[request.precision])


def _check(request: Request, scenario: str) -> None:
    if request.precision not in PRECISIONS:
        raise ConfigError(f"precision {request.precision!r}: expected fp32 or bf16; int8 is a property of the model")
    if request.isa is not None and request.isa not in ONEDNN_ISA:
        raise ConfigError(f"isa {request.isa!r}: expected one of {list(ONEDNN_ISA)}{nearest(request.isa, ONEDNN_ISA)}")
    if request.thread_pinning not in PINNINGS:
        raise ConfigError(f"thread pinning {request.thread_pinning!r}: expected core or none")
    if scenario == "poisson" and request.rate is None:
        raise ConfigError("the scenario poisson needs --rate, the requests per second that arrive on average")
    if scenario != "poisson" and request.rate is not None:
        raise ConfigError(f"--rate belongs to the scenario poisson, not to {scenario}")
    for name, value in (("time", request.time_s), ("rate", request.rate), ("slo", request.slo_ms)):
        if value is not None and not 0 < value < 1e9:
            raise ConfigError(f"{name}: expected a positive number, got {value}")
    if request.warmup_s < 0:
        raise ConfigError(f"warm-up: expected a number of seconds that is not negative, got {request.warmup_s}")
    if request.iterations is not None and request.iterations < 1:
        raise ConfigError(f"iterations: expected at least 1, got {request.iterations}")


def _contenders(resolved: _Resolved, subject: Subject) -> list[Contender]:
    contenders = [_contender(resolved, engine, engine, subject) for engine in resolved.engines]
    if resolved.request.baseline is None:
        return contenders
    request = resolved.request
    other = read_subject(request.baseline or "", request.batch_size, subject.shapes, None, request.seed)
    if list(other.inputs) != list(subject.inputs):
        expected = f"inputs {list(subject.inputs)} as the model has"
        raise ConfigError(f"--baseline {other.path}: expected {expected}, got {list(other.inputs)}")
    return contenders + [_contender(resolved, engine, f"{engine} (baseline)", other) for engine in resolved.engines]


def _contender(resolved: _Resolved, engine: str, label: str, subject: Subject) -> Contender:
    environment: dict[str, str] = {}
    if resolved.request.isa:
        environment = {"SKIPJACK_ISA": resolved.request.isa, "ONEDNN_MAX_CPU_ISA": ONEDNN_ISA[resolved.request.isa]}
    if resolved.request.thread_pinning == "none":
        environment["SKIPJACK_AFFINITY"] = "0"
    settings = EngineSettings(
        precision=resolved.precision,
        threads=len(resolved.cores),
        streams=resolved.streams,
        scheduler=SCHEDULERS[resolved.scenario],
        free_sizes=subject.free_sizes,
    )
    low = resolved.precision != "float32" or (subject.contents is not None and subject.contents.quantised)
    tolerance = LOW_PRECISION_TOLERANCE if low else FLOAT32_TOLERANCE
    return Contender(label, engine, subject.path, settings, environment, tolerance)


def _plan(resolved: _Resolved) -> Plan:
    request = resolved.request
    compared = len(resolved.engines) > 1 or request.baseline is not None
    return Plan(
        load=Load(resolved.scenario, streams=resolved.streams, rate=request.rate),
        rounds=resolved.rounds,
        time_s=request.time_s,
        warmup_s=request.warmup_s,
        iterations=request.iterations,
        slo_s=None if request.slo_ms is None else request.slo_ms / 1e3,
        launches=min(LAUNCHES_COMPARED, resolved.rounds) if compared else 1,
        with_reference=compared,
        seed=request.seed,
    )


def _report(
    resolved: _Resolved,
    subject: Subject,
    contenders: list[Contender],
    comparison: Comparison,
    start: noise.Machine,
    warnings: list[str],
) -> Report:
    request, first = resolved.request, contenders[0].label
    batch = request.batch_size or next((a.shape[0] for a in subject.inputs.values() if a.ndim), 1)
    engines = {contender.label: (contender.engine, str(contender.model)) for contender in contenders}
    rows = make_rows(comparison, engines, batch, first, None if request.slo_ms is None else request.slo_ms / 1e3)
    settings = {
        "label": first,
        "engine": resolved.engines[0],
        "compare": resolved.engines[1:],
        "orig_model_path": str(request.model),
        "model_path": str(subject.path),
        "baseline": None if request.baseline is None else str(request.baseline),
        "batch_size": batch,
        "input_shapes": str(subject.shapes),
        "sequence_length": request.sequence_length,
        "num_cores": len(resolved.cores),
        "num_streams": resolved.streams,
        "scenario": resolved.scenario,
        "time_s": request.time_s,
        "warmup_s": request.warmup_s,
        "iterations": request.iterations,
        "rounds": resolved.rounds,
        "rate": request.rate,
        "precision": request.precision,
        "isa": request.isa,
        "slo_ms": request.slo_ms,
        "seed": request.seed,
    }
    contents = subject.contents
    return Report(
        settings=settings,
        rows=sorted(rows, key=lambda row: list(engines).index(row.label)),
        refused=comparison.refused,
        differs=sorted(comparison.differs),
        warnings=warnings + _doubts(request, subject, comparison),
        notes=comparison.notes,
        machine=noise.as_json(start, warnings),
        contents=None if contents is None else {"text": str(contents), **vars(contents)},
        latencies_s={label: comparison.latencies_s(label) for label in comparison.turns},
    )


def _doubts(request: Request, subject: Subject, comparison: Comparison) -> list[str]:
    """What about this benchmark itself makes its figures say less than they seem to."""
    found: list[str] = []
    if subject.contents is not None and subject.contents.is_sparse and request.baseline is None:
        found.append(
            f"{subject.contents.zero_share:.0%} of the weights are zero and no dense INT8 baseline was given: "
            "give one of the same architecture with --baseline, it may be as fast"
        )
    quiet, rounds = comparison.quiet_rounds()
    if quiet < rounds:
        found.append(f"in {rounds - quiet} of {rounds} rounds an engine never had its cores to itself")
    if request.iterations is None and request.time_s < SHORTEST_S:
        found.append(f"{request.time_s:g} s per engine is short; p99 and above want more calls")
    for label, turns in comparison.turns.items():
        unanswered = sum(turn.unanswered for turn in turns)
        if unanswered:
            found.append(f"{label}: {unanswered} requests got no answer in time; the rate is more than it can serve")
    if request.isa is not None and any("onnxruntime" in label for label in comparison.turns):
        found.append("onnxruntime has no setting for the instruction set and used all that this machine has")
    return found


def slower_than(report: Report, ratio: float, engine: str | None = None) -> list[str]:
    """The rows that the first engine is certainly slower than: the whole interval of the ratio lies below `ratio`."""
    compared = [row for row in report.rows if row.speed_ratio is not None and engine in (None, row.engine)]
    return [row.label for row in compared if row.speed_ratio is not None and row.speed_ratio.high < ratio]


def model_name(report: Report) -> str:
    """The short name of the model of a report."""
    path = Path(report.settings["model_path"])
    return path.parent.name if path.name == "model.onnx" else path.stem
