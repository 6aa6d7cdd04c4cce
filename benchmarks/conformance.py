"""Counts of ONNX's node cases that pass, by denominator, and the reasons of those that fail."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.ops.conformance import harness, lists, runners

RUNNERS = {
    "engine": runners.engine,
    "symbolic_engine": runners.symbolic_engine,
    "reference": runners.reference,
    "typed_reference": runners.typed_reference,
    "symbolic_reference": runners.symbolic_reference,
    "unknown_rank_reference": runners.unknown_rank_reference,
}


def main() -> None:
    """Run the cases and print what passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filter", default="", help="only cases whose name holds this text")
    parser.add_argument("--op", default="", help="only cases of this operator")
    parser.add_argument("--runner", choices=sorted(RUNNERS), default="typed_reference")
    parser.add_argument("--width", type=int, default=200, help="longest reason printed")
    parser.add_argument("--update", action="store_true", help="rewrite the list of passing cases")
    given = parser.parse_args()
    selected = [c for c in harness.cases() if given.filter in c.name and _has(c.model, given.op)]
    failures = harness.run_all(RUNNERS[given.runner], selected)
    for failure in failures:
        print(f"{failure.name}: {' '.join(failure.reason.split())[: given.width]}")
    failed, run = {f.name for f in failures}, {c.name for c in selected}
    print(f"onnx {onnx.__version__}, runner {given.runner}")
    if given.update:
        lists.write_passing(onnx.__version__, run - failed)
    for name, members in harness.denominators().items():
        chosen = members & run
        print(f"{name:10} {len(chosen - failed):5} of {len(chosen):5}")


def _has(model: onnx.ModelProto | None, op: str) -> bool:
    return not op or (model is not None and any(n.op_type == op for n in model.graph.node))


if __name__ == "__main__":
    main()
