"""Prints the comparison tables: `python benchmarks/suite.py [--models ...] [--batch 1,16] [--variants fp32]`.

The first engine is the one the ratios are about: above one, it is faster. With several variants each engine shows the
file it likes best, held against that same file's reference outputs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT.parent)

import numpy as np  # noqa: E402

from benchmarks.inputs import SEQUENCE, free_sizes, make_inputs  # noqa: E402
from benchmarks.loading import print_loads  # noqa: E402
from skipjack.benchmark.engines import LOADERS, EngineSettings  # noqa: E402
from skipjack.benchmark.interleave import Comparison, Plan, compare, last_cores  # noqa: E402
from skipjack.benchmark.measure import ONEDNN_ISA  # noqa: E402
from skipjack.benchmark.processes import (  # noqa: E402
    FLOAT32_TOLERANCE,
    LOW_PRECISION_TOLERANCE,
    Contender,
    Tolerance,
)
from skipjack.benchmark.statistics import Estimate, geometric_mean_estimate, median_estimate  # noqa: E402

MODELS = ("bert_base", "minilm_l6", "resnet50", "mobilenet_v2", "yolov5s")


@dataclass(frozen=True)
class Row:
    model: str
    batch: int
    milliseconds: dict[str, Estimate]
    ratios: dict[str, np.ndarray]
    variants: dict[str, str]
    refused: dict[str, str]
    errors: dict[str, float]
    quiet_rounds: tuple[int, int]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--variants", default="fp32", help="comma-separated; each engine shows its best")
    parser.add_argument("--engines", default="skipjack,onnxruntime,openvino")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "native"), default="float32")
    parser.add_argument("--sequence", type=int, default=SEQUENCE)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--time", type=float, default=3.0, help="timed seconds per engine, model and batch")
    parser.add_argument("--core", type=int, help="the core to take turns on (the last allowed one)")
    parser.add_argument("--isa", choices=tuple(ONEDNN_ISA), help="restrict skipjack and OpenVINO alike")
    parser.add_argument("--folder", type=Path, default=ROOT / "models")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--peak-rss", action="store_true", help="load times and memory instead of speed")
    options = parser.parse_args()
    unknown = set(options.engines.split(",")) - set(LOADERS)
    if unknown:
        parser.error(f"unknown engines {', '.join(sorted(unknown))}; expected {', '.join(LOADERS)}")
    return options


def contenders_for(options: argparse.Namespace, model: str, batch: int) -> list[Contender]:
    environment = {}
    if options.isa:
        environment = {"SKIPJACK_ISA": options.isa, "ONEDNN_MAX_CPU_ISA": ONEDNN_ISA[options.isa]}
    sizes = free_sizes(batch, options.sequence)
    settings = EngineSettings(precision=options.precision, free_sizes=sizes)
    tolerance = tolerance_for(options)
    found = []
    for engine in options.engines.split(","):
        for variant in options.variants.split(","):
            path = options.folder / f"{model}-{variant}.onnx"
            if not path.exists():
                raise SystemExit(f"{path} is missing; run: python benchmarks/build.py {model} --variants {variant}")
            found.append(Contender(f"{engine}/{variant}", engine, path, settings, environment, tolerance))
    return found


def tolerance_for(options: argparse.Namespace) -> Tolerance:
    quantised = any(name.endswith(("qdq", "qdqio", "dynamic")) for name in options.variants.split(","))
    return LOW_PRECISION_TOLERANCE if quantised or options.precision != "float32" else FLOAT32_TOLERANCE


def measure_row(options: argparse.Namespace, model: str, batch: int) -> Row:
    contenders = contenders_for(options, model, batch)
    inputs = make_inputs(contenders[0].model, batch, options.sequence)
    plan = Plan(rounds=options.rounds, time_s=options.time)
    result = compare(contenders, inputs, plan, cores=last_cores(1) if options.core is None else [options.core])
    return summarise(model, batch, options.engines.split(","), result)


def summarise(model: str, batch: int, engines: list[str], result: Comparison) -> Row:
    best = {engine: label for engine in engines if (label := best_label(engine, result))}
    ratios = {}
    baseline = best.get(engines[0])
    if baseline:
        ratios = {engine: result.ratios(label, baseline) for engine, label in best.items() if engine != engines[0]}
    return Row(
        model,
        batch,
        {engine: result.milliseconds(label) for engine, label in best.items()},
        ratios,
        {engine: label.partition("/")[2] for engine, label in best.items()},
        result.refused,
        {label: agreement.max_error for label, agreement in result.agreement.items()},
        result.quiet_rounds(),
    )


def best_label(engine: str, result: Comparison) -> str | None:
    labels = [label for label in result.round_s if label.startswith(f"{engine}/")]
    return min(labels, key=lambda label: result.milliseconds(label).value, default=None)


def print_header(engines: list[str]) -> None:
    columns = "".join(f"{engine + ' ms':>16}" for engine in engines)
    ratios = "".join(f"{'vs ' + engine:>24}" for engine in engines[1:])
    print(f"{'model':14}{'batch':>6}{columns}{ratios}{'max error':>12}{'quiet':>9}", flush=True)


def print_row(row: Row, engines: list[str], many_variants: bool) -> None:
    cells = ""
    for engine in engines:
        value = row.milliseconds.get(engine)
        cells += f"{'-' if value is None else format(value.value, '.3f'):>16}"
    for engine in engines[1:]:
        ratio = row.ratios.get(engine)
        cells += f"{'-' if ratio is None else str(median_estimate(ratio)):>24}"
    quiet, rounds = row.quiet_rounds
    worst = max(row.errors.values(), default=float("nan"))
    print(f"{row.model:14}{row.batch:6}{cells}{worst:12.1e}{f'{quiet}/{rounds}':>9}", flush=True)
    if many_variants:
        print("    best files: " + ", ".join(f"{engine} {variant}" for engine, variant in row.variants.items()))
    for reason in row.refused.values():
        print(f"    {reason}")


def print_geometric_means(rows: list[Row], engines: list[str]) -> None:
    for batch in sorted({row.batch for row in rows}):
        mine = [row for row in rows if row.batch == batch]
        for engine in engines[1:]:
            groups = [row.ratios[engine] for row in mine if engine in row.ratios]
            if groups:
                estimate = geometric_mean_estimate(groups)
                pair = f"{engines[0]} vs {engine}"
                print(f"geometric mean, batch {batch}, {pair}: {estimate} over {len(groups)} of {len(mine)}")


def as_json(row: Row) -> dict[str, Any]:
    ratios = {engine: asdict(median_estimate(samples)) for engine, samples in row.ratios.items()}
    return {**asdict(row), "ratios": ratios}


def print_load_tables(options: argparse.Namespace) -> None:
    for model in options.models.split(","):
        for batch in map(int, options.batch.split(",")):
            contenders = contenders_for(options, model, batch)
            print(f"{model}, batch {batch}")
            print_loads(contenders, make_inputs(contenders[0].model, batch, options.sequence))


def main() -> None:
    options = parse_arguments()
    if options.peak_rss:
        print_load_tables(options)
        return
    engines = options.engines.split(",")
    rows = []
    print_header(engines)
    for batch in map(int, options.batch.split(",")):
        for model in options.models.split(","):
            rows.append(measure_row(options, model, batch))
            print_row(rows[-1], engines, "," in options.variants)
    print_geometric_means(rows, engines)
    if options.json:
        options.json.write_text(json.dumps([as_json(row) for row in rows], indent=1))
    if any(row.refused for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
