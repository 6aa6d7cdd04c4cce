"""Windows that slide over spatial axes: pads, output sizes, and one view of the input per kernel element.

Convolutions and pools share it. Sizes may be symbolic in type rules; references use plain integers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.core.dims import Dim, ceildiv, dim_max, dim_min
from skipjack.ops.registry import Infer, Ref


def known(d: Dim) -> int:
    """A size that must be an integer by now."""
    assert isinstance(d, int | np.integer), f"the size {d} is used before it is known"
    return int(d)


AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Window:
    """A kernel's sizes and how it steps over the spatial axes; pads are resolved when auto_pad is NOTSET."""

    kernel: tuple[Dim, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    ceil: bool

    @property
    def rank(self) -> int:
        return len(self.kernel)

    def extent(self, axis: int) -> Dim:
        """The number of input positions that the dilated kernel spans."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def output_size(self, axis: int, size: Dim) -> Dim:
        """The number of windows along an axis of `size` input positions."""
        stride = self.strides[axis]
        if self.auto_pad.startswith("SAME"):
            return ceildiv(size, stride)
        begin, end = (0, 0) if self.auto_pad == "VALID" else (self.pads[axis], self.pads[axis + self.rank])
        room = size + begin + end - self.extent(axis)
        if not self.ceil:
            return room // stride + 1
        return dim_min(ceildiv(room, stride) + 1, ceildiv(size + begin, stride))

    def pads_for(self, sizes: Sequence[Dim]) -> list[tuple[Dim, Dim]]:
        """(before, after) of every axis, auto_pad resolved for an input of `sizes`."""
        return [self._axis_pads(a, sizes[a]) for a in range(self.rank)]

    def _axis_pads(self, axis: int, size: Dim) -> tuple[Dim, Dim]:
        if self.auto_pad == "VALID":
            return 0, 0
        if not self.auto_pad.startswith("SAME"):
            return self.pads[axis], self.pads[axis + self.rank]
        covered = (self.output_size(axis, size) - 1) * self.strides[axis] + self.extent(axis)
        total = dim_max(covered - size, 0)
        small = total // 2
        return (small, total - small) if self.auto_pad == "SAME_UPPER" else (total - small, small)


def window(x: Infer | Ref, kernel: Sequence[Dim]) -> Window:
    """The window a node's attributes describe, for a kernel of the sizes given."""
    rank = len(kernel)
    auto_pad = str(x.attr("auto_pad", "NOTSET"))
    if auto_pad not in AUTO_PADS:
        x.fail(f"auto_pad among {AUTO_PADS}", auto_pad)
    w = Window(
        tuple(kernel),
        _per_axis(x, "strides", rank, 1),
        _per_axis(x, "dilations", rank, 1),
        _per_axis(x, "pads", 2 * rank, 0),
        auto_pad,
        bool(x.attr("ceil_mode", 0)),
    )
    if any(isinstance(k, int) and k < 1 for k in kernel) or any(s < 1 for s in w.strides + w.dilations):
        x.fail("positive kernel sizes, strides and dilations", (w.kernel, w.strides, w.dilations))
    return w


def _per_axis(x: Infer | Ref, name: str, count: int, default: int) -> tuple[int, ...]:
    given = x.attr(name)
    if not given:
        return (default,) * count
    if len(given) != count:
        x.fail(f"{count} values in {name}", tuple(given))
    return tuple(int(v) for v in given)


def kernel_shape(x: Infer | Ref, rank: int) -> tuple[int, ...]:
    """The kernel_shape attribute of a pool, checked against the spatial rank."""
    kernel = x.attr("kernel_shape")
    if kernel is None or len(kernel) != rank:
        x.fail(f"kernel_shape with {rank} sizes", kernel)
    return tuple(int(k) for k in kernel)


def output_sizes(x: Infer | Ref, w: Window, sizes: Sequence[Dim]) -> tuple[Dim, ...]:
    """The output's spatial sizes; fails when the kernel is larger than the padded input."""
    out = tuple(w.output_size(a, s) for a, s in enumerate(sizes))
    for axis, size in enumerate(out):
        if isinstance(size, int) and size < 1 and sizes[axis] != 0:
            x.fail(f"a padded input of at least {w.extent(axis)} positions on spatial axis {axis}", sizes[axis])
    return tuple(dim_max(size, 0) if isinstance(size, int) else size for size in out)


def padded(x: np.ndarray, w: Window, out: Sequence[int], fill: object) -> np.ndarray:
    """x with `fill` around its spatial axes, so that every window of the output lies inside."""
    sizes = x.shape[2:]
    widths = [(0, 0), (0, 0)]
    for axis, (begin, _) in enumerate(w.pads_for(sizes)):
        needed = (out[axis] - 1) * w.strides[axis] + known(w.extent(axis))
        widths.append((known(begin), max(0, needed - sizes[axis] - known(begin))))
    return np.pad(x, widths, constant_values=np.asarray(fill, x.dtype))


def taps(p: np.ndarray, w: Window, out: Sequence[int]) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """For each kernel element, in C order: its index and the padded values it meets, shaped [N, C, out...]."""
    for index in itertools.product(*[range(known(k)) for k in w.kernel]):
        cut = tuple(
            slice(i * d, i * d + (n - 1) * s + 1, s) if n else slice(0, 0)
            for i, d, n, s in zip(index, w.dilations, out, w.strides)
        )
        yield index, p[(slice(None), slice(None), *cut)]
