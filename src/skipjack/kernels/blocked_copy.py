"""Concat, Split, Slice and Pad in the blocked layout, as copies between views of the blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.conv_direct import constant_image
from skipjack.kernels.launch import Bound, Launch, Lowering, Place, Site, Work, lowering
from skipjack.kernels.strided import View, apply, copy
from skipjack.lang.expr import const
from skipjack.targets.target import Target


@dataclass(frozen=True)
class _Blocks:
    """A blocked value; steps: the distance of the indices that are read along each axis, all 1 when empty."""

    place: Place
    dtype: DType
    shape: tuple[int, ...]
    vl: int
    steps: tuple[int, ...] = ()

    @property
    def strides(self) -> tuple[int, ...]:
        """Of batch, block and spatial axes."""
        step, found = self.vl * self.dtype.itemsize, list[int]()
        for n in reversed((-(-self.shape[1] // self.vl), *self.shape[2:])):
            found.append(step)
            step *= n
        return tuple(n * s for n, s in zip((step, *reversed(found)), self.steps or (1,) * len(self.shape)))

    def channels(self, first: int, count: int) -> tuple[View, tuple[int, int]]:
        """The view [n][spatial...][blocks][lanes] of channels, and how many blocks and lanes it has.

        It starts at the start of a block or stays inside one.
        """
        n, block, *spatial = self.strides
        lane = first % self.vl
        blocks, lanes = (count // self.vl, self.vl) if not lane and count % self.vl == 0 else (1, count)
        at = self.place.at(first // self.vl * block + lane * self.dtype.itemsize)
        return View(at, self.dtype, (n, *spatial, block, self.dtype.itemsize)), (blocks, lanes)


def _blocks(b: Bound, target: Target) -> _Blocks:
    return _Blocks(b.place, b.dtype, b.shape, target.vl)


def _pieces(source: int, out: int, count: int, vl: int) -> Iterator[tuple[int, int, int]]:
    """Channel runs (source, out, count) that lie alike in the blocks of both sides."""
    if source % vl == 0 and out % vl == 0 and count >= vl:
        whole = count // vl * vl
        yield source, out, whole
        source, out, count = source + whole, out + whole, count - whole
    while count:
        n = min(count, vl - source % vl, vl - out % vl)
        yield source, out, n
        source, out, count = source + n, out + n, count - n


def _move(
    source: _Blocks, out: _Blocks, starts: tuple[int, int], count: int, shape: Sequence[int], target: Target
) -> list[Launch]:
    """Copy `count` channels of [n, spatial] = shape from channel starts[0] of source to channel starts[1] of out."""
    found = list[Launch]()
    for a, b, n in _pieces(*starts, count, target.vl):
        (x, size), (y, _) = source.channels(a, n), out.channels(b, n)
        found += copy((*shape, *size), x, y, target)
    return found


def _zeros(out: _Blocks, target: Target) -> list[Launch]:
    """Zeros in the channels that fill the last block."""
    rest = -out.shape[1] % out.vl
    if not rest:
        return []
    view, size = out.channels(out.shape[1], rest)
    shape = (out.shape[0], *out.shape[2:], *size)
    return apply(const(0, out.dtype), shape, [], view, target)


def _shifted(b: _Blocks, axis: int, start: int) -> _Blocks:
    """The value from index `start` of an axis other than the channels on."""
    return replace(b, place=b.place.at(b.strides[axis] * start))


def _concat(work: Work) -> list[Launch]:
    out, target = _blocks(work.output(), work.target), work.target
    axis = int(work.attr("axis")) % len(out.shape)
    found, at = _zeros(out, target), 0
    for b in work.inputs:
        assert b is not None, f"{work.node.origin}: Concat has no optional inputs"
        source, shape = _blocks(b, target), (b.shape[0], *b.shape[2:])
        if axis == 1:
            found += _move(source, out, (0, at), b.shape[1], shape, target)
        else:
            found += _move(source, _shifted(out, axis, at), (0, 0), b.shape[1], shape, target)
        at += b.shape[axis]
    return found


def _split(work: Work) -> list[Launch]:
    source, target = _blocks(work.input(0), work.target), work.target
    axis, found, at = int(work.attr("axis", 0)) % len(source.shape), list[Launch](), 0
    for b in work.outputs:
        if b is None:
            return []
        out, shape = _blocks(b, target), (b.shape[0], *b.shape[2:])
        found += _zeros(out, target)
        if axis == 1:
            found += _move(source, out, (at, 0), b.shape[1], shape, target)
        else:
            found += _move(_shifted(source, axis, at), out, (0, 0), b.shape[1], shape, target)
        at += b.shape[axis]
    return found


def _slice(work: Work) -> list[Launch]:
    x, y, target = work.input(0), work.output(), work.target
    starts, steps = [0] * len(x.shape), [1] * len(x.shape)
    axes = _values(work, 3)
    first, jumps = _values(work, 1), _values(work, 4)
    for i, start in enumerate(first or []):
        axis = (axes[i] if axes is not None else i) % len(x.shape)
        size, step = x.shape[axis], jumps[i] if jumps is not None else 1
        start = start + size if start < 0 else start
        starts[axis], steps[axis] = min(max(start, 0), size if step > 0 else size - 1), step
    source, out = _blocks(x, target), _blocks(y, target)
    channel, starts[1] = starts[1], 0
    for axis, start in enumerate(starts):
        source = _shifted(source, axis, start)
    found = _zeros(out, target)
    return found + _move(
        replace(source, steps=tuple(steps)), out, (channel, 0), y.shape[1], (y.shape[0], *y.shape[2:]), target
    )


def _pad(work: Work) -> list[Launch]:
    x, y, target = work.input(0), work.output(), work.target
    source, out = _blocks(x, target), _blocks(y, target)
    pads, axes, given = _values(work, 1) or [], _values(work, 3), work.maybe(2)
    value = 0.0 if given is None or given.value is None else given.value.reshape(-1)[0].item()
    filled, found = out, list[Launch]()
    for first, _, n in _pieces(0, 0, y.shape[1], target.vl):
        view, size = filled.channels(first, n)
        found += apply(const(value, y.dtype), (y.shape[0], *y.shape[2:], *size), [], view, target)
    for i, before in enumerate(pads[: len(pads) // 2]):
        out = _shifted(out, (axes[i] if axes is not None else i) % len(x.shape), before)
    found += _zeros(filled, target)
    return found + _move(source, out, (0, 0), x.shape[1], (x.shape[0], *x.shape[2:]), target)


def _values(work: Work, index: int) -> list[int] | None:
    b = work.maybe(index)
    if b is None:
        return None
    assert b.value is not None, f"{work.node.origin}: input {index} is not known"
    return [int(v) for v in b.value.reshape(-1)]


def _held(site: Site) -> str:
    t = site.inputs[0]
    if t is None or t.dtype.itemsize not in (2, 4):
        return "only elements of two or four bytes"
    return constant_image(site) if t.rank is not None and 3 <= t.rank <= 5 else "one to three spatial axes"


def _constant(site: Site, indices: Sequence[int]) -> str:
    present = [i for i in indices if i < len(site.inputs) and site.inputs[i] is not None]
    return "" if all(site.constants[i] is not None for i in present) else "where to cut is computed"


def _accepts_slice(site: Site) -> str:
    if reason := _held(site) or _constant(site, (1, 3, 4)):
        return reason
    axes, steps = (_array(site, i) for i in (3, 4))
    if steps is None:
        return ""
    rank = site.inputs[0].rank if site.inputs[0] is not None else None
    assert rank is not None, "_held lets only known ranks pass"
    for axis, step in zip(range(rank) if axes is None else axes.reshape(-1), steps.reshape(-1)):
        if int(axis) % rank == 1 and int(step) != 1:
            return "steps along the channels"
    return ""


def _accepts_pad(site: Site) -> str:
    if reason := _held(site) or _constant(site, (1, 2, 3)):
        return reason
    pads, axes, rank = _array(site, 1), _array(site, 3), site.inputs[0].rank if site.inputs[0] is not None else None
    assert rank is not None, "_held lets only known ranks pass"
    if pads is None or site.node.attrs.get("mode", "constant") != "constant" or (pads < 0).any():
        return "only constants are put around"
    named = list(range(rank)) if axes is None else [int(a) % rank for a in axes.reshape(-1)]
    begin, end = np.split(pads.reshape(-1), 2)
    touched = [axis for axis, b, e in zip(named, begin, end) if b or e]
    return "channels are padded" if 1 in touched else ""


def _array(site: Site, index: int) -> np.ndarray | None:
    return site.constants[index] if index < len(site.constants) else None


lowering(Lowering("concat_blocked", ONNX, "Concat", _held, _concat, "blocked", 10))
lowering(Lowering("split_blocked", ONNX, "Split", _held, _split, "blocked", 10))
lowering(Lowering("slice_blocked", ONNX, "Slice", _accepts_slice, _slice, "blocked", 10, parameters=(1, 2, 3, 4)))
lowering(Lowering("pad_blocked", ONNX, "Pad", _accepts_pad, _pad, "blocked", 10, parameters=(1, 2, 3)))
