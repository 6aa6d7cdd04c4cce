"""Attention in its forms: ONNX's Attention, LinearAttention and RotaryEmbedding, and skipjack's own normal form."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from skipjack.core.dims import Dim, Sym
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.conv import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import broadcast_shapes, outputs, same_dim


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[B, S, heads*D] as [B, heads, S, D]."""
    b, s, f = x.shape
    return x.reshape(b, s, heads, f // heads).transpose(0, 2, 1, 3)


def join_heads(x: np.ndarray) -> np.ndarray:
    """[B, heads, S, D] as [B, S, heads*D]."""
    b, h, s, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b, s, h * d)


def repeat_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """Key or value heads repeated so that every query head has its own."""
    return np.repeat(x, heads // x.shape[1], axis=1)


def softmax(scores: np.ndarray, half: bool = False) -> np.ndarray:
    """Over the last axis; a row of only -inf gives zeros. half: powers are rounded to bf16 after they were added up."""
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = e.sum(axis=-1, keepdims=True)
    return (rounded_to_half(e) if half else e) / np.where(total == 0, 1, total)


def rounded_to_half(x: np.ndarray) -> np.ndarray:
    """x rounded to bf16, in its own type."""
    return x.astype(ml_dtypes.bfloat16).astype(x.dtype)


def additive(mask: np.ndarray) -> np.ndarray:
    """A mask as numbers to add: False becomes -inf."""
    return np.where(mask, 0.0, -np.inf) if mask.dtype == np.bool_ else mask.astype(np.float64)


def visible(queries: int, keys: int, offset: Any, left: int, right: int) -> np.ndarray:
    """Which keys each query may see when query i stands at position offset + i; -1 leaves a side unbounded."""
    position = np.arange(queries)[:, None] + np.asarray(offset)[..., None, None]
    key = np.arange(keys)
    seen = np.broadcast_to(key >= 0, np.broadcast_shapes(position.shape, key.shape))
    if left >= 0:
        seen = seen & (key >= position - left)
    return seen & (key <= position + right) if right >= 0 else seen


def _heads(x: Infer | Ref, name: str) -> int:
    heads = int(x.attr(name, 0))
    if heads < 1:
        x.fail(f"a positive {name} for inputs with three axes", heads)
    return heads


def _four_axes(i: Infer, index: int, name: str) -> tuple[Dim, Dim, Dim, Dim] | None:
    """(batch, heads, positions, features of a head) of an input."""
    shape = i.shape(index)
    if shape is None:
        return None
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    if len(shape) != 3:
        i.fail(f"input {index} with three or four axes", shape)
    heads = _heads(i, name)
    if isinstance(shape[2], int) and shape[2] % heads:
        i.fail(f"features divisible by {heads} heads", shape[2])
    return shape[0], heads, shape[1], shape[2] // heads


def _infer_attention(i: Infer) -> list[ValueType]:
    dtype, vtype = i.tensor(0).dtype, i.tensor(2).dtype
    q, k, v = (_four_axes(i, n, name) for n, name in enumerate(("q_num_heads", "kv_num_heads", "kv_num_heads")))
    kinds = [
        TensorType(dtype, None),
        TensorType(i.tensor(1).dtype, None),
        TensorType(vtype, None),
        TensorType(dtype, None),
    ]
    if q is None or k is None or v is None:
        return outputs(i, *kinds)
    same_dim(i, q[3], k[3], "query and key features")
    same_dim(i, k[2], v[2], "key and value positions")
    if isinstance(q[1], int) and isinstance(k[1], int) and (k[1] < 1 or q[1] % k[1]):
        i.fail("query heads that are a multiple of key heads", f"{q[1]} and {k[1]}")
    past = i.shape(4) if i.has(4) else (0, 0, 0, 0)
    keys: Dim = i.fresh("keys") if past is None else past[2] + k[2]
    y = (q[0], q[1], q[2], v[3]) if len(i.shape(0) or ()) == 4 else (q[0], q[2], q[1] * v[3])
    shapes: list[Shape] = [y, (k[0], k[1], keys, k[3]), (v[0], v[1], keys, v[3]), (q[0], q[1], q[2], keys)]
    return outputs(i, *[t.with_shape(s) for t, s in zip(kinds, shapes)])


def _attention_bias(r: Ref, shape: tuple[int, ...], past: int) -> np.ndarray:
    """Everything that is added to the scores [B, H, Sq, Sk]: the mask, the causal and window bounds, the padding."""
    batch, _, queries, keys = shape
    mask, nonpad = r.get(3), r.get(6)
    offset: Any = past
    bias = np.zeros((1, 1, 1, 1))
    if nonpad is not None:
        lengths = np.asarray(nonpad).reshape(-1)
        if lengths.size != batch:
            r.fail(f"{batch} lengths in nonpad_kv_seqlen", lengths.size)
        offset = (lengths - queries)[:, None] if r.get(4) is None else past
        bias = bias + additive(np.arange(keys)[None, :] < lengths[:, None])[:, None, None, :]
    if mask is not None:
        a = additive(mask)
        if a.shape[-1] < keys and a.shape[-1] != 1:
            a = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, keys - a.shape[-1])], constant_values=-np.inf)
        bias = bias + a
    right = int(r.attr("right_window_size", -1))
    if r.attr("is_causal", 0):
        right = 0
    seen = visible(queries, keys, offset, int(r.attr("left_window_size", -1)), right)
    return bias + additive(seen)


