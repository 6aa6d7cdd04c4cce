"""Attention of com.microsoft: Attention, MultiHeadAttention, GroupQueryAttention and what surrounds them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, dim_max
from skipjack.ir.graph import MS
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.attention import additive, join_heads, repeat_heads, rotate, softmax, split_heads, visible
from skipjack.ops.conv import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import outputs, same_dim


def _heads(x: Infer | Ref, name: str = "num_heads") -> int:
    heads = int(x.attr(name, 0))
    if heads < 1:
        x.fail(f"a positive {name}", heads)
    return heads


def _scale(r: Ref, head_size: int) -> np.float32:
    return np.float32(float(r.attr("scale", 0.0)) or 1 / math.sqrt(head_size))


def filtered(r: Ref, mask: np.ndarray, batch: int, queries: int, keys: int) -> np.ndarray:
    """An integer mask as numbers to add, mask_filter_value where a key is masked.

    [batch] holds how many keys count, [2 * batch] ends then beginnings, [3 * batch + 2] lengths before running offsets,
    [batch, keys] and [batch, queries, keys] hold 1 for each key that counts.
    """
    at = np.arange(keys)[None, :]
    if mask.ndim == 1:
        seen = at < mask[:batch, None]
        if mask.size == 2 * batch:
            seen = seen & (at >= mask[batch:, None])
        seen = seen[:, None, None, :]
    elif mask.shape == (batch, keys):
        seen = (mask != 0)[:, None, None, :]
    elif mask.shape == (batch, queries, keys):
        seen = (mask != 0)[:, None]
    else:
        r.fail(f"a mask for {batch} batches, {queries} queries and {keys} keys", mask.shape)
    return np.where(seen, np.float32(0), np.float32(r.attr("mask_filter_value", -10000.0)))


def _attend(r: Ref, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: Any, bias: Any) -> np.ndarray:
    """[B, H, S, D] of queries over keys that include the past."""
    scores = np.matmul(q, k.swapaxes(2, 3)) * _scale(r, q.shape[3])
    queries, keys = scores.shape[2:]
    if mask is not None:
        scores = scores + filtered(r, np.asarray(mask), q.shape[0], queries, keys)
    if bias is not None:
        scores = scores + widened(bias)
    if r.attr("unidirectional", 0):
        scores = scores + additive(visible(queries, keys, keys - queries, -1, 0))
    return np.matmul(softmax(scores).astype(v.dtype), v)


def _refuse(i: Infer, unsupported: dict[str, bool]) -> None:
    """Fail for the first feature that is asked for but not run."""
    for what, asked in unsupported.items():
        if asked:
            i.fail(f"no {what}", what)


def _infer_attention(i: Infer) -> list[ValueType]:
    t, heads = i.tensor(0), _heads(i)
    _refuse(i, {"do_rotary": bool(i.attr("do_rotary", 0)), "past_sequence_length": i.has(6)})
    w = i.shape(1)
    if t.shape is None or w is None:
        return outputs(i, TensorType(t.dtype, None), TensorType(t.dtype, None))
    if len(t.shape) != 3 or len(w) != 2:
        i.fail("an input with three and weights with two axes", f"{t.shape} and {w}")
    same_dim(i, t.shape[2], w[0], "input features")
    sizes = i.attr("qkv_hidden_sizes")
    value: Dim = int(sizes[2]) if sizes else w[1] // 3
    past = i.shape(4) if i.has(4) else (2, t.shape[0], heads, 0, value // heads)
    present: Shape | None = None if past is None else (2, t.shape[0], heads, past[3] + t.shape[1], value // heads)
    return outputs(i, TensorType(t.dtype, (*t.shape[:2], value)), TensorType(t.dtype, present))


def _ref_attention(r: Ref) -> list[Any]:
    x, w, bias, mask, past, attention_bias = (r.get(n) for n in range(6))
    heads = _heads(r)
    sizes = [int(s) for s in r.attr("qkv_hidden_sizes") or [w.shape[1] // 3] * 3]
    if sum(sizes) != w.shape[1] or any(s % heads for s in sizes) or x.shape[2] != w.shape[0]:
        r.fail(f"weights of {x.shape[2]} rows and columns of {heads} heads", w.shape)
    y = widened(x) @ widened(w)
    y = y if bias is None else y + widened(bias)
    q, k, v = (split_heads(p, heads) for p in np.split(y, np.cumsum(sizes)[:2], axis=2))
    if past is not None:
        k, v = np.concatenate([widened(past[0]), k], axis=2), np.concatenate([widened(past[1]), v], axis=2)
    out = join_heads(_attend(r, q, k, v, mask, attention_bias)).astype(x.dtype)
    return [out] if r.n_outputs == 1 else [out, np.stack([k, v]).astype(x.dtype)]


register(Op("Attention", _infer_attention, _ref_attention, domain=MS))


def _infer_multi(i: Infer) -> list[ValueType]:
    t, heads = i.tensor(0), _heads(i)
    _refuse(i, {"past_sequence_length": i.has(8), "cache_indirection": i.has(9), "qk output": len(i.node.outputs) > 3})
    q = t.shape
    kind = TensorType(t.dtype, None)
    if q is None:
        return outputs(i, kind, kind, kind)
    if len(q) == 5:
        d = q[4]
        present = TensorType(t.dtype, (q[0], heads, q[1], d))
        return outputs(i, TensorType(t.dtype, (q[0], q[1], d * heads)), present, present)
    if len(q) != 3 or not i.has(1):
        i.fail("a query with three axes and a key, or a packed query with five", q)
    k, v = i.shape(1), i.shape(2) if i.has(2) else None
    past = i.shape(6) if i.has(6) else (0, 0, 0, 0)
    if k is None or past is None or (v is None and len(k) != 5):
        return outputs(i, kind, kind, kind)
    keys = k[2] if len(k) == 4 else k[1]
    dv: Dim = k[-1] if v is None else v[3] if len(v) == 4 else v[2] // heads
    total = past[2] + keys
    present_k = TensorType(t.dtype, (q[0], heads, total, q[2] // heads))
    present_v = TensorType(t.dtype, (q[0], heads, total, dv))
    return outputs(i, TensorType(t.dtype, (q[0], q[1], dv * heads)), present_k, present_v)


def _projected(r: Ref, heads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values [B, heads, S, D], biased, from any of the packed forms."""
    q, k, v, bias = (r.get(n) for n in range(4))
    if q.ndim == 5:
        q, k, v = (widened(q[:, :, :, n]).reshape(*q.shape[:2], -1) for n in range(3))
    elif k.ndim == 5:
        k, v = (widened(k[:, :, :, n]).reshape(*k.shape[:2], -1) for n in range(2))
    parts = [widened(a) for a in (q, k, v)]
    if any(a.ndim == 3 and a.shape[2] % heads for a in parts):
        r.fail(f"features divisible by {heads} heads", [a.shape for a in parts])
    if bias is not None:
        sizes = [a.shape[2] if a.ndim == 3 else a.shape[3] * heads for a in parts]
        cuts = np.split(widened(bias), np.cumsum(sizes)[:2])
        parts = [a + b if a.ndim == 3 else a for a, b in zip(parts, cuts)]
    q, k, v = (split_heads(a, heads) if a.ndim == 3 else a for a in parts)
    return q, k, v


