"""Compute half precision in f32: values between operators are f32, and are rounded where the graph asks for halves.

fp16 and bf16 tensors are stored as such in the file and at the inputs and outputs of the graph. Between them nothing is
rounded, except by a Cast of the model to a half type and around operators this pass does not know (quantisation, random
numbers, control flow, sequences), which get the halves they expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX, Graph, Node, Origin, frozen
from skipjack.ir.types import TensorType
from skipjack.passes.propagate_types import typed
from skipjack.passes.rewrite import node, without_dead_code

_HALVES = frozenset({DType.F16, DType.BF16})
# Their results are rounded sums, products or functions: the more bits the better.
_COMPUTES = frozenset([
    "Abs", "Acos", "Acosh", "Add", "Asin", "Asinh", "Atan", "Atanh", "Attention", "AveragePool", "BatchNormalization",
    "Celu", "Clip", "Conv", "ConvTranspose", "Cos", "Cosh", "CumProd", "CumSum", "Div", "Einsum", "Elu", "Erf", "Exp",
    "GRU", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GridSample", "GroupNormalization", "HardSigmoid",
    "HardSwish", "InstanceNormalization", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax",
    "LpNormalization", "LpPool", "MatMul", "Mean", "MeanVarianceNormalization", "Mish", "Mul", "Neg", "PRelu", "Pow",
    "RMSNormalization", "RNN", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Resize", "RotaryEmbedding", "Selu", "Shrink", "Sigmoid",
    "Sign", "SimplifiedLayerNormalization", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub", "Sum",
    "Swish", "Tan", "Tanh", "ThresholdedRelu",
])  # fmt: skip
_COMPUTES_MS = frozenset([
    "Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedMatMul", "Gelu",
    "MultiHeadAttention", "QuickGelu", "RelativePositionBias", "RotaryEmbedding", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
])  # fmt: skip
# They hand on or compare what they are given: f32 when a computed value is among it, halves as they are otherwise.
_FOLLOWS = frozenset([
    "ArgMax", "ArgMin", "Ceil", "Compress", "Concat", "DepthToSpace", "Dropout", "Equal", "Expand", "Flatten", "Floor",
    "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "Greater", "GreaterOrEqual", "Hardmax", "Identity",
    "IsNaN", "Less", "LessOrEqual", "Max", "MaxPool", "Min", "NonZero", "Pad", "ReduceMax", "ReduceMin", "Reshape",
    "Round", "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
])  # fmt: skip


@dataclass(frozen=True)
class WidenHalf:
    """f16 and bf16 between operators become f32; graph inputs, outputs and explicit casts keep their types."""

    name: str = "widen_half"

    def apply(self, graph: Graph) -> Graph:
        if not any(_is_half(graph, name) for n in graph.nodes if _computes(n) for name in (*n.inputs, *n.outputs)):
            return graph
        return _Widening(graph).run()


def _computes(n: Node) -> bool:
    return n.op in _COMPUTES if n.domain == ONNX else n.domain == MS and n.op in _COMPUTES_MS


def _is_half(graph: Graph, name: str) -> bool:
    t = graph.types.get(name) if name else None
    return isinstance(t, TensorType) and t.dtype in _HALVES


class _Widening:
    """One walk over the nodes. wide: halves that exist as f32, by the name of the latter; made: halves that exist."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = dict(graph.constants)
        self.names = set(graph.types) | set(graph.constants)
        self.wide: dict[str, str] = {}
        self.made = {*graph.inputs, *graph.captured, *graph.constants}
        self.nodes: list[Node] = []

    def run(self) -> Graph:
        for n in self.graph.nodes:
            self.nodes += self.widened(n)
        for name in self.graph.outputs:
            self.nodes += self.as_half(name, Origin(name, "Cast"))
        graph = self.graph.with_nodes(self.nodes, constants=frozen(self.constants), types=self.kept_types())
        return typed(without_dead_code(graph)).graph

    def widened(self, n: Node) -> list[Node]:
        """The node, in f32 when it computes or reads a half that is f32 by now, after the casts it needs."""
        if n.key == (ONNX, "Cast") and n.input(0) in self.wide and n.attrs["to"] == DType.F32.onnx:
            return [replace(n, op="Identity", inputs=(self.wide[n.input(0)],), attrs=frozen({}))]
        follows = n.domain == ONNX and n.op in _FOLLOWS
        if not _computes(n) and not (follows and any(i in self.wide and not self.is_constant(i) for i in n.inputs)):
            return [*self.casts_before(n), n]
        found, inputs = list[Node](), list[str]()
        for name in n.inputs:
            if _is_half(self.graph, name):
                found += self.as_wide(name, n.origin)
            inputs.append(self.wide.get(name, name))
        outputs = [self.name(o) if _is_half(self.graph, o) else o for o in n.outputs]
        return [*found, replace(n, inputs=tuple(inputs), outputs=tuple(outputs))]

    def casts_before(self, n: Node) -> list[Node]:
        captured = [name for _, body in n.subgraphs() for name in body.captured]
        found = [cast for name in (*n.inputs, *captured) for cast in self.as_half(name, n.origin)]
        self.made.update(n.outputs)
        return found

    def as_half(self, name: str, origin: Origin) -> list[Node]:
        """What makes a half from its f32, nothing when it exists."""
        if name not in self.wide or name in self.made:
            return []
        self.made.add(name)
        to = self.graph.tensor(name).dtype.onnx
        return [replace(node("Cast", [self.wide[name]], name, to=to), origin=origin)]

    def as_wide(self, name: str, origin: Origin) -> list[Node]:
        """What makes the f32 of a half, nothing when it exists; constants are converted now."""
        if name in self.wide:
            return []
        wide = self.name(name)
        if self.is_constant(name):
            self.constants[wide] = self.graph.constants[name].astype(np.float32)
            return []
        return [replace(node("Cast", [name], wide, to=DType.F32.onnx), origin=origin)]

    def is_constant(self, name: str) -> bool:
        return name in self.graph.constants

    def name(self, half: str) -> str:
        """A new name for the f32 of a half."""
        found = f"{half}.f32"
        while found in self.names:
            found += "_"
        self.names.add(found)
        self.wide[half] = found
        return found

    def kept_types(self) -> Mapping[str, object]:
        types: dict[str, object] = dict(self.graph.types)
        for half, wide in self.wide.items():
            t = self.graph.types[half]
            assert isinstance(t, TensorType), f"{half!r} was found to be a tensor of halves"
            types[wide] = replace(t, dtype=DType.F32)
        return frozen(types)
