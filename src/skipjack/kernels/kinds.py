"""Kinds of layout: what a lowering asks for, and the layout that is for a value of some type on some target.

plain: C order. blocked: channels in vector lanes. Two more have positions in vector lanes, for kernels that skip
weights: quads for images (elements of one byte in blocks of four channels, wider ones plain [N, C, pixels]), columns
for token matrices (tiles of 64 positions, k-packed so that 4 bytes hold neighbouring features of one position).
"""

from __future__ import annotations

from skipjack.core.dtypes import DType
from skipjack.ir.types import PLAIN, Layout
from skipjack.targets.target import Target

TILE = 64
QUAD = Layout("blocked", 4)
KINDS = ("plain", "blocked", "quads", "columns")


def columns(dtype: DType) -> Layout:
    """The column-tile layout of a token matrix; dtype has 1, 2 or 4 bytes."""
    return Layout("columns", TILE, 4 // dtype.itemsize)


def layout_of(kind: str, dtype: DType, rank: int, target: Target) -> Layout | None:
    """The layout a value has under a kind; None when it cannot have one."""
    if kind == "plain":
        return PLAIN
    if kind == "blocked":
        return Layout("blocked", target.vl) if rank >= 3 else PLAIN
    if kind == "quads":
        return QUAD if rank >= 3 and dtype.itemsize == 1 else PLAIN
    if rank < 2:
        return PLAIN
    return columns(dtype) if dtype.itemsize in (1, 2, 4) and dtype is not DType.BOOL else None


def kind_of_input(layouts: str, index: int) -> str:
    """The kind of layout that input `index` has under a lowering's `layouts`."""
    first, _, rest = layouts.partition(">")
    return first if index == 0 or not rest else rest


def kind_of_outputs(layouts: str) -> str:
    """The kind of layout of everything a lowering makes."""
    return layouts.partition(">")[2] or layouts