def _ref_multi(r: Ref) -> list[Any]:
    heads, kind = _heads(r), r.inputs[0].dtype
    q, k, v = _projected(r, heads)
    past_k, past_v = r.get(6), r.get(7)
    if past_k is not None:
        k, v = np.concatenate([widened(past_k), k], axis=2), np.concatenate([widened(past_v), v], axis=2)
    y = join_heads(_attend(r, q, k, v, r.get(4), r.get(5)))
    return [a.astype(kind) for a in (y, k, v)][: r.n_outputs]


register(Op("MultiHeadAttention", _infer_multi, _ref_multi, domain=MS))


def _infer_group(i: Infer) -> list[ValueType]:
    t, heads, kv = i.tensor(0), _heads(i), _heads(i, "kv_num_heads")
    if heads % kv:
        i.fail("num_heads that are a multiple of kv_num_heads", f"{heads} and {kv}")
    _refuse(
        i,
        {
            "quantised cache": any(str(i.attr(f"{n}_quant_type", "NONE")) != "NONE" for n in "kv"),
            "norm of queries and keys": i.has(14) or i.has(15),
            "sliding_window_cache": bool(i.attr("sliding_window_cache", 0)),
            "qk_output": bool(i.attr("qk_output", 0)) or len(i.node.outputs) > 3,
        },
    )
    kind = TensorType(t.dtype, None)
    if t.shape is None:
        return outputs(i, kind, kind, kind)
    if len(t.shape) != 3:
        i.fail("a query with three axes", t.shape)
    head_size = t.shape[2] // (heads if i.has(1) else heads + 2 * kv)
    cache: Shape | None = (t.shape[0], kv, t.shape[1], head_size)
    if i.has(3):
        cache = (t.shape[0], kv, _cache_length(i), head_size)
    y = TensorType(t.dtype, (t.shape[0], t.shape[1], head_size * heads))
    return outputs(i, y, TensorType(t.dtype, cache), TensorType(t.dtype, cache))


