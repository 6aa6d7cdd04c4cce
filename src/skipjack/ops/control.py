"""Control flow: If, Loop and Scan. Their bodies are graphs that may read values around them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, symbols
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.core.limits import check_allocation, check_rounds
from skipjack.ir.graph import Graph
from skipjack.ir.types import OptionalType, SequenceType, TensorType, ValueType, tensor
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axis_of, fresh_shape, ref_axis
from skipjack.ops.sequence import body_of

WIDENINGS = 8
"""Rounds after which the sizes a loop carries must have settled; every round frees at least one size."""


def _typed(i: Infer, body: Graph, types: Sequence[ValueType | None]) -> Graph:
    if len(types) != len(body.inputs):
        i.fail(f"a body with {len(types)} inputs", f"{len(body.inputs)} in {body.name!r}")
    return body if i.graphs is None else i.graphs(body, types)


def _result_types(body: Graph) -> list[ValueType]:
    return [body.types[name] for name in body.outputs]


def _known_symbols(i: Infer, bodies: Sequence[Graph]) -> set[str]:
    """The symbols that have a value outside the bodies."""
    found: set[str] = set()
    captured = [body.types.get(name) for body in bodies for name in body.captured]
    for t in [*i.types, *captured]:
        found |= _symbols_in(t)
    return found


def _symbols_in(t: ValueType | None) -> set[str]:
    if isinstance(t, TensorType):
        return {name for d in t.shape or () for name in symbols(d)}
    return _symbols_in(t.element) if isinstance(t, SequenceType | OptionalType) else set()


def _merged(i: Infer, a: ValueType, b: ValueType, size: Callable[[int, Dim, Dim], Dim]) -> ValueType:
    """A type that a and b both fit; size decides for each axis."""
    if isinstance(a, OptionalType) != isinstance(b, OptionalType):
        a = a if isinstance(a, OptionalType) else OptionalType(a)
        b = b if isinstance(b, OptionalType) else OptionalType(b)
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return SequenceType(_merged(i, a.element, b.element, size))
    if isinstance(a, OptionalType) and isinstance(b, OptionalType):
        return OptionalType(_merged(i, a.element, b.element, size))
    if not isinstance(a, TensorType) or not isinstance(b, TensorType) or a.dtype is not b.dtype:
        i.fail("values of one type", f"{a} and {b}")
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return TensorType(a.dtype, None)
    return TensorType(a.dtype, tuple(size(n, x, y) for n, (x, y) in enumerate(zip(a.shape, b.shape))))


def _outside(i: Infer, t: ValueType, known: set[str], what: str) -> ValueType:
    """t with sizes that only the body knows replaced by new symbols."""

    def size(axis: int, d: Dim, _: Dim) -> Dim:
        return d if symbols(d) <= known else i.fresh(f"{what}_{axis}")

    return _merged(i, t, t, size)


def _if_rule(i: Infer) -> list[ValueType]:
    condition = i.value(0)
    names = ("then_branch", "else_branch")
    if condition is not None and condition.size == 1:
        taken = 0 if bool(condition.reshape(-1)[0]) else 1
        body = _typed(i, body_of(i, names[taken]), [])
        _type_if_possible(i, body_of(i, names[1 - taken]))
        known = _known_symbols(i, [body])
        return [_outside(i, t, known, f"out{n}") for n, t in enumerate(_result_types(body))]
    bodies = [_typed(i, body_of(i, name), []) for name in names]
    results = [_result_types(b) for b in bodies]
    if len({len(r) for r in results} | {len(i.node.outputs)}) != 1:
        i.fail(f"branches with {len(i.node.outputs)} outputs", [len(r) for r in results])
    known = _known_symbols(i, bodies)

    def joined(n: int) -> ValueType:
        def size(axis: int, a: Dim, b: Dim) -> Dim:
            return a if a == b and symbols(a) <= known else i.fresh(f"out{n}_{axis}")

        return _merged(i, results[0][n], results[1][n], size)

    return [joined(n) for n in range(len(results[0]))]


def _type_if_possible(i: Infer, body: Graph) -> None:
    """A branch that is never taken may be one that does not fit; it goes away with the condition."""
    try:
        _typed(i, body, [])
    except ModelError:
        return


def _if(r: Ref) -> list[Any]:
    assert r.run is not None, "the executor runs subgraphs"
    condition = np.asarray(r.get(0)).reshape(-1)
    if condition.size != 1:
        r.fail("one truth value", f"{condition.size}")
    return r.run(body_of(r, "then_branch" if condition[0] else "else_branch"), [])


def _settled(
    i: Infer, body: Graph, head: Sequence[ValueType], state: list[ValueType], skip: int, tail: Sequence[ValueType]
) -> tuple[Graph, list[ValueType]]:
    """The typed body and the types its carried values have in every round: sizes that change become symbols."""
    for attempt in range(WIDENINGS):
        typed = _typed(i, body, [*head, *state, *tail])
        made = _result_types(typed)[skip : skip + len(state)]
        if len(made) != len(state):
            i.fail(f"a body with at least {len(state) + skip} outputs", len(typed.outputs))
        wider = [_widened(i, a, b, f"carried{n}_{attempt}") for n, (a, b) in enumerate(zip(state, made))]
        if wider == state:
            return typed, state
        state = wider
    return i.fail("carried values whose shapes settle", state)


def _widened(i: Infer, before: ValueType, after: ValueType, what: str) -> ValueType:
    def size(axis: int, a: Dim, b: Dim) -> Dim:
        return a if a == b or _is_carried(i, a) else i.fresh(f"{what}_{axis}")

    return _merged(i, before, after, size)


def _is_carried(i: Infer, d: Dim) -> bool:
    """Whether this rule made the size: it may already differ from round to round."""
    return bool(symbols(d) & set(i.new_symbols))


def _final(i: Infer, state: Sequence[ValueType], known: set[str]) -> list[ValueType]:
    return [_outside(i, t, known, f"final{n}") for n, t in enumerate(state)]


def _stacked(i: Infer, t: ValueType, count: Dim, axis: int, known: set[str], what: str) -> ValueType:
    """A scan output: one slice of type t per round along a new axis."""
    slice_type = _outside(i, t, known, what)
    if not isinstance(slice_type, TensorType) or slice_type.shape is None:
        return TensorType(slice_type.dtype, None) if isinstance(slice_type, TensorType) else i.fail("a tensor", t)
    axis = axis_of(i, axis, len(slice_type.shape) + 1)
    return TensorType(slice_type.dtype, (*slice_type.shape[:axis], count, *slice_type.shape[axis:]))


def _loop_rule(i: Infer) -> list[ValueType]:
    state: list[ValueType] = [t for t in i.types[2:] if t is not None]
    if len(state) != max(len(i.types) - 2, 0):
        i.fail("a value for every carried input", "an absent one")
    body, state = _settled(i, body_of(i, "body"), [tensor(DType.I64), tensor(DType.BOOL)], state, 1, [])
    known = _known_symbols(i, [body])
    scans = _result_types(body)[1 + len(state) :]
    rounds = [_stacked(i, t, i.fresh("rounds"), 0, known, f"scan{n}") for n, t in enumerate(scans)]
    return [*_final(i, state, known), *rounds][: len(i.node.outputs)]


def _truth(value: Any) -> bool:
    return bool(np.asarray(value).reshape(-1)[0])


def _loop(r: Ref) -> list[Any]:
    assert r.run is not None, "the executor runs subgraphs"
    body = body_of(r, "body")
    state = list(r.inputs[2:])
    scans: list[list[Any]] = [[] for _ in body.outputs[1 + len(state) :]]
    limit = None if r.get(0) is None else int(np.asarray(r.get(0)).reshape(-1)[0])
    going = r.get(1) is None or _truth(r.get(1))
    for n in itertools.count():
        if not going or (limit is not None and n >= limit):
            break
        check_rounds(n, str(r.node.origin))
        results = r.run(body, [np.array(n, np.int64), np.array(going), *state])
        going, state = _truth(results[0]), list(results[1 : 1 + len(state)])
        for rows, value in zip(scans, results[1 + len(state) :]):
            check_allocation((n + 1) * np.size(value), np.asarray(value).itemsize, str(r.node.origin))
            rows.append(value)
    names = body.outputs[1 + len(state) :]
    return [*state, *[_stack(body, name, rows, 0) for name, rows in zip(names, scans)]]


def _stack(body: Graph, name: str, rows: list[Any], axis: int) -> np.ndarray:
    """The slices stacked along a new axis; without any, an empty array of the body's type."""
    if rows:
        return np.stack([np.asarray(row) for row in rows], axis)
    t = body.types.get(name)
    if not isinstance(t, TensorType):
        return np.zeros((0,), np.float32)
    sizes = [d if isinstance(d, int) else 0 for d in t.shape or ()]
    sizes.insert(axis if axis >= 0 else len(sizes) + 1 + axis, 0)
    return np.zeros(sizes, t.dtype.np)