def _ref_attention(r: Ref) -> list[Any]:
    q, k, v = r.inputs[:3]
    flat = q.ndim == 3
    kind = q.dtype
    if flat:
        q = split_heads(q, _heads(r, "q_num_heads"))
        k, v = (split_heads(a, _heads(r, "kv_num_heads")) for a in (k, v))
    past_k, past_v = r.get(4), r.get(5)
    if (past_k is None) != (past_v is None):
        r.fail("past_key and past_value together", "one of them")
    if past_k is not None:
        k, v = np.concatenate([past_k, k], axis=2), np.concatenate([past_v, v], axis=2)
    heads = q.shape[1]
    if q.shape[3] != k.shape[3] or k.shape[1] < 1 or heads % k.shape[1]:
        r.fail("queries and keys that fit", f"{q.shape} and {k.shape}")
    scale = r.attr("scale")
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else float(scale)
    stages, p = _probabilities(r, q, repeat_heads(k, heads), scale, 0 if past_k is None else past_k.shape[2])
    y = np.matmul(p, repeat_heads(widened(v), heads).astype(p.dtype)).astype(kind)
    wanted = stages[int(r.attr("qk_matmul_output_mode", 0))].astype(kind)
    return [join_heads(y) if flat else y, k, v, wanted][: r.n_outputs]


