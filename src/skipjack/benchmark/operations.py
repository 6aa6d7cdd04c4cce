"""What a node does in numbers: its arithmetic operations, for nodes of a file and of a plan alike."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from skipjack.ir.graph import Node
from skipjack.ops.weights import WEIGHTED, Weighted

ShapeOf = Callable[[str], tuple[int, ...] | None]
_MOVES = frozenset(
    [
        *("Cast", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather"),
        *("GatherElements", "GatherND", "Identity", "Pad", "Pack", "Repack", "Reshape", "ScatterElements", "ScatterND"),
        *("Shape", "Size", "SizeVector", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    ]
)
_POOLS = frozenset(["MaxPool", "AveragePool", "LpPool"])
_READS_ALL = frozenset(["GlobalAveragePool", "GlobalMaxPool"])


def operations(node: Node, shape_of: ShapeOf) -> int | None:
    """Arithmetic operations of a node, a multiply-add counted as two, zeros counted like any number.

    Exact for convolutions, products, attention, recurrences and pools; nodes that only move data have none, every
    other node has one per element of its output. None while a shape is unknown.
    """
    out = shape_of(node.outputs[0]) if node.outputs and node.outputs[0] else None
    if out is None:
        return None
    entry = WEIGHTED.get(node.key)
    if entry is not None and entry.form != "table":
        depth = _multiply_adds_per_element(node, entry, shape_of)
        return None if depth is None else 2 * depth * _elements_counted(node, entry, shape_of, out)
    if node.op in _MOVES:
        return 0
    if node.op == "Attention":
        return _attention(node, shape_of)
    if node.op in _POOLS:
        return prod(out) * prod(_ints(node.attrs.get("kernel_shape")))
    if node.op in _READS_ALL or node.op.startswith("Reduce"):
        read = shape_of(node.input(0))
        return None if read is None else prod(read)
    return prod(out)


def _multiply_adds_per_element(node: Node, entry: Weighted, shape_of: ShapeOf) -> int | None:
    weight, data = shape_of(node.input(entry.weight)), shape_of(node.input(entry.data))
    if entry.form == "bits":
        return _int(node.attrs.get("K"))
    if weight is None or data is None or not data:
        return None
    if entry.form in ("conv", "conv_transpose"):
        return prod(weight[1:])
    if entry.form == "recurrent":
        state = shape_of(node.input(2))
        return None if state is None else prod(weight) + prod(state)
    if entry.form == "gemm":
        return data[0] if node.attrs.get("transA") else data[-1]
    transposed = bool(node.attrs.get("trans_a") or node.attrs.get("transA")) and len(data) > 1
    return data[len(data) - 1 - transposed]


def _elements_counted(node: Node, entry: Weighted, shape_of: ShapeOf, out: tuple[int, ...]) -> int:
    """How often they happen: per output, per input of a transposed convolution, per step of a recurrence."""
    data = shape_of(node.input(entry.data)) or ()
    if entry.form == "conv_transpose":
        return prod(data)
    return prod(data[:2]) if entry.form == "recurrent" else prod(out)


def _attention(node: Node, shape_of: ShapeOf) -> int | None:
    """Scores and their product with the values."""
    query, key = shape_of(node.input(0)), shape_of(node.input(1))
    return None if query is None or key is None or len(key) < 2 else 4 * prod(query) * key[-2]


def _ints(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else ()


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) else None
