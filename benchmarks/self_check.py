"""Does the comparison tell the truth here? An engine against itself, and against itself made ten percent slower."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from skipjack.benchmark.interleave import Plan, compare, last_cores  # noqa: E402
from skipjack.benchmark.measure import LAUNCHES_COMPARED, ROUNDS_COMPARED  # noqa: E402
from skipjack.benchmark.processes import Contender  # noqa: E402
from skipjack.benchmark.statistics import Estimate  # noqa: E402
from skipjack.benchmark.subject import read_subject  # noqa: E402

NEEDED = {"itself": 0.9, "slowdown": 0.9}


def ratio(model: Path, second: str, inputs: dict[str, np.ndarray], time_s: float, seed: int) -> Estimate:
    """How many times longer the second engine took than the first; the first is the unchanged one."""
    first = "skipjack" if second == "skipjack" else "tests.benchmark.planted:steady"
    contenders = [
        Contender("first", first, model, environment={"PYTHONPATH": str(ROOT)}),
        Contender("second", second, model, environment={"PYTHONPATH": str(ROOT)}),
    ]
    often = Plan(rounds=ROUNDS_COMPARED, launches=LAUNCHES_COMPARED, with_reference=False)
    plan = replace(often, time_s=time_s, warmup_s=0.2, seed=seed)
    result = compare(contenders, inputs, plan, cores=last_cores(1))
    return result.ratio_estimate("second", "first")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "src/skipjack/models/digits/digits.onnx")
    parser.add_argument("--tries", type=int, default=20, help="half as many for the slowdown")
    parser.add_argument("--time", type=float, default=1.0, help="seconds per engine and try")
    options = parser.parse_args()
    inputs = read_subject(options.model, 1, None).inputs
    ones = [ratio(options.model, "skipjack", inputs, options.time, seed) for seed in range(options.tries)]
    slower = "tests.benchmark.planted:slower"
    tens = [ratio(options.model, slower, inputs, options.time, seed) for seed in range(options.tries // 2)]
    shares = {
        "itself": float(np.mean([e.low <= 1.0 <= e.high for e in ones])),
        "slowdown": float(np.mean([e.low > 1.0 for e in tens])),
    }
    print(f"against itself: one inside the interval in {shares['itself']:.0%} of {len(ones)} tries; last {ones[-1]}")
    print(f"ten percent slower: found in {shares['slowdown']:.0%} of {len(tens)} tries; last {tens[-1]}")
    sys.exit(any(shares[name] < needed for name, needed in NEEDED.items()))


if __name__ == "__main__":
    main()
