"""Each engine behind one call: a model file and inputs in, callers that run it once each out.

Every engine gets static shapes, the same threads and its own best settings; nothing here is specific to a model.
Engines are imported when they are loaded, so that a process holds one engine only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skipjack.core.errors import ConfigError, ModelError, nearest

Feed = dict[str, np.ndarray]
RunOnce = Callable[[], list[np.ndarray]]


@dataclass(frozen=True)
class EngineSettings:
    """`precision` is float32, bfloat16 or native (whatever the engine does by default).

    free_sizes are the values of the sizes that the file leaves open, by name.
    """

    precision: str = "float32"
    optimise: bool = True
    threads: int = 1
    streams: int = 1
    scheduler: str = "single_stream"
    free_sizes: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class LoadedEngine:
    """caller() gives a function that runs once; callers may run at the same time, one caller never does twice."""

    caller: Callable[[], RunOnce]
    describe: Callable[[], dict[str, Any]]


Loader = Callable[[str, Feed, EngineSettings], LoadedEngine]


def _package(name: str, engine: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        extra = name if name == "torch" else "'skipjack[compare]'"
        raise ConfigError(f"engine {engine} needs the package {name}: pip install {extra}") from None


def _refuse_precision(engine: str, settings: EngineSettings) -> None:
    if settings.precision == "bfloat16":
        raise ConfigError(f"engine {engine} computes in fp32 on this machine; precision bf16 is not available")


def load_onnxruntime(path: str, feed: Feed, settings: EngineSettings) -> LoadedEngine:
    """All threads work on one request, or each of several requests has its share of them."""
    ort = _package("onnxruntime", "onnxruntime")
    _refuse_precision("onnxruntime", settings)
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(1, settings.threads // settings.streams)
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if settings.optimise else levels.ORT_DISABLE_ALL
    options.log_severity_level = 3
    for name, size in settings.free_sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run_once() -> list[np.ndarray]:
        return session.run(None, feed)

    return LoadedEngine(lambda: run_once, lambda: {"repr": "onnxruntime", "version": ort.__version__})


def load_openvino(path: str, feed: Feed, settings: EngineSettings) -> LoadedEngine:
    """Each caller has an infer request of its own."""
    openvino = _package("openvino", "openvino")
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({name: list(value.shape) for name, value in feed.items()})
    config: dict[str, object] = {
        "INFERENCE_NUM_THREADS": settings.threads,
        "NUM_STREAMS": settings.streams,
        "ENABLE_CPU_PINNING": False,
    }
    if settings.precision == "float32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    elif settings.precision == "bfloat16":
        config["INFERENCE_PRECISION_HINT"] = "bf16"
    compiled = core.compile_model(model, "CPU", config)
    order = range(len(model.outputs))

    def caller() -> RunOnce:
        request = compiled.create_infer_request()

        def run_once() -> list[np.ndarray]:
            results = request.infer(feed, share_inputs=True, share_outputs=True)
            return [results[index] for index in order]

        return run_once

    return LoadedEngine(caller, lambda: {"repr": "openvino", "version": openvino.__version__})


def load_skipjack(path: str, feed: Feed, settings: EngineSettings) -> LoadedEngine:
    skipjack = importlib.import_module("skipjack")
    arrays = list(feed.values())
    options: dict[str, Any] = {"num_cores": settings.threads, "scheduler": settings.scheduler}
    if settings.scheduler != "single_stream":
        options["num_streams"] = settings.streams
    if arrays:
        options["batch_size"] = arrays[0].shape[0] if arrays[0].ndim else 1
        options["input_shapes"] = [list(array.shape) for array in arrays]
    if settings.precision == "bfloat16":
        options["precision"] = "bf16"
    engine = skipjack.compile_model(path, **options)

    def run_once() -> list[np.ndarray]:
        return engine.run(arrays)

    def describe() -> dict[str, Any]:
        return {
            "repr": repr(engine),
            "version": skipjack.__version__,
            "isa": engine.cpu_avx_type,
            "fraction_of_supported_ops": engine.fraction_of_supported_ops,
        }

    return LoadedEngine(lambda: run_once, describe)


TORCHSCRIPT_ENDINGS = (".pt", ".torchscript", ".ts")


def load_torch(path: str, feed: Feed, settings: EngineSettings) -> LoadedEngine:
    """A TorchScript file, given itself or lying beside the model under the same name."""
    torch = _package("torch", "torch")
    _refuse_precision("torch", settings)
    beside = [Path(path).with_suffix(ending) for ending in TORCHSCRIPT_ENDINGS]
    script = next((candidate for candidate in beside if candidate.exists()), None)
    if script is None:
        raise ModelError(f"engine torch runs TorchScript files only, and there is no {beside[0].name} beside the model")
    torch.set_num_threads(max(1, settings.threads // settings.streams))
    module = torch.jit.load(str(script)).eval()
    if settings.optimise:
        module = torch.jit.optimize_for_inference(torch.jit.freeze(module))
    tensors = [torch.from_numpy(array) for array in feed.values()]

    def run_once() -> list[np.ndarray]:
        with torch.inference_mode():
            results = module(*tensors)
        found = results if isinstance(results, list | tuple) else [results]
        return [tensor.numpy() for tensor in found]

    return LoadedEngine(lambda: run_once, lambda: {"repr": "torch", "version": torch.__version__})


LOADERS: dict[str, Loader] = {
    "skipjack": load_skipjack,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "torch": load_torch,
}
_OTHER_NAMES = {"ort": "onnxruntime", "ov": "openvino", "deepsparse": "skipjack", "torchscript": "torch"}


def engine_named(name: str) -> str:
    """The engine a user means; ConfigError for a name that is none."""
    key = name.strip().lower()
    found = _OTHER_NAMES.get(key, key)
    if found not in LOADERS:
        known = [*LOADERS, *_OTHER_NAMES]
        raise ConfigError(f"engine {name!r}: expected one of {list(LOADERS)}{nearest(key, known)}")
    return found
