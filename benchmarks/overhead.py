"""What a call costs beside the arithmetic: a chain of 100 nodes that cannot fuse, and an empty model."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import onnx
from onnx import TensorProto, helper

from skipjack.benchmark.interleave import last_cores
from skipjack.benchmark.processes import Contender, RunnerError, RunnerProcess, save_inputs
from skipjack.benchmark.scenarios import Load, timed_calls

SHAPE = (1, 4, 4)
CHAIN_LENGTH = 100
LIMITS_US = {"chain": 30.0, "empty": 5.0}
LOOP_LIMIT_US = 5.0
WARM_CALLS = 2000
TIMED_CALLS = 20000


def chain_model(length: int) -> onnx.ModelProto:
    """Softmax over alternating axes: each needs whole rows of its predecessor's other axis."""
    nodes = [
        helper.make_node("Softmax", [f"v{index}"], [f"v{index + 1}"], axis=1 + index % 2) for index in range(length)
    ]
    return _model(nodes or [helper.make_node("Identity", ["v0"], ["v1"])], f"v{max(1, length)}")


def _model(nodes: list[onnx.NodeProto], output: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "overhead",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, SHAPE)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure_call_us(engine: str, model: onnx.ModelProto) -> float:
    """The median call after warm-up, including Python."""
    with tempfile.TemporaryDirectory(prefix="skipjack-overhead-") as name:
        folder = Path(name)
        onnx.save(model, str(folder / "model.onnx"))
        save_inputs(folder / "inputs.npz", {"v0": np.random.default_rng(0).random(SHAPE, np.float32)})
        runner = RunnerProcess(Contender(engine, engine, folder / "model.onnx"), last_cores(1))
        try:
            runner.load(folder / "inputs.npz")
            turn = runner.turn(Load(iterations=TIMED_CALLS), warm=WARM_CALLS)
        finally:
            runner.close()
    return float(np.median(turn.latencies_s)) * 1e6


def measure_loop_us() -> float:
    """What the loop that times calls adds to each: its time around calls that do nothing, best of several."""
    turns = [timed_calls(lambda: None, 0.0, TIMED_CALLS) for _ in range(5)]
    return min(turn.wall_s / TIMED_CALLS for turn in turns) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", default="skipjack,onnxruntime")
    options = parser.parse_args()
    models = {"chain": chain_model(CHAIN_LENGTH), "empty": chain_model(0)}
    loop_us = measure_loop_us()
    print(f"the timing loop itself {loop_us:.2f} us per call (limit {LOOP_LIMIT_US:.0f} us)")
    missed = loop_us > LOOP_LIMIT_US
    for engine in options.engines.split(","):
        for name, model in models.items():
            try:
                call_us = measure_call_us(engine, model)
            except RunnerError as error:
                print(error)
                missed = missed or engine == "skipjack"
                continue
            print(f"{engine:12} {name:6} {call_us:8.2f} us per call (limit for skipjack {LIMITS_US[name]:.0f} us)")
            missed = missed or (engine == "skipjack" and call_us > LIMITS_US[name])
    sys.exit(missed)


if __name__ == "__main__":
    main()
