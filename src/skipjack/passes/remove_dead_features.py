"""Drop features that nothing reads or whose value is known: empty rows and columns, channels, heads of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK, Attr, Graph, Node, frozen
from skipjack.ir.graph import reads as names_read
from skipjack.ir.types import TensorType
from skipjack.lang.expr import Expr, arg
from skipjack.passes.expressions import arguments, substitute
from skipjack.passes.known_features import (
    POOLS,
    Known,
    accumulator,
    features_axis,
    fits_features,
    has_equal_heads,
    known_features,
    live_along,
    per_pair,
    size_of,
    usable,
)
from skipjack.passes.propagate_types import typed
from skipjack.passes.rewrite import without_dead_code

_ROUNDS = 8
_FREE_BELOW = 64


@dataclass(frozen=True)
class RemoveDeadFeatures:
    """Features of Linear, Conv, and Attention between them, that no later layer needs are not computed.

    A feature is not needed where weights are zero, and where its value is known: that goes into the next layer's sum.
    Wide rows of tokens keep a multiple of `multiple` features, so that they stay aligned. Of features that layers with
    integer weights read, whole fours go: the others stay neighbours, and weights that are zero in fours stay so.
    """

    multiple: int = 16
    name: str = "remove_dead_features"

    def apply(self, graph: Graph) -> Graph:
        for _ in range(_ROUNDS):
            changed = _Removal(graph, self.multiple).run()
            if changed is None:
                break
            graph = changed
        return graph


@dataclass
class _Group:
    """Values that have the same features: an operator between them works feature by feature, or head by head."""

    axis: int
    size: int
    values: set[str] = field(default_factory=set[str])
    locked: bool = False
    granule: int = 1
    tokens: bool = False


class _Removal:
    """One round over one graph."""

    def __init__(self, graph: Graph, multiple: int) -> None:
        self.graph, self.multiple = graph, multiple
        self.known = known_features(graph)
        self.group_of: dict[str, _Group] = {}
        self.consumers: dict[str, list[Node]] = {}
        self.weights: dict[int, np.ndarray] = {}
        self.offsets: dict[int, np.ndarray] = {}
        self.vectors: dict[tuple[int, int], np.ndarray] = {}
        self.heads: dict[int, int] = {}

    def run(self) -> Graph | None:
        """The graph with fewer features, None when there is nothing to drop."""
        for n in self.graph.nodes:
            self.visit(n)
        for name in (*self.graph.outputs, *(c for n in self.graph.nodes for _, b in n.subgraphs() for c in b.captured)):
            self.lock(name)
        dropped: set[str] = set()
        for group in {id(g): g for g in self.group_of.values()}.values():
            keep = self.kept(group)
            if keep is not None:
                self.shrink(group, keep)
                dropped |= group.values
        return self.rewritten(dropped) if dropped else None

    def lock(self, name: str) -> None:
        if name in self.group_of:
            self.group_of[name].locked = True

    def start(self, name: str, axis: int | None, tokens: bool) -> None:
        size = None if axis is None else size_of(self.graph, name, axis)
        if axis is not None and size is not None:
            self.group_of[name] = _Group(axis, size, {name}, tokens=tokens)

    def join(self, a: str, b: str) -> None:
        """Both values have the same features; where one of them cannot be cut, the other cannot either."""
        first, second = self.group_of.get(a), self.group_of.get(b)
        if first is None or second is None or (first.axis, first.size) != (second.axis, second.size):
            self.lock(a)
            self.lock(b)
            return
        if first is not second:
            first.values |= second.values
            first.locked |= second.locked
            first.tokens |= second.tokens
            # Both are 1, the same, or one divides the other's heads; a head of the larger kind covers the smaller.
            first.granule = int(np.lcm(first.granule, second.granule))
            for name in second.values:
                self.group_of[name] = first

    def visit(self, n: Node) -> None:
        if n.domain == SKIPJACK and n.op in ("Linear", "Conv") and self.is_plain(n):
            self.contraction(n)
        elif n.key == (SKIPJACK, "Pointwise"):
            self.pointwise(n)
        elif n.domain == ONNX and n.op in POOLS and len([o for o in n.outputs if o]) == 1:
            self.follow(n, n.input(0))
        elif n.key == (SKIPJACK, "Attention") and has_equal_heads(n) and self.mask_is_shared(n):
            self.attention(n)
        else:
            for name in names_read(n):
                self.lock(name)

    def is_plain(self, n: Node) -> bool:
        """Whether the weight is constant and the type of its sums known."""
        w, t = self.graph.constants.get(n.input(1)), self.graph.types.get(n.input(0))
        return (
            w is not None
            and w.dtype.kind in "fiu"
            and isinstance(t, TensorType)
            and accumulator(n.attrs.get("epilogue"), t.dtype) is not None
        )

    def contraction(self, n: Node) -> None:
        x, y = n.input(0), n.outputs[0]
        self.start(y, features_axis(self.graph, y, n.op), n.op == "Linear")
        if _group(n) == 1:
            self.consumers.setdefault(x, []).append(n)
            if x in self.group_of and self.group_of[x].axis != features_axis(self.graph, x, n.op):
                self.lock(x)
        elif self.is_depthwise(n):
            self.join(x, y)
        else:
            self.lock(x)
            self.lock(y)
        size = self.group_of[y].size if y in self.group_of else 0
        for name in n.inputs[2:]:
            array = self.graph.constants.get(name)
            if array is None and not self.is_scalar(name):
                self.join(name, y)
            elif array is not None and array.size != 1 and array.shape != (size,):
                self.lock(y)

    def is_scalar(self, name: str) -> bool:
        t = self.graph.types.get(name)
        return isinstance(t, TensorType) and t.shape in ((), (1,))

    def is_depthwise(self, n: Node) -> bool:
        w = self.graph.constants[n.input(1)]
        return n.op == "Conv" and _group(n) == w.shape[0] and w.shape[1] == 1

    def follow(self, n: Node, x: str) -> None:
        """The output has the features of an input."""
        y = n.outputs[0]
        group = self.group_of.get(x)
        if group is not None:
            self.start(y, group.axis, group.tokens)
        self.join(x, y)

    def pointwise(self, n: Node) -> None:
        runtime = [name for name in n.inputs if name not in self.graph.constants and not self.is_scalar(name)]
        source = next((self.group_of[name] for name in runtime if name in self.group_of), None)
        t = self.graph.types.get(n.outputs[0])
        fits = source is not None and isinstance(t, TensorType) and t.rank is not None
        if source is None or not fits or not isinstance(t, TensorType):
            return
        rank = t.rank or 0
        if all(fits_features(self.graph, name, source.axis, source.size, rank) for name in n.inputs if name in runtime
               or name in self.graph.constants):  # fmt: skip
            self.start(n.outputs[0], source.axis, source.tokens)
        for name in runtime:
            self.join(name, n.outputs[0])

    def mask_is_shared(self, n: Node) -> bool:
        """Whether all heads read the same mask."""
        if not n.input(3):
            return len(n.inputs) <= 3
        t = self.graph.types.get(n.input(3))
        shape = t.shape if isinstance(t, TensorType) else None
        return len(n.inputs) == 4 and shape is not None and (len(shape) < 3 or shape[-3] == 1)

    def attention(self, n: Node) -> None:
        heads = int(str(n.attrs.get("q_heads")))
        self.follow(n, n.input(2))
        for name in n.inputs[:2]:
            self.join(name, n.outputs[0])
        group = self.group_of.get(n.outputs[0])
        if group is not None:
            group.granule = int(np.lcm(group.granule, group.size // heads))
        self.lock(n.input(3))

    def kept(self, group: _Group) -> np.ndarray | None:
        """The features that stay, None when all do."""
        if group.locked or group.size % group.granule:
            return None
        dead = np.ones(group.size, bool)
        for name in group.values:
            for n in self.consumers.get(name, []):
                dead &= ~self.needed(n, self.known.get(name))
        dead = dead.reshape(-1, group.granule).all(axis=1).repeat(group.granule)
        if any(self.weight(n).dtype.kind in "iu" for name in group.values for n in self.consumers.get(name, [])):
            dead = _whole_fours(dead)
        if group.tokens and group.granule == 1 and group.size > _FREE_BELOW:
            stay = -(-int((~dead).sum()) // self.multiple) * self.multiple
            dead[np.flatnonzero(dead)[: max(stay - int((~dead).sum()), 0)]] = False
        if dead.all():
            dead[: group.granule] = False
        return np.flatnonzero(~dead) if dead.any() else None

    def needed(self, n: Node, known: Known | None) -> np.ndarray:
        """Which input features a layer reads and does not know."""
        read = live_along(self.weight(n), 0 if n.op == "Linear" else 1)
        return read if known is None else read & ~usable(n, known)

    def weight(self, n: Node) -> np.ndarray:
        return self.weights.get(id(n), self.graph.constants[n.input(1)])

    def shrink(self, group: _Group, keep: np.ndarray) -> None:
        for n in self.graph.nodes:
            if n.outputs and n.outputs[0] in group.values:
                self.make_less(n, group, keep)
        for name in group.values:
            for n in self.consumers.get(name, []):
                self.read_less(n, self.known.get(name), keep)

    def make_less(self, n: Node, group: _Group, keep: np.ndarray) -> None:
        """The node makes only these features."""
        own = 2 if n.op in ("Linear", "Conv") else 0
        if own:
            w = self.weight(n)
            self.weights[id(n)] = w[:, keep] if n.op == "Linear" else w[keep]
            if id(n) in self.offsets:
                self.offsets[id(n)] = self.offsets[id(n)][keep]
        if n.op == "Attention":
            self.heads[id(n)] = len(keep) // (group.size // int(str(n.attrs.get("q_heads"))))
            return
        for i in range(own, len(n.inputs)):
            array = self.graph.constants.get(n.inputs[i])
            if array is not None and array.size == group.size and array.size != 1:
                axis = next(a for a, d in enumerate(array.shape) if d == group.size)
                self.vectors[id(n), i] = np.take(array, keep, axis=axis)

    def read_less(self, n: Node, known: Known | None, keep: np.ndarray) -> None:
        """The node reads only these features; what it knows of the others goes into its sums."""
        w = self.weight(n)
        gone = np.setdiff1d(np.arange(w.shape[0] if n.op == "Linear" else w.shape[1]), keep)
        if known is not None:
            ok = gone[usable(n, known)[gone]]
            sums = per_pair(n, w)[:, ok] @ known.values[ok].astype(np.int64 if w.dtype.kind in "iu" else np.float64)
            self.offsets[id(n)] = self.offsets.get(id(n), 0) + sums
        self.weights[id(n)] = w[keep] if n.op == "Linear" else w[:, keep]

    def rewritten(self, dropped: set[str]) -> Graph:
        constants = dict(self.graph.constants)
        nodes: list[Node] = []
        for n in self.graph.nodes:
            nodes.append(_Rewritten(self, n, constants).node())
        types = {name: t for name, t in self.graph.types.items() if name not in dropped}
        graph = self.graph.with_nodes(nodes, constants=frozen(constants), types=frozen(types))
        return typed(without_dead_code(graph)).graph


def _whole_fours(dead: np.ndarray) -> np.ndarray:
    """Only those whose four of neighbours is dead as a whole; the last one may have fewer."""
    full = np.concatenate([dead, np.ones(-len(dead) % 4, bool)])
    return full.reshape(-1, 4).all(axis=1).repeat(4)[: len(dead)]


class _Rewritten:
    """One node with its new weight, vectors, offset and attributes; new constants are put into `constants`."""

    def __init__(self, removal: _Removal, n: Node, constants: dict[str, np.ndarray]) -> None:
        self.r, self.n, self.constants = removal, n, constants
        self.inputs = list(n.inputs)
        self.attrs: dict[str, Attr] = dict(n.attrs)

    def node(self) -> Node:
        n, r = self.n, self.r
        vectors = {i: v for (node, i), v in r.vectors.items() if node == id(n)}
        if id(n) not in r.weights and not vectors and id(n) not in r.heads:
            return n
        if id(n) in r.weights:
            w = r.weights[id(n)]
            self.put(1, w)
            if n.op == "Conv" and _group(n) > 1:
                self.attrs["group"] = len(w)
        for i, array in vectors.items():
            self.put(i, array)
        if id(n) in r.heads:
            self.attrs |= {"q_heads": r.heads[id(n)], "kv_heads": r.heads[id(n)]}
        if id(n) in r.offsets and r.offsets[id(n)].any():
            self.add(r.offsets[id(n)])
        return Node(n.op, tuple(self.inputs), n.outputs, MappingProxyType(self.attrs), n.domain, n.origin)

    def put(self, index: int, array: np.ndarray) -> None:
        self.inputs[index] = self.named(f"{self.n.inputs[index]}.live", array)

    def named(self, near: str, array: np.ndarray) -> str:
        name, count = near, 0
        while name in self.constants or name in self.r.graph.types:
            count += 1
            name = f"{near}.{count}"
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def add(self, offset: np.ndarray) -> None:
        """Add numbers per output feature to the sums: to a bias that is added to them first, else as a new one."""
        t = self.r.graph.types[self.n.input(0)]
        assert isinstance(t, TensorType), "the input of a contraction is a tensor"
        ends = accumulator(self.n.attrs.get("epilogue"), t.dtype)
        assert ends is not None, "only layers with a known type of sums were changed"
        expr, dtype = ends
        index = _bias(expr, dtype, {i - 1: self.constants.get(x) for i, x in enumerate(self.inputs) if i >= 2})
        if index is not None:
            bias = self.constants[self.inputs[index + 1]]
            exact = bias.astype(offset.dtype) + offset
            self.inputs[index + 1] = self.named(f"{self.inputs[index + 1]}.folded", exact.astype(dtype.np))
            return
        extra = arg(len(self.inputs) - 1, dtype)
        self.inputs.append(self.named(f"{self.n.outputs[0]}.known", offset.astype(dtype.np)))
        self.attrs["epilogue"] = substitute(expr, {0: arg(0, dtype) + extra})


def _bias(expr: Expr, dtype: DType, vectors: Mapping[int, np.ndarray | None]) -> int | None:
    """The argument that a vector per feature is, when it is only ever added to the sums, and they only to it."""
    for index, array in vectors.items():
        if array is None or array.ndim != 1 or array.size == 1:
            continue
        without = _replaced(expr, arg(0, dtype) + arg(index, dtype), arg(-1, dtype), {})
        if without is not expr and not arguments(without) & {0, index}:
            return index
    return None


def _replaced(e: Expr, old: Expr, new: Expr, memo: dict[int, Expr]) -> Expr:
    """e with the subexpression old replaced; e itself when it is nowhere in it."""
    if id(e) not in memo:
        args = tuple(_replaced(a, old, new, memo) for a in e.args)
        same = all(a is b for a, b in zip(args, e.args, strict=True))
        memo[id(e)] = new if e == old else e if same else Expr(e.op, args, e.dtype, e.value)
    return memo[id(e)]


def _group(n: Node) -> int:
    return int(str(n.attrs.get("group", 1))) if n.op == "Conv" else 1
