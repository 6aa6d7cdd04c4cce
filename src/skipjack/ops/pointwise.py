"""Elementwise operators: each is one scalar expression, evaluated with numpy broadcasting.

`arg(i)` of an expression is input i of the node, also when an optional input before it is absent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Node
from skipjack.ir.types import TensorType, ValueType
from skipjack.lang.expr import Expr, arg, binary, cast, const, evaluate, maximum, minimum, select, sigmoid, unary
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import broadcast_shapes
from skipjack.ops.shape_arithmetic import propagate

Types = Sequence[TensorType]
Build = Callable[[Node, Types], Expr]
_INV_SQRT2 = math.sqrt(0.5)
_TANH_GELU = math.sqrt(2 / math.pi)


def _attr(node: Node, name: str, default: float) -> float:
    value = node.attrs.get(name, default)
    assert isinstance(value, int | float), f"the importer gave attribute {name!r} the type {type(value).__name__}"
    return float(value)


def _softplus(x: Expr) -> Expr:
    return maximum(x, 0.0) + unary("log1p", unary("exp", -unary("abs", x)))


def _clamp01(x: Expr) -> Expr:
    return maximum(minimum(x, 1.0), 0.0)


def _celu(node: Node, x: Expr) -> Expr:
    alpha = _attr(node, "alpha", 1.0)
    return maximum(x, 0.0) + minimum((unary("exp", x / alpha) - 1.0) * alpha, 0.0)


def _elu(node: Node, x: Expr) -> Expr:
    return select(x < 0.0, (unary("exp", x) - 1.0) * _attr(node, "alpha", 1.0), x)


def _gelu(node: Node, x: Expr) -> Expr:
    if node.attrs.get("approximate", "none") == "tanh":
        inner = (x + x * x * x * 0.044715) * _TANH_GELU
        return x * 0.5 * (unary("tanh", inner) + 1.0)
    return x * 0.5 * (unary("erf", x * _INV_SQRT2) + 1.0)


def _hard_sigmoid(node: Node, x: Expr) -> Expr:
    return _clamp01(x * _attr(node, "alpha", 0.2) + _attr(node, "beta", 0.5))


def _hard_swish(node: Node, x: Expr) -> Expr:
    return x * _clamp01(x * (1 / 6) + 0.5)


def _is_inf(node: Node, x: Expr) -> Expr:
    found = unary("isinf", x, DType.BOOL)
    if not _attr(node, "detect_negative", 1):
        found = binary("and", found, x > 0.0)
    if not _attr(node, "detect_positive", 1):
        found = binary("and", found, x < 0.0)
    return found


def _leaky_relu(node: Node, x: Expr) -> Expr:
    return select(x < 0.0, x * _attr(node, "alpha", 0.01), x)


def _mish(node: Node, x: Expr) -> Expr:
    return x * unary("tanh", _softplus(x))


def _relu(node: Node, x: Expr) -> Expr:
    return maximum(x, const(0, x.dtype))


def _selu(node: Node, x: Expr) -> Expr:
    alpha, gamma = _attr(node, "alpha", 1.67326319217681884765625), _attr(node, "gamma", 1.05070102214813232421875)
    return select(x > 0.0, x, unary("exp", x) * alpha - alpha) * gamma


def _shrink(node: Node, x: Expr) -> Expr:
    bias, limit = _attr(node, "bias", 0.0), _attr(node, "lambd", 0.5)
    wide = x if x.dtype.is_float else cast(x, DType.F64)
    shrunk = select(wide < -limit, wide + bias, select(wide > limit, wide - bias, const(0.0, wide.dtype)))
    return cast(shrunk, x.dtype)


def _swish(node: Node, x: Expr) -> Expr:
    alpha = _attr(node, "alpha", 1.0)
    return x * sigmoid(x if alpha == 1.0 else x * alpha)


def _thresholded_relu(node: Node, x: Expr) -> Expr:
    return select(x > _attr(node, "alpha", 1.0), x, const(0.0, x.dtype))


def _bit_shift(node: Node, x: Expr, y: Expr) -> Expr:
    bits = x.dtype.itemsize * 8
    outside = y >= bits
    if y.dtype.is_signed:
        outside = binary("or", outside, y < 0)
    zero = const(0, x.dtype)
    if node.attrs.get("direction") == "RIGHT" and x.dtype.is_signed:
        return binary("shr", x, select(outside, const(bits - 1, y.dtype), y))
    shift = "shr" if node.attrs.get("direction") == "RIGHT" else "shl"
    return select(outside, zero, binary(shift, x, select(outside, zero, y)))


def _mod(node: Node, x: Expr, y: Expr) -> Expr:
    return binary("fmod" if _attr(node, "fmod", 0) else "mod", x, y)


def _pow(node: Node, x: Expr, y: Expr) -> Expr:
    if x.dtype.is_int and y.dtype.is_float:
        return cast(binary("pow", cast(x, DType.F64), cast(y, DType.F64)), x.dtype)
    return binary("pow", x, cast(y, x.dtype))


def _prelu(node: Node, x: Expr, slope: Expr) -> Expr:
    return select(x < const(0, x.dtype), x * slope, x)


def _swiglu(node: Node, gate: Expr, value: Expr) -> Expr:
    return _swish(node, gate) * value


def _where(node: Node, condition: Expr, x: Expr, y: Expr) -> Expr:
    return select(condition, x, y)


def _clip(node: Node, types: Types) -> Expr:
    x = arg(0, types[0].dtype)
    if node.input(1):
        x = maximum(x, arg(1, x.dtype))
    return minimum(x, arg(2, x.dtype)) if node.input(2) else x


def _fold(op: str) -> Build:
    def build(node: Node, types: Types) -> Expr:
        parts = [arg(n, t.dtype) for n, t in enumerate(types)]
        return functools.reduce(lambda a, b: binary(op, a, b), parts)

    return build


def _mean(node: Node, types: Types) -> Expr:
    return _fold("add")(node, types) / float(len(types))


def _plain(build: Callable[..., Expr]) -> Build:
    """build(node, arg 0, arg 1, ...) for operators whose inputs are all given."""
    return lambda node, types: build(node, *(arg(n, t.dtype) for n, t in enumerate(types)))


def _unary(op: str, dtype: DType | None = None) -> Build:
    return lambda node, types: unary(op, arg(0, types[0].dtype), dtype)


def _binary(op: str) -> Build:
    return lambda node, types: binary(op, arg(0, types[0].dtype), arg(1, types[1].dtype))


BUILDERS: dict[str, Build] = {
    "Abs": _unary("abs"),
    "Acos": _unary("acos"),
    "Acosh": _unary("acosh"),
    "Add": _binary("add"),
    "And": _binary("and"),
    "Asin": _unary("asin"),
    "Asinh": _unary("asinh"),
    "Atan": _unary("atan"),
    "Atanh": _unary("atanh"),
    "BitShift": _plain(_bit_shift),
    "BitwiseAnd": _binary("and"),
    "BitwiseNot": _unary("bitnot"),
    "BitwiseOr": _binary("or"),
    "BitwiseXor": _binary("xor"),
    "Ceil": _unary("ceil"),
    "Celu": _plain(_celu),
    "Clip": _clip,
    "Cos": _unary("cos"),
    "Cosh": _unary("cosh"),
    "Div": _binary("div"),
    "Elu": _plain(_elu),
    "Equal": _binary("eq"),
    "Erf": _unary("erf"),
    "Exp": _unary("exp"),
    "Floor": _unary("floor"),
    "Gelu": _plain(_gelu),
    "Greater": _binary("gt"),
    "GreaterOrEqual": _binary("ge"),
    "HardSigmoid": _plain(_hard_sigmoid),
    "HardSwish": _plain(_hard_swish),
    "IsInf": _plain(_is_inf),
    "IsNaN": _unary("isnan", DType.BOOL),
    "LeakyRelu": _plain(_leaky_relu),
    "Less": _binary("lt"),
    "LessOrEqual": _binary("le"),
    "Log": _unary("log"),
    "Max": _fold("max"),
    "Mean": _mean,
    "Min": _fold("min"),
    "Mish": _plain(_mish),
    "Mod": _plain(_mod),
    "Mul": _binary("mul"),
    "Neg": _unary("neg"),
    "Not": _unary("not"),
    "Or": _binary("or"),
    "PRelu": _plain(_prelu),
    "Pow": _plain(_pow),
    "Reciprocal": _plain(lambda node, x: 1.0 / x),
    "Relu": _plain(_relu),
    "Round": _unary("round"),
    "Selu": _plain(_selu),
    "Shrink": _plain(_shrink),
    "Sigmoid": _plain(lambda node, x: sigmoid(x)),
    "Sign": _unary("sign"),
    "Sin": _unary("sin"),
    "Sinh": _unary("sinh"),
    "Softplus": _plain(lambda node, x: _softplus(x)),
    "Softsign": _plain(lambda node, x: x / (unary("abs", x) + 1.0)),
    "Sqrt": _unary("sqrt"),
    "Sub": _binary("sub"),
    "Sum": _fold("add"),
    "SwiGLU": _plain(_swiglu),
    "Swish": _plain(_swish),
    "Tan": _unary("tan"),
    "Tanh": _unary("tanh"),
    "ThresholdedRelu": _plain(_thresholded_relu),
    "Where": _plain(_where),
    "Xor": _binary("xor"),
}
_STRINGS: dict[str, Callable[..., np.ndarray]] = {
    "Equal": lambda a, b: np.asarray(np.equal(a, b), np.bool_),
    "Where": np.where,
}


def _infer(i: Infer) -> list[ValueType]:
    present = [n for n in range(len(i.types)) if i.has(n)]
    where = i.node.op == "Where"
    first = i.tensor(1 if where else 0)
    if where and i.tensor(0).dtype is not DType.BOOL:
        i.fail("a condition of type bool", i.tensor(0).dtype.value)
    for n in present[2 if where else 1 :]:
        if i.node.op != "Pow" and i.tensor(n).dtype is not first.dtype:
            i.fail(f"input {n} of type {first.dtype.value}", i.tensor(n).dtype.value)
    shape = broadcast_shapes(i, [i.shape(n) for n in present])
    if first.dtype is DType.STRING:
        return [TensorType(DType.BOOL if i.node.op == "Equal" else first.dtype, shape)]
    types = [t if isinstance(t, TensorType) else first for t in i.types]
    return [TensorType(BUILDERS[i.node.op](i.node, types).dtype, shape)]


def _reference(r: Ref) -> list[np.ndarray]:
    arrays = [np.asarray(0.0) if v is None else np.asarray(v) for v in r.inputs]
    if arrays[-1].dtype.kind in "OUS":
        return [_STRINGS[r.node.op](*arrays)]
    types = [TensorType(DType.from_numpy(a.dtype), a.shape) for a in arrays]
    return [evaluate(BUILDERS[r.node.op](r.node, types), arrays)]


for _name, _build in BUILDERS.items():
    register(Op(_name, _infer, _reference, propagate=propagate, expression=_build))
