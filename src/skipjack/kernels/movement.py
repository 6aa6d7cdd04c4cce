"""Operators that place elements elsewhere: each is a few copies between views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.copy import held
from skipjack.kernels.launch import Bound, Launch, Lowering, Place, Site, Work, lowering
from skipjack.kernels.strided import View, apply, at_place, broadcast, contiguous, copy, whole
from skipjack.kernels.take import take_axis
from skipjack.lang.expr import arg, const, select
from skipjack.ops.execute import run_node

_RAW = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}


def _to_output(work: Work, source: View, shape: Sequence[int]) -> list[Launch]:
    """The view `source` of sizes `shape` as the contiguous output."""
    return copy(shape, source, whole(work.output(), shape), work.target)


def _permuted(view: View, order: Sequence[int]) -> View:
    return View(view.place, view.dtype, tuple(view.strides[a] for a in order))


def _transpose(work: Work) -> list[Launch]:
    x = work.input(0)
    order = work.attr("perm") or tuple(reversed(range(len(x.shape))))
    return _to_output(work, _permuted(whole(x), order), [x.shape[a] for a in order])


def ints(work: Work, index: int) -> list[int] | None:
    """The numbers of a parameter input, None when it is absent."""
    b = work.maybe(index)
    if b is None:
        return None
    assert b.value is not None, f"{work.node.origin}: input {index} must be known"
    return [int(v) for v in np.asarray(b.value).reshape(-1)]


def _slice(work: Work) -> list[Launch]:
    x = work.input(0)
    starts, ends = ints(work, 1) or [], ints(work, 2) or []
    axes = ints(work, 3) or list(range(len(starts)))
    steps = ints(work, 4) or [1] * len(starts)
    place, strides = x.place, list(contiguous(x.shape, x.dtype.itemsize))
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        first, _, stride = slice(start, end, step).indices(x.shape[axis])
        place = place.at(first * strides[axis])
        strides[axis] *= stride
    return _to_output(work, View(place, x.dtype, tuple(strides)), work.output().shape)


def _split(work: Work) -> list[Launch]:
    x = work.input(0)
    axis = int(work.attr("axis", 0)) % len(x.shape)
    count = len(work.outputs)
    sizes = ints(work, 1) or [-(-x.shape[axis] // count)] * count
    view = whole(x)
    launches: list[Launch] = []
    at = 0
    for out, size in zip(work.outputs, sizes, strict=True):
        if out is not None:
            part = view.at(axis, at)
            if not _contiguous_at(out, part):
                launches += copy(out.shape, part, whole(out), work.target)
        at += size
    return launches


def _contiguous_at(out: Bound, part: View) -> bool:
    """Whether a value lies exactly where this part of a tensor already is."""
    return out.place == part.place and _same_order(out.shape, part.strides, contiguous(out.shape, out.dtype.itemsize))


def _same_order(shape: Sequence[int], a: Sequence[int], b: Sequence[int]) -> bool:
    return all(n <= 1 or s == t for n, s, t in zip(shape, a, b, strict=True))


def _concat(work: Work) -> list[Launch]:
    out = work.output()
    axis = int(work.attr("axis", 0)) % len(out.shape)
    view = whole(out)
    launches: list[Launch] = []
    at = 0
    for b in work.inputs:
        assert b is not None, "a concatenation has all its inputs"
        part = view.at(axis, at)
        if not _contiguous_at(b, part):
            launches += copy(b.shape, whole(b), part, work.target)
        at += b.shape[axis]
    return launches


def _expand(work: Work) -> list[Launch]:
    out = work.output()
    return _to_output(work, broadcast(work.input(0), out.shape), out.shape)


def _tile(work: Work) -> list[Launch]:
    x, out = work.input(0), work.output()
    if 0 in out.shape:
        return []
    shape = [n for d, o in zip(x.shape, out.shape, strict=True) for n in (o // d, d)]
    strides = [s for step in contiguous(x.shape, x.dtype.itemsize) for s in (0, step)]
    return _to_output(work, View(x.place, x.dtype, tuple(strides)), shape)


def _depth_to_space(work: Work) -> list[Launch]:
    x, b = work.input(0), int(work.attr("blocksize"))
    n, c, h, w = x.shape
    depth = c // (b * b)
    if work.attr("mode", "DCR") == "DCR":
        sizes, order = (n, b, b, depth, h, w), (0, 3, 4, 1, 5, 2)
    else:
        sizes, order = (n, depth, b, b, h, w), (0, 1, 4, 2, 5, 3)
    return _to_output(work, _permuted(whole(x, sizes), order), [sizes[a] for a in order])


def _space_to_depth(work: Work) -> list[Launch]:
    x, b = work.input(0), int(work.attr("blocksize"))
    n, c, h, w = x.shape
    sizes = (n, c, h // b, b, w // b, b)
    order = (0, 3, 5, 1, 2, 4) if work.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return _to_output(work, _permuted(whole(x, sizes), order), [sizes[a] for a in order])


def _widths(work: Work) -> list[tuple[int, int]]:
    """(before, after) of every axis of a Pad."""
    rank = len(work.input(0).shape)
    pads = ints(work, 1) or []
    axes = ints(work, 3)
    chosen = list(range(rank)) if axes is None else [a % rank for a in axes]
    widths = [(0, 0)] * rank
    for n, axis in enumerate(chosen):
        widths[axis] = (pads[n], pads[n + len(chosen)])
    return widths


def _pad(work: Work) -> list[Launch]:
    widths = _widths(work)
    if work.attr("mode", "constant") == "constant":
        return _pad_constant(work, widths)
    return _pad_repeating(work, widths)


def _pad_constant(work: Work, widths: Sequence[tuple[int, int]]) -> list[Launch]:
    """The kept part copied; per axis a slab before and behind it, over what earlier axes kept, filled."""
    x, out = work.input(0), work.output()
    source, target = whole(x), whole(out)
    kept = list(out.shape)
    launches: list[Launch] = []
    for axis, (before, after) in enumerate(widths):
        size = x.shape[axis] + min(before, 0) + min(after, 0)
        source = source.at(axis, max(-before, 0))
        lead, tail = max(before, 0), max(after, 0)
        for start, length in ((0, lead), (lead + size, tail)):
            slab = [length if a == axis else n for a, n in enumerate(kept)]
            launches += fill(work, slab, target.at(axis, start))
        target = target.at(axis, lead)
        kept[axis] = max(size, 0)
    return launches + copy(kept, source, target, work.target)


def fill(work: Work, shape: Sequence[int], out: View, value: int = 2) -> list[Launch]:
    """The element of input `value` (0 when it is absent) at every index of a view."""
    raw = _RAW[out.dtype.itemsize]
    given = work.maybe(value)
    view = View(out.place, raw, out.strides)
    if given is None:
        return apply(const(0, raw), shape, [], view, work.target)
    return apply(arg(0, raw), shape, [View(given.place, raw, (0,) * len(shape))], view, work.target)


def _pad_repeating(work: Work, widths: Sequence[tuple[int, int]]) -> list[Launch]:
    """Axis by axis, a table says which index of the input each index of the output repeats."""
    x = work.input(0)
    tables: list[tuple[int, np.ndarray]] = []
    for axis, (before, after) in enumerate(widths):
        if before or after:
            kept = np.arange(max(-before, 0), x.shape[axis] - max(-after, 0))
            tables.append((axis, np.pad(kept, (max(before, 0), max(after, 0)), mode=work.attr("mode"))))
    return take_tables(work, x, tables)


def take_tables(work: Work, x: Bound, tables: Sequence[tuple[int, np.ndarray]]) -> list[Launch]:
    """The output as x with each listed axis replaced by the indices of its table."""
    out = work.output()
    if not tables:
        return copy(x.shape, whole(x), whole(out), work.target)
    launches: list[Launch] = []
    place, shape = x.place, list(x.shape)
    for n, (axis, table) in enumerate(tables):
        made = [len(table) if a == axis else d for a, d in enumerate(shape)]
        last = n == len(tables) - 1
        to = out.place if last else work.memory.temporary(math.prod(made) * x.dtype.itemsize)
        index = work.memory.constant(table.astype(np.int64))
        launches += take_axis(place, shape, axis, x.dtype.itemsize, index, DType.I64, len(table), to, work.target)
        place, shape = to, made
    return launches


def _reverse_sequence(work: Work) -> list[Launch]:
    x = work.input(0)
    lengths = ints(work, 1) or []
    batch_first = int(work.attr("batch_axis", 1)) == 0
    time, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    table = np.tile(np.arange(time), (batch, 1))
    for row, n in zip(table, lengths, strict=True):
        row[:n] = row[:n][::-1].copy()
    rows = table + np.arange(batch)[:, None] * time if batch_first else (table * batch + np.arange(batch)[:, None]).T
    flat = [time * batch, *x.shape[2:]]
    index = work.memory.constant(rows.reshape(-1).astype(np.int64))
    item = x.dtype.itemsize
    return take_axis(x.place, flat, 0, item, index, DType.I64, len(rows.reshape(-1)), work.output().place, work.target)


def _trilu(work: Work) -> list[Launch]:
    x, out = work.input(0), work.output()
    k = (ints(work, 1) or [0])[0]
    offset = np.arange(x.shape[-1]) - np.arange(x.shape[-2])[:, None]
    place = work.memory.constant(offset >= k if work.attr("upper", 1) else offset <= k)
    raw = _RAW[x.dtype.itemsize]
    lead = (0,) * (len(x.shape) - 2)
    mask = View(place, DType.BOOL, (*lead, x.shape[-1], 1))
    views = [mask, at_place(x.place, raw, x.shape)]
    expr = select(arg(0, DType.BOOL), arg(1, raw), const(0, raw))
    return apply(expr, x.shape, views, at_place(out.place, raw, out.shape), work.target)


def _from_table(work: Work) -> list[Launch]:
    """The output computed now, because it depends on sizes and parameters only."""
    arrays = [None if b is None else b.value for b in work.inputs]
    if work.node.op == "EyeLike":
        arrays = [np.zeros(work.input(0).shape, work.input(0).dtype.np)]
    table = np.ascontiguousarray(run_node(work.node, arrays)[0])
    out = work.output()
    return copy(out.shape, at_place(work.memory.constant(table), out.dtype, out.shape), whole(out), work.target)


def _constant_of_shape(work: Work) -> list[Launch]:
    out = work.output()
    value = work.attr("value")
    array = np.zeros(1, np.float32) if value is None else np.asarray(value).reshape(1)
    raw = _RAW[out.dtype.itemsize]
    source = View(_constant(work, array), raw, (0,) * len(out.shape))
    return apply(arg(0, raw), out.shape, [source], at_place(out.place, raw, out.shape), work.target)


def _constant(work: Work, array: np.ndarray) -> Place:
    return work.memory.constant(np.ascontiguousarray(array))


def _simple(site: Site) -> str:
    """Held, and of at most 8 bytes per element."""
    wide = [t for t in (*site.inputs, *site.outputs) if t is not None and t.dtype.itemsize > 8]
    return held(site) or (f"elements of {wide[0].dtype.value}" if wide else "")


lowering(Lowering("strided-copy", ONNX, "Transpose", held, _transpose))
lowering(Lowering("strided-copy", ONNX, "Slice", held, _slice, parameters=(1, 2, 3, 4)))
lowering(Lowering("strided-copy", ONNX, "Split", held, _split, parameters=(1,)))
lowering(Lowering("strided-copy", ONNX, "Concat", held, _concat))
lowering(Lowering("strided-copy", ONNX, "Expand", held, _expand))
lowering(Lowering("strided-copy", ONNX, "Tile", held, _tile))
lowering(Lowering("strided-copy", ONNX, "DepthToSpace", held, _depth_to_space))
lowering(Lowering("strided-copy", ONNX, "SpaceToDepth", held, _space_to_depth))
lowering(Lowering("pad", ONNX, "Pad", _simple, _pad, parameters=(1, 3)))
lowering(Lowering("take", ONNX, "ReverseSequence", _simple, _reverse_sequence, parameters=(1,)))
lowering(Lowering("mask", ONNX, "Trilu", _simple, _trilu, parameters=(1,)))
lowering(Lowering("fill", ONNX, "ConstantOfShape", _simple, _constant_of_shape))
lowering(Lowering("table", ONNX, "Range", held, _from_table, parameters=(0, 1, 2)))
lowering(Lowering("table", ONNX, "EyeLike", held, _from_table))
