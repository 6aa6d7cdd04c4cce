"""Seeded inputs for a benchmark model at one batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

SEQUENCE = 128
TOKEN_LIMIT = 30000


def make_inputs(path: Path, batch: int, sequence: int = SEQUENCE, seed: int = 0) -> dict[str, np.ndarray]:
    """One array per graph input; masks are all ones, so that no engine may skip positions."""
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(seed)
    sizes = free_sizes(batch, sequence)
    return {value.name: _fill(value, sizes, rng) for value in graph.input if value.name not in weights}


def free_sizes(batch: int, sequence: int = SEQUENCE) -> dict[str, int]:
    """The sizes that the builders leave open, by name."""
    return {"batch": batch, "sequence": sequence}


def _fill(value: onnx.ValueInfoProto, sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    tensor = value.type.tensor_type
    shape = [dim.dim_value or sizes[dim.dim_param] for dim in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if "mask" in value.name:
        return np.ones(shape, dtype)
    if "token_type" in value.name:
        return rng.integers(0, 2, shape).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, TOKEN_LIMIT, shape).astype(dtype)
    if value.name == "images":
        return rng.random(shape, np.float32).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype)