def _listed(x: Infer | Ref, name: str, count: int) -> list[int]:
    given = x.attr(name) or [0] * count
    if len(given) != count:
        x.fail(f"{count} values in {name}", list(given))
    return list(given)


def _scan_rule(i: Infer) -> list[ValueType]:
    count = i.attr("num_scan_inputs", 0)
    if not 1 <= count <= len(i.types):
        i.fail(f"num_scan_inputs from 1 to {len(i.types)}", count)
    state: list[ValueType] = [i.tensor(n) for n in range(len(i.types) - count)]
    length: Dim | None = None
    slices: list[ValueType] = []
    for n, axis in enumerate(_listed(i, "scan_input_axes", count)):
        x = i.tensor(len(state) + n)
        if x.shape is not None:
            axis = axis_of(i, axis, len(x.shape))
            length = x.shape[axis] if length is None or isinstance(x.shape[axis], int) else length
        slices.append(TensorType(x.dtype, None if x.shape is None else (*x.shape[:axis], *x.shape[axis + 1 :])))
    body, state = _settled(i, body_of(i, "body"), [], state, 0, slices)
    known = _known_symbols(i, [body])
    made = _result_types(body)[len(state) :]
    rounds = fresh_shape(i, 1, "rounds")[0] if length is None else length
    axes = _listed(i, "scan_output_axes", len(made))
    stacked = [_stacked(i, t, rounds, axes[n], known, f"scan{n}") for n, t in enumerate(made)]
    return [*_final(i, state, known), *stacked]


