"""The weight of a layer as it stands in a graph: where it is zero, how it is stored, what was quantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX, SKIPJACK, Graph, Node
from skipjack.ops.microsoft import dequantized_nbits
from skipjack.ops.registry import Ref

Form = Literal["conv", "conv_transpose", "matmul", "gemm", "bits", "recurrent", "table"]


@dataclass(frozen=True)
class Weighted:
    """An operator with a weight: which input it is, how it lies, the input with its zero point, the other operand."""

    form: Form
    weight: int = 1
    zero_point: int | None = None
    data: int = 0


WEIGHTED: dict[tuple[str, str], Weighted] = {
    (ONNX, "Conv"): Weighted("conv"),
    (SKIPJACK, "Conv"): Weighted("conv"),
    (MS, "FusedConv"): Weighted("conv"),
    (ONNX, "ConvInteger"): Weighted("conv", 1, 3),
    (ONNX, "QLinearConv"): Weighted("conv", 3, 5),
    (ONNX, "ConvTranspose"): Weighted("conv_transpose"),
    (SKIPJACK, "ConvTranspose"): Weighted("conv_transpose"),
    (ONNX, "MatMul"): Weighted("matmul"),
    (SKIPJACK, "MatMul"): Weighted("matmul"),
    (SKIPJACK, "Linear"): Weighted("matmul"),
    (MS, "FusedMatMul"): Weighted("matmul"),
    (ONNX, "MatMulInteger"): Weighted("matmul", 1, 3),
    (ONNX, "QLinearMatMul"): Weighted("matmul", 3, 5),
    (MS, "MatMulIntegerToFloat"): Weighted("matmul", 1, 5),
    (MS, "DynamicQuantizeMatMul"): Weighted("matmul", 1, 3),
    (ONNX, "Gemm"): Weighted("gemm"),
    (MS, "FusedGemm"): Weighted("gemm"),
    (MS, "QGemm"): Weighted("gemm", 3, 5),
    (MS, "MatMulNBits"): Weighted("bits", 1, 3),
    (ONNX, "LSTM"): Weighted("recurrent"),
    (ONNX, "GRU"): Weighted("recurrent"),
    (ONNX, "RNN"): Weighted("recurrent"),
    (ONNX, "Gather"): Weighted("table", 0, None, 1),
}

_PRECISIONS = {
    "f32": "fp32", "f64": "fp64", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4",
    "i2": "int2", "u2": "int2", "i16": "int16", "u16": "int16",
}  # fmt: skip
_BITS = {"fp32": 32, "fp64": 64, "fp16": 16, "bf16": 16, "int16": 16, "int8": 8, "int4": 4, "int2": 2}


@dataclass(frozen=True)
class Scope:
    """What the nodes of a graph may refer to, values of outer graphs included."""

    constants: Mapping[str, np.ndarray]
    producers: Mapping[str, Node]

    @staticmethod
    def of(graph: Graph, outer: Scope | None = None) -> Scope:
        if outer is None:
            return Scope(graph.constants, graph.producers())
        return Scope({**outer.constants, **graph.constants}, {**outer.producers, **graph.producers()})


@dataclass(frozen=True)
class Weight:
    """zeros is a mask [outputs, positions, inputs], true where the real value is zero; name is the constant's.

    precision is how the numbers are stored ("fp32", "int8", "int4", ...). quantised_data says whether the other
    operand is quantised too, so that integers can be multiplied.
    """

    name: str
    zeros: np.ndarray
    precision: str
    quantised_data: bool

    @property
    def elements(self) -> int:
        return self.zeros.size

    @property
    def bits(self) -> int:
        return _BITS.get(self.precision, 32)

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers, scales left out."""
        return -(-self.elements * self.bits // 8)


@dataclass(frozen=True)
class _Stored:
    """A constant, possibly behind nodes that only rearrange or dequantise it."""

    name: str
    zeros: np.ndarray
    precision: str


def weight_of(node: Node, scope: Scope) -> Weight | None:
    """The weight of a node; None when it has none or when it is computed at run time."""
    entry = WEIGHTED.get(node.key)
    if entry is None:
        return None
    if entry.form == "bits":
        return _packed_bits(node, scope)
    zero_point = "" if entry.zero_point is None else node.input(entry.zero_point)
    stored = _stored(node.input(entry.weight), zero_point, scope)
    if stored is None or stored.zeros.ndim < (1 if entry.form == "table" else 2):
        return None
    zeros = _arranged(entry.form, node, stored.zeros)
    if entry.form == "recurrent":
        state = _stored(node.input(2), "", scope)
        if state is not None:
            zeros = np.concatenate([zeros, _arranged("recurrent", node, state.zeros)], axis=2)
    quantised = entry.zero_point is not None or _is_dequantised(node.input(entry.data), scope)
    return Weight(stored.name, zeros, stored.precision, quantised)


def _arranged(form: Form, node: Node, zeros: np.ndarray) -> np.ndarray:
    """As [outputs, positions, inputs]."""
    if form == "conv":
        return np.moveaxis(zeros.reshape(*zeros.shape[:2], -1), 1, 2)
    if form == "conv_transpose":
        return np.moveaxis(zeros.reshape(*zeros.shape[:2], -1), 0, 2)
    if form == "recurrent":
        return zeros.reshape(-1, 1, zeros.shape[-1])
    if form == "table":
        return zeros.reshape(zeros.shape[0], 1, -1)
    swapped = bool(node.attrs.get("transB") or node.attrs.get("trans_b"))
    outputs_first = zeros if swapped else np.swapaxes(zeros, -1, -2)
    return outputs_first.reshape(-1, 1, outputs_first.shape[-1])


def _packed_bits(node: Node, scope: Scope) -> Weight | None:
    inputs: list[Any] = [scope.constants.get(n) for n in node.inputs]
    if len(inputs) < 3 or inputs[1] is None or inputs[2] is None:
        return None
    inputs[0] = np.zeros(0, np.float32)
    codes = dequantized_nbits(Ref(node, inputs))
    return Weight(node.input(1), (codes == 0)[:, None, :], f"int{node.attrs.get('bits')}", False)


def _stored(name: str, zero_point: str, scope: Scope) -> _Stored | None:
    array = scope.constants.get(name)
    if array is not None:
        zero = scope.constants.get(zero_point) if zero_point else None
        return _Stored(name, _is_zero(array, zero, axis=array.ndim - 1, block=0), _precision(array))
    node = scope.producers.get(name)
    if node is None:
        return None
    if node.op == "DequantizeLinear":
        return _dequantised(node, scope)
    inner = _stored(node.input(0), "", scope) if node.op in ("Transpose", "Identity", "Cast") else None
    if inner is None or node.op != "Transpose":
        return inner
    order: Any = node.attrs.get("perm") or tuple(reversed(range(inner.zeros.ndim)))
    return _Stored(inner.name, np.transpose(inner.zeros, order), inner.precision)


def _dequantised(node: Node, scope: Scope) -> _Stored | None:
    axis, block = int(_number(node, "axis", 1)), int(_number(node, "block_size", 0))
    zero = scope.constants.get(node.input(2))
    array = scope.constants.get(node.input(0))
    if array is not None:
        return _Stored(node.input(0), _is_zero(array, zero, axis, block), _precision(array))
    source = scope.producers.get(node.input(0))
    if source is None or source.op != "QuantizeLinear":
        return None
    inner = _stored(source.input(0), "", scope)
    return None if inner is None else _Stored(inner.name, inner.zeros, "int8" if zero is None else _precision(zero))


def _is_zero(array: np.ndarray, zero: np.ndarray | None, axis: int, block: int) -> np.ndarray:
    """Where the real value is 0: the code equals its zero point, or the number is 0 or -0."""
    if zero is None:
        return array.astype(np.float32) == 0 if array.dtype.kind not in "fiub" else array == 0
    codes, point = array.astype(np.int32), zero.astype(np.int32)
    if block:
        point = np.take(np.repeat(point, block, axis=axis), np.arange(codes.shape[axis]), axis=axis)
    elif point.size == 1:
        point = point.reshape(())
    elif point.ndim == 1:
        shape = [1] * codes.ndim
        shape[_channel_axis(codes, point, axis)] = -1
        point = point.reshape(shape)
    return codes == point


def _channel_axis(codes: np.ndarray, point: np.ndarray, axis: int) -> int:
    """The axis that zero points per channel run along: the one said, else the first that has as many channels."""
    if codes.shape[axis] == point.size:
        return axis
    return next((i for i, n in enumerate(codes.shape) if n == point.size), axis)


def _is_dequantised(name: str, scope: Scope) -> bool:
    node = scope.producers.get(name)
    return node is not None and node.op == "DequantizeLinear" and node.input(0) not in scope.constants


def _precision(array: np.ndarray) -> str:
    dtype = DType.from_numpy(array.dtype)
    return _PRECISIONS.get(dtype.value, dtype.value)


def _number(node: Node, name: str, default: int) -> int:
    value = node.attrs.get(name, default)
    return value if isinstance(value, int) else default
