"""Operators that onnxruntime's optimisers write: fused activations, products and norms, packed weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, ceildiv
from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, Node
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.lang.expr import Expr, arg, evaluate, sigmoid, unary
from skipjack.ops.contraction import conv
from skipjack.ops.conv import conv_shapes, kernel_of, pads_in_order, widened
from skipjack.ops.linear import matmul_shape, product
from skipjack.ops.norm import standardised
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axis_of, broadcast_shapes, elementwise, outputs, ref_axis, same_dim
from skipjack.ops.window import output_sizes, window

Build = Callable[[Node, Sequence[TensorType]], Expr]


def _biased(types: Sequence[TensorType]) -> Expr:
    x = arg(0, types[0].dtype)
    return x + arg(1, types[0].dtype) if len(types) > 1 else x


def _gelu(node: Node, types: Sequence[TensorType]) -> Expr:
    x = _biased(types)
    return x * 0.5 * (unary("erf", x * math.sqrt(0.5)) + 1.0)


def _fast_gelu(node: Node, types: Sequence[TensorType]) -> Expr:
    x = _biased(types)
    inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return x * 0.5 * (unary("tanh", inner) + 1.0)


def _quick_gelu(node: Node, types: Sequence[TensorType]) -> Expr:
    x = arg(0, types[0].dtype)
    alpha = node.attrs.get("alpha", 1.702)
    assert isinstance(alpha, int | float), "the importer checked the type of alpha"
    return x * sigmoid(x * float(alpha))


def _register_pointwise(name: str, build: Build) -> None:
    def reference(r: Ref) -> list[Any]:
        arrays = [v for v in r.inputs if v is not None]
        types = [TensorType(DType.from_numpy(a.dtype), a.shape) for a in arrays]
        return [evaluate(build(r.node, types), arrays)]

    register(Op(name, elementwise(), reference, domain=MS, expression=build))


_register_pointwise("Gelu", _gelu)
_register_pointwise("BiasGelu", _gelu)
_register_pointwise("FastGelu", _fast_gelu)
_register_pointwise("QuickGelu", _quick_gelu)


def activated(r: Infer | Ref, x: np.ndarray) -> np.ndarray:
    """x after the `activation` a fused product or convolution names, with its parameters."""
    name = str(r.attr("activation", ""))
    given = [float(p) for p in r.attr("activation_params") or ()]
    given = given or [
        float(r.attr(f"activation_{n}")) for n in ("alpha", "beta") if r.attr(f"activation_{n}") is not None
    ]
    a, b = [*given, *{"LeakyRelu": (0.01, 0.0), "HardSigmoid": (0.2, 0.5)}.get(name, (0.0, 0.0))[len(given) :]][:2]
    known: dict[str, Callable[[], np.ndarray]] = {
        "": lambda: x,
        "Relu": lambda: np.maximum(x, 0),
        "Tanh": lambda: np.tanh(x),
        "Sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "LeakyRelu": lambda: np.where(x >= 0, x, a * x),
        "Clip": lambda: np.clip(x, a, b),
        "HardSigmoid": lambda: np.clip(a * x + b, 0, 1),
    }
    if name not in known:
        r.fail(f"activation among {sorted(known)}", name)
    return known[name]()


def _turned(shape: Shape | None, batch: bool, last: bool) -> Shape | None:
    """The shape after the optional transpositions of FusedMatMul."""
    if shape is None or len(shape) < 2:
        return shape
    s = [*shape[1:-1], shape[0], shape[-1]] if batch else list(shape)
    return (*s[:-2], s[-1], s[-2]) if last else tuple(s)


def _infer_fused_matmul(i: Infer) -> list[ValueType]:
    a = _turned(i.shape(0), bool(i.attr("transBatchA", 0)), bool(i.attr("transA", 0)))
    b = _turned(i.shape(1), bool(i.attr("transBatchB", 0)), bool(i.attr("transB", 0)))
    return [TensorType(i.tensor(0).dtype, matmul_shape(i, a, b))]


def _ref_fused_matmul(r: Ref) -> list[Any]:
    operands: list[np.ndarray] = []
    for x, which in zip(r.inputs, "AB"):
        y = np.moveaxis(x, 0, -2) if r.attr(f"transBatch{which}", 0) and x.ndim > 1 else x
        operands.append(y.swapaxes(-1, -2) if r.attr(f"trans{which}", 0) and x.ndim > 1 else y)
    y = product(*operands)
    return [(y * y.dtype.type(r.attr("alpha", 1.0))).astype(r.inputs[0].dtype)]


register(Op("FusedMatMul", _infer_fused_matmul, _ref_fused_matmul, domain=MS))


def _infer_fused_conv(i: Infer) -> list[ValueType]:
    x, w = i.shape(0), i.shape(1)
    dtype = i.tensor(0).dtype
    activated(i, np.zeros(0))
    if x is None or w is None:
        return [TensorType(dtype, None)]
    sizes = output_sizes(i, conv_shapes(i, x, w), x[2:])
    return [TensorType(dtype, (x[0], w[0], *sizes))]


def _ref_fused_conv(r: Ref) -> list[Any]:
    x, w, b, z = r.inputs[0], r.inputs[1], r.get(2), r.get(3)
    group = int(r.attr("group", 1))
    if x.shape[1] != w.shape[1] * group:
        r.fail("a weight that fits the input's channels", f"{x.shape} and {w.shape}")
    win = window(r, kernel_of(r, w.shape))
    y = conv(x, w, win.strides, pads_in_order(win, x.shape[2:]), win.dilations, group)
    y = y if b is None else y + widened(b).reshape(1, -1, *[1] * (x.ndim - 2))
    y = y if z is None else y + widened(z)
    return [activated(r, y).astype(x.dtype)]


register(Op("FusedConv", _infer_fused_conv, _ref_fused_conv, domain=MS))


def _infer_skip(beta: bool) -> Callable[[Infer], list[ValueType]]:
    def rule(i: Infer) -> list[ValueType]:
        t = i.tensor(0)
        if t.shape is not None and i.shape(1) is not None:
            both = broadcast_shapes(i, (t.shape, i.shape(1)))
            if both is None or len(both) != len(t.shape):
                i.fail(f"a skip that broadcasts to {t.shape}", i.shape(1))
        for n in range(2, 5 if beta else 4):
            shape = i.shape(n) if i.has(n) else None
            if shape is not None and t.shape is not None:
                same_dim(i, t.shape[-1], shape[-1], "features")
        statistics = TensorType(DType.F32, None if t.shape is None else (*t.shape[:-1], 1))
        return outputs(i, TensorType(t.dtype, t.shape), statistics, statistics, TensorType(t.dtype, t.shape))

    return rule


def _ref_skip_layer(r: Ref) -> list[Any]:
    x = widened(r.inputs[0]) + widened(r.inputs[1])
    gamma, beta, bias = r.inputs[2], r.get(3), r.get(4)
    x = x if bias is None else x + widened(bias)
    y, mean, inverse = standardised(x, (x.ndim - 1,), float(r.attr("epsilon", 1e-12)))
    y = y * widened(gamma)
    y = y if beta is None else y + widened(beta)
    kind = r.inputs[0].dtype
    return [y.astype(kind), mean.astype(np.float32), inverse.astype(np.float32), x.astype(kind)][: r.n_outputs]


def rms(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """x divided by its root mean square over axes, and the inverse root."""
    inverse = 1 / np.sqrt((x * x).mean(axis=axes, keepdims=True) + x.dtype.type(epsilon))
    return x * inverse, inverse


def _ref_skip_simplified(r: Ref) -> list[Any]:
    x = widened(r.inputs[0]) + widened(r.inputs[1])
    bias = r.get(3)
    x = x if bias is None else x + widened(bias)
    y, inverse = rms(x, (x.ndim - 1,), float(r.attr("epsilon", 1e-12)))
    kind = r.inputs[0].dtype
    none = np.zeros_like(inverse, np.float32)
    return [(y * widened(r.inputs[2])).astype(kind), none, inverse.astype(np.float32), x.astype(kind)][: r.n_outputs]


register(Op("SkipLayerNormalization", _infer_skip(True), _ref_skip_layer, domain=MS))
register(Op("SkipSimplifiedLayerNormalization", _infer_skip(False), _ref_skip_simplified, domain=MS))


def _infer_simplified(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    kept: Shape | None = None
    if t.shape is not None:
        axis = axis_of(i, int(i.attr("axis", -1)), len(t.shape))
        kept = (*t.shape[:axis], *[1] * (len(t.shape) - axis))
    return outputs(i, TensorType(i.tensor(1).dtype, t.shape), TensorType(DType.F32, kept))


def _ref_simplified(r: Ref) -> list[Any]:
    x, scale = r.inputs[0], r.inputs[1]
    wide = widened(x)
    axes = tuple(range(ref_axis(r, int(r.attr("axis", -1)), x.ndim), x.ndim))
    y, inverse = rms(wide, axes, float(r.attr("epsilon", 1e-5)))
    return [(y * widened(scale)).astype(scale.dtype), inverse.astype(np.float32)][: r.n_outputs]


# onnxruntime keeps this one in ONNX's own domain although ONNX does not define it.
register(Op("SimplifiedLayerNormalization", _infer_simplified, _ref_simplified))


def _infer_embed(i: Infer) -> list[ValueType]:
    ids, words = i.shape(0), i.shape(2)
    dtype = i.tensor(2).dtype
    if ids is None or words is None:
        batch = TensorType(DType.I32, None)
        return outputs(i, TensorType(dtype, None), batch, TensorType(dtype, None))
    if len(ids) != 2 or len(words) != 2:
        i.fail("input ids and word embedding with two axes", f"{ids} and {words}")
    y = TensorType(dtype, (*ids, words[1]))
    return outputs(i, y, TensorType(DType.I32, ids[:1]), y)


def _rows(r: Ref, table: np.ndarray, ids: np.ndarray, what: str) -> np.ndarray:
    if ids.size and (ids.min() < 0 or ids.max() >= table.shape[0]):
        r.fail(f"{what} below {table.shape[0]}", (int(ids.min()), int(ids.max())))
    return widened(table)[ids]


def _ref_embed(r: Ref) -> list[Any]:
    ids, segments, words, positions, segment_table, gamma, beta, mask, position_ids = (r.get(n) for n in range(9))
    at = np.arange(ids.shape[1])[None, :] if position_ids is None else position_ids
    total = _rows(r, words, ids, "input ids") + _rows(r, positions, np.broadcast_to(at, ids.shape), "position ids")
    if segment_table is not None:
        total = total + _rows(r, segment_table, np.zeros_like(ids) if segments is None else segments, "segment ids")
    y, _, _ = standardised(total, (2,), float(r.attr("epsilon", 1e-12)))
    y = (y * widened(gamma) + widened(beta)).astype(words.dtype)
    counts = np.zeros(len(ids), np.int32) if mask is None else (mask == 1).sum(axis=1).astype(np.int32)
    return [y, counts, total.astype(words.dtype)][: r.n_outputs]


register(Op("EmbedLayerNormalization", _infer_embed, _ref_embed, domain=MS))


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """The last axis of bytes as its 8/bits unsigned numbers each, lowest bits first."""
    if bits == 8:
        return packed
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*packed.shape[:-1], -1)


def _bits(x: Infer | Ref) -> int:
    bits = int(x.attr("bits", 4))
    if bits not in (2, 4, 8):
        x.fail("2, 4 or 8 bits", bits)
    return bits


def _infer_nbits(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    k, n, block, bits = (int(i.attr(name, d)) for name, d in (("K", 0), ("N", 0), ("block_size", 0), ("bits", 4)))
    _bits(i)
    if k < 1 or n < 1 or block < 16 or block & (block - 1):
        i.fail("positive K and N and a power of two of at least 16 as block_size", (k, n, block))
    if i.has(4):
        i.fail("no g_idx; requantise without activation reordering", "g_idx")
    if i.attr("weight_prepacked", 0):
        i.fail("weights in the portable layout, weight_prepacked 0", i.attr("weight_prepacked"))
    b = i.tensor(1).elements
    wanted = n * ceildiv(k, block) * block * bits // 8
    if isinstance(b, int) and b != wanted:
        i.fail(f"{wanted} bytes of weights", b)
    if t.shape is None:
        return [TensorType(t.dtype, None)]
    same_dim(i, t.shape[-1], k, "the summed axis")
    return [TensorType(t.dtype, (*t.shape[:-1], n))]


def dequantized_nbits(r: Ref) -> np.ndarray:
    """The weight [N, K] of a MatMulNBits node in f32."""
    k, n, block, bits = (int(r.attr(name)) for name in ("K", "N", "block_size", "bits"))
    blocks = -(-k // block)
    codes = unpack(np.asarray(r.inputs[1]).reshape(n, blocks, -1), bits).astype(np.float32)
    scales = widened(r.inputs[2]).reshape(n, blocks, 1)
    zero: Any = np.float32(1 << (bits - 1))
    given = r.get(3)
    if given is not None and given.dtype == np.uint8:
        zero = unpack(given.reshape(n, -1), bits)[:, :blocks, None].astype(np.float32)
    elif given is not None:
        zero = widened(given).reshape(n, blocks, 1)
    return ((codes - zero) * scales).reshape(n, -1)[:, :k]


def _ref_nbits(r: Ref) -> list[Any]:
    y = widened(r.inputs[0]) @ dequantized_nbits(r).T
    bias = r.get(5)
    return [(y if bias is None else y + widened(bias)).astype(r.inputs[0].dtype)]


register(Op("MatMulNBits", _infer_nbits, _ref_nbits, domain=MS))


def _infer_gather_block(i: Infer) -> list[ValueType]:
    data, indices = i.shape(0), i.shape(1)
    dtype = i.tensor(2).dtype
    bits = _bits(i)
    if data is None or indices is None:
        return [TensorType(dtype, None)]
    axis = axis_of(i, int(i.attr("gather_axis", 0)), len(data))
    packed = i.tensor(0).dtype is DType.U8
    wide: list[Dim] = [*data[:-1], data[-1] * (8 // bits) if packed else data[-1]]
    return [TensorType(dtype, (*wide[:axis], *indices, *wide[axis + 1 :]))]


def _ref_gather_block(r: Ref) -> list[Any]:
    data, indices, scales, zeros = r.inputs[0], r.inputs[1], r.inputs[2], r.get(3)
    bits = _bits(r)
    zero: Any = 0.0
    codes = data.astype(np.float32)
    if data.dtype == np.uint8:
        codes, zero = unpack(data, bits).astype(np.float32), float(1 << (bits - 1))
    quantize = ref_axis(r, int(r.attr("quantize_axis", 1)), codes.ndim)
    block = int(r.attr("block_size", 128)) or codes.shape[quantize]
    size = range(codes.shape[quantize])
    if zeros is not None:
        z = unpack(zeros, bits)[..., : scales.shape[-1]] if data.dtype == np.uint8 else zeros
        zero = np.take(np.repeat(z.astype(np.float32), block, axis=quantize), size, axis=quantize)
    weight = (codes - zero) * np.take(np.repeat(widened(scales), block, axis=quantize), size, axis=quantize)
    axis = ref_axis(r, int(r.attr("gather_axis", 0)), codes.ndim)
    count = codes.shape[axis]
    if indices.size and (indices.min() < -count or indices.max() >= count):
        r.fail(f"indices from {-count} to {count - 1}", (int(indices.min()), int(indices.max())))
    return [np.take(weight, np.where(indices < 0, indices + count, indices), axis=axis).astype(scales.dtype)]


register(Op("GatherBlockQuantized", _infer_gather_block, _ref_gather_block, domain=MS))