def _scan(r: Ref) -> list[Any]:
    assert r.run is not None, "the executor runs subgraphs"
    body, count = body_of(r, "body"), r.attr("num_scan_inputs", 0)
    carried = len(r.inputs) - count
    state, given = list(r.inputs[:carried]), [np.asarray(x) for x in r.inputs[carried:]]
    axes = [ref_axis(r, a, x.ndim) for a, x in zip(_listed(r, "scan_input_axes", count), given)]
    backwards = _listed(r, "scan_input_directions", count)
    rows = [np.moveaxis(x, a, 0)[:: -1 if b else 1] for x, a, b in zip(given, axes, backwards)]
    if len({len(x) for x in rows}) != 1:
        r.fail("scan inputs of one length", [len(x) for x in rows])
    names = body.outputs[carried:]
    made: list[list[Any]] = [[] for _ in names]
    for n in range(len(rows[0])):
        results = r.run(body, [*state, *[x[n] for x in rows]])
        state = list(results[:carried])
        for out, value in zip(made, results[carried:]):
            out.append(value)
    reverse = _listed(r, "scan_output_directions", len(names))
    made = [out[::-1] if b else out for out, b in zip(made, reverse)]
    out_axes = _listed(r, "scan_output_axes", len(names))
    return [*state, *[_stack(body, name, out, a) for name, out, a in zip(names, made, out_axes)]]


register(Op("If", _if_rule, _if))
register(Op("Loop", _loop_rule, _loop))
register(Op("Scan", _scan_rule, _scan))
