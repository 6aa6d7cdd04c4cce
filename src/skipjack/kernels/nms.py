"""NonMaxSuppression: per class the best box that is left is taken, and boxes that overlap it too much are dropped.

Scores that are left stand in scratch; a box that is taken or dropped leaves by its flag. Lanes run over boxes.
"""

from __future__ import annotations

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Place, Site, Work, generator, lowering
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I32, I64, PTR, Program
from skipjack.ops.nms import LIST, SELECT
from skipjack.targets.target import Target


def _accepts(site: Site) -> str:
    kinds = [t.dtype for t in site.inputs[:2] if t is not None]
    return "" if kinds == [DType.F32, DType.F32] else "boxes and scores that are not f32"


def _lower_select(work: Work) -> list[Launch]:
    boxes, scores, table, counts = work.input(0), work.input(1), work.output(0), work.output(1)
    images, classes, count = scores.shape
    limit, given = work.input(2), [work.maybe(3), work.maybe(4)]
    places: list[Place] = [g.place if g is not None else boxes.place for g in given]
    spec = KernelSpec("select_boxes", (bool(work.attr("center_point_box", 0)), *(g is not None for g in given)))
    reads = (boxes.place, scores.place, limit.place, *places)
    words = (*reads, table.place, counts.place, classes, count, table.shape[2])
    return [Launch(spec, images * classes, words, reads, (table.place, counts.place), 4 * count + 64)]


class _Boxes:
    """Corners of boxes as the four numbers of a box say them."""

    def __init__(self, k: Kernel, base: V, center: bool) -> None:
        self.k, self.base, self.center = k, base, center

    def corners(self, values: list[V]) -> list[V]:
        """(low, low, high, high)."""
        k, (a, b, c, d) = self.k, values
        if self.center:
            return [a - c * 0.5, b - d * 0.5, a + c * 0.5, b + d * 0.5]
        return [k.min(a, c), k.min(b, d), k.max(a, c), k.max(b, d)]

    def one(self, index: V) -> list[V]:
        at = self.base.at(index * 16)
        return self.corners([at.at(4 * i).load(F32) for i in range(4)])

    def many(self, first: V, lanes: int, mask: V) -> list[V]:
        at = self.base.at(first * 16)
        steps = self.k.lanes(I64.vec(lanes), [16 * i for i in range(lanes)])
        return self.corners([at.at(4 * i).gather(F32.vec(lanes), steps, mask) for i in range(4)])


