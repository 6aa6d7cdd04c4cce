"""Features whose value is known before a run: what zero weights leave of a layer is its bias, the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK, Graph, Node
from skipjack.ir.types import TensorType
from skipjack.lang.expr import Expr, arg, evaluate

_FIRST_LOOK = 32
POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


@dataclass(frozen=True)
class Known:
    """Per feature along `axis`: whether every element has one known value, and that value (any number otherwise)."""

    axis: int
    there: np.ndarray
    values: np.ndarray


def features_axis(graph: Graph, name: str, op: str) -> int | None:
    """The axis of features of what a Linear or Conv makes."""
    t = graph.types.get(name)
    rank = t.rank if isinstance(t, TensorType) else None
    return None if not rank else rank - 1 if op == "Linear" else 1


def size_of(graph: Graph, name: str, axis: int) -> int | None:
    """The length of a value along an axis, None when it is not a number."""
    t = graph.types.get(name)
    shape = t.shape if isinstance(t, TensorType) else None
    d = shape[axis] if shape is not None and axis < len(shape) else None
    return d if isinstance(d, int) else None


def is_padded(n: Node) -> bool:
    """Whether a window of the node may reach over the edge."""
    pads = n.attrs.get("pads")
    return n.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or (isinstance(pads, tuple) and any(pads))


def accumulator(expr: object, x: DType) -> tuple[Expr, DType] | None:
    """(epilogue, type of its first argument); None when nothing tells the type."""
    if not isinstance(expr, Expr):
        return (arg(0, x), x) if x is DType.F32 else None
    found = _first_argument(expr)
    return None if found is None else (expr, found)


def _first_argument(e: Expr) -> DType | None:
    """The type of argument 0, None when e does not read it."""
    waiting, seen = [e], set[int]()
    while waiting:
        part = waiting.pop()
        if part.op == "input" and part.value == 0:
            return part.dtype
        waiting += [a for a in part.args if id(a) not in seen]
        seen |= {id(a) for a in part.args}
    return None


def known_features(graph: Graph) -> dict[str, Known]:
    """Value name -> what is known of its features, of values that have a known one."""
    found: dict[str, Known] = {}
    for n in graph.nodes:
        made = _of_node(graph, n, found)
        if made is not None and made.there.any():
            found[n.outputs[0]] = made
    return found


def _of_node(graph: Graph, n: Node, found: Mapping[str, Known]) -> Known | None:
    if n.domain == SKIPJACK and n.op in ("Linear", "Conv"):
        return _contracted(graph, n, found)
    if n.key == (SKIPJACK, "Pointwise"):
        return _pointwise(graph, n, found)
    if n.key == (SKIPJACK, "Attention"):
        return _attended(n, found)
    if n.domain == ONNX and n.op in POOLS and len([o for o in n.outputs if o]) == 1:
        x = found.get(n.input(0))
        averaged = n.op == "AveragePool" and is_padded(n)
        return None if x is None else Known(x.axis, x.there & (x.values == 0) if averaged else x.there, x.values)
    return None


def usable(n: Node, x: Known) -> np.ndarray:
    """The features of an input that a contraction may take as constant; where it pads, those that equal the padding."""
    if n.op == "Conv" and is_padded(n):
        return x.there & (x.values == n.attrs.get("pad_code", 0))
    return x.there


def per_pair(n: Node, w: np.ndarray) -> np.ndarray:
    """The weight summed over taps: [outputs, inputs of a group]. Integers exactly, the rest in f64."""
    wide = w.astype(np.int64 if w.dtype.kind in "iu" else np.float64)
    return wide.T if n.op == "Linear" else wide.reshape(*w.shape[:2], -1).sum(axis=2)


def reads(n: Node, w: np.ndarray) -> np.ndarray:
    """Which inputs of its group each output reads: [outputs, inputs]."""
    return (w != 0).T if n.op == "Linear" else np.asarray(w.reshape(*w.shape[:2], -1).any(axis=2))


def _contracted(graph: Graph, n: Node, found: Mapping[str, Known]) -> Known | None:
    w, axis = graph.constants.get(n.input(1)), features_axis(graph, n.outputs[0], n.op)
    t = graph.types.get(n.input(0))
    if w is None or axis is None or not isinstance(t, TensorType) or w.dtype.kind not in "fiu":
        return None
    ends = accumulator(n.attrs.get("epilogue"), t.dtype)
    x = found.get(n.input(0))
    if ends is None or (x is None and not _has_empty_output(n, w)):
        return None
    group = int(str(n.attrs.get("group", 1))) if n.op == "Conv" else 1
    read = reads(n, w)
    sums = np.zeros(len(read), np.int64 if w.dtype.kind in "iu" else np.float64)
    if x is not None:
        ok = usable(n, x)
        inputs = np.arange(read.shape[1]) + (np.arange(len(read)) // (len(read) // group) * read.shape[1])[:, None]
        with np.errstate(all="ignore"):
            sums += np.where(ok[inputs] & read, per_pair(n, w) * x.values[inputs], 0).sum(axis=1).astype(sums.dtype)
        read = read & ~ok[inputs]
    return _expressed(graph, n, ends, Known(axis, np.asarray(~read.any(axis=1)), sums), found, 2)


def _has_empty_output(n: Node, w: np.ndarray) -> bool:
    return not live_along(w, 1 if n.op == "Linear" else 0).all()


def live_along(w: np.ndarray, axis: int) -> np.ndarray:
    """Which indices of one of the first two axes hold a number that is not zero; reads no more than it must."""
    v = w if axis == 0 else np.swapaxes(w, 0, 1)
    alive, start, step = np.zeros(len(v), bool), 0, _FIRST_LOOK
    while start < v.shape[1] and not alive.all():
        unknown = np.flatnonzero(~alive)
        part = v[:, start : start + step]
        some = part if len(unknown) == len(v) else part[unknown]
        alive[unknown] = some.any(axis=tuple(range(1, v.ndim)))
        start, step = start + step, 2 * step
    return alive


def _expressed(
    graph: Graph, n: Node, ends: tuple[Expr, DType], start: Known, found: Mapping[str, Known], own: int
) -> Known | None:
    """The epilogue applied to what is known of the sums and of the extras."""
    expr, dtype = ends
    there, count = start.there.copy(), len(start.there)
    inputs = [start.values.astype(dtype.np)]
    for name in n.inputs[own:]:
        extra = _vector(graph, name, start.axis, count, found)
        if extra is None:
            return None
        there &= extra.there
        inputs.append(extra.values)
    with np.errstate(all="ignore"):
        values = np.broadcast_to(evaluate(expr, inputs), (count,))
    return Known(start.axis, there & np.isfinite(values), values)


def _vector(graph: Graph, name: str, axis: int, count: int, found: Mapping[str, Known]) -> Known | None:
    """What is known of an operand per feature; None when it is not laid out along the same features."""
    array = graph.constants.get(name)
    if array is not None:
        flat = array.reshape(-1)
        return Known(axis, np.ones(count, bool), np.broadcast_to(flat, (count,))) if flat.size in (1, count) else None
    t = graph.types.get(name)
    if not isinstance(t, TensorType):
        return None
    known = found.get(name)
    if known is not None and known.axis == axis and len(known.there) == count:
        return known
    return Known(axis, np.zeros(count, bool), np.zeros(count, t.dtype.np))


def _pointwise(graph: Graph, n: Node, found: Mapping[str, Known]) -> Known | None:
    some = next((k for name in n.inputs if (k := found.get(name)) is not None), None)
    expr, rank = n.attrs.get("expr"), _rank(graph, n.outputs[0])
    if some is None or not isinstance(expr, Expr) or rank is None:
        return None
    count = size_of(graph, n.outputs[0], some.axis)
    if (
        count is None
        or count != len(some.there)
        or not all(fits_features(graph, name, some.axis, count, rank) for name in n.inputs)
    ):
        return None
    inputs = [_vector(graph, name, some.axis, count, found) for name in n.inputs]
    there = np.ones(count, bool)
    for k in inputs:
        if k is None:
            return None
        there &= k.there
    with np.errstate(all="ignore"):
        values = np.broadcast_to(evaluate(expr, [k.values for k in inputs if k is not None]), (count,))
    return Known(some.axis, there & np.isfinite(values), values)


def _rank(graph: Graph, name: str) -> int | None:
    t = graph.types.get(name)
    return t.rank if isinstance(t, TensorType) else None


def fits_features(graph: Graph, name: str, axis: int, count: int, rank: int) -> bool:
    """Whether an operand of an elementwise operator is one number, a vector of features, or a value of full rank."""
    array = graph.constants.get(name)
    if array is None:
        return _rank(graph, name) == rank
    at = axis - (rank - array.ndim)
    return array.size == 1 or (array.size == count and 0 <= at < array.ndim and array.shape[at] == count)


def _attended(n: Node, found: Mapping[str, Known]) -> Known | None:
    """A mean of equal values is that value; positions that see nothing give zero."""
    v = found.get(n.input(2))
    if v is None or not has_equal_heads(n):
        return None
    masked = len(n.inputs) > 3 or bool(n.attrs.get("causal"))
    return Known(v.axis, v.there & (v.values == 0) if masked else v.there, v.values)


def has_equal_heads(n: Node) -> bool:
    """Whether queries, keys, values and outputs of an Attention all have their heads side by side, equally many."""
    layouts: Sequence[object] = [n.attrs.get(f"layout_{which}", "bsf") for which in ("q", "k", "v", "out")]
    return n.attrs.get("q_heads") == n.attrs.get("kv_heads") and set(layouts) == {"bsf"}
