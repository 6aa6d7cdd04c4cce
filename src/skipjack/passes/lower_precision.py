"""Products of bf16 in a model of f32, when the caller asks for them: weights and what they multiply are rounded.

Sums, norms, softmax and every other operator stay f32. An image is held as bf16 where only convolutions read it: then
a residual is rounded as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

import ml_dtypes
import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, SKIPJACK, Attr, Graph, Node, frozen
from skipjack.ir.types import TensorType
from skipjack.lang.expr import Expr, arg, cast
from skipjack.passes.expressions import substitute
from skipjack.passes.propagate_types import typed
from skipjack.passes.rewrite import without_dead_code

FP32, BF16 = "fp32", "bf16"
PRECISIONS = (FP32, BF16)
_FEWEST_CHANNELS = 16
_MOST_ZEROS = 0.6


@dataclass(frozen=True)
class LowerPrecision:
    """Linear and Conv of f32 with constant dense weights, and Attention of f32, multiply bf16 and add up in f32.

    held: rounded values are stored as bf16, for kernels that multiply them; else as f32, so that the kernels of f32
    give the same products. Weights that are mostly zeros, convolutions by group and most of those of few channels stay
    f32: other kernels are faster there. Attention rounds as it computes, so only where rounded values are held.
    """

    held: bool = True
    name: str = "lower_precision"

    def apply(self, graph: Graph) -> Graph:
        lowered = [n for n in graph.nodes if _multiplies(graph, n)]
        lowered += [n for n in graph.nodes if self.held and _attends(graph, n)]
        return _Lowering(graph, lowered, self.held).run() if lowered else graph


def _multiplies(graph: Graph, n: Node) -> bool:
    """Whether the node is a contraction that gains."""
    if n.domain != SKIPJACK or n.op not in ("Linear", "Conv") or not _is_f32(graph, n.inputs[0]):
        return False
    w = graph.constants.get(n.inputs[1])
    if w is None or w.dtype != np.float32 or n.inputs[0] in graph.constants:
        return False
    if n.op == "Conv" and (n.attrs.get("group", 1) != 1 or (w.shape[1] < _FEWEST_CHANNELS and not _halves(graph, n))):
        return False
    return not _is_sparse(w)


def _attends(graph: Graph, n: Node) -> bool:
    """Whether the node is attention that has not been lowered, of operands of f32."""
    attends = n.key == (SKIPJACK, "Attention") and "products" not in n.attrs
    return attends and all(_is_f32(graph, x) for x in n.inputs[:3])


def _halves(graph: Graph, n: Node) -> bool:
    """Whether a convolution steps over the pairs of an even row of pixels."""
    shape = graph.tensor(n.inputs[0]).shape
    width = shape[-1] if shape else None
    strides = n.attrs.get("strides")
    return isinstance(width, int) and width % 2 == 0 and isinstance(strides, tuple) and strides[-1] == 2


def _is_sparse(w: np.ndarray | None) -> bool:
    """Whether the weights are mostly zeros, or not known."""
    return w is None or int(np.count_nonzero(w)) < (1 - _MOST_ZEROS) * w.size


def _is_f32(graph: Graph, name: str) -> bool:
    t = graph.types.get(name)
    return isinstance(t, TensorType) and t.dtype is DType.F32


class _Lowering:
    """One walk over the nodes."""

    def __init__(self, graph: Graph, lowered: Iterable[Node], held: bool) -> None:
        self.graph, self.held = graph, held
        self.attention = {id(n) for n in lowered if n.op == "Attention"}
        self.lowered = {id(n) for n in lowered} - self.attention
        self.constants = dict(graph.constants)
        self.names = set(graph.types) | set(graph.constants)
        self.consumers = graph.consumers()
        self.kept = {*graph.outputs, *(c for n in graph.nodes for _, body in n.subgraphs() for c in body.captured)}
        self.half: dict[str, str] = {}
        self.joined: set[int] = set()
        if held:
            self._find_joined()
        self.only_half = {o for n in graph.nodes for o in n.outputs if self._read_as_half(n, o)}

    def run(self) -> Graph:
        nodes = [made for n in self.graph.nodes for made in self.rewritten(n)]
        graph = self.graph.with_nodes(nodes, constants=frozen(self.constants))
        return typed(without_dead_code(graph)).graph

    def _find_joined(self) -> None:
        """Images that are put together for convolutions only: they are rounded before that."""
        for n in reversed(self.graph.nodes):
            if n.key != (ONNX, "Concat") or n.attrs.get("axis") != 1 or n.outputs[0] in self.kept:
                continue
            rank = self.graph.tensor(n.outputs[0]).rank
            computed = all(_is_f32(self.graph, i) and i not in self.graph.constants for i in n.inputs)
            readers = self.consumers.get(n.outputs[0], [])
            if computed and rank and rank >= 3 and readers and all(self._takes_half(r, n.outputs[0]) for r in readers):
                self.joined.add(id(n))

    def _read_as_half(self, made_by: Node, name: str) -> bool:
        """Whether a value need not exist as f32: every reader rounds it, or adds it to an image."""
        if name in self.kept or not _is_f32(self.graph, name) or _expression(made_by) is None:
            return False
        if made_by.op == "Conv" and _is_sparse(self.graph.constants.get(made_by.inputs[1])):
            return False
        readers = self.consumers.get(name, [])
        return bool(readers) and all(self._takes_half(r, name) for r in readers)

    def _takes_half(self, n: Node, name: str) -> bool:
        if id(n) in self.joined:
            return True
        if id(n) not in self.lowered or n.inputs[1] == name:
            return False
        return n.op == "Conv" or name not in n.inputs[2:]

    def rewritten(self, n: Node) -> Iterator[Node]:
        """The node, after the node that rounds what it multiplies."""
        if id(n) in self.joined:
            for x in n.inputs:
                yield from self.rounding(n, x)
            self.half[n.outputs[0]] = self.name(n.outputs[0])
            yield replace(n, inputs=tuple(self.half[x] for x in n.inputs), outputs=(self.half[n.outputs[0]],))
            return
        if id(n) in self.attention:
            yield n.with_attrs(products=BF16)
            return
        if id(n) in self.lowered:
            yield from self.rounding(n, n.inputs[0])
            n = replace(n, inputs=(self.half[n.inputs[0]], self.weight(n.inputs[1]), *n.inputs[2:]))
            n = n.with_attrs(epilogue=_epilogue(n))
        n = self.with_half_extras(n)
        if len(n.outputs) == 1 and n.outputs[0] in self.only_half:
            key = "expr" if n.op == "Pointwise" else "epilogue"
            expr = _expression(n)
            assert expr is not None, "only nodes with an expression make values that are all rounded"
            self.half[n.outputs[0]] = self.name(n.outputs[0])
            n = replace(n, outputs=(self.half[n.outputs[0]],)).with_attrs(**{key: self.rounded(expr)})
        yield n

    def rounding(self, n: Node, x: str) -> Iterator[Node]:
        """The node that rounds a value before n reads it, when none did."""
        if x not in self.half:
            self.half[x] = self.name(x)
            attrs: dict[str, Attr] = {"expr": self.rounded(arg(0, DType.F32))}
            yield Node("Pointwise", (x,), (self.half[x],), MappingProxyType(attrs), SKIPJACK, n.origin)

    def with_half_extras(self, n: Node) -> Node:
        """The node reading rounded residuals where those alone exist."""
        changed = {i: self.half[x] for i, x in enumerate(n.inputs) if i >= 2 and x in self.only_half}
        if not changed:
            return n
        expr = _expression(n)
        assert expr is not None, "an extra input belongs to an epilogue"
        if self.held:
            expr = substitute(expr, {i - 1: cast(arg(i - 1, DType.BF16), DType.F32) for i in changed})
        inputs = tuple(changed.get(i, x) for i, x in enumerate(n.inputs))
        return replace(n, inputs=inputs).with_attrs(epilogue=expr)

    def rounded(self, expr: Expr) -> Expr:
        half = cast(expr, DType.BF16)
        return half if self.held else cast(half, DType.F32)

    def weight(self, name: str) -> str:
        """The rounded constant, made once."""
        if name not in self.half:
            self.half[name] = self.name(name)
            half = self.constants[name].astype(ml_dtypes.bfloat16)
            self.constants[self.half[name]] = half if self.held else half.astype(np.float32)
        return self.half[name]

    def name(self, near: str) -> str:
        """A new name for a rounded value."""
        found = f"{near}.bf16"
        while found in self.names:
            found += "_"
        self.names.add(found)
        return found


def _epilogue(n: Node) -> Expr:
    """What a contraction computes of its f32 sums."""
    found = n.attrs.get("epilogue")
    return found if isinstance(found, Expr) else arg(0, DType.F32)


def _expression(n: Node) -> Expr | None:
    """What the node computes of its accumulator or inputs; None when it is no node with an expression."""
    if n.domain != SKIPJACK or n.op not in ("Linear", "Conv", "Pointwise"):
        return None
    found = n.attrs.get("expr")
    return found if isinstance(found, Expr) else _epilogue(n)
