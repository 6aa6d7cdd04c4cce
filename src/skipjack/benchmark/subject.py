"""The model that is measured: what is in it, and inputs that every engine gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from skipjack.core.dims import Sym
from skipjack.core.errors import ModelError, UnsupportedError
from skipjack.frontend.onnx_file import import_model
from skipjack.ir.graph import Graph
from skipjack.ir.types import TensorType
from skipjack.passes.propagate_types import specialize
from skipjack.session.inputs import input_specs, parse_shapes, random_inputs
from skipjack.zoo.names import is_remote
from skipjack.zoo.resolve import resolve

SPARSE_SHARE = 0.3
_QUANTISED = ("QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")


@dataclass(frozen=True)
class Contents:
    """What is in a model. zero_share is that of the values of its weights, matrices and larger."""

    opset: int
    parameters: int
    zero_share: float
    quantised: bool

    @property
    def is_sparse(self) -> bool:
        return self.zero_share >= SPARSE_SHARE

    def __str__(self) -> str:
        kind = "int8" if self.quantised else "float"
        return f"opset {self.opset}, {self.parameters / 1e6:.2f} M params, {self.zero_share:.1%} zero, {kind} weights"


@dataclass(frozen=True)
class Subject:
    """A model file with its inputs; contents are None when skipjack cannot run it, which `problem` then explains."""

    path: Path
    inputs: dict[str, np.ndarray]
    free_sizes: dict[str, int]
    contents: Contents | None
    problem: str = ""

    @property
    def shapes(self) -> list[list[int]]:
        return [list(array.shape) for array in self.inputs.values()]


def model_file(model: str | os.PathLike[str]) -> Path:
    """The file of a model: a path, a directory with model.onnx, an hf: or zoo: name; ModelError when there is none."""
    if is_remote(model):
        return resolve(model).model
    path = Path(model)
    if path.is_dir():
        path = path / "model.onnx"
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    return path


def read_subject(
    model: str | os.PathLike[str],
    batch_size: int | None,
    input_shapes: Any,
    sequence_length: int | None = None,
    seed: int = 0,
) -> Subject:
    """Read a model and make random inputs for it."""
    path = model_file(model)
    try:
        imported = import_model(path)
    except UnsupportedError as error:
        inputs, free = _declared_inputs(path, batch_size, input_shapes, sequence_length, seed)
        return Subject(path, inputs, free, None, str(error))
    graph = imported.graph
    shapes = parse_shapes(graph.inputs, input_shapes)
    if batch_size:
        shapes = {name: [batch_size, *sizes[1:]] for name, sizes in shapes.items()}
    if sequence_length:
        shapes = {**_sequences(graph, batch_size, sequence_length), **shapes}
    specs = input_specs(specialize(graph, input_shapes=shapes, batch_size=batch_size or None))
    inputs = {spec.name: array for spec, array in zip(specs, random_inputs(specs, seed), strict=True)}
    return Subject(path, inputs, _free_sizes(graph, inputs), _contents(graph, imported.opsets.get("", 0)))


def _sequences(graph: Graph, batch_size: int | None, length: int) -> dict[str, list[int]]:
    """Shapes of the inputs that are rows of positions with a free length."""
    found: dict[str, list[int]] = {}
    for name in graph.inputs:
        shape = _declared_shape(graph, name)
        if len(shape) == 2 and isinstance(shape[1], Sym):
            found[name] = [batch_size or (shape[0] if isinstance(shape[0], int) else 1), length]
    return found


def _declared_shape(graph: Graph, name: str) -> Sequence[Any]:
    declared = graph.types[name]
    return (declared.shape or ()) if isinstance(declared, TensorType) else ()


def _free_sizes(graph: Graph, inputs: dict[str, np.ndarray]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, array in inputs.items():
        for size, actual in zip(_declared_shape(graph, name), array.shape, strict=False):
            if isinstance(size, Sym):
                found.setdefault(str(size), actual)
    return found


def _contents(graph: Graph, opset: int) -> Contents:
    values = [array for array in graph.constants.values() if array.dtype.kind == "f" or array.dtype.itemsize == 1]
    weights = [array for array in values if array.ndim >= 2]
    held = sum(array.size for array in weights)
    used = sum(int(np.count_nonzero(array)) for array in weights)
    return Contents(
        opset=opset,
        parameters=sum(array.size for array in values),
        zero_share=1 - used / held if held else 0.0,
        quantised=any(node.op in _QUANTISED for node in graph.nodes),
    )


def _declared_inputs(
    path: Path, batch_size: int | None, input_shapes: Any, sequence_length: int | None, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Inputs from the file's own declarations, for models that only other engines run."""
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    declared = [value for value in graph.input if value.name not in weights]
    shapes = parse_shapes([value.name for value in declared], input_shapes)
    rng = np.random.default_rng(seed)
    inputs: dict[str, np.ndarray] = {}
    free: dict[str, int] = {}
    for value in declared:
        tensor = value.type.tensor_type
        sizes = [dim.dim_value for dim in tensor.shape.dim]
        usual = [batch_size or 1, sequence_length or 128, 224, 224] + [1] * len(sizes)
        shape = shapes.get(value.name) or [size or usual[axis] for axis, size in enumerate(sizes)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        drawn = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        inputs[value.name] = drawn.astype(dtype)
        free.update({d.dim_param: n for d, n in zip(tensor.shape.dim, shape, strict=True) if d.dim_param})
    return inputs, free
