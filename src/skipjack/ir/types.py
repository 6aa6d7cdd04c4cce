"""What a value is: its element type, its shape, how it lies in memory, how zeros and quantisation are stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from skipjack.core.dims import Dim, product
from skipjack.core.dtypes import DType

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Layout:
    """Order of elements in memory.

    `plain`: C order. `blocked`: an [N, C, spatial...] tensor stored as [N][C/block][spatial...][block], C padded with
    zeros to a multiple of block.
    """

    kind: Literal["plain", "blocked"] = "plain"
    block: int = 1

    def __str__(self) -> str:
        return self.kind if self.kind == "plain" else f"{self.kind}{self.block}"


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
