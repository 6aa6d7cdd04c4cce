"""The weight of a node as explain reports it: where it is zero, and what memory it takes as stored and as packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import SKIPJACK, Node
from skipjack.ir.patterns import detect, duplicate_rows
from skipjack.ops.weights import Scope, weight_of
from skipjack.runtime.weights import Weights


@dataclass(frozen=True)
class WeightReport:
    """shape is (outputs, positions, inputs). dtype is that of the numbers the layer multiplies with.

    pattern is "dense", "unstructured", N:M or a block; blocks holds the share of the zeros in blocks of each size.
    duplicate_rows counts outputs whose weights equal those of an earlier one. bytes are the numbers' as the plan has
    them, packed_bytes what was made of them for kernels (of all layers that share the weight).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pattern: str
    sparsity: float
    blocks: Mapping[str, float]
    empty_rows: int
    empty_columns: int
    duplicate_rows: int
    bytes: int
    packed_bytes: int

    def __str__(self) -> str:
        zeros = "" if self.pattern == "dense" else f" {self.sparsity:.1%}"
        empty = f", {self.empty_rows} empty rows" if self.empty_rows else ""
        return f"{self.dtype} {self.pattern}{zeros}{empty}"


def weight_report(node: Node, scope: Scope, weights: Weights) -> WeightReport | None:
    """What there is to say of a node's weight; None when it has no constant one."""
    weight = weight_of(node, scope)
    if weight is None:
        return None
    found = detect(weight.zeros)
    outputs, positions, inputs = weight.zeros.shape
    return WeightReport(
        name=weight.name,
        dtype=weight.precision,
        shape=(outputs, positions, inputs),
        pattern=found.kind,
        sparsity=found.sparsity,
        blocks=found.blocks,
        empty_rows=found.empty_rows,
        empty_columns=found.empty_columns,
        duplicate_rows=_duplicates(node, scope.constants.get(weight.name)),
        bytes=weight.nbytes,
        packed_bytes=weights.packed_bytes(weight.name),
    )


def _duplicates(node: Node, array: np.ndarray | None) -> int:
    """Equal rows of the weight of a Linear or Conv."""
    if array is None or node.domain != SKIPJACK or node.op not in ("Linear", "Conv") or array.dtype.kind not in "fiu":
        return 0
    return duplicate_rows(array.T if node.op == "Linear" else array.reshape(len(array), -1))
