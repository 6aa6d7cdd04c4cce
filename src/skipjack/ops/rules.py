"""Type rules that many operators share: broadcasting of sizes, axes, and shape arithmetic on known values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, Sym, dim_max
from skipjack.core.dtypes import DType
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.registry import Infer, Ref

SMALL = 4096
"""Values with more elements than this are not tracked by shape arithmetic."""


def broadcast_dim(a: Dim, b: Dim) -> Dim | None:
    """The size that a and b broadcast to, None when they cannot.

    An integer other than 1 wins against a symbol, which can only be 1 or that integer. Two different symbols give their
    maximum, which is right whenever the model is valid and neither is zero.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        return None
    if isinstance(a, int):
        return a
    return b if isinstance(b, int) else dim_max(a, b)


def broadcast_shapes(i: Infer, shapes: Iterable[Shape | None]) -> Shape | None:
    """The numpy broadcast of all shapes; None when the rank of one is unknown."""
    out: list[Dim] = []
    for shape in shapes:
        if shape is None:
            return None
        rank = max(len(out), len(shape))
        left = [1] * (rank - len(out)) + out
        right = [1] * (rank - len(shape)) + list(shape)
        out = [_joined(i, a, b) for a, b in zip(left, right)]
    return tuple(out)


def _joined(i: Infer, a: Dim, b: Dim) -> Dim:
    d = broadcast_dim(a, b)
    if d is None:
        i.fail("sizes that broadcast", f"{a} and {b}")
    return d


def same_dim(i: Infer, a: Dim, b: Dim, what: str) -> Dim:
    """a and b must be equal; the more exact of both."""
    if isinstance(a, int) and isinstance(b, int) and a != b:
        i.fail(f"equal sizes of {what}", f"{a} and {b}")
    return a if isinstance(a, int) else b


def axis_of(i: Infer, axis: int, rank: int) -> int:
    """axis as 0 <= axis < rank; negative counts from the end."""
    if not -rank <= axis < rank:
        i.fail(f"an axis from {-rank} to {rank - 1}", axis)
    return axis % rank


def axes_of(i: Infer, axes: Iterable[Dim], rank: int) -> tuple[int, ...]:
    """Axes as 0 <= axis < rank, in the order given; they must be integers and distinct."""
    out = tuple(axis_of(i, a if isinstance(a, int) else i.fail("constant axes", a), rank) for a in axes)
    if len(set(out)) != len(out):
        i.fail("distinct axes", list(out))
    return out


def ref_axis(r: Ref, axis: int, rank: int) -> int:
    """axis as 0 <= axis < rank, in a reference."""
    if not -rank <= axis < rank:
        r.fail(f"an axis from {-rank} to {rank - 1}", axis)
    return axis % rank


def fresh_shape(i: Infer, rank: int, what: str = "size") -> Shape:
    """A shape of new symbols."""
    return tuple(i.fresh(f"{what}{n}") for n in range(rank))


def same_as(index: int) -> Callable[[Infer], list[ValueType]]:
    """Rule: the single output has the type of input `index`."""

    def rule(i: Infer) -> list[ValueType]:
        t = i.tensor(index)
        return [TensorType(t.dtype, t.shape)]

    return rule


same_as_first = same_as(0)


def elementwise(dtype: DType | None = None) -> Callable[[Infer], list[ValueType]]:
    """Rule: all inputs broadcast; the output has the element type given, or that of the first input."""

    def rule(i: Infer) -> list[ValueType]:
        shapes = [i.shape(n) for n in range(len(i.types)) if i.has(n)]
        return [TensorType(dtype or i.tensor(0).dtype, broadcast_shapes(i, shapes))]

    return rule


def attr_dtype(i: Infer, name: str, default: DType) -> DType:
    """The element type an attribute names by its ONNX number; absent or 0 is the default."""
    number = i.attr(name, 0)
    if not number:
        return default
    try:
        return DType.from_onnx(int(number))
    except KeyError:
        i.fail(f"a known element type in {name}", number)


def outputs(i: Infer, *types: ValueType) -> list[ValueType]:
    """As many of the types as the node has outputs."""
    return list(types[: len(i.node.outputs)])


def dims_array(dims: Sequence[Dim]) -> np.ndarray:
    """A 1-D value for shape arithmetic: int64 when all are integers, else objects."""
    if all(isinstance(d, int) for d in dims):
        return np.array(dims, np.int64)
    out = np.empty(len(dims), object)
    out[:] = list(dims)
    return out


def is_symbolic(value: np.ndarray) -> bool:
    """Whether a known value holds Dims that are not integers."""
    return value.dtype == object and any(isinstance(d, Sym) for d in value.reshape(-1))


def all_known(i: Infer) -> list[np.ndarray] | None:
    """The values of all inputs when every present one is known and small, else None."""
    known = [i.value(n) for n in range(len(i.types)) if i.has(n)]
    if any(v is None or v.size > SMALL for v in known):
        return None
    return [np.asarray(v) for v in known]


def settle(values: np.ndarray, dtype: DType) -> np.ndarray:
    """An object array as numbers of type dtype when no symbol is left in it."""
    return values if is_symbolic(values) else values.astype(dtype.np)


def compute_known(i: Infer, function: Callable[..., Any], dtype: DType) -> list[np.ndarray | None]:
    """function applied element by element to known inputs, in exact arithmetic; unknown when it returns None."""
    known = all_known(i)
    if known is None:
        return [None]
    out = np.frompyfunc(function, len(known), 1)(*[v.astype(object) for v in known])
    result = np.empty(np.shape(out), object)
    result[...] = out
    if any(d is None for d in result.reshape(-1)):
        return [None]
    return [settle(result, dtype)]
