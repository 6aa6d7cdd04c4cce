"""Which nodes treat the items of a batch one by one: part of the batch in, the same part of the outputs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skipjack.core.dims import Dim, Sym, exact_div, symbols
from skipjack.ir.graph import ONNX, SKIPJACK, Graph, Node
from skipjack.ir.types import TensorType
from skipjack.ops.registry import find


def batch_symbol(graph: Graph) -> str | None:
    """The symbol that is the first dimension of every input, None when there is no such one."""
    first: set[Dim] = set()
    for name in graph.inputs:
        t = graph.types.get(name)
        if not isinstance(t, TensorType) or not t.shape:
            return None
        first.add(t.shape[0])
    only = first.pop() if len(first) == 1 else 0
    return str(only) if isinstance(only, Sym) and Sym.named(str(only)) == only else None


@dataclass
class Separation:
    """For a batch symbol: the values whose memory is the items one after the other, and the nodes that keep it so."""

    graph: Graph
    batch: str

    def __post_init__(self) -> None:
        self.values: set[str] = {n for n in self.graph.inputs if self._leads(n)}
        self.nodes: list[bool] = [self._admit(node) for node in self.graph.nodes]

    def _admit(self, node: Node) -> bool:
        rule = _RULES.get(node.key)
        if rule is None and (op := find(node.domain, node.op)) is not None and op.expression is not None:
            rule = _elementwise
        if rule is None or node.input(0) == "" or any(not o for o in node.outputs):
            return False
        fine = all(self._leads(o) for o in node.outputs) and rule(self, node)
        if fine:
            self.values |= set(node.outputs)
        return fine

    def shape(self, name: str) -> tuple[Dim, ...]:
        t = self.graph.types.get(name)
        return t.shape or () if isinstance(t, TensorType) else ()

    def _leads(self, name: str) -> bool:
        """Whether the batch is a factor of the first dimension and of no other."""
        shape = self.shape(name)
        if not shape or exact_div(shape[0], Sym.named(self.batch)) is None or self.batch not in symbols(shape[0]):
            return False
        return all(self.batch not in symbols(d) for d in shape[1:])

    def constant(self, name: str) -> bool:
        return name == "" or name in self.graph.constants

    def known(self, node: Node, index: int) -> np.ndarray | None:
        return self.graph.constants.get(node.input(index))

    def first_only(self, node: Node) -> bool:
        """Input 0 is a batch, the others are constants."""
        return node.inputs[0] in self.values and all(self.constant(n) for n in node.inputs[1:])


def _first(s: Separation, node: Node) -> bool:
    return s.first_only(node)


def _renames(s: Separation, node: Node) -> bool:
    return node.inputs[0] in s.values


def _elementwise(s: Separation, node: Node) -> bool:
    """No operand may be spread along the first dimension unless it is one constant for all items."""
    rank = len(s.shape(node.outputs[0]))
    first = s.shape(node.outputs[0])[:1]
    for name in node.inputs:
        shape = s.shape(name)
        if name in s.graph.constants:
            if len(shape) == rank and shape[0] != 1:
                return False
        elif name and (name not in s.values or len(shape) != rank or shape[:1] != first):
            return False
    return any(name in s.values for name in node.inputs)


def _with_extras(s: Separation, node: Node) -> bool:
    """A contraction with constant weights; extras are per-feature constants or tensors like the output."""
    same = s.shape(node.outputs[0])
    extras = [n for n in node.inputs[2:] if n and n not in s.graph.constants]
    fine = all(n in s.values and s.shape(n) == same for n in extras)
    return fine and node.inputs[0] in s.values and s.constant(node.input(1))


def _axis(s: Separation, node: Node, default: int) -> int:
    value = node.attrs.get("axis", default)
    rank = len(s.shape(node.inputs[0]))
    assert isinstance(value, int), "axis is an integer"
    return value % rank if rank else 0


def _beyond_axis(default: int) -> Callable[[Separation, Node], bool]:
    return lambda s, node: s.first_only(node) and _axis(s, node, default) != 0


def _concat(s: Separation, node: Node) -> bool:
    firsts = {s.shape(n)[:1] for n in node.inputs}
    return all(n in s.values for n in node.inputs) and len(firsts) == 1 and _axis(s, node, 0) != 0


def _split(s: Separation, node: Node) -> bool:
    return s.first_only(node) and _axis(s, node, 0) != 0


def _slice(s: Separation, node: Node) -> bool:
    axes = s.known(node, 3)
    return s.first_only(node) and axes is not None and 0 not in axes.reshape(-1).tolist() and min(axes.reshape(-1)) > 0


def _pad(s: Separation, node: Node) -> bool:
    pads, axes = s.known(node, 1), s.known(node, 3)
    if pads is None or axes is not None or not s.first_only(node):
        return False
    return pads.reshape(-1)[0] == 0 and pads.reshape(-1)[pads.size // 2] == 0


def _transpose(s: Separation, node: Node) -> bool:
    perm = node.attrs.get("perm")
    return isinstance(perm, tuple) and len(perm) > 0 and perm[0] == 0 and s.first_only(node)


def _resize(s: Separation, node: Node) -> bool:
    return s.first_only(node) and s.shape(node.inputs[0])[0] == s.shape(node.outputs[0])[0]


def _gather(s: Separation, node: Node) -> bool:
    if _axis(s, node, 0) == 0:
        return s.constant(node.inputs[0]) and node.inputs[1] in s.values
    return s.first_only(node)


def _reduce(s: Separation, node: Node) -> bool:
    axes = s.known(node, 1)
    return s.first_only(node) and axes is not None and axes.size > 0 and min(axes.reshape(-1)) > 0


def _attention(s: Separation, node: Node) -> bool:
    batch = Sym.named(s.batch)
    operands = all(n in s.values and s.shape(n)[0] == batch for n in node.inputs[:3])
    mask = node.input(3)
    return operands and (mask == "" or (mask in s.values and len(s.shape(mask)) == 4 and s.shape(mask)[0] == batch))


_RULES: dict[tuple[str, str], Callable[[Separation, Node], bool]] = {
    **{(SKIPJACK, op): _with_extras for op in ("Conv", "ConvTranspose", "Linear")},
    (SKIPJACK, "Pointwise"): _elementwise,
    (SKIPJACK, "Attention"): _attention,
    (SKIPJACK, "Reorder"): _first,
    **{
        (ONNX, op): _first
        for op in (
            "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool",
            "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace", "SpaceToDepth",
            "Identity",
        )
    },
    **{(ONNX, op): _renames for op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    **{(ONNX, op): _beyond_axis(-1) for op in ("LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax")},
    **{(ONNX, op): _beyond_axis(0) for op in ("ArgMax", "ArgMin")},
    **{(ONNX, op): _reduce for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")},
    (ONNX, "Concat"): _concat,
    (ONNX, "Split"): _split,
    (ONNX, "Slice"): _slice,
    (ONNX, "Pad"): _pad,
    (ONNX, "Transpose"): _transpose,
    (ONNX, "Resize"): _resize,
    (ONNX, "Gather"): _gather,
}  # fmt: skip
