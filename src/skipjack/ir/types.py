"""What a value is: its element type, its shape, how it lies in memory, how zeros and quantisation are stored."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from skipjack.core.dims import Dim, product
from skipjack.core.dtypes import DType

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Layout:
    """Order of elements in memory.

    `plain`: C order. `blocked`: an [N, C, spatial...] tensor stored as [N][C/block][spatial...][block], C padded with
    zeros to a multiple of block. `columns`: a [positions..., F] tensor stored as
    [positions/block][F/pack][block][pack], features padded with zeros, what lies behind the last position undefined.
    """

    kind: Literal["plain", "blocked", "columns"] = "plain"
    block: int = 1
    pack: int = 1

    def __str__(self) -> str:
        return {"plain": "plain", "blocked": f"blocked{self.block}"}.get(self.kind, f"columns{self.block}x{self.pack}")

    @staticmethod
    def parse(text: str) -> Layout:
        """The layout that str() wrote; ValueError when there is no such one."""
        if text == "plain":
            return PLAIN
        found = re.fullmatch(r"blocked([1-9]\d{0,3})|columns([1-9]\d{0,3})x([124])", text)
        if found is None:
            raise ValueError(f"no layout is written {text!r}")
        blocked, columns, pack = found.groups()
        return Layout("blocked", int(blocked)) if blocked else Layout("columns", int(columns), int(pack))

    def elements(self, shape: Sequence[int]) -> int:
        """How many elements a value of this shape takes, padding included."""
        if self.kind == "plain" or not shape:
            return math.prod(shape)
        if self.kind == "blocked":
            n, c, *spatial = shape
            return n * -(-c // self.block) * self.block * math.prod(spatial)
        *positions, features = shape
        tiles = -(-math.prod(positions) // self.block)
        return tiles * self.block * -(-features // self.pack) * self.pack


PLAIN = Layout()


@dataclass(frozen=True)
class Quant:
    """Affine quantisation of a value: names of its scale and zero-point values, the axis they run along, block size."""

    scale: str
    zero_point: str
    axis: int | None = None
    block: int = 0


@dataclass(frozen=True)
class TensorType:
    """A dense or sparse array. shape is None while not even the rank is known."""

    dtype: DType
    shape: Shape | None
    layout: Layout = PLAIN
    encoding: str = "dense"
    quant: Quant | None = None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def elements(self) -> Dim | None:
        """The number of elements, None while the rank is unknown."""
        return None if self.shape is None else product(self.shape)

    def with_shape(self, shape: Shape | None) -> TensorType:
        return replace(self, shape=shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return replace(self, dtype=dtype)


@dataclass(frozen=True)
class SequenceType:
    """A list of values of one type."""

    element: ValueType


@dataclass(frozen=True)
class OptionalType:
    """A value or nothing."""

    element: ValueType


@dataclass(frozen=True)
class MapType:
    """A dictionary from keys to values (ai.onnx.ml)."""

    key: DType
    value: ValueType


ValueType = TensorType | SequenceType | OptionalType | MapType


def tensor(dtype: DType, *shape: Dim) -> TensorType:
    """A plain dense tensor type."""
    return TensorType(dtype, shape)
