"""Operators on lists of values and on values that may be missing (None at run time)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Sym
from skipjack.core.dtypes import DType
from skipjack.ir.graph import Graph
from skipjack.ir.types import OptionalType, SequenceType, Shape, TensorType, ValueType, tensor
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import attr_dtype, axis_of, ref_axis


def any_of(i: Infer, types: Sequence[TensorType]) -> TensorType:
    """A type every one of the types fits: a new symbol where sizes differ, no shape where ranks do."""
    dtypes = {t.dtype for t in types}
    if len(dtypes) != 1:
        i.fail("elements of one type", sorted(d.value for d in dtypes))
    shapes = [t.shape for t in types]
    ranks = {None if s is None else len(s) for s in shapes}
    known = [s for s in shapes if s is not None]
    if len(ranks) != 1 or len(known) != len(shapes):
        return TensorType(types[0].dtype, None)
    sizes = [d[0] if len(set(d)) == 1 else i.fresh(f"element{a}") for a, d in enumerate(zip(*known))]
    return TensorType(types[0].dtype, tuple(sizes))


def one_of(i: Infer, element: ValueType, hint: str = "item") -> ValueType:
    """The type of one element: elements may differ in every size that is not a number; hint names the new symbols."""
    if not isinstance(element, TensorType) or element.shape is None:
        return element
    return TensorType(element.dtype, _sizes_of_one(i, element.shape, hint))


def _sizes_of_one(i: Infer, shape: Shape, hint: str = "item") -> Shape:
    return tuple(i.fresh(f"{hint}{a}") if isinstance(d, Sym) else d for a, d in enumerate(shape))


def _sequence(i: Infer, index: int = 0) -> SequenceType:
    t = i.types[index] if index < len(i.types) else None
    t = t.element if isinstance(t, OptionalType) else t
    if not isinstance(t, SequenceType):
        i.fail(f"input {index} to be a sequence", type(t).__name__)
    return t


def _position(r: Ref, index: int, count: int) -> int:
    """The position an optional index input names among `count`; the last one when it is absent."""
    given = r.get(index)
    at = count - 1 if given is None else int(np.asarray(given).reshape(-1)[0])
    if not -count <= at < count:
        r.fail(f"a position from {-count} to {count - 1}", at)
    return at % count


def _construct_rule(i: Infer) -> list[ValueType]:
    return [SequenceType(any_of(i, [i.tensor(n) for n in range(len(i.types))]))]


def _construct(r: Ref) -> list[Any]:
    return [list(r.inputs)]


def _empty_rule(i: Infer) -> list[ValueType]:
    return [SequenceType(TensorType(attr_dtype(i, "dtype", DType.F32), None))]


def _empty(r: Ref) -> list[Any]:
    return [[]]


def _at_rule(i: Infer) -> list[ValueType]:
    return [one_of(i, _sequence(i).element)]


def _at(r: Ref) -> list[Any]:
    items = r.get(0)
    return [items[_position(r, 1, len(items))]]


def _erase_rule(i: Infer) -> list[ValueType]:
    return [_sequence(i)]


def _erase(r: Ref) -> list[Any]:
    items = list(r.get(0))
    del items[_position(r, 1, len(items))]
    return [items]


def _insert_rule(i: Infer) -> list[ValueType]:
    element, new = _sequence(i).element, i.tensor(1)
    return [SequenceType(any_of(i, [element, new]) if isinstance(element, TensorType) else new)]


def _insert(r: Ref) -> list[Any]:
    items, given = list(r.get(0)), r.get(2)
    at = len(items) if given is None else int(np.asarray(given).reshape(-1)[0])
    if abs(at) > len(items):
        r.fail(f"a position from {-len(items)} to {len(items)}", at)
    items.insert(at, r.get(1))
    return [items]


def _length_rule(i: Infer) -> list[ValueType]:
    _sequence(i)
    return [tensor(DType.I64)]


def _length(r: Ref) -> list[Any]:
    return [np.array(len(r.get(0)), np.int64)]


def _split_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    if x.shape is None:
        return [SequenceType(TensorType(x.dtype, None))]
    axis = axis_of(i, i.attr("axis", 0), len(x.shape))
    size: Shape = (i.fresh("part"),)
    if not i.has(1):
        size = (1,) if i.attr("keepdims", 1) else ()
    return [SequenceType(TensorType(x.dtype, (*x.shape[:axis], *size, *x.shape[axis + 1 :])))]


def _split(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    axis = ref_axis(r, r.attr("axis", 0), x.ndim)
    size = x.shape[axis]
    given = np.asarray(1 if r.get(1) is None else r.get(1))
    sizes = given.reshape(-1).tolist()
    if any(s < 0 for s in sizes) or (given.ndim == 0 and sizes[0] == 0) or (given.ndim and sum(sizes) != size):
        r.fail(f"part sizes that cover the {size} elements of axis {axis}", sizes)
    cuts = np.cumsum(sizes)[:-1].tolist() if given.ndim else list(range(sizes[0], size, sizes[0]))
    parts = np.split(x, cuts, axis) if size or given.ndim else []
    if r.get(1) is None and not r.attr("keepdims", 1):
        parts = [np.squeeze(p, axis) for p in parts]
    return [parts]


def _join_rule(i: Infer) -> list[ValueType]:
    element = _sequence(i).element
    if not isinstance(element, TensorType):
        i.fail("a sequence of tensors", type(element).__name__)
    if element.shape is None:
        return [element]
    new = bool(i.attr("new_axis", 0))
    axis = axis_of(i, i.attr("axis", 0), len(element.shape) + new)
    sizes = _sizes_of_one(i, element.shape)
    return [TensorType(element.dtype, (*sizes[:axis], i.fresh("joined"), *sizes[axis + (not new) :]))]


def _join(r: Ref) -> list[Any]:
    items, axis = r.get(0), r.attr("axis", 0)
    if not items:
        r.fail("at least one element in the sequence", "none")
    return [np.stack(items, axis) if r.attr("new_axis", 0) else np.concatenate(items, axis)]


def body_of(x: Infer | Ref, name: str) -> Graph:
    """A graph attribute that must be there."""
    body = x.attr(name)
    if not isinstance(body, Graph):
        x.fail(f"a graph in attribute {name}", type(body).__name__)
    return body


def _map_rule(i: Infer) -> list[ValueType]:
    given: list[ValueType | None] = []
    for n, t in enumerate(i.types):
        given.append(one_of(i, t.element, f"item{n}.") if isinstance(t, SequenceType) else t)
    body = body_of(i, "body")
    typed = i.graphs(body, given) if i.graphs is not None else body
    return [SequenceType(typed.types[name]) for name in typed.outputs]


def _map(r: Ref) -> list[Any]:
    assert r.run is not None, "the executor runs subgraphs"
    count = len(r.get(0))
    results: list[list[Any]] = [[] for _ in r.node.outputs]
    for n in range(count):
        if any(isinstance(x, list) and len(x) != count for x in r.inputs):
            r.fail(f"sequences of {count} elements", [len(x) for x in r.inputs if isinstance(x, list)])
        found = r.run(body_of(r, "body"), [x[n] if isinstance(x, list) else x for x in r.inputs])
        for out, value in zip(results, found):
            out.append(value)
    return list(results)


def _optional_rule(i: Infer) -> list[ValueType]:
    if i.has(0):
        given = i.types[0]
        assert given is not None, "has() checked it"
        return [given if isinstance(given, OptionalType) else OptionalType(given)]
    declared = i.attr("type")
    if not isinstance(declared, TensorType | SequenceType | OptionalType):
        i.fail("an input or a type attribute", "neither")
    return [declared if isinstance(declared, OptionalType) else OptionalType(declared)]


def _optional(r: Ref) -> list[Any]:
    return [r.get(0)]


def _get_rule(i: Infer) -> list[ValueType]:
    t = i.types[0] if i.types else None
    if t is None:
        i.fail("an input", "none")
    return [t.element if isinstance(t, OptionalType) else t]


def _get(r: Ref) -> list[Any]:
    if r.get(0) is None:
        r.fail("an optional that holds a value", "an empty one")
    return [r.get(0)]


def _has_rule(i: Infer) -> list[ValueType]:
    return [tensor(DType.BOOL)]


def _has(r: Ref) -> list[Any]:
    return [np.array(r.get(0) is not None)]


register(Op("SequenceConstruct", _construct_rule, _construct))
register(Op("SequenceEmpty", _empty_rule, _empty))
register(Op("SequenceAt", _at_rule, _at))
register(Op("SequenceErase", _erase_rule, _erase))
register(Op("SequenceInsert", _insert_rule, _insert))
register(Op("SequenceLength", _length_rule, _length))
register(Op("SplitToSequence", _split_rule, _split))
register(Op("ConcatFromSequence", _join_rule, _join))
register(Op("SequenceMap", _map_rule, _map))
register(Op("Optional", _optional_rule, _optional))
register(Op("OptionalGetElement", _get_rule, _get))
register(Op("OptionalHasElement", _has_rule, _has))
