"""Operators that make tensors out of sizes and numbers: the sources of shape arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from skipjack.core.bounds import never_negative
from skipjack.core.dims import Dim, ceildiv, dim_max
from skipjack.core.dtypes import DType
from skipjack.core.limits import check_allocation
from skipjack.ir.types import TensorType, ValueType, tensor
from skipjack.ops.movement import rank_from
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import SMALL, dims_array, fresh_shape


def _bounds(x: Infer | Ref, rank: int) -> slice:
    """The axes Shape reports: start and end are clamped, negative ones count from the end."""
    start, end, _ = slice(x.attr("start", 0), x.attr("end"), 1).indices(rank)
    return slice(start, max(start, end))


def _shape_rule(i: Infer) -> list[ValueType]:
    shape = i.shape(0)
    if shape is None:
        return [tensor(DType.I64, i.fresh("rank"))]
    return [tensor(DType.I64, len(shape[_bounds(i, len(shape))]))]


def _shape_known(i: Infer) -> list[Any]:
    shape = i.shape(0)
    return [None if shape is None else dims_array(shape[_bounds(i, len(shape))])]


def _shape(r: Ref) -> list[Any]:
    shape = np.shape(r.get(0))
    return [np.array(shape[_bounds(r, len(shape))], np.int64)]


def _size_rule(i: Infer) -> list[ValueType]:
    i.tensor(0)
    return [tensor(DType.I64)]


def _size_known(i: Infer) -> list[Any]:
    elements = i.tensor(0).elements
    return [None if elements is None else dims_array([elements]).reshape(())]


def _size(r: Ref) -> list[Any]:
    return [np.array(np.size(r.get(0)), np.int64)]


def _constant_value(x: Infer | Ref) -> np.ndarray:
    """The tensor of a Constant, in whichever attribute it is."""
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64)):
        if (number := x.attr(name)) is not None:
            return np.array(number, dtype)
    if (ints := x.attr("value_ints")) is not None:
        return np.array(ints, np.int64)
    for name in ("value_string", "value_strings"):
        if (text := x.attr(name)) is not None:
            return np.array(text, object)
    value = x.attr("value", x.attr("sparse_value"))
    if not isinstance(value, np.ndarray):
        x.fail("a tensor in one of the value attributes", "none")
    return value


def _constant_rule(i: Infer) -> list[ValueType]:
    value = _constant_value(i)
    return [tensor(DType.from_numpy(value.dtype), *value.shape)]


def _constant_known(i: Infer) -> list[Any]:
    return [_constant_value(i)]


def _constant(r: Ref) -> list[Any]:
    return [_constant_value(r)]


def _fill(x: Infer | Ref) -> np.ndarray:
    value = x.attr("value")
    value = np.zeros(1, np.float32) if value is None else np.asarray(value)
    if value.size != 1:
        x.fail("one element in value", value.size)
    return value.reshape(())


def _filled_rule(i: Infer) -> list[ValueType]:
    dtype = DType.from_numpy(_fill(i).dtype)
    sizes = i.ints(0)
    if sizes is None:
        rank = rank_from(i, 0)
        return [TensorType(dtype, None if rank is None else fresh_shape(i, rank))]
    if any(isinstance(d, int) and d < 0 for d in sizes):
        i.fail("sizes that are not negative", sizes)
    return [TensorType(dtype, tuple(sizes))]


def _filled_known(i: Infer) -> list[Any]:
    sizes = i.ints(0)
    if sizes is None:
        return [None]
    numbers = [d for d in sizes if isinstance(d, int)]
    if len(numbers) != len(sizes) or math.prod(numbers) > SMALL:
        return [None]
    return [np.full(numbers, _fill(i))]


def _filled(r: Ref) -> list[Any]:
    sizes = [int(d) for d in np.asarray(r.get(0)).reshape(-1)]
    if any(d < 0 for d in sizes):
        r.fail("sizes that are not negative", sizes)
    fill = _fill(r)
    check_allocation(math.prod(sizes), fill.dtype.itemsize, str(r.node.origin))
    return [np.full(sizes, fill, fill.dtype)]


def _range_terms(i: Infer) -> tuple[Dim, Dim, int] | None:
    """start, limit and delta of an integer Range when they are known and the direction is."""
    if not i.tensor(0).dtype.is_int:
        return None
    known = [i.ints(n) for n in range(3)]
    if any(k is None or len(k) != 1 for k in known):
        return None
    start, limit, delta = [k[0] for k in known if k is not None]
    return (start, limit, delta) if isinstance(delta, int) and delta else None


def _range_length(start: Dim, limit: Dim, delta: int) -> Dim:
    length = ceildiv(limit - start, delta) if delta > 0 else ceildiv(start - limit, -delta)
    return length if never_negative(length) else dim_max(length, 0)


def _range_rule(i: Infer) -> list[ValueType]:
    dtype = i.tensor(0).dtype
    terms = _range_terms(i)
    if terms is not None:
        return [tensor(dtype, _range_length(*terms))]
    given = [i.value(n) for n in range(3)]
    if all(v is not None and v.dtype != object for v in given):
        return [tensor(dtype, _count(i, *[np.asarray(v).reshape(-1)[0] for v in given]))]
    return [tensor(dtype, i.fresh("range"))]


def _range_known(i: Infer) -> list[Any]:
    terms = _range_terms(i)
    if terms is None:
        return [None]
    count = _range_length(*terms)
    if not isinstance(count, int) or count > SMALL:
        return [None]
    return [dims_array([terms[0] + n * terms[2] for n in range(count)])]


def _count(x: Infer | Ref, start: Any, limit: Any, delta: Any) -> int:
    """max(ceil((limit - start) / delta), 0); half precision counts in f32."""
    if delta == 0:
        x.fail("delta other than 0", delta)
    if isinstance(start, np.integer):
        return max(-((int(start) - int(limit)) // int(delta)), 0)
    steps = (float(limit) - float(start)) / float(delta)
    if not math.isfinite(steps):
        x.fail("finite start, limit and delta", (float(start), float(limit), float(delta)))
    return max(math.ceil(steps), 0)


def _range(r: Ref) -> list[Any]:
    start, limit, delta = [np.asarray(r.get(n)).reshape(-1)[0] for n in range(3)]
    dtype = np.asarray(r.get(0)).dtype
    count = _count(r, start, limit, delta)
    check_allocation(count, dtype.itemsize, str(r.node.origin))
    half = dtype in (DType.F16.np, DType.BF16.np) and r.attr("stash_type", 1) == 1
    wide = np.dtype(np.float32) if half else dtype
    steps = np.arange(count).astype(wide)
    return [(start.astype(wide) + steps * delta.astype(wide)).astype(dtype)]


register(Op("Shape", _shape_rule, _shape, propagate=_shape_known))
register(Op("Size", _size_rule, _size, propagate=_size_known))
register(Op("Constant", _constant_rule, _constant, propagate=_constant_known))
register(Op("ConstantOfShape", _filled_rule, _filled, propagate=_filled_known))
register(Op("Range", _range_rule, _range, propagate=_range_known))
