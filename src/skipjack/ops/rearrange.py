"""Operators that rearrange or mask elements by position: depth and space, triangles."""

from __future__ import annotations

from typing import Any

import numpy as np

from skipjack.core.dims import Dim, floordiv
from skipjack.core.dtypes import DType
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import attr_dtype, fresh_shape, same_as_first


def _blocksize(x: Infer | Ref) -> int:
    size = x.attr("blocksize", 0)
    if size < 1:
        x.fail("blocksize of at least 1", size)
    return size


def _divided(x: Infer | Ref, a: Dim, b: int) -> Dim:
    if isinstance(a, int) and a % b:
        x.fail(f"a size that is a multiple of {b}", a)
    return floordiv(a, b)


def _image_shape(i: Infer) -> Shape | None:
    shape = i.shape(0)
    if shape is not None and len(shape) != 4:
        i.fail("an input of rank 4", f"rank {len(shape)}")
    return shape


def _depth_to_space_rule(i: Infer) -> list[ValueType]:
    shape, b = _image_shape(i), _blocksize(i)
    if i.attr("mode", "DCR") not in ("DCR", "CRD"):
        i.fail("mode DCR or CRD", i.attr("mode"))
    if shape is None:
        return [TensorType(i.tensor(0).dtype, fresh_shape(i, 4))]
    n, c, h, w = shape
    return [TensorType(i.tensor(0).dtype, (n, _divided(i, c, b * b), h * b, w * b))]


def _depth_to_space(r: Ref) -> list[Any]:
    x, b = np.asarray(r.get(0)), _blocksize(r)
    n, c, h, w = x.shape
    if c % (b * b):
        r.fail(f"a multiple of {b * b} channels", c)
    depth = c // (b * b)
    if r.attr("mode", "DCR") == "DCR":
        moved = x.reshape(n, b, b, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        moved = x.reshape(n, depth, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return [moved.reshape(n, depth, h * b, w * b)]


def _space_to_depth_rule(i: Infer) -> list[ValueType]:
    shape, b = _image_shape(i), _blocksize(i)
    if shape is None:
        return [TensorType(i.tensor(0).dtype, fresh_shape(i, 4))]
    n, c, h, w = shape
    return [TensorType(i.tensor(0).dtype, (n, c * (b * b), _divided(i, h, b), _divided(i, w, b)))]


def _space_to_depth(r: Ref) -> list[Any]:
    x, b = np.asarray(r.get(0)), _blocksize(r)
    n, c, h, w = x.shape
    if h % b or w % b:
        r.fail(f"height and width to be multiples of {b}", (h, w))
    order = (0, 3, 5, 1, 2, 4) if r.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    moved = x.reshape(n, c, h // b, b, w // b, b).transpose(order)
    return [moved.reshape(n, c * b * b, h // b, w // b)]


def _trilu_rule(i: Infer) -> list[ValueType]:
    shape = i.shape(0)
    if shape is not None and len(shape) < 2:
        i.fail("an input of rank 2 or more", f"rank {len(shape)}")
    return same_as_first(i)


def _trilu(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    k = 0 if r.get(1) is None else int(np.asarray(r.get(1)).reshape(-1)[0])
    rows, columns = np.arange(x.shape[-2])[:, None], np.arange(x.shape[-1])
    offset = columns - rows
    kept = offset >= k if r.attr("upper", 1) else offset <= k
    return [np.where(kept, x, np.zeros((), x.dtype))]


def _eye_rule(i: Infer) -> list[ValueType]:
    shape = i.shape(0)
    if shape is not None and len(shape) != 2:
        i.fail("an input of rank 2", f"rank {len(shape)}")
    return [TensorType(attr_dtype(i, "dtype", i.tensor(0).dtype), shape or fresh_shape(i, 2))]


def _eye(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    number = r.attr("dtype", 0)
    dtype = DType.from_onnx(number).np if number else x.dtype
    return [np.eye(*x.shape, k=r.attr("k", 0)).astype(dtype)]


register(Op("DepthToSpace", _depth_to_space_rule, _depth_to_space))
register(Op("SpaceToDepth", _space_to_depth_rule, _space_to_depth))
register(Op("Trilu", _trilu_rule, _trilu))
register(Op("EyeLike", _eye_rule, _eye))
