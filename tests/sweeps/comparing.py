"""Sweeps: random small models through the engine, held to the references and to onnxruntime.

Counts stay small so that the suite is quick; SWEEP_EXAMPLES=500 in the environment looks further, each time elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper

import skipjack.ops.all  # noqa: F401
from skipjack import Engine, compile_model
from skipjack.frontend.onnx_file import import_model
from skipjack.ops.execute import run_graph

OPSET = 23
IR_VERSION = 10
_WANTED = os.environ.get("SWEEP_EXAMPLES")

Arrays = Mapping[str, np.ndarray]


def sweep(examples: int = 12) -> settings:
    """Settings of one sweep; the same examples every time unless more are asked for."""
    return settings(
        max_examples=int(_WANTED or examples),
        deadline=None,
        derandomize=not _WANTED,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def numbers(seed: int, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """Random values of a shape: small whole numbers for integers, a normal distribution for floats."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 5, shape).astype(dtype)
    if np.dtype(dtype).kind == "b":
        return rng.integers(0, 2, shape).astype(np.bool_)
    return rng.standard_normal(shape).astype(dtype)


def element_type(array: np.ndarray) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def build(
    nodes: Sequence[onnx.NodeProto],
    feeds: Arrays,
    outputs: Sequence[str],
    constants: Arrays | None = None,
    symbols: Mapping[str, Sequence[int | str]] | None = None,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """A model of nodes. symbols: declared input shapes other than those of the feeds."""
    declared = {name: list((symbols or {}).get(name, a.shape)) for name, a in feeds.items()}
    inputs = [helper.make_tensor_value_info(n, element_type(a), declared[n]) for n, a in feeds.items()]
    results = [helper.make_empty_tensor_value_info(n) for n in outputs]
    held = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    typed = _typed_outputs(helper.make_graph(list(nodes), "sweep", inputs, results, held), opset)
    return helper.make_model(typed, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)


def _typed_outputs(graph: onnx.GraphProto, opset: int) -> onnx.GraphProto:
    """The graph with element types on its outputs, as onnx infers them."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
    known = {v.name: v for v in (*model.graph.input, *onnx.shape_inference.infer_shapes(model).graph.value_info)}
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    typed = [helper.make_tensor_value_info(v.name, _elements(known.get(v.name, v)), None) for v in inferred]
    del graph.output[:]
    graph.output.extend(typed)
    return graph


def _elements(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type or TensorProto.FLOAT


def engine(model: onnx.ModelProto, num_cores: int = 1) -> Engine:
    return compile_model(model, batch_size=None, num_cores=num_cores)


def onnxruntime_outputs(model: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def assert_close(got: Sequence[Any], wanted: Sequence[Any], tolerance: float, who: str) -> None:
    """Same shapes and types; floats within tolerance of the largest finite expected value, the rest equal."""
    assert len(got) == len(wanted)
    for n, (a, b) in enumerate(zip(got, wanted)):
        where = f"output {n}, expected by {who}"
        assert a.shape == b.shape, f"{where}: shape {a.shape} for {b.shape}"
        assert a.dtype == b.dtype, f"{where}: type {a.dtype} for {b.dtype}"
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b, where)
            continue
        finite = np.abs(b[np.isfinite(b)].astype(np.float64))
        limit = tolerance * max(float(finite.max(initial=0)), 1e-3)
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=0, atol=limit, err_msg=where)


def check(model: onnx.ModelProto, feeds: Arrays, tolerance: float = 2e-5, peer: bool = True) -> None:
    """The engine agrees with the references, with onnxruntime when peer, and itself on two cores and later runs."""
    alone = engine(model)
    inputs = list(feeds.values())
    kept = [a.copy() for a in inputs]
    got = alone.run(inputs)
    first = [a.copy() for a in got]
    assert_close(got, run_graph(import_model(model).graph, feeds), tolerance, "the reference")
    if peer:
        assert_close(got, onnxruntime_outputs(model, feeds), tolerance, "onnxruntime")
    again = alone.run(inputs)
    assert_same(got, first, "a second run changed the results of the first")
    assert_same(again, first, "a second run differs")
    assert_same(engine(model, num_cores=2).run(inputs), first, "two cores differ from one")
    assert_same(inputs, kept, "a run changed its inputs")
    assert_separate([*got, *again, *inputs])


def assert_same(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray], message: str) -> None:
    """Bits are equal."""
    for a, b in zip(got, wanted, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), message
        assert a.tobytes() == b.tobytes(), message


def assert_separate(arrays: Sequence[np.ndarray]) -> None:
    """No two arrays share memory."""
    for n, a in enumerate(arrays):
        for b in arrays[:n]:
            assert not np.shares_memory(a, b), "an output lies in the memory of another array of the caller"
