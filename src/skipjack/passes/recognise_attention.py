"""Find attention spelled out as products, scale, mask and Softmax, with splitting and joining of heads around."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from skipjack.core.dims import Dim
from skipjack.ir.graph import ONNX, SKIPJACK, Attr, Graph, Node
from skipjack.passes.canonicalise_contractions import float_attr, int_attr, ints_attr
from skipjack.passes.rewrite import Edit, node

_HEADS_SWAPPED = (0, 2, 1, 3)
_SMALLEST_FILL = -1e4


@dataclass(frozen=True)
class RecogniseAttention:
    """softmax(scale * q k^T + mask) v over [B, heads, S, D] becomes skipjack's Attention.

    Scales on q, on k and on the scores are one scale; several masks are added up. Keys and values that were repeated
    for groups of query heads are read unrepeated. Operands that were split into heads are read as [B, S, heads * D].
    Rows that are masked whole may be replaced by zeros (IsNaN and Where), which is what Attention gives; where they are
    filled with a finite number instead, their result loses its meaning.
    """

    name: str = "recognise_attention"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            if n.key == (SKIPJACK, "MatMul") and _is_plain(n):
                _recognise(edit, n)
        return edit.finish()


@dataclass
class _Scores:
    """What lies between the product of queries and keys and the softmax."""

    product: Node
    softmax: Node
    scale: float = 1.0
    masks: list[str] = field(default_factory=list[str])
    fills: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


@dataclass(frozen=True)
class _Operand:
    """A value, how its axes lie, the number of heads it holds, and the factor it is to be multiplied by."""

    name: str
    layout: str
    heads: Dim
    scale: float


def _is_plain(n: Node) -> bool:
    return not int_attr(n, "trans_a", 0) and len(n.inputs) == 2 and n.attrs.get("epilogue") is None


def _recognise(edit: Edit, n: Node) -> None:
    scores = _scores(edit, n)
    if scores is None or edit.rank(n.outputs[0]) != 4 or int_attr(n, "trans_b", 0):
        return
    product = scores.product
    if int_attr(product, "trans_a", 0) or not int_attr(product, "trans_b", 0) or len(product.inputs) != 2:
        return
    q, k, v = (_operand(edit, i) for i in (product.input(0), product.input(1), n.input(1)))
    if q is None or k is None or v is None or not _heads_fit(q, k, v) or v.scale != 1.0:
        return
    scale = scores.scale * q.scale * k.scale * float_attr(product, "alpha", 1.0)
    last, layout = _joined(edit, n)
    made, mask = _mask(edit, scores, last.outputs[0])
    attrs: dict[str, Attr] = {
        "q_heads": _int(q.heads),
        "kv_heads": _int(k.heads),
        "scale": scale,
        "causal": 0,
        "softcap": 0.0,
        "layout_q": q.layout,
        "layout_k": k.layout,
        "layout_v": v.layout,
        "layout_out": layout,
    }
    inputs = (q.name, k.name, v.name, *mask)
    origin = scores.softmax.origin
    edit.replace(last, [*made, Node("Attention", inputs, last.outputs, attrs, SKIPJACK, origin)])


def _int(d: Dim) -> int:
    assert isinstance(d, int), "the number of heads was checked to be an integer"
    return d


def _heads_fit(q: _Operand, k: _Operand, v: _Operand) -> bool:
    return isinstance(q.heads, int) and isinstance(k.heads, int) and k.heads == v.heads and q.heads % k.heads == 0


def _scores(edit: Edit, n: Node) -> _Scores | None:
    """The softmax that makes the first operand of n, and what it is made of."""
    if edit.only_reader(n.input(0)) is not n:
        return None
    name, reader = _through_casts(edit, n.input(0), n)
    if edit.only_reader(name) is not reader:
        return None
    softmax = edit.made_by(name, "Softmax") or _softmax_with_zeroed_rows(edit, name)
    rank = edit.rank(name)
    if softmax is None or rank != 4 or softmax.attrs.get("axis", -1) not in (-1, rank - 1):
        return None
    found = _Scores(n, softmax)
    reader, name = softmax, softmax.input(0)
    for _ in range(8):
        step = edit.producers.get(name)
        if step is None or edit.only_reader(name) is not reader:
            return None
        if step.key == (SKIPJACK, "MatMul"):
            found.product = step
            return found if step.attrs.get("epilogue") is None else None
        inner = _peeled(edit, step, found)
        if inner is None or not _same_shape(edit, inner, name):
            return None
        reader, name = step, inner
    return None


def _same_shape(edit: Edit, a: str, b: str) -> bool:
    x, y = edit.tensor(a), edit.tensor(b)
    return x is not None and y is not None and x.shape is not None and x.shape == y.shape


def _peeled(edit: Edit, step: Node, found: _Scores) -> str | None:
    """Record one step between product and softmax; the name of the scores before it, None when it is none of ours."""
    if step.domain != ONNX:
        return None
    if step.op == "Cast":
        t = edit.tensor(step.input(0))
        return step.input(0) if t is not None and t.dtype.is_float else None
    scaled = _scaled(edit, step)
    if scaled is not None:
        found.scale *= scaled[1]
        return scaled[0]
    if found.scale != 1.0:
        return None
    if step.op == "Add":
        inner = next((i for i in step.inputs if _leads_to_product(edit, i)), None)
        if inner is not None:
            found.masks.append(step.input(1 if step.input(0) == inner else 0))
        return inner
    fill = edit.scalar(step.input(2)) if step.op == "Where" else None
    if fill is not None and fill <= _SMALLEST_FILL:
        found.fills.append((step.input(0), step.input(2)))
        return step.input(1)
    return None


def _leads_to_product(edit: Edit, name: str) -> bool:
    for _ in range(6):
        step = edit.producers.get(name)
        if step is None:
            return False
        if step.key == (SKIPJACK, "MatMul"):
            return True
        if step.op not in ("Add", "Mul", "Div", "Where", "Cast"):
            return False
        name = step.input(1) if step.op == "Where" or edit.scalar(step.input(0)) is not None else step.input(0)
    return False


def _scaled(edit: Edit, n: Node) -> tuple[str, float] | None:
    """(value, factor) when n is value times or by a number."""
    if n.domain != ONNX or n.op not in ("Mul", "Div"):
        return None
    number = edit.scalar(n.input(1))
    if number is not None:
        return (n.input(0), number if n.op == "Mul" else 1.0 / number) if number else None
    number = edit.scalar(n.input(0))
    return (n.input(1), number) if number is not None and n.op == "Mul" else None


def _softmax_with_zeroed_rows(edit: Edit, name: str) -> Node | None:
    """The softmax of Where(IsNaN(softmax), 0, softmax)."""
    where = edit.made_by(name, "Where")
    if where is None or edit.scalar(where.input(1)) != 0.0:
        return None
    test, softmax = edit.made_by(where.input(0), "IsNaN"), edit.made_by(where.input(2), "Softmax")
    if test is None or softmax is None or test.input(0) != where.input(2):
        return None
    readers = edit.consumers.get(where.input(2), [])
    return softmax if len(readers) == 2 and where.input(2) not in edit.graph.outputs else None


def _through_casts(edit: Edit, name: str, reader: Node) -> tuple[str, Node]:
    """The value before a conversion from another float type, and what reads it."""
    cast = edit.made_by(name, "Cast")
    t = None if cast is None else edit.tensor(cast.input(0))
    return (cast.input(0), cast) if cast is not None and t is not None and t.dtype.is_float else (name, reader)


def _operand(edit: Edit, name: str) -> _Operand | None:
    scale = 1.0
    name, scale = _unscaled(edit, name, scale)
    t = edit.tensor(name)
    if t is None or t.shape is None or len(t.shape) != 4:
        return None
    name = _unrepeated(edit, name)
    name, scale = _unscaled(edit, name, scale)
    t = edit.tensor(name)
    if t is None or t.shape is None:
        return None
    heads = t.shape[1]
    swap = edit.made_by(name, "Transpose")
    if swap is None or ints_attr(swap, "perm", ()) != _HEADS_SWAPPED:
        return _Operand(name, "bhsd", heads, scale)
    inner, inner_scale = _unscaled(edit, swap.input(0), scale)
    split = edit.made_by(inner, "Reshape")
    if split is None or not _splits_heads(edit, split):
        return _Operand(name, "bhsd", heads, scale)
    return _Operand(split.input(0), "bsf", heads, inner_scale)


def _unscaled(edit: Edit, name: str, scale: float) -> tuple[str, float]:
    """The value without the numbers it was multiplied by, and their product."""
    while True:
        step = edit.producers.get(name)
        found = None if step is None else _scaled(edit, step)
        if found is None or edit.rank(found[0]) != edit.rank(name):
            return name, scale
        name, scale = found[0], scale * found[1]


def _splits_heads(edit: Edit, split: Node) -> bool:
    """Whether a Reshape takes [B, S, heads * D] to [B, S, heads, D]."""
    x, y = edit.tensor(split.input(0)), edit.tensor(split.outputs[0])
    if x is None or y is None or x.shape is None or y.shape is None or len(x.shape) != 3 or len(y.shape) != 4:
        return False
    return x.shape[:2] == y.shape[:2] and x.shape[2] == y.shape[2] * y.shape[3]


def _unrepeated(edit: Edit, name: str) -> str:
    """[B, kv_heads, S, D] that Unsqueeze, Expand and Reshape made into name, or name."""
    joined = edit.made_by(name, "Reshape")
    repeated = None if joined is None else edit.made_by(joined.input(0), "Expand")
    single = None if repeated is None else edit.made_by(repeated.input(0), "Unsqueeze", "Reshape")
    if joined is None or repeated is None or single is None:
        return name
    x, y, z = (edit.tensor(i) for i in (single.input(0), repeated.outputs[0], name))
    if x is None or y is None or z is None or x.shape is None or y.shape is None or z.shape is None:
        return name
    if len(x.shape) != 4 or len(y.shape) != 5:
        return name
    t = edit.tensor(single.outputs[0])
    b, heads, s, d = x.shape
    fits = t is not None and t.shape == (b, heads, 1, s, d) and (y.shape[1], y.shape[3:]) == (heads, (s, d))
    return single.input(0) if fits and z.shape == (b, heads * y.shape[2], s, d) else name


def _joined(edit: Edit, n: Node) -> tuple[Node, str]:
    """The last node of the attention and the layout it leaves: the Reshape that joins heads again, or n itself."""
    swap = edit.only_reader(n.outputs[0])
    if swap is None or swap.op != "Transpose" or ints_attr(swap, "perm", ()) != _HEADS_SWAPPED:
        return n, "bhsd"
    join = edit.only_reader(swap.outputs[0])
    x, y = edit.tensor(swap.outputs[0]), None if join is None else edit.tensor(join.outputs[0])
    if join is None or join.op != "Reshape" or x is None or y is None or x.shape is None or y.shape is None:
        return n, "bhsd"
    if len(y.shape) != 3 or y.shape != (*x.shape[:2], x.shape[2] * x.shape[3]):
        return n, "bhsd"
    return join, "bsf"


def _mask(edit: Edit, scores: _Scores, near: str) -> tuple[list[Node], tuple[str, ...]]:
    """The nodes that make one additive mask out of all, and its name."""
    made: list[Node] = []
    masks = list(scores.masks)
    for condition, fill in scores.fills:
        t = edit.tensor(fill)
        assert t is not None, "the fill of a Where is a tensor"
        zero = edit.constant(np.zeros((), t.dtype.np), f"{near}.zero")
        masks.append(edit.name(f"{near}.mask"))
        made.append(node("Where", (condition, zero, fill), masks[-1]))
    while len(masks) > 1:
        total = edit.name(f"{near}.mask")
        made.append(node("Add", (masks.pop(), masks.pop()), total))
        masks.append(total)
    return made, tuple(masks)
