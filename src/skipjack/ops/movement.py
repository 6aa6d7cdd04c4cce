"""Operators that change the shape of a tensor or copy it, and leave its elements as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skipjack.core.bounds import lower
from skipjack.core.dims import Dim, Sym, ceildiv, evaluate, exact_div, floordiv, product
from skipjack.core.limits import check_allocation
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import (
    SMALL,
    axes_of,
    axis_of,
    broadcast_shapes,
    fresh_shape,
    is_symbolic,
    ref_axis,
    same_as_first,
    same_dim,
)


def follow(reference: Callable[[Ref], Sequence[Any]], data: Sequence[int] = (0,)) -> Callable[[Infer], Sequence[Any]]:
    """Propagation by the reference itself: inputs in `data` may hold Dims, all others must be plain numbers."""

    def propagate(i: Infer) -> Sequence[Any]:
        values = [i.value(n) for n in range(len(i.types))]
        for n, v in enumerate(values):
            if (v is None and i.has(n)) or (v is not None and n not in data and is_symbolic(v)):
                return [None] * len(i.node.outputs)
        if any(v is not None and is_symbolic(v) for v in values):
            values = [v.astype(object) if v is not None and n in data else v for n, v in enumerate(values)]
        return reference(Ref(i.node, values))

    return propagate


def small_outputs(rule: Callable[[Infer], list[ValueType]], propagate: Callable[[Infer], Sequence[Any]]) -> Any:
    """propagate, but only when the rule promises few elements."""

    def guarded(i: Infer) -> Sequence[Any]:
        for t in rule(i):
            if not isinstance(t, TensorType) or not isinstance(t.elements, int) or t.elements > SMALL:
                return [None] * len(i.node.outputs)
        return propagate(i)

    return guarded


def rank_from(i: Infer, index: int) -> int | None:
    """The number of elements of a 1-D input: the rank of a shape that is not known yet."""
    shape = i.shape(index)
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
        return None
    return shape[0]


def _reshape_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    target = i.ints(1)
    if target is None:
        rank = rank_from(i, 1)
        return [TensorType(x.dtype, None if rank is None else fresh_shape(i, rank))]
    return [TensorType(x.dtype, reshaped(i, x.shape, target))]


def reshaped(x: Infer | Ref, shape: Shape | None, target: Sequence[Dim]) -> Shape:
    """What Reshape makes of a shape: 0 copies a size (unless allowzero), one -1 is what is left over."""
    out: list[Dim] = []
    for n, d in enumerate(target):
        if isinstance(d, int) and d < -1:
            x.fail("sizes of at least -1 in shape", list(target))
        out.append(_copied(x, shape, n) if d == 0 and not x.attr("allowzero", 0) else d)
    free = [n for n, d in enumerate(out) if isinstance(d, int) and d == -1]
    if len(free) > 1:
        x.fail("at most one -1 in shape", list(target))
    if not free:
        _check_elements(x, shape, out)
    else:
        rest = [d for n, d in enumerate(out) if n != free[0]]
        out[free[0]] = _left_over(x, shape, rest)
    return tuple(out)


def _copied(x: Infer | Ref, shape: Shape | None, n: int) -> Dim:
    if shape is None:
        assert isinstance(x, Infer), "a reference knows the shape of its data"
        return x.fresh(f"size{n}")
    if n >= len(shape):
        x.fail(f"a 0 in shape only below axis {len(shape)}", f"one at {n}")
    return shape[n]


def _check_elements(x: Infer | Ref, shape: Shape | None, out: Sequence[Dim]) -> None:
    have = None if shape is None else product(shape)
    want = product(out)
    if isinstance(have, int) and isinstance(want, int) and have != want:
        x.fail(f"a shape of {have} elements", f"{list(out)}, which has {want}")


def _left_over(x: Infer | Ref, shape: Shape | None, rest: Sequence[Dim]) -> Dim:
    if shape is None:
        assert isinstance(x, Infer), "a reference knows the shape of its data"
        return x.fresh("rest")
    have, want = list(shape), list(rest)
    for d in rest:
        if d in have:
            have.remove(d)
            want.remove(d)
    total, known = product(have), product(want)
    quotient = exact_div(total, known)
    if quotient is not None:
        return quotient
    if isinstance(known, int) and (known == 0 or isinstance(total, int)):
        x.fail(f"a shape that divides the {product(shape)} elements of {list(shape)}", [*rest, -1])
    return floordiv(total, known)


def _reshape(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    shape = reshaped(r, x.shape, [int(d) for d in r.get(1).reshape(-1)])
    return [x.reshape([evaluate(d, {}) for d in shape])]


def _transpose_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    perm = i.attr("perm")
    if x.shape is None:
        return [TensorType(x.dtype, None if perm is None else fresh_shape(i, len(perm)))]
    order = tuple(reversed(range(len(x.shape)))) if perm is None else tuple(perm)
    if sorted(order) != list(range(len(x.shape))):
        i.fail(f"perm to be an order of {len(x.shape)} axes", order)
    return [TensorType(x.dtype, tuple(x.shape[a] for a in order))]


def _transpose(r: Ref) -> list[Any]:
    return [np.transpose(r.get(0), r.attr("perm"))]


def _concat_rule(i: Infer) -> list[ValueType]:
    first = i.tensor(0)
    known = [s for s in (i.shape(n) for n in range(len(i.types))) if s is not None]
    if not known:
        return [TensorType(first.dtype, None)]
    rank = len(known[0])
    axis = axis_of(i, i.attr("axis", 0), rank)
    out = list(known[0])
    for s in known[1:]:
        if len(s) != rank:
            i.fail(f"inputs of rank {rank}", f"one of rank {len(s)}")
        for a in range(rank):
            out[a] = out[a] + s[a] if a == axis else same_dim(i, out[a], s[a], f"axis {a}")
    if len(known) != len(i.types):
        out[axis] = i.fresh("concat")
    return [TensorType(first.dtype, tuple(out))]


def _concat(r: Ref) -> list[Any]:
    axis = ref_axis(r, r.attr("axis", 0), np.asarray(r.get(0)).ndim)
    return [np.concatenate([np.asarray(x) for x in r.inputs], axis)]


def _concat_known(i: Infer) -> list[Any]:
    values = [i.value(n) for n in range(len(i.types))]
    if any(v is None for v in values):
        return [None]
    if any(is_symbolic(v) for v in values if v is not None):
        values = [np.asarray(v, object) for v in values]
    return _concat(Ref(i.node, values))


def parts(x: Infer | Ref, size: Dim, sizes: Sequence[Dim] | None, count: int) -> list[Dim]:
    """The sizes Split gives `count` outputs: as listed, or equal with a smaller last one."""
    if sizes is not None:
        total = sum(sizes)
        negative = any(isinstance(s, int) and s < 0 for s in sizes)
        wrong = isinstance(total, int) and isinstance(size, int) and total != size
        if len(sizes) != count or negative or wrong:
            x.fail(f"{count} sizes that sum to {size}", list(sizes))
        return list(sizes)
    chunk = ceildiv(size, count) if exact_div(size, count) is None else floordiv(size, count)
    last = size - chunk * (count - 1)
    if isinstance(last, int) and last < 0:
        x.fail(f"at least enough elements for {count} outputs of size {chunk}", size)
    return [chunk] * (count - 1) + [last]


def _split_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    count = len(i.node.outputs)
    if i.attr("num_outputs", count) != count:
        i.fail(f"num_outputs to be the number of outputs, {count}", i.attr("num_outputs"))
    if x.shape is None:
        return [TensorType(x.dtype, None) for _ in range(count)]
    axis = axis_of(i, i.attr("axis", 0), len(x.shape))
    if i.has(1) and i.ints(1) is None:
        sizes: list[Dim] = [i.fresh(f"part{n}") for n in range(count)]
    else:
        sizes = parts(i, x.shape[axis], i.ints(1), count)
    return [TensorType(x.dtype, (*x.shape[:axis], s, *x.shape[axis + 1 :])) for s in sizes]


def _split(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    axis = ref_axis(r, r.attr("axis", 0), x.ndim)
    listed = None if r.get(1) is None else [int(s) for s in r.get(1)]
    sizes = [evaluate(s, {}) for s in parts(r, x.shape[axis], listed, r.n_outputs)]
    return list(np.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


def _squeeze_axes(i: Infer, shape: Shape) -> tuple[int, ...] | None:
    if not i.has(1):
        return tuple(a for a, d in enumerate(shape) if d == 1)
    axes = i.ints(1)
    return None if axes is None else axes_of(i, axes, len(shape))


def _squeeze_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    if x.shape is None or (not i.has(1) and any(isinstance(d, Sym) and (lower(d) or 0) < 2 for d in x.shape)):
        return [TensorType(x.dtype, None)]
    axes = _squeeze_axes(i, x.shape)
    if axes is None:
        gone = rank_from(i, 1)
        return [TensorType(x.dtype, None if gone is None else fresh_shape(i, len(x.shape) - gone))]
    for a in axes:
        if isinstance(x.shape[a], int) and x.shape[a] != 1:
            i.fail(f"size 1 on axis {a}", x.shape[a])
    return [TensorType(x.dtype, tuple(d for a, d in enumerate(x.shape) if a not in axes))]


def _squeeze(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    if r.get(1) is None:
        return [np.squeeze(x)]
    axes = tuple(ref_axis(r, int(a), x.ndim) for a in r.get(1).reshape(-1))
    for a in axes:
        if x.shape[a] != 1:
            r.fail(f"size 1 on axis {a}", x.shape[a])
    return [np.squeeze(x, axes)]


def _unsqueeze_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    given = i.ints(1)
    count = rank_from(i, 1) if given is None else len(given)
    if x.shape is None or count is None:
        return [TensorType(x.dtype, None)]
    rank = len(x.shape) + count
    if given is None:
        return [TensorType(x.dtype, fresh_shape(i, rank))]
    axes = axes_of(i, given, rank)
    rest = iter(x.shape)
    return [TensorType(x.dtype, tuple(1 if a in axes else next(rest) for a in range(rank)))]


def _unsqueeze(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    axes = [int(a) for a in r.get(1).reshape(-1)]
    return [np.expand_dims(x, tuple(ref_axis(r, a, x.ndim + len(axes)) for a in axes))]


def _flatten_axis(x: Infer | Ref, rank: int) -> int:
    axis = x.attr("axis", 1)
    if not -rank <= axis <= rank:
        x.fail(f"an axis from {-rank} to {rank}", axis)
    return axis + rank if axis < 0 else axis


def _flatten_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    if x.shape is None:
        return [TensorType(x.dtype, fresh_shape(i, 2))]
    axis = _flatten_axis(i, len(x.shape))
    return [TensorType(x.dtype, (product(x.shape[:axis]), product(x.shape[axis:])))]


def _flatten(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    axis = _flatten_axis(r, x.ndim)
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return [x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64)))]


def _identity_rule(i: Infer) -> list[ValueType]:
    t = i.types[0] if i.types else None
    if t is None:
        i.fail("an input", "none")
    return same_as_first(i) if isinstance(t, TensorType) else [t]


def _identity(r: Ref) -> list[Any]:
    return [r.get(0)]


def _identity_known(i: Infer) -> list[Any]:
    return [i.value(0)]


def _expand_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    target = i.ints(1)
    if target is not None:
        if any(isinstance(d, int) and d < 0 for d in target):
            i.fail("sizes that are not negative in shape", target)
        return [TensorType(x.dtype, broadcast_shapes(i, [x.shape, tuple(target)]))]
    rank = rank_from(i, 1)
    if x.shape is None or rank is None:
        return [TensorType(x.dtype, None)]
    return [TensorType(x.dtype, fresh_shape(i, max(rank, len(x.shape))))]


def _expand(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    target = tuple(int(d) for d in r.get(1).reshape(-1))
    try:
        shape = np.broadcast_shapes(x.shape, target)
    except ValueError:
        r.fail(f"a shape that {list(x.shape)} broadcasts with", list(target))
    check_allocation(math.prod(shape), x.dtype.itemsize, str(r.node.origin))
    return [np.broadcast_to(x, shape).copy()]


def _tile_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    repeats = i.ints(1)
    if x.shape is None or repeats is None:
        rank = x.rank if x.rank is not None else rank_from(i, 1)
        return [TensorType(x.dtype, None if rank is None else fresh_shape(i, rank))]
    if len(repeats) != len(x.shape) or any(isinstance(n, int) and n < 0 for n in repeats):
        i.fail(f"{len(x.shape)} repeats that are not negative", repeats)
    return [TensorType(x.dtype, tuple(d * n for d, n in zip(x.shape, repeats)))]


def _tile(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    repeats = [int(n) for n in r.get(1).reshape(-1)]
    if len(repeats) != x.ndim or any(n < 0 for n in repeats):
        r.fail(f"{x.ndim} repeats that are not negative", repeats)
    check_allocation(math.prod(d * n for d, n in zip(x.shape, repeats)), x.dtype.itemsize, str(r.node.origin))
    return [np.tile(x, repeats)]


register(Op("Reshape", _reshape_rule, _reshape, propagate=follow(_reshape)))
register(Op("Transpose", _transpose_rule, _transpose, propagate=follow(_transpose)))
register(Op("Concat", _concat_rule, _concat, propagate=_concat_known))
register(Op("Split", _split_rule, _split, propagate=follow(_split)))
register(Op("Squeeze", _squeeze_rule, _squeeze, propagate=follow(_squeeze)))
register(Op("Unsqueeze", _unsqueeze_rule, _unsqueeze, propagate=follow(_unsqueeze)))
register(Op("Flatten", _flatten_rule, _flatten, propagate=follow(_flatten)))
register(Op("Identity", _identity_rule, _identity, propagate=_identity_known))
register(Op("Expand", _expand_rule, _expand, propagate=small_outputs(_expand_rule, follow(_expand))))
register(Op("Tile", _tile_rule, _tile, propagate=small_outputs(_tile_rule, follow(_tile))))
