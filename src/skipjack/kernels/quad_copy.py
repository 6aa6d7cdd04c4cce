"""Concat, Split and Slice of one-byte images in quads, as copies of words: fours of channels stay together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.ir.types import TensorType
from skipjack.kernels.launch import Bound, Launch, Lowering, Site, Work, lowering
from skipjack.kernels.strided import View, contiguous, copy


def _words(b: Bound) -> tuple[tuple[int, ...], View]:
    """A value in quads as words [N, C / 4, spatial]."""
    n, c, *spatial = b.shape
    shape = (n, -(-c // 4), *spatial)
    return shape, View(b.place, DType.U32, contiguous(shape, 4))


def _concat(work: Work) -> list[Launch]:
    out_shape, out = _words(work.output())
    axis, at, found = int(work.attr("axis")) % len(out_shape), 0, list[Launch]()
    for b in work.inputs:
        assert b is not None, f"{work.node.origin}: Concat has no optional inputs"
        shape, source = _words(b)
        if 0 not in shape:
            found += copy(shape, source, out.at(axis, at), work.target)
        at += shape[axis]
    return found


def _split(work: Work) -> list[Launch]:
    whole, source = _words(work.input(0))
    axis, at, found = int(work.attr("axis", 0)) % len(whole), 0, list[Launch]()
    for b in work.outputs:
        assert b is not None, f"{work.node.origin}: every part of a Split has a size"
        shape, out = _words(b)
        if 0 not in shape:
            found += copy(shape, source.at(axis, at), out, work.target)
        at += shape[axis]
    return found


def _slice(work: Work) -> list[Launch]:
    x = work.input(0)
    _, source = _words(x)
    shape, out = _words(work.output())
    if 0 in shape:
        return []
    strides = list(source.strides)
    for axis, start, step in _cuts(work, len(x.shape)):
        size = x.shape[axis]
        first = min(max(start + size if start < 0 else start, 0), size if step > 0 else size - 1)
        source = source.at(axis, first // 4 if axis == 1 else first)
        strides[axis] *= step
    return copy(shape, View(source.place, source.dtype, tuple(strides)), out, work.target)


def _cuts(work: Work, rank: int) -> list[tuple[int, int, int]]:
    """(axis, start, step) of a Slice."""
    starts, axes, steps = (_numbers(work.maybe(i)) for i in (1, 3, 4))
    axes = list(range(rank)) if axes is None else axes
    return [(a % rank, s, n) for a, s, n in zip(axes, starts or [], steps or [1] * len(starts or []))]


def _numbers(b: Bound | None) -> list[int] | None:
    return None if b is None or b.value is None else [int(v) for v in b.value.reshape(-1)]


def _fours(axis: int, parts: Sequence[TensorType | None]) -> str:
    """Empty when parts along an axis begin at a four of channels; the last one may end anywhere."""
    for t in parts[:-1]:
        channels = t.shape[1] if t is not None and t.shape is not None else None
        if axis == 1 and (not isinstance(channels, int) or channels % 4):
            return "parts that cut fours of channels"
    return ""


def _images(site: Site, tensors: Sequence[TensorType | None]) -> str:
    if any(t is None or t.dtype.itemsize != 1 or (t.rank or 0) < 3 for t in tensors):
        return "not all of them images of one byte per element"
    return "" if site.constants[0] is None else "a constant image"


def _axis(site: Site, default: int) -> int:
    x = site.inputs[0]
    rank = x.rank if x is not None else None
    assert rank is not None, "_images lets only known ranks pass"
    return int(site.node.attrs.get("axis", default)) % rank  # type: ignore[arg-type]


def _accepts_concat(site: Site) -> str:
    if reason := _images(site, site.inputs):
        return reason
    return "a constant image" if any(c is not None for c in site.constants) else _fours(_axis(site, 0), site.inputs)


def _accepts_split(site: Site) -> str:
    return _images(site, (site.inputs[0], *site.outputs)) or _fours(_axis(site, 0), site.outputs)


def _accepts_slice(site: Site) -> str:
    if reason := _images(site, (site.inputs[0], *site.outputs)):
        return reason
    values = [site.constants[i] if i < len(site.constants) else None for i in (1, 3, 4)]
    missing = [
        i for i, v in zip((1, 3, 4), values) if v is None and i < len(site.inputs) and site.inputs[i] is not None
    ]
    if missing or values[0] is None:
        return "where to cut is computed"
    x = site.inputs[0]
    if x is None or x.shape is None:
        return "an image of unknown rank"
    rank, starts = len(x.shape), values[0].reshape(-1)
    axes = np.arange(rank) if values[1] is None else values[1].reshape(-1)
    steps = np.ones(len(starts), np.int64) if values[2] is None else values[2].reshape(-1)
    for axis, start, step in zip(axes, starts, steps):
        if int(axis) % rank == 1 and (step != 1 or start < 0 or start % 4 or not isinstance(x.shape[1], int)):
            return "channels that do not begin at a four"
    return _ends(site, [int(a) % rank for a in axes])


def _ends(site: Site, axes: Sequence[int]) -> str:
    """A part that ends inside a four of channels would carry the rest of it along as padding."""
    x, y = site.inputs[0], site.outputs[0]
    if 1 not in axes or x is None or y is None or x.shape is None or y.shape is None:
        return ""
    kept = y.shape[1]
    return "" if isinstance(kept, int) and kept % 4 == 0 else "channels that do not end at a four"


lowering(Lowering("concat_quads", ONNX, "Concat", _accepts_concat, _concat, "quads", 10))
lowering(Lowering("split_quads", ONNX, "Split", _accepts_split, _split, "quads", 10))
lowering(Lowering("slice_quads", ONNX, "Slice", _accepts_slice, _slice, "quads", 10, parameters=(1, 2, 3, 4)))
