"""Resize of the spatial axes in the blocked layout: every output is a weighted sum over a few rows and columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Place, Site, Work, generator, lowering
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.ops.image import axis_weights, source_positions
from skipjack.ops.registry import Ref
from skipjack.targets.target import Target

_WORDS = ("rows", "columns", "x_volume", "x_row")
_TABLES = ("row_index", "row_weight", "column_index", "column_weight")


@generator("resize")
def resize(target: Target, symbol: str, row_taps: int, column_taps: int) -> Program:
    """A unit is one output row of one channel block. Tables hold, per output, byte offsets and weights of its taps."""
    fields = [*[(n, PTR) for n in ("x", "y", *_TABLES)], *[(n, I64) for n in _WORDS]]
    k = Kernel(symbol, fields, target.vector_bytes * 8)
    a, vector, pixel = k.arg, F32.vec(target.vl), 4 * target.vl

    def summed(taps: int, index: V, weight: V, value: Callable[[V], V]) -> V:
        total: V | None = None
        for t in range(taps):
            v = value(index.at(8 * t).load(I64))
            if taps == 1:
                return v
            w = weight.at(4 * t).load(F32).splat(target.vl)
            total = v * w if total is None else k.fma(v, w, total)
        assert total is not None, "every output has at least one tap"
        return total

    with k.units() as unit:
        h, plane = unit % a.rows, unit // a.rows
        x, y = a.x.at(plane * a.x_volume), a.y.at(unit * a.columns * pixel)
        ri, rw = a.row_index.at(h * (8 * row_taps)), a.row_weight.at(h * (4 * row_taps))
        with k.loop(a.columns) as w:
            ci, cw = a.column_index.at(w * (8 * column_taps)), a.column_weight.at(w * (4 * column_taps))

            def row(offset: V, ci: V = ci, cw: V = cw) -> V:
                line = x.at(offset)
                return summed(column_taps, ci, cw, lambda at: line.at(at).load(vector))

            y.at(w * pixel).store(summed(row_taps, ri, rw, row))
    return k.finish()


def _taps(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index, weight) [out, taps] of a dense [out, size] matrix; unused taps have weight 0 and a valid index."""
    count = max(int((weights != 0).sum(axis=1).max(initial=1)), 1)
    order = np.argsort(weights == 0, axis=1, kind="stable")[:, :count]
    found = np.take_along_axis(weights, order, axis=1)
    return np.where(found == 0, order[:, :1], order), found


def axis_taps(work: Work, axis: int) -> tuple[np.ndarray, np.ndarray]:
    size, out = work.input(0).shape[axis], work.output().shape[axis]
    given = work.maybe(2)
    scale = out / size if size else 1.0
    if given is not None and given.elements:
        assert given.value is not None, f"{work.node.origin}: the scales are not known"
        axes = [int(a) % len(work.input(0).shape) for a in work.attr("axes") or range(len(work.input(0).shape))]
        scale = float(given.value.reshape(-1)[axes.index(axis)]) if axis in axes else 1.0
    if scale == 1 and out == size:
        return np.arange(out)[:, None], np.ones((out, 1))
    kind = str(work.attr("coordinate_transformation_mode", "half_pixel"))
    at = source_positions(kind, size, out, scale, (0.0, 1.0))
    return _taps(axis_weights(Ref(work.node, []), at, size, scale))


def _lower(work: Work) -> list[Launch]:
    x, y, vl = work.input(0), work.output(), work.target.vl
    rank = len(x.shape)
    rows = axis_taps(work, 2) if rank == 4 else (np.zeros((1, 1), np.int64), np.ones((1, 1)))
    columns = axis_taps(work, rank - 1)
    x_row = x.shape[-1] * vl * 4
    tables: list[Place] = []
    for (index, weight), step in ((rows, x_row), (columns, vl * 4)):
        tables.append(work.memory.constant((index * step).astype(np.int64)))
        tables.append(work.memory.constant(weight.astype(np.float32)))
    height = x.shape[2] if rank == 4 else 1
    out_rows = y.shape[2] if rank == 4 else 1
    spec = KernelSpec("resize", (rows[0].shape[1], columns[0].shape[1]))
    units = x.shape[0] * -(-x.shape[1] // vl) * out_rows
    words = (x.place, y.place, *tables, out_rows, y.shape[-1], height * x_row, x_row)
    return [Launch(spec, units, words, (x.place,), (y.place,))]


def _accepts(site: Site) -> str:
    x, y, attrs = site.inputs[0], site.outputs[0], site.node.attrs
    if x is None or y is None or x.shape is None or y.shape is None or x.dtype is not DType.F32:
        return "not f32"
    if len(x.shape) not in (3, 4) or x.shape[:2] != y.shape[:2]:
        return "not only one or two spatial axes are resized"
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return "a crop"
    if attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "the aspect ratio is kept"
    return "windows of any size" if attrs.get("antialias", 0) else ""


lowering(Lowering("resize_blocked", ONNX, "Resize", _accepts, _lower, "blocked", 10, parameters=(2,)))