def _probabilities(
    r: Ref, q: np.ndarray, k: np.ndarray, scale: float, past: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """The four stages that qk_matmul_output_mode names, and the probabilities."""
    q, k = widened(q), widened(k)
    root = q.dtype.type(math.sqrt(abs(scale)))
    scores = np.matmul(q * root, (k * root).swapaxes(2, 3)) * (1 if scale >= 0 else -1)
    stages = [scores]
    cap = float(r.attr("softcap", 0.0))
    if cap:
        scores = (cap * np.tanh(scores / cap)).astype(scores.dtype)
    stages.append(scores)
    biased = scores + _attention_bias(r, scores.shape, past).astype(scores.dtype)
    precision = r.attr("softmax_precision")
    compute = np.result_type(biased.dtype, DType.from_onnx(int(precision)).np) if precision else biased.dtype
    p = softmax(biased.astype(compute))
    return [*stages, biased, p], p


register(Op("Attention", _infer_attention, _ref_attention))


def _infer_linear(i: Infer) -> list[ValueType]:
    dtype = i.tensor(0).dtype
    qh, kh = _heads(i, "q_num_heads"), _heads(i, "kv_num_heads")
    if qh % kh:
        i.fail("query heads that are a multiple of key heads", f"{qh} and {kh}")
    if str(i.attr("update_rule", "gated_delta")) not in ("linear", "gated", "delta", "gated_delta"):
        i.fail("update_rule among linear, gated, delta, gated_delta", i.attr("update_rule"))
    q, k, v = i.shape(0), i.shape(1), i.shape(2)
    state = i.tensor(3).dtype if i.has(3) else dtype
    if q is None or k is None or v is None:
        return outputs(i, TensorType(dtype, None), TensorType(state, None))
    dk, dv = k[2] // kh, v[2] // kh
    same_dim(i, q[2] // qh, dk, "query and key features")
    return outputs(i, TensorType(dtype, (q[0], q[1], dv * qh)), TensorType(state, (q[0], kh, dk, dv)))


def _rate(x: np.ndarray | None, heads: int, step: int, default: float) -> Any:
    """The decay or update rate at a step, [B, heads, 1 or D, 1]."""
    if x is None:
        return default
    b = x.shape[0]
    return widened(x)[:, step].reshape(b, 1 if x.shape[2] == 1 else heads, -1)[..., None]


def _ref_linear(r: Ref) -> list[Any]:
    q, k, v, past, decay, beta = (r.get(n) for n in range(6))
    qh, kh = _heads(r, "q_num_heads"), _heads(r, "kv_num_heads")
    rule = str(r.attr("update_rule", "gated_delta"))
    if ("gated" in rule and decay is None) or ("delta" in rule and beta is None):
        r.fail(f"the rates that update_rule {rule} needs", "none")
    qs, ks, vs = (widened(split_heads(a, h)) for a, h in ((q, qh), (k, kh), (v, kh)))
    scale = float(r.attr("scale", 0.0)) or 1 / math.sqrt(qs.shape[3])
    shape = (q.shape[0], kh, ks.shape[3], vs.shape[3])
    state = np.zeros(shape, ks.dtype) if past is None else widened(past)
    if state.shape != shape:
        r.fail(f"a past state of shape {shape}", state.shape)
    out = np.zeros((*qs.shape[:3], vs.shape[3]), qs.dtype)
    for t in range(qs.shape[2]):
        key, value = ks[:, :, t, :, None], vs[:, :, t, None, :]
        if "gated" in rule:
            state = np.exp(_rate(decay, kh, t, 0.0)) * state
        if "delta" in rule:
            value = _rate(beta, kh, t, 1.0) * (value - (state * key).sum(axis=2, keepdims=True))
        state = state + key * value
        out[:, :, t] = scale * np.einsum("bhd,bhdv->bhv", qs[:, :, t], repeat_heads(state, qh))
    kind = q.dtype if past is None else past.dtype
    return [join_heads(out).astype(q.dtype), state.astype(kind)][: r.n_outputs]


register(Op("LinearAttention", _infer_linear, _ref_linear))


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, interleaved: bool) -> np.ndarray:
    """The first 2 * cos.shape[-1] features of x turned pair by pair; cos and sin broadcast over the leading axes."""
    half = cos.shape[-1]
    head, tail = x[..., : 2 * half], x[..., 2 * half :]
    pairs = (
        head.reshape(*head.shape[:-1], half, 2)
        if interleaved
        else head.reshape(*head.shape[:-1], 2, half).swapaxes(-1, -2)
    )
    a, b = pairs[..., 0], pairs[..., 1]
    turned = [cos * a - sin * b, sin * a + cos * b]
    y = np.stack(turned, axis=-1).reshape(head.shape) if interleaved else np.concatenate(turned, axis=-1)
    return np.concatenate([y, tail], axis=-1)


def _infer_rotary(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    if t.shape is not None and len(t.shape) == 3:
        heads = _heads(i, "num_heads")
        if isinstance(t.shape[2], int) and t.shape[2] % heads:
            i.fail(f"features divisible by {heads} heads", t.shape[2])
    elif t.shape is not None and len(t.shape) != 4:
        i.fail("an input with three or four axes", t.shape)
    return [TensorType(t.dtype, t.shape)]


def _ref_rotary(r: Ref) -> list[Any]:
    x, cos, sin, positions = r.inputs[0], r.inputs[1], r.inputs[2], r.get(3)
    four = split_heads(x, _heads(r, "num_heads")) if x.ndim == 3 else x
    dim = int(r.attr("rotary_embedding_dim", 0)) or four.shape[3]
    if positions is not None:
        if positions.size and (positions.min() < 0 or positions.max() >= cos.shape[0]):
            r.fail(f"positions below {cos.shape[0]}", int(positions.max()))
        cos, sin = cos[positions], sin[positions]
    if cos.shape[-1] * 2 != dim or sin.shape != cos.shape:
        r.fail(f"caches of {dim // 2} columns", f"{cos.shape} and {sin.shape}")
    y = rotate(widened(four), widened(cos)[:, None], widened(sin)[:, None], bool(r.attr("interleaved", 0)))
    y = y.astype(x.dtype)
    return [join_heads(y) if x.ndim == 3 else y]


register(Op("RotaryEmbedding", _infer_rotary, _ref_rotary))


def _layout(x: Infer | Ref, which: str) -> str:
    layout = str(x.attr(f"layout_{which}", "bsf"))
    if layout not in ("bsf", "bhsd"):
        x.fail(f"layout_{which} bsf or bhsd", layout)
    return layout


def _normal_axes(i: Infer, index: int, which: str, heads: int) -> tuple[Dim, Dim, Dim] | None:
    """(batch, positions, features of a head) of an operand of the normal form."""
    shape = i.shape(index)
    if shape is None:
        return None
    layout = _layout(i, which)
    if len(shape) != len(layout):
        i.fail(f"input {index} in layout {layout}", shape)
    if layout == "bsf":
        return shape[0], shape[1], shape[2] // heads
    same_dim(i, shape[1], heads, "heads")
    return shape[0], shape[2], shape[3]


def _infer_normal(i: Infer) -> list[ValueType]:
    dtype = i.tensor(0).dtype
    qh, kh = int(i.attr("q_heads", 0)), int(i.attr("kv_heads", 0))
    if kh < 1 or qh < 1 or qh % kh:
        i.fail("q_heads that are a multiple of kv_heads", f"{qh} and {kh}")
    if str(i.attr("causal_offset", "end")) not in ("end", "start"):
        i.fail("causal_offset end or start", i.attr("causal_offset"))
    if str(i.attr("products", "bf16")) != "bf16":
        i.fail("products bf16", i.attr("products"))
    q, k, v = _normal_axes(i, 0, "q", qh), _normal_axes(i, 1, "k", kh), _normal_axes(i, 2, "v", kh)
    if q is None or k is None or v is None:
        return [TensorType(dtype, None)]
    same_dim(i, q[2], k[2], "query and key features")
    keys = same_dim(i, k[1], v[1], "key and value positions")
    if i.has(3) and not any(isinstance(d, Sym) for d in (q[0], q[1], keys)):
        broadcast_shapes(i, (i.shape(3), (q[0], qh, q[1], keys)))
    return [TensorType(dtype, (q[0], q[1], v[2] * qh) if _layout(i, "out") == "bsf" else (q[0], qh, q[1], v[2]))]


def _ref_normal(r: Ref) -> list[Any]:
    qh, kh = int(r.attr("q_heads")), int(r.attr("kv_heads"))
    operands = [
        widened(split_heads(x, h) if _layout(r, which) == "bsf" else x)
        for x, which, h in zip(r.inputs[:3], "qkv", (qh, kh, kh))
    ]
    half = r.attr("products") is not None
    if half:
        operands = [rounded_to_half(x) for x in operands]
    q, k, v = operands[0], repeat_heads(operands[1], qh), repeat_heads(operands[2], qh)
    scores = np.matmul(q, k.swapaxes(2, 3)) * q.dtype.type(r.attr("scale", 1.0))
    cap = float(r.attr("softcap", 0.0))
    if cap:
        scores = cap * np.tanh(scores / cap)
    mask = r.get(3)
    if mask is not None:
        scores = scores + additive(mask)
    if r.attr("causal", 0):
        queries, keys = scores.shape[2:]
        offset = keys - queries if str(r.attr("causal_offset", "end")) == "end" else 0
        scores = scores + additive(visible(queries, keys, offset, -1, 0))
    y = np.matmul(softmax(scores, half).astype(v.dtype), v).astype(r.inputs[0].dtype)
    return [join_heads(y) if _layout(r, "out") == "bsf" else y]


register(Op("Attention", _infer_normal, _ref_normal, domain=SKIPJACK))
