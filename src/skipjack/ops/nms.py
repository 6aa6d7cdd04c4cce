"""NonMaxSuppression in two steps of known size: select per class into a table, then list the selected ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import dim_min
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import ValueType, tensor
from skipjack.ops.index import box_corners, selected_boxes
from skipjack.ops.registry import Infer, Op, Ref, register

SELECT, LIST = "SelectBoxes", "ListBoxes"


def _select_rule(i: Infer) -> Sequence[ValueType]:
    scores = i.shape(1)
    limit = i.ints(2)
    if scores is None or len(scores) != 3:
        i.fail("scores of rank 3", "another rank")
    images, classes, boxes = scores
    room = dim_min(limit[0], boxes) if limit and isinstance(limit[0], int) and limit[0] >= 0 else boxes
    return [tensor(DType.I64, images, classes, room), tensor(DType.I64, images, classes)]


def _select(r: Ref) -> list[Any]:
    boxes, scores = np.asarray(r.get(0)), np.asarray(r.get(1))
    limit, iou, least = [None if r.get(n) is None else np.asarray(r.get(n)).reshape(-1)[0] for n in (2, 3, 4)]
    room = min(max(int(limit or 0), 0), scores.shape[2])
    table = np.zeros((*scores.shape[:2], room), np.int64)
    counts = np.zeros(scores.shape[:2], np.int64)
    for n in range(scores.shape[0]):
        corners = box_corners(boxes[n], bool(r.attr("center_point_box", 0)))
        for c in range(scores.shape[1]):
            found = selected_boxes(corners, scores[n, c], room, float(iou or 0), least)
            table[n, c, : len(found)] = found
            counts[n, c] = len(found)
    return [table, counts]


def _list_rule(i: Infer) -> Sequence[ValueType]:
    total = i.ints(2)
    return [tensor(DType.I64, total[0] if total else i.fresh("boxes"), 3)]


def _list(r: Ref) -> list[Any]:
    table, counts = np.asarray(r.get(0)), np.asarray(r.get(1))
    rows = [(n, c, table[n, c, i]) for n, c in np.ndindex(*counts.shape) for i in range(int(counts[n, c]))]
    return [np.array(rows, np.int64).reshape(-1, 3)]


register(Op(SELECT, _select_rule, _select, domain=SKIPJACK))
register(Op(LIST, _list_rule, _list, domain=SKIPJACK))
