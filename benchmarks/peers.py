"""Each engine behind one call: a model file and inputs in, a function that runs once out.

Every engine gets static shapes, one thread and its own best settings; nothing here is specific to a model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Feed = dict[str, np.ndarray]
RunOnce = Callable[[], list[np.ndarray]]


@dataclass(frozen=True)
class PeerSettings:
    """`precision` is float32, bfloat16 or native (whatever the engine does by default)."""

    precision: str = "float32"
    optimise: bool = True


def load_onnxruntime(path: str, feed: Feed, settings: PeerSettings) -> RunOnce:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if settings.optimise else levels.ORT_DISABLE_ALL
    options.log_severity_level = 3
    first = next(iter(feed.values()), None)
    if first is not None and first.ndim:
        options.add_free_dimension_override_by_name("batch", first.shape[0])
        if first.ndim == 2:
            options.add_free_dimension_override_by_name("sequence", first.shape[1])
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)


def load_openvino(path: str, feed: Feed, settings: PeerSettings) -> RunOnce:
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({name: list(value.shape) for name, value in feed.items()})
    config: dict[str, object] = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    if settings.precision == "float32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    elif settings.precision == "bfloat16":
        config["INFERENCE_PRECISION_HINT"] = "bf16"
    request = core.compile_model(model, "CPU", config).create_infer_request()
    order = range(len(model.outputs))

    def run_once() -> list[np.ndarray]:
        results = request.infer(feed, share_inputs=True, share_outputs=True)
        return [results[index] for index in order]

    return run_once


def load_skipjack(path: str, feed: Feed, settings: PeerSettings) -> RunOnce:
    skipjack = importlib.import_module("skipjack")
    arrays = list(feed.values())
    options: dict[str, object] = {"num_cores": 1}
    if settings.precision == "bfloat16":
        options["precision"] = "bf16"
    if arrays:
        options["batch_size"] = arrays[0].shape[0] if arrays[0].ndim else 1
        options["input_shapes"] = [list(array.shape) for array in arrays]
    engine = skipjack.compile_model(path, **options)
    return lambda: engine.run(arrays)


LOADERS: dict[str, Callable[[str, Feed, PeerSettings], RunOnce]] = {
    "skipjack": load_skipjack,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
}
