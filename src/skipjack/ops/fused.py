"""skipjack's normal forms: contractions with an epilogue, and one node for a whole elementwise expression.

The `epilogue` attribute is an expression: arg 0 is the contraction's result before it is rounded to its storage type,
arg i is extra input i. An extra holds one value per output feature (channel), one value in all, or has the output's
shape.

Linear and Conv take integers, too: codes of 8 bits times a weight of 8 or 16 bits less its zero point. Their result is
the exact sum as i32, and padding of a Conv counts as its attribute `pad_code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.lang.expr import Expr, evaluate
from skipjack.ops.contraction import conv, conv_transpose
from skipjack.ops.conv import conv_shapes, kernel_of, pads_in_order, transposed_sizes
from skipjack.ops.linear import matmul_shape, product
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import broadcast_shapes, same_dim
from skipjack.ops.window import known, output_sizes, window


def _epilogue(x: Infer | Ref) -> Expr | None:
    found = x.attr("epilogue")
    if found is not None and not isinstance(found, Expr):
        x.fail("an expression as epilogue", type(found).__name__)
    return found


_CODES = (DType.U8, DType.I8)
_WEIGHTS = (DType.I8, DType.I16)


def _is_integer(i: Infer) -> bool:
    """Whether the node sums integers; their types must be those that kernels know."""
    x, w = i.tensor(0).dtype, i.tensor(1).dtype
    if x.is_float and w.is_float:
        return False
    if i.node.op not in ("Linear", "Conv") or x not in _CODES or w not in _WEIGHTS:
        i.fail("floats, or a Linear or Conv of u8 or i8 by i8 or i16", f"{i.node.op} of {x.value} by {w.value}")
    return True


def _exact(x: np.ndarray) -> np.ndarray:
    """Integers as f64, in which sums of their products are exact; floats as they are."""
    return x.astype(np.float64) if x.dtype.kind in "iu" else x


def _finished(i: Infer, shape: Shape | None, channel: int, own: int = 2) -> list[ValueType]:
    """The output type; extras (inputs from `own` on) must hold a value per channel, or per element of the output."""
    expr = _epilogue(i)
    dtype = expr.dtype if expr is not None else DType.I32 if _is_integer(i) else i.tensor(0).dtype
    for n in range(own, len(i.types)):
        extra = i.shape(n)
        if shape is None or extra is None or extra in ((), (1,)):
            continue
        expected = (shape[channel],) if len(extra) == 1 else shape
        if len(extra) != len(expected):
            i.fail(f"input {n} of shape {(shape[channel],)} or {shape}", extra)
        for a, b in zip(extra, expected):
            same_dim(i, a, b, f"input {n} and the output")
    return [TensorType(dtype, shape)]


def _finish(r: Ref, y: np.ndarray, channel: int, own: int = 2) -> list[np.ndarray]:
    """The epilogue applied, or the result rounded to the type of the first input."""
    expr = _epilogue(r)
    if np.asarray(r.inputs[0]).dtype.kind in "iu":
        y = y.astype(np.int64).astype(np.int32)
    elif expr is None:
        y = y.astype(r.inputs[0].dtype, copy=False)
    if expr is None:
        return [y]
    tail = y.ndim - 1 - channel % y.ndim
    extras = [np.asarray(e) for e in r.inputs[own:]]
    return [evaluate(expr, [y, *(e.reshape(-1, *[1] * tail) if e.ndim == 1 else e for e in extras)])]


def _infer_linear(i: Infer) -> list[ValueType]:
    x, w = i.shape(0), i.shape(1)
    if w is not None and len(w) != 2:
        i.fail("a weight [K, M]", w)
    return _finished(i, matmul_shape(i, x, w), -1)


def _linear(r: Ref) -> list[np.ndarray]:
    x, w = (_exact(np.asarray(v)) for v in r.inputs[:2])
    return _finish(r, np.asarray(product(x, w)), -1)


register(Op("Linear", _infer_linear, _linear, domain=SKIPJACK))


def _swapped(shape: Shape | None, swap: Any) -> Shape | None:
    if shape is None or not swap:
        return shape
    return (*shape[:-2], shape[-1], shape[-2])


def _infer_matmul(i: Infer) -> list[ValueType]:
    a, b = i.shape(0), i.shape(1)
    if any(s is not None and len(s) < 2 for s in (a, b)):
        i.fail("operands with at least two axes", f"{a} and {b}")
    shape = matmul_shape(i, _swapped(a, i.attr("trans_a", 0)), _swapped(b, i.attr("trans_b", 0)))
    return _finished(i, shape, -1)


def _matmul(r: Ref) -> list[np.ndarray]:
    a, b = np.asarray(r.inputs[0]), np.asarray(r.inputs[1])
    a = np.swapaxes(a, -1, -2) if r.attr("trans_a", 0) else a
    b = np.swapaxes(b, -1, -2) if r.attr("trans_b", 0) else b
    y = product(a, b)
    alpha = float(r.attr("alpha", 1.0))
    return _finish(r, y if alpha == 1.0 else y * y.dtype.type(alpha), -1)


register(Op("MatMul", _infer_matmul, _matmul, domain=SKIPJACK))


def _infer_conv(i: Infer) -> list[ValueType]:
    x, w = i.shape(0), i.shape(1)
    if x is None or w is None:
        return _finished(i, None, 1)
    return _finished(i, (x[0], w[0], *output_sizes(i, conv_shapes(i, x, w), x[2:])), 1)


def _conv(r: Ref) -> list[np.ndarray]:
    x, w = np.asarray(r.inputs[0]), np.asarray(r.inputs[1])
    win = window(r, kernel_of(r, w.shape))
    pads = pads_in_order(win, x.shape[2:])
    code = int(r.attr("pad_code", 0))
    x, w = _exact(x) - code if code else _exact(x), _exact(w)
    y = conv(x, w, win.strides, pads, win.dilations, int(r.attr("group", 1)))
    if code:
        y = y + code * w.sum(axis=tuple(range(1, w.ndim))).reshape(-1, *[1] * (w.ndim - 2))
    return _finish(r, y, 1)


register(Op("Conv", _infer_conv, _conv, domain=SKIPJACK))


def _infer_conv_transpose(i: Infer) -> list[ValueType]:
    x, w = i.shape(0), i.shape(1)
    if x is None or w is None:
        return _finished(i, None, 1)
    same_dim(i, x[1], w[0], "input channels")
    sizes, _ = transposed_sizes(i, window(i, kernel_of(i, w)), x[2:])
    return _finished(i, (x[0], w[1] * int(i.attr("group", 1)), *sizes), 1)


def _conv_transpose(r: Ref) -> list[np.ndarray]:
    x, w = np.asarray(r.inputs[0]), np.asarray(r.inputs[1])
    win = window(r, kernel_of(r, w.shape))
    sizes, cut = transposed_sizes(r, win, x.shape[2:])
    group = int(r.attr("group", 1))
    full = conv_transpose(x, w, win.strides, [0] * (2 * win.rank), win.dilations, group, [0] * win.rank)
    return _finish(r, _kept(full, [known(begin) for begin, _ in cut], sizes), 1)


def _kept(full: np.ndarray, begins: Sequence[int], sizes: Sequence[Dim]) -> np.ndarray:
    """The window of the full result that stays; output padding beyond it is zero."""
    y = np.zeros((*full.shape[:2], *(known(n) for n in sizes)), full.dtype)
    part = full[(slice(None), slice(None), *(slice(b, b + known(n)) for b, n in zip(begins, sizes)))]
    y[tuple(slice(0, n) for n in part.shape)] = part
    return y


register(Op("ConvTranspose", _infer_conv_transpose, _conv_transpose, domain=SKIPJACK))


def _pointwise_expr(x: Infer | Ref) -> Expr:
    found = x.attr("expr")
    if not isinstance(found, Expr):
        x.fail("an expression as expr", type(found).__name__)
    return found


def _infer_pointwise(i: Infer) -> list[ValueType]:
    dtype: DType = _pointwise_expr(i).dtype
    return [TensorType(dtype, broadcast_shapes(i, [i.shape(n) for n in range(len(i.types))]))]


def _pointwise(r: Ref) -> list[np.ndarray]:
    arrays = [np.asarray(v) for v in r.inputs]
    y = evaluate(_pointwise_expr(r), arrays)
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return [y if y.shape == shape else np.array(np.broadcast_to(y, shape))]


def _own_expression(node: Node, types: Sequence[TensorType]) -> Expr:
    found = node.attrs["expr"]
    assert isinstance(found, Expr), "a pass made a Pointwise node without an expression"
    return found


register(Op("Pointwise", _infer_pointwise, _pointwise, domain=SKIPJACK, expression=_own_expression))