def _cache_length(i: Infer) -> Dim:
    """The positions of the present: as many as the past holds, or all positions when those are more."""
    past, total = i.shape(3), i.ints(6)
    if past is None or total is None:
        return i.fresh("cache")
    return dim_max(past[2], total[0])


def _rotated(r: Ref, x: np.ndarray, past: np.ndarray) -> np.ndarray:
    """x [B, heads, S, D] after rotary embedding at positions past + s, or those given."""
    cos, sin, given = r.get(7), r.get(8), r.get(9)
    at = past[:, None] + np.arange(x.shape[2])[None, :] if given is None else given
    at = np.clip(at, 0, cos.shape[0] - 1)
    c, s = widened(cos)[at][:, None], widened(sin)[at][:, None]
    return rotate(x, c, s, bool(r.attr("rotary_interleaved", 0)))


def _group_softmax(r: Ref, scores: np.ndarray) -> np.ndarray:
    """Softmax with an extra logit per head that takes weight but has no value, when asked for."""
    sink = r.get(11)
    if sink is None and not r.attr("smooth_softmax", 0):
        return softmax(scores)
    extra = np.zeros(scores.shape[1], scores.dtype) if sink is None else widened(sink)
    column = np.broadcast_to(extra.reshape(1, -1, 1, 1), (*scores.shape[:3], 1))
    return softmax(np.concatenate([scores, column], axis=3))[..., :-1]


def _ref_group(r: Ref) -> list[Any]:
    query, key, value, past_k, past_v, last, total = (r.get(n) for n in range(7))
    heads, kv, kind = _heads(r), _heads(r, "kv_num_heads"), query.dtype
    if key is None:
        width = query.shape[2] // (heads + 2 * kv)
        query, key, value = np.split(query, [heads * width, (heads + kv) * width], axis=2)
    q, k, v = (split_heads(widened(a), h) for a, h in ((query, heads), (key, kv), (value, kv)))
    steps, whole = q.shape[2], int(np.asarray(total).reshape(-1)[0])
    ends = np.asarray(last).reshape(-1).astype(np.int64) + 1
    past = np.zeros_like(ends) if steps == whole else ends - steps
    if ends.shape != q.shape[:1] or (past < 0).any() or (ends > whole).any():
        r.fail(f"{len(q)} lengths between {steps} and {whole}", ends.tolist())
    if r.attr("do_rotary", 0):
        q, k = _rotated(r, q, past), _rotated(r, k, past)
    length = max(whole, 0 if past_k is None else past_k.shape[2])
    present = [_appended(p, n, past, length) for p, n in ((past_k, k), (past_v, v))]
    keys, values = (repeat_heads(p[:, :, :whole], heads) for p in present)
    scores = np.matmul(q, keys.swapaxes(2, 3)) * _scale(r, q.shape[3])
    cap = float(r.attr("softcap", 0.0))
    scores = (cap * np.tanh(scores / cap)).astype(scores.dtype) if cap else scores
    bias = r.get(10)
    if bias is not None:
        scores = scores + widened(bias)[..., :whole]
    # A window of n lets a query see itself and the n - 1 keys before it.
    span = int(r.attr("local_window_size", -1))
    seen = visible(steps, whole, past, span - 1 if span > 0 else -1, 0 if r.attr("causal", 1) else -1)
    seen = seen & (np.arange(whole) < ends[:, None])[:, None, :]
    p = _group_softmax(r, scores + additive(seen)[:, None].astype(scores.dtype))
    y = join_heads(np.matmul(p, values)).astype(kind)
    return [y, *[a.astype(kind) for a in present]][: r.n_outputs]


