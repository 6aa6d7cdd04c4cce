"""Bring ONNX's Attention and the attention operators of com.microsoft to skipjack's Attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import MS, ONNX, SKIPJACK, Attr, Graph, Node
from skipjack.ir.types import Shape
from skipjack.passes.canonicalise_contractions import float_attr, int_attr, ints_attr
from skipjack.passes.decompose_norms import counting
from skipjack.passes.rewrite import Edit, apply_rules, node


@dataclass(frozen=True)
class CanonicaliseAttention:
    """A node whose scores are read, or that has windows, lengths or a cache of its own kind, is for ExpandAttention."""

    name: str = "canonicalise_attention"

    def apply(self, graph: Graph) -> Graph:
        return apply_rules(graph, _RULES)


def is_read(edit: Edit, n: Node, index: int) -> bool:
    """Whether the node has this output and something reads it."""
    name = n.outputs[index] if index < len(n.outputs) else ""
    return bool(name) and (name in edit.consumers or name in edit.graph.outputs)


def _shape(edit: Edit, name: str, rank: int) -> Shape | None:
    """The shape of a tensor of that rank, None for anything else."""
    t = edit.tensor(name)
    return t.shape if t is not None and t.shape is not None and len(t.shape) == rank else None


def attention_attrs(q_heads: int, kv_heads: int, scale: float, layout: str, causal: str) -> dict[str, Attr]:
    """Attributes of a normal form whose operands lie alike; causal is end, start or empty."""
    return {
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "scale": scale,
        "causal": int(bool(causal)),
        "causal_offset": causal or "end",
        "softcap": 0.0,
        **{f"layout_{which}": layout for which in ("q", "k", "v", "out")},
    }


def _onnx(edit: Edit, n: Node) -> None:
    if n.input(6) or is_read(edit, n, 3) or int_attr(n, "left_window_size", -1) >= 0:
        return
    if int_attr(n, "right_window_size", -1) >= 0 or n.attrs.get("softmax_precision", 1) not in (0, 1):
        return
    rank = edit.rank(n.input(0))
    layout = "bsf" if rank == 3 else "bhsd"
    q, k, v = (_shape(edit, i, rank or 0) for i in n.inputs[:3])
    if q is None or k is None or v is None or rank not in (3, 4):
        return
    if rank == 3:
        heads = (int_attr(n, "q_num_heads", 0), int_attr(n, "kv_num_heads", 0))
        features = q[2] // heads[0]
    else:
        heads, features = (q[1], k[1]), q[3]
    if not isinstance(features, int) or not all(isinstance(h, int) for h in heads):
        return
    if n.input(4) or is_read(edit, n, 1) or is_read(edit, n, 2):
        if rank == 3 or not n.input(4):
            return
    scale = float_attr(n, "scale", 1 / math.sqrt(features))
    causal = ("end" if n.input(4) else "start") if int_attr(n, "is_causal", 0) else ""
    made: list[Node] = []
    keys, values = n.input(1), n.input(2)
    if n.input(4):
        keys, values = _extended(edit, n, made)
    if not _mask_covers(edit, n.input(3), k, bool(n.input(4))):
        return
    inputs = (n.input(0), keys, values, *([n.input(3)] if n.input(3) else []))
    attrs = attention_attrs(int(str(heads[0])), int(str(heads[1])), scale, layout, causal)
    attrs["softcap"] = float_attr(n, "softcap", 0.0)
    edit.replace(n, [*made, Node("Attention", inputs, n.outputs[:1], attrs, SKIPJACK)])


def _extended(edit: Edit, n: Node, made: list[Node]) -> tuple[str, str]:
    """The names of keys and values with the past before them; made receives the nodes."""
    names: list[str] = []
    for index, what in ((1, "keys"), (2, "values")):
        own = n.outputs[index] if is_read(edit, n, index) else edit.name(f"{n.outputs[0]}.{what}")
        made.append(node("Concat", (n.input(3 + index), n.input(index)), own, axis=2))
        names.append(own)
    return names[0], names[1]


def _mask_covers(edit: Edit, mask: str, k: Shape, has_past: bool) -> bool:
    """Whether the mask has a value for every key; a shorter one would have to be extended."""
    t = edit.tensor(mask) if mask else None
    if t is None:
        return not mask
    return has_past or (t.shape is not None and bool(t.shape) and t.shape[-1] in (1, k[-2]))


def _packed(edit: Edit, n: Node) -> None:
    """com.microsoft Attention: one weight [K, 3 * features] for queries, keys and values."""
    x, weight, bias = _shape(edit, n.input(0), 3), edit.array(n.input(1)), edit.array(n.input(2))
    unsupported = [n.input(6), n.attrs.get("do_rotary"), n.attrs.get("past_present_share_buffer")]
    if x is None or weight is None or any(unsupported) or (n.input(2) and bias is None):
        return
    cached = bool(n.input(4)) or is_read(edit, n, 1)
    if cached and n.input(3) and edit.rank(n.input(3)) == 1:
        return
    sizes = ints_attr(n, "qkv_hidden_sizes", [weight.shape[1] // 3] * 3)
    heads, ends = int_attr(n, "num_heads", 1), np.cumsum(sizes)[:-1]
    mask = _padding_mask(edit, n, n.input(3), n.input(0), n.outputs[0])
    if mask is None:
        return
    made, terms = mask
    operands: list[str] = []
    for what, w, b in zip("qkv", np.split(weight, ends, axis=1), _split(bias, ends)):
        name = edit.constant(w, f"{n.input(1)}.{what}")
        made += _projected(edit, n.input(0), name, b, f"{n.outputs[0]}.{what}")
        operands.append(made[-1].outputs[0])
    if cached:
        operands[1:] = _with_packed_past(edit, n, made, operands[1:], heads)
    masks = [*terms, *([n.input(5)] if n.input(5) else [])]
    _finish(edit, n, made, operands, masks, heads, sizes[0] // heads, "bhsd" if cached else "bsf")


def _split_heads(edit: Edit, made: list[Node], x: str, heads: int) -> str:
    """[B, S, F] as [B, heads, S, D]."""
    shape = edit.constant(np.array([0, 0, heads, -1], np.int64), f"{x}.shape")
    parted, turned = edit.name(f"{x}.heads"), edit.name(f"{x}.turned")
    made += [node("Reshape", (x, shape), parted), node("Transpose", (parted,), turned, perm=(0, 2, 1, 3))]
    return turned


def _with_packed_past(edit: Edit, n: Node, made: list[Node], operands: Sequence[str], heads: int) -> list[str]:
    """Keys and values behind those of the past [2, B, heads, P, D]; both together are the node's second output."""
    found: list[str] = []
    for index, operand in enumerate(operands):
        name = _split_heads(edit, made, operand, heads)
        if n.input(4):
            which = edit.constant(np.array(index, np.int64), f"{operand}.which")
            past, whole = edit.name(f"{operand}.past"), edit.name(f"{operand}.whole")
            made += [node("Gather", (n.input(4), which), past, axis=0), node("Concat", (past, name), whole, axis=2)]
            name = whole
        found.append(name)
    if is_read(edit, n, 1):
        axes = edit.constant(np.array([0], np.int64), f"{n.outputs[1]}.axes")
        parts = [edit.name(f"{n.outputs[1]}.{what}") for what in ("keys", "values")]
        made += [node("Unsqueeze", (name, axes), part) for name, part in zip(found, parts, strict=True)]
        made.append(node("Concat", parts, n.outputs[1], axis=0))
    return found


