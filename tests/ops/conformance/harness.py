"""ONNX's node cases: the list with its denominators, one run, and the comparison of outputs.

A runner takes a ModelProto and the input values by name, and gives the outputs in order.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

Runner = Callable[[onnx.ModelProto, Mapping[str, Any]], Sequence[Any]]
_PLAIN = {
    TensorProto.FLOAT,
    TensorProto.BOOL,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT32,
    TensorProto.INT64,
}
_CORE = _PLAIN | {
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
    TensorProto.COMPLEX64,
    TensorProto.COMPLEX128,
}
_LOSSES = {"SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"}
_DRAWS = {"Bernoulli", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"}


@functools.cache
def cases() -> tuple[TestCase, ...]:
    """All node cases of the installed onnx package, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(sorted(load_model_tests(kind="node"), key=lambda c: c.name))


@functools.cache
def denominators() -> dict[str, frozenset[str]]:
    """Names of cases by denominator, from widest to narrowest."""
    named = {c.name: c.model for c in cases()}
    scope = {n for n, m in named.items() if not any(o.domain.startswith("ai.onnx.preview") for o in m.opset_import)}
    base = {n for n in named if not _is_expanded(n)}
    core = {n for n in base if _is_core(named[n])}
    core26 = {n for n in core if opset(named[n]) <= 26}
    plain26 = {n for n in core26 if _element_types(named[n]) <= _PLAIN}
    plain23 = {n for n in plain26 if opset(named[n]) <= 23}
    found = [
        ("all", set(named)),
        ("in scope", scope),
        ("base", base),
        ("core", core),
        ("core26", core26),
        ("plain26", plain26),
        ("plain23", plain23),
    ]
    return {name: frozenset(members) for name, members in found}


def opset(model: onnx.ModelProto) -> int:
    """The version of the default domain that the model imports, 0 when it imports none."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _is_expanded(name: str) -> bool:
    return name.endswith("_expanded") or "_expanded_ver" in name


def _is_core(model: onnx.ModelProto) -> bool:
    default_only = all(o.domain in ("", "ai.onnx") for o in model.opset_import)
    losses = any(n.op_type in _LOSSES for n in model.graph.node)
    return default_only and not losses and _element_types(model) <= _CORE


def _element_types(model: onnx.ModelProto) -> set[int]:
    """Element types of inputs and outputs; -1 stands for a value that is no tensor."""
    values = [*model.graph.input, *model.graph.output]
    return {v.type.tensor_type.elem_type if v.type.HasField("tensor_type") else -1 for v in values}


@dataclass(frozen=True)
class Failure:
    """A case that did not pass, and why."""

    name: str
    reason: str


def run_case(case: TestCase, runner: Runner) -> str | None:
    """None when every data set of the case gives the expected outputs, else the reason it does not.

    Of cases that draw random numbers only the types and shapes of the outputs are compared.
    """
    assert case.model is not None, f"{case.name} has no model"
    assert case.data_sets, f"{case.name} has no data"
    graph = case.model.graph
    drawn = any(n.op_type in _DRAWS for n in graph.node) or _trains(case.model)
    for inputs, expected in case.data_sets:
        feeds = {v.name: _value(x, v.type) for v, x in zip(graph.input, inputs)}
        try:
            outputs = runner(case.model, feeds)
        except Exception as e:
            return f"{type(e).__name__}: {e}"
        wanted = [_value(x, v.type) for v, x in zip(graph.output, expected)]
        failure = compare(case, outputs, wanted, values=not drawn)
        if failure is not None:
            return failure
    return None


def _trains(model: onnx.ModelProto) -> bool:
    """Whether a Dropout of the model may draw: its mask differs from run to run."""
    return any(n.op_type == "Dropout" and len(n.input) > 2 for n in model.graph.node)


def _value(x: Any, kind: onnx.TypeProto) -> Any:
    """A case's value as plain Python: arrays, lists, dicts or None."""
    if isinstance(x, onnx.TensorProto):
        return numpy_helper.to_array(x)
    if isinstance(x, onnx.SequenceProto):
        return numpy_helper.to_list(x)
    if isinstance(x, onnx.OptionalProto):
        return numpy_helper.to_optional(x)
    if isinstance(x, list) and kind.HasField("tensor_type"):
        return np.asarray(x)
    if isinstance(x, np.generic):
        return np.asarray(x)
    if isinstance(x, np.ndarray) and x.dtype.kind in "US":
        return x.astype(object)
    return x


def compare(case: TestCase, outputs: Sequence[Any], expected: Sequence[Any], values: bool = True) -> str | None:
    """None when outputs are as expected, else the first difference; values=False looks at types and shapes only."""
    if len(outputs) != len(expected):
        return f"{len(outputs)} outputs, expected {len(expected)}"
    for n, (got, wanted) in enumerate(zip(outputs, expected)):
        failure = _difference(got, wanted, case, values)
        if failure is not None:
            return f"output {n}: {failure}"
    return None


def _difference(got: Any, wanted: Any, case: TestCase, values: bool) -> str | None:
    if wanted is None or isinstance(wanted, dict):
        same = got is None if wanted is None else isinstance(got, dict) and got == wanted
        return None if same else f"{got}, expected {wanted}"
    if isinstance(wanted, list):
        if not isinstance(got, list) or len(got) != len(wanted):
            return f"{got!r}, expected a list of {len(wanted)}"
        found = (_difference(g, w, case, values) for g, w in zip(got, wanted))
        return next((f"element {n}: {f}" for n, f in enumerate(found) if f is not None), None)
    return _array_difference(got, np.asarray(wanted), case, values)


def _array_difference(got: Any, wanted: np.ndarray, case: TestCase, values: bool) -> str | None:
    if not isinstance(got, np.ndarray):
        return f"a {type(got).__name__}, expected an array"
    text = wanted.dtype.kind in "OUS"
    if got.dtype != (np.dtype(object) if text else wanted.dtype):
        return f"type {got.dtype}, expected {wanted.dtype}"
    if got.shape != wanted.shape:
        return f"shape {got.shape}, expected {wanted.shape}"
    if not values:
        return None
    if text:
        return None if [_text(x) for x in got.flat] == [_text(x) for x in wanted.flat] else f"{got}, expected {wanted}"
    return _number_difference(got, wanted, case)


def _text(x: Any) -> str:
    return x.decode() if isinstance(x, bytes) else str(x)


def _number_difference(got: np.ndarray, wanted: np.ndarray, case: TestCase) -> str | None:
    if wanted.dtype.kind in "iub":
        same = got == wanted
        return (
            None if same.all() else f"{int((~same).sum())} of {same.size} differ, {got.flat[:6]} for {wanted.flat[:6]}"
        )
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    a, b = got.astype(wide), wanted.astype(wide)
    with np.errstate(all="ignore"):
        close = np.isclose(a, b, rtol=case.rtol, atol=case.atol, equal_nan=True)
    if close.all():
        return None
    n = int(np.argmin(close))
    return f"{int((~close).sum())} of {close.size} differ, first {a.flat[n]} for {b.flat[n]} at {n}"


def run_all(runner: Runner, selected: Sequence[TestCase]) -> list[Failure]:
    """The failures among the selected cases."""
    found = [(case.name, run_case(case, runner)) for case in selected]
    return [Failure(name, reason) for name, reason in found if reason is not None]
