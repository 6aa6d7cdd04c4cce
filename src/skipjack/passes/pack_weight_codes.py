"""Weights that are dequantised for numbers stay codes: MatMulNBits, whatever way they were written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX, Graph, Node
from skipjack.passes.canonicalise_contractions import float_attr, int_attr
from skipjack.passes.move_codes import MOVES
from skipjack.passes.rewrite import Edit, apply_rules, node

_BITS = {DType.I4: 4, DType.U4: 4, DType.I2: 2, DType.U2: 2, DType.I8: 8, DType.U8: 8}
_SMALLEST_BLOCK, _USUAL_BLOCK = 16, 128


@dataclass(frozen=True)
class PackWeightCodes:
    """MatMul or Gemm of f32 by a dequantised constant matrix becomes MatMulNBits of the constant's codes.

    Scales hold for the whole matrix, per column, or per block of a power of two rows, at least 16. Activations that are
    dequantised, too, make an integer contraction instead.
    """

    name: str = "pack_weight_codes"

    def apply(self, graph: Graph) -> Graph:
        return apply_rules(graph, {(ONNX, "MatMul"): _matmul, (ONNX, "Gemm"): _gemm})


@dataclass(frozen=True)
class _Codes:
    """Codes [N, K] and per block of `block` of them scale and zero point [N, blocks]."""

    bits: int
    block: int
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray


def _matmul(edit: Edit, n: Node) -> None:
    weight = _weight(edit, n, False)
    if weight is not None:
        edit.replace(n, [_packed(edit, n, weight, n.outputs[0])])


def _gemm(edit: Edit, n: Node) -> None:
    factors = float_attr(n, "alpha", 1.0), float_attr(n, "beta", 1.0)
    weight = _weight(edit, n, bool(int_attr(n, "transB", 0)))
    if weight is None or int_attr(n, "transA", 0) or factors != (1.0, 1.0):
        return
    if not n.input(2):
        edit.replace(n, [_packed(edit, n, weight, n.outputs[0])])
        return
    product = edit.name(f"{n.outputs[0]}.product")
    total = node("Add", (product, n.input(2)), n.outputs[0])
    edit.replace(n, [_packed(edit, n, weight, product), total])


def _weight(edit: Edit, n: Node, transposed: bool) -> _Codes | None:
    """The codes of input 1 with output features first; None when they have no such form."""
    made, x = edit.made_by(n.input(1), "DequantizeLinear"), edit.tensor(n.input(0))
    if made is None or x is None or x.dtype is not DType.F32 or _is_dequantised(edit, n.input(0)):
        return None
    codes, scale = edit.array(made.input(0)), edit.array(made.input(1))
    zero = edit.array(made.input(2)) if made.input(2) else None
    if (
        codes is None
        or codes.ndim != 2
        or scale is None
        or scale.dtype != np.float32
        or (made.input(2) and zero is None)
    ):
        return None
    bits = _BITS.get(DType.from_numpy(codes.dtype))
    block = int_attr(made, "block_size", 0)
    axis = int_attr(made, "axis", 1) % 2
    rows = 1 if transposed else 0
    if bits is None or (block and (axis != rows or block < _SMALLEST_BLOCK or block & (block - 1))):
        return None
    wide = codes.astype(np.int16)
    zeros = np.zeros(scale.shape, np.int16) if zero is None else zero.astype(np.int16)
    if DType.from_numpy(codes.dtype) in (DType.I8, DType.I4, DType.I2):
        wide, zeros = wide + (1 << (bits - 1)), zeros + (1 << (bits - 1))
    if not block:
        if scale.size > 1 and (scale.ndim != 1 or axis == rows):
            return None
        return _per_column(bits, wide if transposed else wide.T, scale.reshape(-1), zeros.reshape(-1))
    if scale.ndim != 2:
        return None
    parts = (wide, scale, zeros) if transposed else (wide.T, scale.T, zeros.T)
    return _Codes(bits, block, *parts)


def _is_dequantised(edit: Edit, name: str) -> bool:
    """Whether the value is made of codes, moved or not."""
    made = edit.producers.get(name)
    while made is not None and made.op in MOVES:
        made = edit.producers.get(made.input(0))
    return made is not None and made.op == "DequantizeLinear"


def _per_column(bits: int, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> _Codes:
    """One scale per column, repeated for blocks of the usual size."""
    n, k = codes.shape
    block = _USUAL_BLOCK
    while block // 2 >= max(k, _SMALLEST_BLOCK):
        block //= 2
    shape = (n, -(-k // block))
    repeated = [np.broadcast_to(np.broadcast_to(p, (n,))[:, None], shape) for p in (scale, zero)]
    return _Codes(bits, block, codes, repeated[0], repeated[1])


def _packed(edit: Edit, n: Node, w: _Codes, output: str) -> Node:
    rows, k = w.codes.shape
    blocks = w.scale.shape[1]
    padded = np.zeros((rows, blocks * w.block), np.uint8)
    padded[:, :k] = w.codes
    near = n.input(1)
    inputs = [
        n.input(0),
        edit.constant(_joined(padded, w.bits).reshape(rows, blocks, -1), f"{near}.packed"),
        edit.constant(np.ascontiguousarray(w.scale, np.float32), f"{near}.scales"),
    ]
    if bool(np.any(w.zero != 1 << (w.bits - 1))):
        inputs.append(edit.constant(_joined(w.zero.astype(np.uint8), w.bits), f"{near}.zeros"))
    return node("MatMulNBits", inputs, output, MS, K=k, N=rows, bits=w.bits, block_size=w.block)


def _joined(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes along the last axis packed into bytes, the first in the lowest bits; the last byte is filled with zeros."""
    per_byte = 8 // bits
    padded = np.zeros((*codes.shape[:-1], -(-codes.shape[-1] // per_byte) * per_byte), np.uint8)
    padded[..., : codes.shape[-1]] = codes
    parts = padded.reshape(*codes.shape[:-1], -1, per_byte)
    out = np.zeros(parts.shape[:-1], np.uint8)
    for i in range(per_byte):
        out |= parts[..., i] << (bits * i)
    return out
