"""Conversions between element types: Cast, CastLike and BitCast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Node
from skipjack.ir.types import TensorType, ValueType
from skipjack.lang.expr import Expr, arg, cast
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import attr_dtype, is_symbolic

_F8 = frozenset({DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ})
_LARGEST = {DType.F8E4M3FN: 448.0, DType.F8E4M3FNUZ: 240.0, DType.F8E5M2: 57344.0, DType.F8E5M2FNUZ: 57344.0}
_INT_BITS = {DType.I4: 4, DType.U4: 4, DType.I2: 2, DType.U2: 2}


def convert(x: np.ndarray, to: DType, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """x in the element type `to`, as ONNX's Cast defines it."""
    if to is DType.STRING:
        return _to_strings(x)
    if x.dtype.kind in "OUS":
        return _from_strings(x, to)
    if to in _F8:
        return _to_float8(x, to, saturate)
    if to is DType.F8E8M0:
        return _to_exponent(x, saturate, round_mode)
    if to in _INT_BITS:
        return _to_few_bits(x, to)
    wide = x.astype(np.float32) if x.dtype.kind == "V" and to is not DType.BOOL else x
    return np.asarray(wide != 0) if to is DType.BOOL else wide.astype(to.np)


def _to_few_bits(x: np.ndarray, to: DType) -> np.ndarray:
    """The low bits of the truncated integer."""
    bits = _INT_BITS[to]
    whole = x.astype(np.float32) if x.dtype.kind == "V" else x
    low = whole.astype(np.int64) & ((1 << bits) - 1)
    if to.is_signed:
        low = np.where(low >= 1 << (bits - 1), low - (1 << bits), low)
    return low.astype(np.int8).astype(to.np)


def _to_float8(x: np.ndarray, to: DType, saturate: bool) -> np.ndarray:
    wide = x if x.dtype.kind == "f" else x.astype(np.float32)
    y = wide.astype(to.np)
    if not saturate:
        return y
    lost = ~np.isfinite(y.astype(np.float32)) & ~np.isnan(wide)
    limit = np.copysign(np.float32(_LARGEST[to]), wide).astype(to.np)
    return np.where(lost, limit, y)


def _to_exponent(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """Powers of two from 2**-127 to 2**127, held as exponent + 127; 255 is NaN."""
    wide = x.astype(np.float64)
    usable = np.isfinite(wide) & (wide > 0)
    fraction, exponent = np.frexp(np.where(usable, wide, 1.0))
    above = {"up": fraction > 0.5, "down": np.zeros(x.shape, np.bool_), "nearest": fraction >= 0.75}[round_mode]
    code = exponent - 1 + above + 127
    code = np.where(wide == 0, -1, np.where(wide == np.inf, 255, code))
    invalid = np.isnan(wide) | (wide < 0)
    if saturate:
        code = np.clip(code, 0, 254)
    else:
        invalid = invalid | (code < 0) | (code > 254)
    return np.where(invalid, 255, code).astype(np.uint8).view(DType.F8E8M0.np)


def _to_strings(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind in "OUS":
        return x
    wide = x.astype(np.float32) if x.dtype.kind == "V" else x
    out = np.empty(x.shape, object)
    for index, value in np.ndenumerate(wide):
        out[index] = _text(value)
    return out


def _text(value: np.generic) -> str:
    if not isinstance(value, np.floating):
        return str(int(value))
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else ("INF" if value > 0 else "-INF")
    return str(value)


def _from_strings(x: np.ndarray, to: DType) -> np.ndarray:
    out = np.empty(x.shape, np.float64 if to.is_float else np.int64 if to.is_signed else np.uint64)
    for index, text in np.ndenumerate(x):
        word = text.decode() if isinstance(text, bytes) else str(text)
        out[index] = float(word) if to.is_float else _whole(word)
    return convert(out, to)


def _whole(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        return int(float(word))


def _target(i: Infer) -> DType:
    if i.node.op == "CastLike":
        return i.tensor(1).dtype
    if not i.attr("to"):
        i.fail("attribute to", i.attr("to"))
    return attr_dtype(i, "to", DType.F32)


def _infer(i: Infer) -> list[ValueType]:
    return [TensorType(_target(i), i.shape(0))]


def _reference(r: Ref) -> list[np.ndarray]:
    like = r.node.op == "CastLike"
    to = DType.from_numpy(np.asarray(r.inputs[1]).dtype) if like else DType.from_onnx(int(r.attr("to")))
    round_mode = str(r.attr("round_mode", "up"))
    if round_mode not in ("up", "down", "nearest"):
        r.fail("round_mode up, down or nearest", round_mode)
    return [convert(np.asarray(r.inputs[0]), to, bool(r.attr("saturate", 1)), round_mode)]


def _propagate(i: Infer) -> list[np.ndarray | None]:
    """Sizes survive a cast to a type that holds them exactly."""
    value, to = i.value(0), _target(i)
    roomy = to in (DType.I32, DType.I64, DType.U32, DType.U64, DType.F32, DType.F64)
    return [value if value is not None and is_symbolic(value) and roomy else None]


def _expression(node: Node, types: Sequence[TensorType]) -> Expr:
    to = types[1].dtype if node.op == "CastLike" else DType.from_onnx(int(str(node.attrs["to"])))
    return cast(arg(0, types[0].dtype), to)


register(Op("Cast", _infer, _reference, propagate=_propagate, expression=_expression))
register(Op("CastLike", _infer, _reference, propagate=_propagate, expression=_expression))


def _bits(dtype: DType) -> int:
    return 4 if dtype is DType.F4E2M1 else _INT_BITS.get(dtype, dtype.itemsize * 8)


def _infer_bit_cast(i: Infer) -> list[ValueType]:
    source, to = i.tensor(0), _target(i)
    if DType.STRING in (source.dtype, to) or _bits(source.dtype) != _bits(to):
        i.fail(f"a type of {_bits(source.dtype)} bits", to.value)
    return [TensorType(to, source.shape)]


def _bit_cast(r: Ref) -> list[np.ndarray]:
    x, to = np.asarray(r.inputs[0]), DType.from_onnx(int(r.attr("to")))
    bits = _bits(to)
    if bits == 8 * to.itemsize:
        return [np.ascontiguousarray(x).view(to.np).reshape(x.shape)]
    raw = np.ascontiguousarray(x).view(np.uint8).astype(np.int16) & ((1 << bits) - 1)
    if to.is_int:
        return [_to_few_bits(raw, to)]
    return [raw.astype(np.uint8).view(to.np)]


register(Op("BitCast", _infer_bit_cast, _bit_cast))
