"""Write attention that has windows, lengths, scores to read or a cache of its own kind with smaller operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX, SKIPJACK, Attr, Graph, Node
from skipjack.passes.canonicalise_attention import attention_attrs, is_read
from skipjack.passes.canonicalise_contractions import float_attr, int_attr
from skipjack.passes.rewrite import Edit, apply_rules, node


@dataclass(frozen=True)
class ExpandAttention:
    """What surrounds skipjack's Attention gets nodes of its own: rotations, caches, masks and scores that are read.

    Scores after the softcap, the mask or the softmax, and f64 in a softmax of smaller types, stay as they are.
    """

    name: str = "expand_attention"

    def apply(self, graph: Graph) -> Graph:
        return apply_rules(graph, _RULES)


@dataclass
class _Making:
    """Nodes being made for one node, which read each other by name."""

    edit: Edit
    near: str
    nodes: list[Node] = field(default_factory=list[Node])

    def __call__(self, op: str, *inputs: str, result: str = "", domain: str = ONNX, **attrs: Attr) -> str:
        """A new node; the name of its output."""
        name = result or self.edit.name(f"{self.near}.{op.lower()}")
        self.nodes.append(node(op, inputs, name, domain, **attrs))
        return name

    def ints(self, *values: int) -> str:
        return self.edit.constant(np.array(values, np.int64), f"{self.near}.ints")

    def number(self, value: int) -> str:
        return self.edit.constant(np.array(value, np.int64), f"{self.near}.int")

    def size(self, x: str, axis: int) -> str:
        """The size of x along an axis as one integer with an axis of its own."""
        return self("Shape", x, start=axis, end=axis + 1)

    def counting(self, size: str) -> str:
        """0, 1, 2, ... for a size with an axis of its own."""
        return self("Range", self.number(0), self("Squeeze", size, self.ints(0)), self.number(1))

    def all_of(self, conditions: Sequence[str]) -> str:
        found = conditions[0]
        for other in conditions[1:]:
            found = self("And", found, other)
        return found


def _grouped(edit: Edit, n: Node) -> None:
    t = edit.tensor(n.input(0))
    features = t.shape[2] if t is not None and t.shape is not None and len(t.shape) == 3 else None
    if t is None or not isinstance(features, int) or n.input(11) or int_attr(n, "smooth_softmax", 0):
        return
    heads, kv = int_attr(n, "num_heads", 1), int_attr(n, "kv_num_heads", 1)
    m = _Making(edit, n.outputs[0])
    depth = features // (heads if n.input(1) else heads + 2 * kv)
    q, k, v = n.input(0), n.input(1), n.input(2)
    if not k:
        q, k, v = (edit.name(f"{n.outputs[0]}.{what}") for what in "qkv")
        sizes = m.ints(heads * depth, kv * depth, kv * depth)
        m.nodes.append(Node("Split", (n.input(0), sizes), (q, k, v), {"axis": 2}))
    steps, total = m.size(n.input(0), 1), m("Cast", m("Reshape", n.input(6), m.ints(1)), to=DType.I64.onnx)
    lengths = m("Cast", m("Reshape", n.input(5), m.ints(-1)), to=DType.I64.onnx)
    ends = m("Add", lengths, m.number(1))
    starts = m("Where", m("Equal", total, steps), m.number(0), m("Sub", ends, steps))
    positions = m("Add", m("Unsqueeze", starts, m.ints(1)), m.counting(steps))
    if int_attr(n, "do_rotary", 0):
        q, k = (_turned(m, n, x, positions, h) for x, h in ((q, heads), (k, kv)))
    caches = [_appended(m, n, index, x, starts, total, kv) for index, x in ((1, k), (2, v))]
    if n.input(10):
        caches = [m("Slice", c, m.ints(0), total, m.ints(2)) for c in caches]
    mask = _group_mask(m, n, positions, ends, m.size(caches[0], 2))
    if n.input(10):
        unseen = edit.constant(np.array(-np.inf, t.dtype.np), f"{m.near}.unseen")
        mask = m("Where", mask, n.input(10), unseen)
    scale = float_attr(n, "scale", 0.0) or 1 / math.sqrt(depth)
    attrs = {**attention_attrs(heads, kv, scale, "bsf", ""), "layout_k": "bhsd", "layout_v": "bhsd"}
    attrs["softcap"] = float_attr(n, "softcap", 0.0)
    edit.replace(n, [*m.nodes, Node("Attention", (q, *caches, mask), n.outputs[:1], attrs, SKIPJACK)])


def _turned(m: _Making, n: Node, x: str, positions: str, heads: int) -> str:
    interleaved = int_attr(n, "rotary_interleaved", 0)
    given = n.input(9) or positions
    cos = m.edit.tensor(n.input(7))
    columns = cos.shape[1] if cos is not None and cos.shape is not None else 0
    dim = 2 * columns if isinstance(columns, int) else 0
    tables = (n.input(7), n.input(8))
    return m("RotaryEmbedding", x, *tables, given, num_heads=heads, interleaved=interleaved, rotary_embedding_dim=dim)


def _appended(m: _Making, n: Node, index: int, new: str, starts: str, total: str, heads: int) -> str:
    """The cache of keys (index 1) or values (2) with the new positions, which is that output of the node."""
    own = n.outputs[index] if index < len(n.outputs) else ""
    past = [n.input(2 + index)] if n.input(2 + index) else []
    return m("AppendToCache", new, starts, total, *past, result=own, domain=SKIPJACK, heads=heads)


def _group_mask(m: _Making, n: Node, positions: str, ends: str, size: str) -> str:
    """Whether a query of an item sees a key, [B, 1, S, keys]."""
    keys = m.counting(size)
    place = m("Unsqueeze", positions, m.ints(1, 3))
    conditions = [m("Less", keys, m("Unsqueeze", ends, m.ints(1, 2, 3)))]
    window = int_attr(n, "local_window_size", -1)
    if int_attr(n, "causal", 1):
        conditions.append(m("LessOrEqual", keys, place))
    if window > 0:
        conditions.append(m("Greater", keys, m("Sub", place, m.number(window))))
    return m.all_of(conditions)


def _onnx(edit: Edit, n: Node) -> None:
    shapes = [t.shape if (t := edit.tensor(name)) is not None else None for name in n.inputs[:3]]
    ranks = {len(s) for s in shapes if s is not None}
    scores = n.outputs[3] if is_read(edit, n, 3) else ""
    q_shape, k_shape = shapes[0], shapes[1]
    if q_shape is None or k_shape is None or None in shapes or ranks not in ({3}, {4}):
        return
    if n.attrs.get("softmax_precision", 1) not in (0, 1, 10, 16):
        return
    if scores and int_attr(n, "qk_matmul_output_mode", 0):
        return
    flat = ranks == {3}
    if not flat and not (isinstance(q_shape[1], int) and isinstance(k_shape[1], int)):
        return
    named = (("q_num_heads", q_shape), ("kv_num_heads", k_shape))
    heads, kv = (int_attr(n, name, 0) if flat else int(str(shape[1])) for name, shape in named)
    features = q_shape[2] if flat else q_shape[3]
    if not isinstance(features, int) or not heads or not kv or (scores and heads != kv):
        return
    m = _Making(edit, n.outputs[0])
    scale = float_attr(n, "scale", 1 / math.sqrt(features // heads if flat else features))
    operands = [_by_head(m, name, h) if flat else name for name, h in zip(n.inputs[:3], (heads, kv, kv), strict=True)]
    for index in (1, 2):
        own = n.outputs[index] if is_read(edit, n, index) else ""
        parts = [name for name in (n.input(3 + index), operands[index]) if name]
        if own or len(parts) > 1:
            operands[index] = m("Concat", *parts, result=own, axis=2)
    if scores:
        product = m("MatMul", operands[0], m("Transpose", operands[1], perm=(0, 1, 3, 2)))
        t = edit.tensor(n.input(0))
        assert t is not None, "the shape of the queries is known"
        m("Mul", product, edit.constant(np.array(scale, t.dtype.np), f"{m.near}.scale"), result=scores)
    mask = _onnx_mask(m, n, operands)
    attrs = {**attention_attrs(heads, kv, scale, "bhsd", ""), "layout_out": "bsf" if flat else "bhsd"}
    attrs["softcap"] = float_attr(n, "softcap", 0.0)
    inputs = (*operands, *([mask] if mask else []))
    edit.replace(n, [*m.nodes, Node("Attention", inputs, n.outputs[:1], attrs, SKIPJACK)])


def _by_head(m: _Making, x: str, heads: int) -> str:
    """[B, S, F] as [B, heads, S, D]."""
    return m("Transpose", m("Reshape", x, m.ints(0, 0, heads, -1)), perm=(0, 2, 1, 3))


def _onnx_mask(m: _Making, n: Node, operands: Sequence[str]) -> str:
    """The mask for all keys, with windows and lengths in it; empty when everything is seen."""
    queries, keys = m.size(operands[0], 2), m.size(operands[1], 2)
    place, key = m("Unsqueeze", m.counting(queries), m.ints(1)), m.counting(keys)
    conditions: list[str] = []
    if n.input(4):
        place = m("Add", place, m.size(n.input(4), 2))
    if n.input(6):
        lengths = m("Reshape", n.input(6), m.ints(-1, 1, 1, 1))
        conditions.append(m("Less", key, lengths))
        place = place if n.input(4) else m("Add", place, m("Sub", lengths, queries))
    left, right = int_attr(n, "left_window_size", -1), int_attr(n, "right_window_size", -1)
    right = 0 if int_attr(n, "is_causal", 0) else right
    if left >= 0:
        conditions.append(m("GreaterOrEqual", key, m("Sub", place, m.number(left))))
    if right >= 0:
        conditions.append(m("LessOrEqual", key, m("Add", place, m.number(right))))
    given, t = n.input(3), m.edit.tensor(n.input(3)) if n.input(3) else None
    if t is None:
        return m.all_of(conditions) if conditions else ""
    unseen = m.edit.constant(np.array(False if t.dtype is DType.BOOL else -np.inf, t.dtype.np), f"{m.near}.unseen")
    if t.shape and t.shape[-1] != 1:
        behind = m("Sub", keys, m.size(given, len(t.shape) - 1))
        given = m("Pad", given, m("Concat", m.ints(*[0] * (2 * len(t.shape) - 1)), behind, axis=0), unseen)
    if not conditions:
        return given
    return m.all_of([given, *conditions]) if t.dtype is DType.BOOL else m("Where", m.all_of(conditions), given, unseen)


_RULES: dict[tuple[str, str], Callable[[Edit, Node], None]] = {
    (ONNX, "Attention"): _onnx,
    (MS, "GroupQueryAttention"): _grouped,
}
