"""Operators that read and write codes as DequantizeLinear, the operator on numbers, and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX, Graph, Node
from skipjack.passes.canonicalise_contractions import float_attr, int_attr
from skipjack.passes.quantisation import BYTES, Quant, dequantise, quantise
from skipjack.passes.rewrite import Edit, Rule, apply_rules, node

_F32 = np.dtype(np.float32)
_ONE = np.ones((), np.float32)
_CHANNELS_SAME = 13


@dataclass(frozen=True)
class DecomposeQuantisedOperators:
    """QLinearConv, QLinearMatMul and QGemm of constant weights, and com.microsoft's quantised operators.

    The contractions multiply their sums by one factor, scale of input times scale of weight by scale of output, and
    round that. So they become contractions of inputs in steps of 1 by weights in steps of the factor, whose result is
    quantised in steps of 1: as integer contractions they do the very arithmetic of their definition.
    """

    name: str = "decompose_quantised_operators"

    def apply(self, graph: Graph) -> Graph:
        return apply_rules(graph, _RULES)


def _number(edit: Edit, name: str, default: float | None = None) -> np.ndarray | None:
    """The one number of a constant parameter, as f32."""
    array = edit.array(name)
    if not name and default is not None:
        return np.array(default, np.float32)
    return None if array is None or array.size != 1 else array.reshape(()).astype(np.float32)


def _quant(edit: Edit, codes: str, scale: np.ndarray, zero: str, axis: int = 0) -> Quant | None:
    """The parameters of codes; None when the zero point is not constant or does not fit the scale."""
    t = edit.tensor(codes)
    points = edit.array(zero) if zero else np.zeros((), np.int64)
    if t is None or points is None or points.ndim > 1 or scale.ndim > 1:
        return None
    points = points.astype(np.int64)
    points = points.reshape(()) if points.size == 1 else points
    scale = scale.reshape(()) if scale.size == 1 else scale
    if scale.ndim == 0 and points.ndim == 0:
        return Quant(t.dtype, scale, points[()], 0)
    size = max(scale.size, points.size)
    if {scale.size, points.size} - {1, size}:
        return None
    return Quant(t.dtype, np.broadcast_to(scale, (size,)), np.broadcast_to(points, (size,)), axis)


@dataclass
class _Product:
    """A contraction of codes x by constant codes w: positions of its inputs, the factor of its sums."""

    x: str
    x_zero: str
    w: str
    w_zero: str
    factor: np.ndarray
    features: int
    bias: str = ""


def _product(edit: Edit, n: Node, p: _Product, op: str, output: str) -> list[Node] | None:
    """Nodes that make the sums times the factor, None when the operands do not fit."""
    x, w = _quant(edit, p.x, _ONE, p.x_zero), _quant(edit, p.w, p.factor, p.w_zero, p.features)
    weight = edit.array(p.w)
    if x is None or w is None or not x.whole or x.dtype not in BYTES or w.dtype not in BYTES or weight is None:
        return None
    if edit.array(p.x) is not None or (w.axis >= weight.ndim) or bool(np.any(p.factor <= 0)):
        return None
    names = [edit.name(f"{v}.real") for v in (p.x, p.w)]
    made = [dequantise(edit, p.x, x, names[0]), dequantise(edit, p.w, w, names[1])]
    if p.bias:
        codes = edit.array(p.bias)
        if codes is None or codes.dtype != np.int32 or codes.size != weight.shape[p.features]:
            return None
        vector = edit.constant(codes.reshape(-1), f"{p.bias}.vector")
        names.append(edit.name(f"{p.bias}.real"))
        scale = p.factor.reshape(()) if p.factor.size == 1 else p.factor
        none = np.zeros(scale.shape, np.int64)[()]
        made.append(dequantise(edit, vector, Quant(DType.I32, scale, none, 0), names[2]))
    kept = {k: v for k, v in n.attrs.items() if k != "alpha"}
    return [*made, node(op, names, output, ONNX, **kept)]


def _linear(edit: Edit, n: Node, p: _Product, op: str, y_zero: str) -> None:
    zero = edit.array(y_zero)
    if zero is None or zero.size != 1:
        return
    real = edit.name(f"{n.outputs[0]}.steps")
    made = _product(edit, n, p, op, real)
    if made is not None:
        quant = Quant(DType.from_numpy(zero.dtype), _ONE, zero.reshape(()).astype(np.int64)[()], 0)
        edit.replace(n, [*made, quantise(edit, real, quant, n.outputs[0])])


def _factor(edit: Edit, x: str, w: str, y: str) -> np.ndarray | None:
    """x times w by y, rounded to f32 after each step; None for anything but constants."""
    left, right, out = _number(edit, x), edit.array(w), _number(edit, y)
    if left is None or right is None or out is None or right.dtype != _F32 or right.ndim > 1:
        return None
    return np.asarray(left * right / out, np.float32)


def _qlinear_conv(edit: Edit, n: Node) -> None:
    factor = _factor(edit, n.input(1), n.input(4), n.input(6))
    if factor is not None:
        _linear(
            edit, n, _Product(n.input(0), n.input(2), n.input(3), n.input(5), factor, 0, n.input(8)), "Conv", n.input(7)
        )


def _qlinear_matmul(edit: Edit, n: Node) -> None:
    factor = _factor(edit, n.input(1), n.input(4), n.input(6))
    if factor is not None and edit.rank(n.input(3)) == 2:
        _linear(edit, n, _Product(n.input(0), n.input(2), n.input(3), n.input(5), factor, 1), "MatMul", n.input(7))


def _qgemm(edit: Edit, n: Node) -> None:
    """The scale of the output divides the factor; without one the result stays a number."""
    scale, other = _number(edit, n.input(1)), edit.array(n.input(4))
    if scale is None or other is None or other.dtype != _F32 or int_attr(n, "transA", 0):
        return
    factor = np.asarray(np.float32(float_attr(n, "alpha", 1.0)) * scale * other, np.float32)
    features = 0 if int_attr(n, "transB", 0) else 1
    p = _Product(n.input(0), n.input(2), n.input(3), n.input(5), factor, features, n.input(6))
    if n.input(7):
        out = _number(edit, n.input(7))
        if out is not None:
            _linear(edit, n, replace(p, factor=np.asarray(factor / out, np.float32)), "Gemm", n.input(8))
        return
    made = _product(edit, n, p, "Gemm", n.outputs[0])
    if made is not None:
        edit.replace(n, made)


def _matmul_integer_to_float(edit: Edit, n: Node) -> None:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (n.input(i) for i in range(7))
    edit.replace(n, _scaled_sums(edit, n, (a, b, a_zero, b_zero), (a_scale, b_scale), bias))


def _dynamic_quantize_matmul(edit: Edit, n: Node) -> None:
    a, b, b_scale, b_zero, bias = (n.input(i) for i in range(5))
    codes, scale, zero = (edit.name(f"{a}.{what}") for what in ("codes", "scale", "zero"))
    dynamic = Node("DynamicQuantizeLinear", (a,), (codes, scale, zero))
    edit.replace(n, [dynamic, *_scaled_sums(edit, n, (codes, b, zero, b_zero), (scale, b_scale), bias)])


def _scaled_sums(edit: Edit, n: Node, operands: tuple[str, ...], scales: tuple[str, str], bias: str) -> Sequence[Node]:
    near = n.outputs[0]
    sums, real, factor = (edit.name(f"{near}.{what}") for what in ("sums", "real", "factor"))
    product = edit.name(f"{near}.product") if bias else near
    trimmed = operands if operands[3] else operands[:3] if operands[2] else operands[:2]
    made = [
        node("MatMulInteger", trimmed, sums),
        node("Cast", (sums,), real, to=DType.F32.onnx),
        node("Mul", scales, factor),
        node("Mul", (real, factor), product),
    ]
    return [*made, node("Add", (product, bias), near)] if bias else made


def _to_real(edit: Edit, codes: str, scale: str, zero: str) -> Node:
    return node("DequantizeLinear", (codes, scale, zero) if zero else (codes, scale), edit.name(f"{codes}.real"))


def _to_codes(edit: Edit, n: Node, real: str, scale: str, zero: str) -> Node:
    t = edit.tensor(n.outputs[0])
    assert t is not None, "the type rule of a quantised operator gives a tensor"
    parameters = (scale, zero) if zero else (scale,)
    return node("QuantizeLinear", (real, *parameters), n.outputs[0], output_dtype=t.dtype.onnx)


def _one_scale(edit: Edit, *names: str) -> bool:
    """Whether the parameters are single numbers of f32 or codes."""
    types = [edit.tensor(i) for i in names if i]
    return all(t is not None and t.shape in ((), (1,)) for t in types)


def _binary(op: str) -> Rule:
    def rule(edit: Edit, n: Node) -> None:
        if not _one_scale(edit, *(n.input(i) for i in (1, 2, 4, 5, 6, 7))):
            return
        real = [_to_real(edit, *(n.input(i + k) for k in range(3))) for i in (0, 3)]
        result = edit.name(f"{n.outputs[0]}.real")
        sides = [r.outputs[0] for r in real]
        edit.replace(n, [*real, node(op, sides, result), _to_codes(edit, n, result, n.input(6), n.input(7))])

    return rule


def _unary(op: str, *attrs: str) -> Rule:
    def rule(edit: Edit, n: Node) -> None:
        if not _one_scale(edit, *n.inputs[1:5]) or int_attr(n, "channels_last", 0):
            return
        if op == "Softmax" and int_attr(n, "opset", _CHANNELS_SAME) < _CHANNELS_SAME:
            return
        real = _to_real(edit, n.input(0), n.input(1), n.input(2))
        result = edit.name(f"{n.outputs[0]}.real")
        kept = {k: n.attrs[k] for k in attrs if k in n.attrs}
        made = node(op, real.outputs, result, ONNX, **kept)
        edit.replace(n, [real, made, _to_codes(edit, n, result, n.input(3), n.input(4))])

    return rule


def _concat(edit: Edit, n: Node) -> None:
    triples = [n.inputs[i : i + 3] for i in range(2, len(n.inputs), 3)]
    if not _one_scale(edit, *n.inputs[:2], *(p for t in triples for p in t[1:])):
        return
    real = [_to_real(edit, *t) for t in triples]
    result = edit.name(f"{n.outputs[0]}.real")
    joined = node("Concat", [r.outputs[0] for r in real], result, axis=int_attr(n, "axis", 0))
    edit.replace(n, [*real, joined, _to_codes(edit, n, result, n.input(0), n.input(1))])


def _standard(edit: Edit, n: Node) -> None:
    """com.microsoft's QuantizeLinear and DequantizeLinear mean what ONNX's do."""
    edit.replace(n, [Node(n.op, n.inputs, n.outputs, n.attrs, ONNX, n.origin)])


_POOL = ("kernel_shape", "strides", "pads", "ceil_mode", "count_include_pad", "auto_pad")
_RULES: dict[tuple[str, str], Callable[[Edit, Node], None]] = {
    (ONNX, "QLinearConv"): _qlinear_conv,
    (ONNX, "QLinearMatMul"): _qlinear_matmul,
    (MS, "QGemm"): _qgemm,
    (MS, "MatMulIntegerToFloat"): _matmul_integer_to_float,
    (MS, "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    (MS, "QLinearAdd"): _binary("Add"),
    (MS, "QLinearMul"): _binary("Mul"),
    (MS, "QLinearSigmoid"): _unary("Sigmoid"),
    (MS, "QLinearLeakyRelu"): _unary("LeakyRelu", "alpha"),
    (MS, "QLinearSoftmax"): _unary("Softmax", "axis"),
    (MS, "QLinearAveragePool"): _unary("AveragePool", *_POOL),
    (MS, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    (MS, "QLinearConcat"): _concat,
    (MS, "QuantizeLinear"): _standard,
    (MS, "DequantizeLinear"): _standard,
}
