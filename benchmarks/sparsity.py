"""Prints the table of sparse and low-precision models: `python benchmarks/sparsity.py [--rows bert] [--batch 1,16]`.

A row holds one model against one peer at equal precision: one thread, one interleaved run, outputs compared before any
ratio. Where quantisation may be written in two styles (layer inputs only; inputs and outputs), each engine shows the
file it likes best. Peers that may run float parts in bf16 (OpenVINO's default) meet skipjack with precision bf16; its
figure with fp32 float parts stands beside. A ratio above one means that skipjack is faster.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if __package__ in (None, ""):
    sys.path[0] = str(ROOT.parent)

from benchmarks.inputs import SEQUENCE, free_sizes, make_inputs  # noqa: E402
from skipjack.benchmark.engines import EngineSettings  # noqa: E402
from skipjack.benchmark.interleave import Comparison, Plan, compare, last_cores  # noqa: E402
from skipjack.benchmark.measure import ONEDNN_ISA  # noqa: E402
from skipjack.benchmark.processes import FLOAT32_TOLERANCE, LOW_PRECISION_TOLERANCE, Contender  # noqa: E402
from skipjack.benchmark.statistics import Estimate  # noqa: E402

FLOAT, HALF, NATIVE = "float32", "bfloat16", "native"
LARGE_BATCH_ALLOWANCE = 0.9


@dataclass(frozen=True)
class Row:
    """One line: the files to choose from, the peer, and the ratio asked for on an AVX-512 + VNNI + AMX machine."""

    kind: str
    model: str
    variants: tuple[str, ...]
    peer: str
    bar: float

    @property
    def name(self) -> str:
        return f"{self.model} {self.kind}"

    @property
    def exact(self) -> bool:
        return self.kind.startswith("fp32")


def _styles(prefix: str = "") -> tuple[str, ...]:
    return (f"{prefix}qdq", f"{prefix}qdqio")


ROWS = (
    Row("fp32 p90", "bert_base", ("p90",), "onnxruntime", 4.8),
    Row("fp32 p95", "bert_base", ("p95",), "onnxruntime", 6.5),
    Row("fp32 p85", "minilm_l6", ("p85",), "onnxruntime", 3.5),
    Row("fp32 p90", "resnet50", ("p90",), "onnxruntime", 3.0),
    Row("fp32 p95", "resnet50", ("p95",), "onnxruntime", 4.0),
    Row("fp32 p80", "yolov5s", ("p80",), "onnxruntime", 1.8),
    Row("fp32 p80", "mobilenet_v2", ("p80",), "onnxruntime", 1.8),
    Row("bf16 dense", "bert_base", ("fp32",), "openvino", 1.5),
    Row("bf16 dense", "minilm_l6", ("fp32",), "openvino", 1.3),
    Row("bf16 dense", "resnet50", ("fp32",), "openvino", 1.05),
    Row("bf16 dense", "yolov5s", ("fp32",), "openvino", 1.15),
    Row("bf16 dense", "mobilenet_v2", ("fp32",), "openvino", 1.0),
    Row("int8 dense", "bert_base", _styles(), "openvino", 2.4),
    Row("int8 dense", "minilm_l6", _styles(), "openvino", 1.7),
    Row("int8 dense", "resnet50", _styles(), "openvino", 1.3),
    Row("int8 dense", "yolov5s", _styles(), "openvino", 1.3),
    Row("int8 dense", "mobilenet_v2", _styles(), "openvino", 1.1),
    Row("int8 p90 b4", "bert_base", _styles("p90-b4-"), "openvino", 3.0),
    Row("int8 p85 b4", "minilm_l6", _styles("p85-b4-"), "openvino", 2.2),
    Row("int8 p90 b4", "resnet50", _styles("p90-b4-"), "openvino", 1.4),
    Row("int8 p80 b4", "yolov5s", _styles("p80-b4-"), "openvino", 1.5),
)
RESTRICTED_BARS = {
    ("avx512vnni", "bert_base int8 p90 b4"): 3.0,
    ("avx512vnni", "resnet50 int8 p90 b4"): 1.8,
    ("avx2", "bert_base fp32 p90"): 4.0,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="comma-separated parts of row names; all rows when left out")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--isa", choices=tuple(ONEDNN_ISA), help="restrict skipjack and OpenVINO alike")
    parser.add_argument("--launches", type=int, default=3, help="how often each process is started anew")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--time", type=float, default=3.0, help="timed seconds per engine and file")
    parser.add_argument("--core", type=int, help="the core to take turns on (the last allowed one)")
    parser.add_argument("--folder", type=Path, default=ROOT / "models")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    return parser.parse_args()


def contenders_of(row: Row, options: argparse.Namespace, batch: int) -> list[Contender]:
    """skipjack with fp32 float parts, and with bf16 ones where the peer may use them; the peer at its best."""
    precisions = [("skipjack", FLOAT)] if row.exact else [("skipjack", FLOAT), ("skipjack", HALF)]
    # Under a limit a peer's own choice may be bf16 without the instructions for it, so it may choose fp32, too.
    precisions += [(row.peer, p) for p in ([FLOAT] if row.exact else [NATIVE, FLOAT] if options.isa else [NATIVE])]
    environment = {}
    if options.isa:
        environment = {"SKIPJACK_ISA": options.isa, "ONEDNN_MAX_CPU_ISA": ONEDNN_ISA[options.isa]}
    tolerance = FLOAT32_TOLERANCE if row.exact else LOW_PRECISION_TOLERANCE
    found = []
    for engine, precision in precisions:
        settings = EngineSettings(precision=precision, free_sizes=free_sizes(batch, SEQUENCE))
        for variant in row.variants:
            path = options.folder / f"{row.model}-{variant}.onnx"
            if not path.exists():
                raise SystemExit(f"{path} is missing; run: python benchmarks/build.py {row.model} --variants {variant}")
            label = f"{engine} {precision}/{variant}"
            found.append(Contender(label, engine, path, settings, environment, tolerance))
    return found


@dataclass(frozen=True)
class Line:
    """What was measured for one row: ms and file per side, the ratio, cosine to the unoptimised reference."""

    row: Row
    batch: int
    bar: float | None
    milliseconds: dict[str, float]
    files: dict[str, str]
    ratio: Estimate | None
    cosine: dict[str, float]
    refused: dict[str, str]
    quiet: tuple[int, int]


def measure(row: Row, options: argparse.Namespace, batch: int) -> Line:
    contenders = contenders_of(row, options, batch)
    inputs = make_inputs(contenders[0].model, batch)
    plan = Plan(rounds=options.rounds, time_s=options.time, launches=options.launches)
    result = compare(contenders, inputs, plan, cores=last_cores(1) if options.core is None else [options.core])
    best = {side: label for side in sides(contenders) if (label := best_label(side, result))}
    ours = min(
        (best[s] for s in best if s.startswith("skipjack")), key=lambda x: result.milliseconds(x).value, default=""
    )
    others = [label for side, label in best.items() if side.startswith(row.peer)]
    theirs = min(others, key=lambda label: result.milliseconds(label).value, default="")
    return Line(
        row,
        batch,
        bar_of(row, options.isa, batch),
        {side: result.milliseconds(label).value for side, label in best.items()},
        {side: label.partition("/")[2] for side, label in best.items()},
        result.ratio_estimate(theirs, ours) if ours and theirs else None,
        {side: result.agreement[label].cosine for side, label in best.items()},
        result.refused,
        result.quiet_rounds(),
    )


def sides(contenders: list[Contender]) -> list[str]:
    return list(dict.fromkeys(c.label.partition("/")[0] for c in contenders))


def best_label(side: str, result: Comparison) -> str | None:
    labels = [label for label in result.round_s if label.startswith(f"{side}/")]
    return min(labels, key=lambda label: result.milliseconds(label).value, default=None)


def bar_of(row: Row, isa: str | None, batch: int) -> float | None:
    """The ratio asked for; None where none is asked for a restricted instruction set."""
    bar = row.bar if isa is None else RESTRICTED_BARS.get((isa, row.name))
    return bar if bar is None or batch == 1 else round(bar * LARGE_BATCH_ALLOWANCE, 2)


def print_line(line: Line) -> None:
    ratio = "-" if line.ratio is None else str(line.ratio)
    bar = "" if line.bar is None else f"bar {line.bar}"
    if line.ratio is not None and line.bar is not None:
        bar += " met" if line.ratio.value >= line.bar else " MISSED"
    quiet = f"quiet {line.quiet[0]}/{line.quiet[1]}"
    print(f"{line.row.name:26}b{line.batch:<4}vs {line.row.peer:12}{ratio:>22}  {bar:18}{quiet}", flush=True)
    for side, value in line.milliseconds.items():
        print(f"    {side:22}{value:9.3f} ms  {line.files[side]:14} cosine {line.cosine.get(side, float('nan')):.6f}")
    for reason in line.refused.values():
        print(f"    {reason}")


def main() -> None:
    options = parse_arguments()
    wanted = [part for part in options.rows.split(",") if part]
    rows = [row for row in ROWS if not wanted or any(part in row.name for part in wanted)]
    lines = []
    for batch in map(int, options.batch.split(",")):
        for row in rows:
            lines.append(measure(row, options, batch))
            print_line(lines[-1])
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))
    if any(line.ratio is None for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