@generator("select_boxes")
def select_boxes(target: Target, symbol: str, center: bool, has_iou: bool, has_least: bool) -> Program:
    """A unit is one class of one image."""
    fields = [(n, PTR) for n in ("boxes", "scores", "limit", "iou", "least", "table", "counts")]
    k = Kernel(symbol, [*fields, *[(n, I64) for n in ("classes", "count", "room")]], target.vector_bytes * 8)
    a, lanes = k.arg, target.vl
    iou = a.iou.load(F32) if has_iou else k.f32(0.0)
    room = k.min(a.limit.load(I64), a.room)
    with k.units() as unit:
        boxes = _Boxes(k, a.boxes.at((unit // a.classes) * a.count * 16), center)
        scores, chosen = a.scores.at(unit * a.count * 4), a.table.at(unit * a.room * 8)
        with k.loop(a.count) as i:
            s = scores.at(i, 4).load(F32)
            wanted = s > a.least.load(F32) if has_least else s.eq(s)
            k.scratch.at(i, 4).store(k.select(wanted, k.i32(1), k.i32(0)))
        taken, best = k.var(k.i64(0)), k.var(_best(k, scores, a.count, lanes))
        with k.while_(lambda: (best.get() >= 0) & (taken.get() < room)):
            index = best.get()
            chosen.at(taken.get(), 8).store(index)
            taken += 1
            _drop(k, boxes, index, iou, a.count, lanes)
            k.scratch.at(index, 4).store(k.i32(0))
            best.set(_best(k, scores, a.count, lanes))
        a.counts.at(unit, 8).store(taken.get())
    return k.finish()


def _best(k: Kernel, scores: V, count: V, lanes: int) -> V:
    """The first index of the largest score that is left, -1 when none is."""
    ints = I32.vec(lanes)
    value, index = k.var(k.constant(F32.vec(lanes), float("-inf"))), k.var(k.constant(ints, -1))
    with k.loop(count, 0, lanes) as i:
        mask = k.below(count - i, lanes)
        s = scores.at(i, 4).load_masked(F32.vec(lanes), mask)
        left = k.scratch.at(i, 4).load_masked(ints, mask).ne(0)
        better = left & ((s > value) | (index.get() < 0))
        value.set(k.select(better, s, value))
        index.set(k.select(better, k.iota(ints) + i.trunc(I32), index))
    top, at = k.var(k.f32(float("-inf"))), k.var(k.i64(-1))
    for lane in range(lanes):
        s, i = value.get().extract(lane), index.get().extract(lane).sext(I64)
        equal = s.eq(top) & (i < at)
        better = (i >= 0) & ((at.get() < 0) | (s > top) | equal)
        top.set(k.select(better, s, top))
        at.set(k.select(better, i, at))
    return at.get()


def _drop(k: Kernel, boxes: _Boxes, index: V, iou: V, count: V, lanes: int) -> None:
    """Clear the flags of boxes whose overlap with box `index` is above iou."""
    ints = I32.vec(lanes)
    mine = boxes.one(index)
    area = (mine[2] - mine[0]) * (mine[3] - mine[1])
    with k.loop(count, 0, lanes) as i:
        mask = k.below(count - i, lanes)
        flags = k.scratch.at(i, 4).load_masked(ints, mask)
        low0, low1, high0, high1 = boxes.many(i, lanes, mask)
        common0 = k.max(k.min(high0, mine[2]) - k.max(low0, mine[0]), 0.0)
        common1 = k.max(k.min(high1, mine[3]) - k.max(low1, mine[1]), 0.0)
        common = common0 * common1
        union = (high0 - low0) * (high1 - low1) + area - common
        overlap = k.select(union > 0.0, common / union, 0.0)
        k.scratch.at(i, 4).store_masked(k.select(overlap > iou, k.zero(ints), flags), mask)


def _lower_list(work: Work) -> list[Launch]:
    table, counts, out = work.input(0), work.input(1), work.output()
    images, classes, room = table.shape
    words = (table.place, counts.place, out.place, images * classes, classes, room, out.shape[0])
    return [Launch(KernelSpec("list_boxes"), 1, words, (table.place, counts.place), (out.place,))]


@generator("list_boxes")
def list_boxes(target: Target, symbol: str) -> Program:
    """One unit: a row (image, class, box) lies behind all earlier ones; at most `total` are stored."""
    fields = [(n, PTR) for n in ("table", "counts", "out")]
    k = Kernel(symbol, [*fields, *[(n, I64) for n in ("groups", "classes", "room", "total")]])
    a = k.arg
    at = k.var(k.i64(0))

    def put(group: V, i: V) -> None:
        row = a.out.at(at.get() * 24)
        row.store(group // a.classes)
        row.at(8).store(group % a.classes)
        row.at(16).store(a.table.at(group * a.room + i, 8).load(I64))
        at.set(at.get() + 1)

    with k.units(), k.loop(a.groups) as group:
        found = k.min(a.counts.at(group, 8).load(I64), a.room)
        with k.loop(found) as i, k.when(at.get() < a.total):
            put(group, i)
    return k.finish()


lowering(Lowering("select_boxes", SKIPJACK, SELECT, _accepts, _lower_select))
lowering(Lowering("list_boxes", SKIPJACK, LIST, lambda site: "", _lower_list, parameters=(2,)))
