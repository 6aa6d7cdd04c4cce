"""What executes a case: each runner takes a ModelProto and inputs by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

import skipjack.ops.all  # noqa: F401
from skipjack import compile_model
from skipjack.core.dims import Dim, Sym, evaluate, symbols
from skipjack.core.dtypes import DType
from skipjack.frontend.onnx_file import import_model
from skipjack.ir.graph import Graph, frozen
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.execute import run_graph
from skipjack.passes.propagate_types import typed


def reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """Every node by its numpy reference, on the graph as the frontend gives it."""
    return run_graph(import_model(model).graph, feeds)


def typed_reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """As `reference`; every value must have the type that the type rules promised."""
    return run_checked(typed(import_model(model).graph).graph, feeds)


def symbolic_reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """As `typed_reference`, with a symbol for every size of every input while types are derived."""
    graph = import_model(model).graph
    types = {name: _with_symbols(name, graph.types[name]) for name in graph.inputs}
    return run_checked(typed(replace(graph, types=frozen(types))).graph, feeds)


def unknown_rank_reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """As `typed_reference`, with inputs of unknown rank while types are derived."""
    graph = import_model(model).graph
    types = {name: _without_rank(graph.types[name]) for name in graph.inputs}
    return run_checked(typed(replace(graph, types=frozen(types))).graph, feeds)


def engine(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """The compiled path: kernels where there are some, references as host steps where there are none."""
    compiled = compile_model(model, batch_size=None, num_cores=1)
    return compiled.run([_c_contiguous(feeds[name]) for name in compiled.input_names])


def symbolic_engine(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """As `engine`, with a symbol for every size of every input: sizes become known when inputs come."""
    free = onnx.ModelProto()
    free.CopyFrom(model)
    for value in free.graph.input:
        if value.type.HasField("tensor_type"):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                dim.dim_param = f"{value.name}.{axis}"
    del free.graph.value_info[:]
    for value in free.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return engine(free, feeds)


def _c_contiguous(value: Any) -> Any:
    return np.ascontiguousarray(value).reshape(value.shape) if isinstance(value, np.ndarray) else value


def _with_symbols(name: str, kind: ValueType) -> ValueType:
    if not isinstance(kind, TensorType) or kind.shape is None:
        return kind
    return kind.with_shape(tuple(Sym.named(f"{name}.{axis}") for axis in range(len(kind.shape))))


def _without_rank(kind: ValueType) -> ValueType:
    return kind.with_shape(None) if isinstance(kind, TensorType) else kind


def run_checked(graph: Graph, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs of a typed graph; AssertionError names a value that is not of its type."""
    names = [*graph.inputs, *dict.fromkeys(o for node in graph.nodes for o in node.outputs if o)]
    values = dict(zip(names, run_graph(replace(graph, outputs=tuple(names)), feeds)))
    sizes: dict[str, int] = {}
    for name in names:
        problem = _mismatch(values[name], graph.types[name], sizes)
        assert problem is None, f"value {name!r}: {problem}, its type is {graph.types[name]}"
    return [values[name] if name in values else graph.constants[name] for name in graph.outputs]


def _mismatch(value: Any, kind: ValueType, sizes: dict[str, int]) -> str | None:
    """Why value is not of its type; sizes holds the symbols bound so far and takes new ones."""
    if not isinstance(kind, TensorType) or value is None:
        return None
    if not isinstance(value, np.ndarray):
        return f"it is a {type(value).__name__}"
    if DType.from_numpy(value.dtype) is not kind.dtype:
        return f"its element type is {value.dtype}"
    if kind.shape is None:
        return None
    if len(kind.shape) != value.ndim:
        return f"its shape is {value.shape}"
    wrong = [(d, n) for d, n in zip(kind.shape, value.shape) if not _fits(d, n, sizes)]
    return f"its shape is {value.shape}" if wrong else None


def _fits(d: Dim, size: int, sizes: dict[str, int]) -> bool:
    unknown = symbols(d) - set(sizes)
    if unknown and Sym.named(next(iter(unknown))) == d:
        sizes[str(d)] = size
    return bool(unknown) or evaluate(d, sizes) == size