def _split(bias: np.ndarray | None, ends: np.ndarray) -> Sequence[np.ndarray | None]:
    return [None] * 3 if bias is None else np.split(bias, ends)


def _projected(edit: Edit, x: str, weight: str, bias: np.ndarray | None, near: str) -> list[Node]:
    product = edit.name(f"{near}.product" if bias is not None else near)
    made = [node("MatMul", (x, weight), product)]
    if bias is not None:
        made += _biased(edit, product, bias, near)
    return made


def _biased(edit: Edit, x: str, bias: np.ndarray, near: str) -> list[Node]:
    return [node("Add", (x, edit.constant(bias, f"{near}.bias")), edit.name(near))]


def _multi_head(edit: Edit, n: Node) -> None:
    """com.microsoft MultiHeadAttention of separate queries, keys and values; the latter two may have heads already."""
    q = _shape(edit, n.input(0), 3)
    k, v = (_shape(edit, i, edit.rank(i) or 0) if i else None for i in n.inputs[1:3])
    bias = edit.array(n.input(3))
    if q is None or k is None or v is None or any(n.inputs[8:]) or (n.input(3) and bias is None):
        return
    split = len(k) == 4
    if len(k) != len(v) or len(k) not in (3, 4) or is_read(edit, n, 3) or (split and bias is not None):
        return
    cached = bool(n.input(6)) or is_read(edit, n, 1) or is_read(edit, n, 2)
    heads, features = int_attr(n, "num_heads", 1), q[2]
    mask = _padding_mask(edit, n, n.input(4), n.input(1), n.outputs[0])
    if mask is None or not isinstance(features, int) or not (split or isinstance(k[2], int)):
        return
    if (split or cached) and n.input(4) and edit.rank(n.input(4)) == 1:
        return
    made, terms = mask
    operands = list(n.inputs[:3])
    if bias is not None:
        ends = np.cumsum([int(str(s[2])) for s in (q, k)])
        for i, part in enumerate(np.split(bias, ends)):
            made += _biased(edit, operands[i], part, f"{n.outputs[0]}.{'qkv'[i]}")
            operands[i] = made[-1].outputs[0]
    for i in (1, 2) if cached else ():
        operands[i] = operands[i] if split else _split_heads(edit, made, operands[i], heads)
        present = n.outputs[i] if is_read(edit, n, i) else edit.name(f"{operands[i]}.whole")
        parts = [x for x in (n.input(5 + i), operands[i]) if x]
        made.append(node("Concat", parts, present, axis=2))
        operands[i] = present
    masks = [*terms, *([n.input(5)] if n.input(5) else [])]
    _finish(edit, n, made, operands, masks, heads, features // heads, "bhsd" if split or cached else "bsf")


def _finish(
    edit: Edit, n: Node, made: list[Node], operands: Sequence[str], masks: Sequence[str], heads: int, features: int,
    cache: str,
) -> None:  # fmt: skip
    """Replace n by made and an Attention that adds up the masks; cache is the layout of keys and values."""
    mask = list(masks)
    if len(mask) == 2:
        total = edit.name(f"{n.outputs[0]}.mask")
        made.append(node("Add", mask, total))
        mask = [total]
    scale = float_attr(n, "scale", 0.0) or 1 / math.sqrt(features)
    causal = "end" if int_attr(n, "unidirectional", 0) else ""
    attrs = {**attention_attrs(heads, heads, scale, "bsf", causal), "layout_k": cache, "layout_v": cache}
    edit.replace(n, [*made, Node("Attention", (*operands, *mask), n.outputs[:1], attrs, SKIPJACK)])


def _padding_mask(edit: Edit, n: Node, mask: str, keys: str, near: str) -> tuple[list[Node], list[str]] | None:
    """Nodes and name of the additive mask [B, 1, 1 or Sq, Sk] for a mask [B, Sk] or [B, Sq, Sk] or for B lengths.

    None for other masks.
    """
    if not mask:
        return [], []
    t, like = edit.tensor(mask), edit.tensor(keys)
    if t is None or like is None or not t.shape or not like.shape or not t.dtype.is_int:
        return None
    axes = edit.constant(np.array([1, 2] if len(t.shape) < 3 else [1], np.int64), f"{near}.axes")
    zero = edit.constant(np.zeros((), t.dtype.np), f"{near}.zero")
    seen = edit.constant(np.zeros((), like.dtype.np), f"{near}.seen")
    hidden = edit.constant(np.array(float_attr(n, "mask_filter_value", -10000.0), like.dtype.np), f"{near}.hidden")
    flat, wide, result = (edit.name(f"{near}.mask.{what}") for what in ("hidden", "wide", "added"))
    if len(t.shape) in (2, 3):
        made = [node("Equal", (mask, zero), flat)]
    elif t.shape == like.shape[:1]:
        made = _beyond(edit, mask, keys, flat)
    else:
        return None
    made += [node("Unsqueeze", (flat, axes), wide), node("Where", (wide, hidden, seen), result)]
    return made, [result]


def _beyond(edit: Edit, lengths: str, keys: str, result: str) -> list[Node]:
    """Whether each key stands at or beyond the length of its row, [B, Sk]."""
    t = edit.tensor(lengths)
    assert t is not None, "the caller looked at the type of the lengths"
    made = counting(edit, keys, 1, f"{result}.positions")
    typed_positions, column = edit.name(f"{result}.typed"), edit.name(f"{result}.column")
    axis = edit.constant(np.array([1], np.int64), f"{result}.axis")
    return [
        *made,
        node("Cast", (made[-1].outputs[0],), typed_positions, to=t.dtype.onnx),
        node("Unsqueeze", (lengths, axis), column),
        node("GreaterOrEqual", (typed_positions, column), result),
    ]


def _rotary(edit: Edit, n: Node) -> None:
    """com.microsoft RotaryEmbedding with a position for every token: ONNX's, with its inputs in another order."""
    x, cos = edit.tensor(n.input(0)), _shape(edit, n.input(2), 2)
    if x is None or x.shape is None or cos is None or edit.rank(n.input(1)) not in (1, 2):
        return
    made: list[Node] = []
    positions = n.input(1)
    if edit.rank(positions) == 1:
        positions = _from_first(edit, n, made)
    if float_attr(n, "scale", 1.0) != 1.0 or int_attr(n, "is_packed_batching", 0):
        return
    dim, heads = int_attr(n, "rotary_embedding_dim", 0), int_attr(n, "num_heads", 0)
    if len(x.shape) == 3 and not heads:
        if not isinstance(x.shape[2], int) or not isinstance(cos[1], int):
            return
        heads = x.shape[2] // (2 * cos[1])
    attrs: dict[str, Attr] = {"interleaved": int_attr(n, "interleaved", 0), "rotary_embedding_dim": dim}
    inputs = (n.input(0), n.input(2), n.input(3), positions)
    turned = Node("RotaryEmbedding", inputs, n.outputs[:1], attrs)
    edit.replace(n, [*made, turned.with_attrs(num_heads=heads) if len(x.shape) == 3 else turned])


def _from_first(edit: Edit, n: Node, made: list[Node]) -> str:
    """Positions [B, S] that count from the one number given, the same for every item of the batch."""
    x, y = n.input(0), n.outputs[0]
    near, axis = f"{y}.positions", 1 if edit.rank(x) == 3 else 2
    made += counting(edit, x, axis, f"{near}.steps")
    parts = ("row", "all", "shape", "batch", "length")
    row, rows, shape, batch, length = (edit.name(f"{near}.{part}") for part in parts)
    made += [
        node("Add", (made[-1].outputs[0], n.input(1)), row),
        node("Shape", (x,), batch, start=0, end=1),
        node("Shape", (x,), length, start=axis, end=axis + 1),
        node("Concat", (batch, length), shape, axis=0),
        node("Expand", (row, shape), rows),
    ]
    return rows


_RULES: dict[tuple[str, str], Callable[[Edit, Node], None]] = {
    (ONNX, "Attention"): _onnx,
    (MS, "Attention"): _packed,
    (MS, "MultiHeadAttention"): _multi_head,
    (MS, "RotaryEmbedding"): _rotary,
}
