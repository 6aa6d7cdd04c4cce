"""Layers that stand for those of common models: kinds, sizes and densities that a table of rates is fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Attr, Graph, Node, Origin
from skipjack.ir.types import TensorType, ValueType
from skipjack.lang.expr import Expr, arg, cast, maximum, minimum, unary

_POSITIONS = 128
_SEED = 7


@dataclass(frozen=True)
class Sample:
    """One layer. size is (inputs, outputs) of a Linear, (channels, maps, kernel, pixels per side) of a Conv.

    density is the share of weights, or with block of fours of inputs, that are not zero. Integers: u8 times i8.
    """

    operator: str
    size: tuple[int, ...]
    density: float
    integers: bool = False
    block: bool = False

    @property
    def name(self) -> str:
        zeros = f"{1 - self.density:.0%}{' 1x4' if self.block else ''}"
        return f"{self.operator} {'x'.join(map(str, self.size))} {'int8' if self.integers else 'fp32'} {zeros}"

    def graph(self) -> tuple[Graph, Node]:
        """A graph of this layer alone, with a bias; integers are scaled and rounded to codes at its end."""
        x, w, y, attrs = _linear(self) if self.operator == "Linear" else _conv(self)
        features = self.size[1]
        data = DType.U8 if self.integers else DType.F32
        extras = _extras(self.integers, features)
        attributes: dict[str, Attr] = {**attrs, "epilogue": _codes() if self.integers else _biased()}
        node = Node(
            self.operator,
            ("x", "w", *extras),
            ("y",),
            MappingProxyType(attributes),
            SKIPJACK,
            Origin(self.name, self.operator),
        )
        constants = {"w": w, **extras}
        types: dict[str, ValueType] = {n: TensorType(DType.from_numpy(a.dtype), a.shape) for n, a in constants.items()}
        types |= {"x": TensorType(data, x), "y": TensorType(data, y)}
        return Graph("layer", ("x",), ("y",), (node,), types, MappingProxyType(constants)), node


def _linear(s: Sample) -> tuple[tuple[int, ...], np.ndarray, tuple[int, ...], dict[str, Attr]]:
    inputs, outputs = s.size
    w = _weight(s, (outputs, inputs)).T
    return (1, _POSITIONS, inputs), np.ascontiguousarray(w), (1, _POSITIONS, outputs), {}


def _conv(s: Sample) -> tuple[tuple[int, ...], np.ndarray, tuple[int, ...], dict[str, Attr]]:
    channels, maps, kernel, side = s.size
    w = np.moveaxis(_weight(s, (maps, kernel, kernel, channels)), 3, 1)
    attrs: dict[str, Attr] = {"pads": (kernel // 2,) * 4, "strides": (1, 1), "dilations": (1, 1), "group": 1}
    attrs["kernel_shape"] = (kernel, kernel)
    return (1, channels, side, side), np.ascontiguousarray(w), (1, maps, side, side), attrs


def _weight(s: Sample, shape: Sequence[int]) -> np.ndarray:
    """Numbers with inputs along the last axis."""
    rng = np.random.default_rng(_SEED)
    kept = rng.random((*shape[:-1], -(-shape[-1] // 4))).repeat(4, axis=-1)[..., : shape[-1]] if s.block else None
    mask = (rng.random(shape) if kept is None else kept) < s.density
    if s.integers:
        return np.where(mask, rng.integers(1, 100, shape) * rng.choice((-1, 1), shape), 0).astype(np.int8)
    return np.where(mask, rng.standard_normal(shape), 0).astype(np.float32)


def _extras(integers: bool, features: int) -> dict[str, np.ndarray]:
    bias = np.zeros(features, np.float32)
    if not integers:
        return {"b": bias}
    return {"z": np.zeros(features, np.int32), "s": np.full(features, 1e-4, np.float32), "b": bias}


def _biased() -> Expr:
    return arg(0, DType.F32) + arg(1, DType.F32)


def _codes() -> Expr:
    real = cast(arg(0, DType.I32) + arg(1, DType.I32), DType.F32) * arg(2, DType.F32) + arg(3, DType.F32)
    return cast(minimum(maximum(unary("round", real) + 128.0, 0.0), 255.0), DType.U8)


_LINEAR = ((256, 256), (384, 1536), (768, 768), (768, 3072), (3072, 768))
_CONV = (
    (64, 64, 3, 8),
    (64, 64, 3, 56),
    (64, 256, 1, 56),
    (128, 128, 3, 28),
    (512, 128, 1, 28),
    (256, 256, 3, 14),
    (512, 512, 3, 7),
)
_DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
_QUICK_LINEAR, _QUICK_CONV = _LINEAR[2:4], _CONV[2:4]
_QUICK_DENSITIES = (1.0, 0.2, 0.1)


def samples(quick: bool) -> list[Sample]:
    """The layers to time; a few of them when quick."""
    return list(_samples(quick))


def _samples(quick: bool) -> Iterator[Sample]:
    linear, conv = (_QUICK_LINEAR, _QUICK_CONV) if quick else (_LINEAR, _CONV)
    for operator, sizes in (("Linear", linear), ("Conv", conv)):
        for size in sizes:
            for density in _QUICK_DENSITIES if quick else _DENSITIES:
                yield Sample(operator, size, density)
                yield Sample(operator, size, density, integers=True)
                if density < 1:
                    yield Sample(operator, size, density, integers=True, block=True)