def _appended(past: np.ndarray | None, new: np.ndarray, at: np.ndarray, length: int) -> np.ndarray:
    """The cache [B, heads, length, D]: the past's first at[b] positions, then the new ones, zeros behind."""
    out = np.zeros((*new.shape[:2], length, new.shape[3]), new.dtype)
    for b, start in enumerate(at):
        if past is not None:
            out[b, :, :start] = widened(past)[b, :, :start]
        end = min(start + new.shape[2], length)
        out[b, :, start:end] = new[b, :, : end - start]
    return out


register(Op("GroupQueryAttention", _infer_group, _ref_group, domain=MS))


def _infer_rotary(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    _refuse(i, {"is_packed_batching": bool(i.attr("is_packed_batching", 0))})
    if t.shape is not None and len(t.shape) not in (3, 4):
        i.fail("an input with three or four axes", t.shape)
    return [TensorType(t.dtype, t.shape)]


def _ref_rotary(r: Ref) -> list[Any]:
    x, positions, cos, sin = r.inputs[:4]
    heads = int(r.attr("num_heads", 0)) or (x.shape[2] // (2 * cos.shape[1]) if x.ndim == 3 else 0)
    four = split_heads(x, heads) if x.ndim == 3 else x
    at = np.asarray(positions)
    at = at.reshape(-1)[0] + np.arange(four.shape[2])[None, :] if at.size == 1 else at
    if at.size and (at.min() < 0 or at.max() >= cos.shape[0]):
        r.fail(f"positions below {cos.shape[0]}", int(at.max()))
    c, s = widened(cos)[at][:, None], widened(sin)[at][:, None]
    y = rotate(widened(four), c, s, bool(r.attr("interleaved", 0)))
    y = (y * y.dtype.type(r.attr("scale", 1.0) or 1.0)).astype(x.dtype)
    return [join_heads(y) if x.ndim == 3 else y]


register(Op("RotaryEmbedding", _infer_rotary, _ref_rotary, domain=MS))


def _infer_position_bias(i: Infer) -> list[ValueType]:
    table, q, k = i.shape(0), i.ints(1), i.ints(2)
    if table is not None and len(table) != 2:
        i.fail("a table of buckets and heads", table)
    heads: Dim = i.fresh("heads") if table is None else table[1]
    rows: Dim = q[0] if q else i.fresh("queries")
    columns: Dim = k[0] if k else i.fresh("keys")
    return [TensorType(i.tensor(0).dtype, (1, heads, rows, columns))]


def relative_buckets(offset: np.ndarray, buckets: int, distance: int, both_sides: bool) -> np.ndarray:
    """The bucket of each key - query offset: exact near zero, logarithmic up to distance."""
    if both_sides:
        buckets //= 2
        base, n = np.where(offset > 0, buckets, 0), np.abs(offset)
    else:
        base, n = np.zeros_like(offset), np.maximum(-offset, 0)
    exact = buckets // 2
    ratio = np.log(np.maximum(n, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(distance / exact))
    far = np.minimum(exact + (ratio * np.float32(buckets - exact)).astype(np.int64), buckets - 1)
    return base + np.where(n < exact, n, far)


def _ref_position_bias(r: Ref) -> list[Any]:
    table, q, k = r.inputs[0], *[int(np.asarray(n).reshape(-1)[0]) for n in r.inputs[1:3]]
    offset = np.arange(k)[None, :] - np.arange(q)[:, None]
    at = relative_buckets(offset, table.shape[0], int(r.attr("max_distance", 128)), bool(r.attr("is_bidirectional", 0)))
    return [np.ascontiguousarray(table[at].transpose(2, 0, 1)[None])]


register(Op("RelativePositionBias", _infer_position_bias, _ref_position_bias, domain=MS))
