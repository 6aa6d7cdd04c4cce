"""Products of dequantised values as integer Linear and Conv, whose epilogue scales the exact sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK, Attr, Graph, Node
from skipjack.lang.expr import Expr, arg, cast, const
from skipjack.passes.canonicalise_contractions import float_attr, int_attr, window_attrs_of
from skipjack.passes.quantisation import BYTES, Quant, dequantised_codes, other_sign
from skipjack.passes.rewrite import Edit, apply_rules, node

_I32, _F32 = DType.I32, DType.F32
_SAME_SCALE = 1e-6


@dataclass(frozen=True)
class FormIntegerContractions:
    """MatMul, Gemm and Conv of dequantised codes by dequantised constants; MatMulInteger and ConvInteger by constants.

    The weight has its zero point subtracted (i8, or i16 when that does not fit); the codes are u8, signed ones with
    their top bit turned over. arg 0 of the epilogue is the sum of codes times weights; what the codes' zero point
    contributes is added as one number per feature, then comes scale and bias. A bias in units of the scale is part of
    that number. Sums are exact; the float arithmetic after them is scale times sum plus bias, in f32.
    """

    name: str = "form_integer_contractions"

    def apply(self, graph: Graph) -> Graph:
        return apply_rules(graph, _RULES)


@dataclass(frozen=True)
class _Weight:
    """A weight less its zero point, [K, M] or [O, I, kernel], and its scale: one number or one per feature."""

    values: np.ndarray
    scale: np.ndarray

    @property
    def sums(self) -> np.ndarray:
        """Per feature, the sum of the weights (i64)."""
        axes = 0 if self.values.ndim == 2 else tuple(range(1, self.values.ndim))
        return self.values.sum(axis=axes, dtype=np.int64)


def centred(codes: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray | None:
    """Codes less their zero point as i8, or as i16 where that does not fit; None for wider results."""
    shape = [-1 if n == axis else 1 for n in range(codes.ndim)]
    if codes.dtype == np.int8 and not zero.any():
        return codes
    wide = codes.astype(np.int16) - (zero if zero.ndim == 0 else zero.reshape(shape)).astype(np.int16)
    low, high = int(wide.min(initial=0)), int(wide.max(initial=0))
    if low < -255 or high > 255:
        return None
    return wide.astype(np.int8 if low >= -128 and high <= 127 else np.int16)


def _weight(edit: Edit, name: str, features: int, transposed: bool = False) -> _Weight | None:
    """The dequantised constant, transposed when asked; features: the axis of output features as it is stored."""
    found = dequantised_codes(edit, name)
    codes = None if found is None else edit.array(found[0].input(0))
    if found is None or codes is None:
        return None
    quant = found[1]
    if not quant.whole and quant.axis != features:
        return None
    values = centred(codes, quant.zero, features)
    return None if values is None else _Weight(values.T if transposed else values, quant.scale)


def _unsigned(edit: Edit, codes: str, quant: Quant, made: list[Node]) -> tuple[str, Quant]:
    """The codes as u8."""
    if quant.dtype is DType.U8:
        return codes, quant
    flipped = edit.name(f"{codes}.unsigned")
    made.append(node("Pointwise", (codes,), flipped, SKIPJACK, expr=other_sign(arg(0, DType.I8))))
    return flipped, replace(quant, dtype=DType.U8, zero=quant.zero + 128)


@dataclass
class _Epilogue:
    """An expression over the sums, and the extras it reads."""

    edit: Edit
    near: str
    expr: Expr
    extras: list[str]

    def extra(self, name: str, dtype: DType) -> Expr:
        self.extras.append(name)
        return arg(len(self.extras), dtype)

    def constant(self, array: np.ndarray, what: str) -> Expr:
        """A number in the expression, or an extra with one number per feature."""
        dtype = DType.from_numpy(array.dtype)
        if array.size == 1 or bool((array == array.reshape(-1)[0]).all()):
            return const(array.reshape(-1)[0].item(), dtype)
        return self.extra(self.edit.constant(array, f"{self.near}.{what}"), dtype)

    def add_whole(self, numbers: np.ndarray) -> None:
        """Add integers to the sums; they wrap around as the sums do."""
        if numbers.any():
            self.expr = self.expr + self.constant(numbers.astype(np.int32), "correction")


def _contraction(edit: Edit, n: Node, op: str, weight: _Weight, attrs: dict[str, Attr], bias: str = "") -> None:
    """Replace n; its input 0 is dequantised, `bias` is a vector to add or empty."""
    found = dequantised_codes(edit, n.input(0))
    if found is None or found[1].dtype not in BYTES or not found[1].whole or _is_constant(edit, found[0]):
        return
    made: list[Node] = []
    codes, quant = _unsigned(edit, found[0].input(0), found[1], made)
    zero = int(quant.zero)
    scale = np.asarray(quant.scale * weight.scale, np.float32)
    end = _Epilogue(edit, n.outputs[0], arg(0, _I32), [])
    whole = _whole_bias(edit, bias, scale)
    end.add_whole((0 if whole is None else whole) - zero * weight.sums)
    end.expr = cast(end.expr, _F32) * end.constant(scale, "scale")
    if bias and whole is None:
        vector = edit.array(bias)
        end.expr = end.expr + (end.extra(bias, _F32) if vector is None else end.constant(vector, "bias"))
    if op == "Conv" and zero:
        attrs["pad_code"] = zero
    inputs = (codes, edit.constant(weight.values, f"{n.input(1)}.codes"), *end.extras)
    made.append(Node(op, inputs, n.outputs, MappingProxyType({**attrs, "epilogue": end.expr}), SKIPJACK))
    edit.replace(n, made)


def _is_constant(edit: Edit, dequantize: Node) -> bool:
    return edit.array(dequantize.input(0)) is not None


def _whole_bias(edit: Edit, name: str, scale: np.ndarray) -> np.ndarray | None:
    """The bias in units of the scale of the sums, None when it is not stored that way."""
    found = dequantised_codes(edit, name) if name else None
    codes = None if found is None else edit.array(found[0].input(0))
    if found is None or codes is None or codes.ndim != 1 or found[1].zero.any():
        return None
    if np.broadcast_shapes(scale.shape, found[1].scale.shape) != scale.shape and found[1].scale.size != codes.size:
        return None
    fits = np.abs(found[1].scale.astype(np.float64) - scale) <= _SAME_SCALE * np.abs(scale)
    return codes.astype(np.int64) if bool(np.all(fits)) else None


def _matmul(edit: Edit, n: Node) -> None:
    weight = _weight(edit, n.input(1), 1)
    if weight is not None and weight.values.ndim == 2:
        _contraction(edit, n, "Linear", weight, {})


def _gemm(edit: Edit, n: Node) -> None:
    """A bias with one number per column and factor 1 is part of the layer; any other sum follows it."""
    transposed = bool(int_attr(n, "transB", 0))
    weight = _weight(edit, n.input(1), 0 if transposed else 1, transposed)
    if weight is None or weight.values.ndim != 2 or int_attr(n, "transA", 0):
        return
    weight = replace(weight, scale=weight.scale * np.float32(float_attr(n, "alpha", 1.0)))
    beta, bias = float_attr(n, "beta", 1.0), n.input(2)
    if not bias or beta == 0.0:
        _contraction(edit, n, "Linear", weight, {})
    elif beta == 1.0 and _is_vector(edit, bias, weight.values.shape[1]):
        _contraction(edit, n, "Linear", weight, {}, bias)


def _is_vector(edit: Edit, name: str, size: int) -> bool:
    t = edit.tensor(name)
    return t is not None and t.dtype is _F32 and t.shape == (size,)


def _conv(edit: Edit, n: Node) -> None:
    weight = _weight(edit, n.input(1), 0)
    attrs = window_attrs_of(edit, n)
    if weight is None or attrs is None or (n.input(2) and not _is_vector(edit, n.input(2), weight.values.shape[0])):
        return
    _contraction(edit, n, "Conv", weight, attrs, n.input(2))


def _sums(op: str, edit: Edit, n: Node, attrs: dict[str, Attr], features: int) -> None:
    """MatMulInteger or ConvInteger; the zero point of the codes may be computed at run time, then it is a scalar."""
    x, weights = edit.tensor(n.input(0)), edit.array(n.input(1))
    zero, offset = n.input(2), edit.array(n.input(3)) if n.input(3) else np.zeros((), np.int64)
    if x is None or x.dtype not in BYTES or weights is None or offset is None or edit.array(n.input(0)) is not None:
        return
    offset = offset.reshape(()) if offset.size == 1 else offset
    t = edit.tensor(zero) if zero else None
    if offset.ndim > 1 or (zero and (t is None or t.shape not in ((), (1,)))):
        return
    values = centred(weights, offset.astype(np.int64), features)
    number = edit.array(zero) if zero else np.zeros((), np.int64)
    if values is None or (op == "Conv" and number is None and _pads(attrs)):
        return
    made: list[Node] = []
    known = Quant(x.dtype, np.ones((), np.float32), np.zeros((), np.int64), 0)
    if number is not None:
        known = replace(known, zero=number.astype(np.int64).reshape(-1)[0])
    codes, quant = _unsigned(edit, n.input(0), known, made)
    sums = _Weight(values, known.scale).sums
    end = _Epilogue(edit, n.outputs[0], arg(0, _I32), [])
    end.add_whole(-int(quant.zero) * sums)
    if number is None:
        end.expr = end.expr - cast(end.extra(zero, x.dtype), _I32) * end.constant(sums.astype(np.int32), "sums")
    elif op == "Conv" and quant.zero:
        attrs["pad_code"] = int(quant.zero)
    inputs = (codes, edit.constant(values, f"{n.input(1)}.codes"), *end.extras)
    made.append(Node(op, inputs, n.outputs, MappingProxyType({**attrs, "epilogue": end.expr}), SKIPJACK))
    edit.replace(n, made)


def _pads(attrs: dict[str, Attr]) -> bool:
    pads = attrs["pads"]
    assert isinstance(pads, tuple), "pads are integers"
    return any(pads) or "auto_pad" in attrs


def _matmul_integer(edit: Edit, n: Node) -> None:
    if edit.rank(n.input(1)) == 2:
        _sums("Linear", edit, n, {}, 1)


def _conv_integer(edit: Edit, n: Node) -> None:
    attrs = window_attrs_of(edit, n)
    if attrs is not None:
        _sums("Conv", edit, n, attrs, 0)


_RULES: dict[tuple[str, str], Callable[[Edit, Node], None]] = {
    (ONNX, "MatMul"): _matmul,
    (ONNX, "Gemm"): _gemm,
    (ONNX, "Conv"): _conv,
    (ONNX, "MatMulInteger"): _matmul_integer,
    (ONNX, "ConvInteger"): _conv_integer,
}
