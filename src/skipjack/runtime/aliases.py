"""Which nodes only rename memory: their output is a part of an input's memory, so no kernel runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skipjack.ir.graph import ONNX
from skipjack.kernels.launch import Work

_RENAMES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


def aliased_bytes(work: Work, output: int) -> int | None:
    """The byte offset into input 0 where this output lies, None when it needs memory of its own."""
    if work.node.domain != ONNX or not work.inputs or work.inputs[0] is None or work.outputs[output] is None:
        return None
    source, result = work.input(0), work.output(output)
    if source.layout != result.layout:
        return None
    if source.layout.kind != "plain":
        return 0 if work.node.op == "Identity" else None
    if work.node.op in _RENAMES:
        return 0
    rule = _RULES.get(work.node.op)
    return None if rule is None else rule(work, output)


def _transpose(work: Work, output: int) -> int | None:
    """A transpose that only moves axes of size 1."""
    shape = work.input(0).shape
    perm = work.attr("perm") or tuple(reversed(range(len(shape))))
    kept = [axis for axis in perm if shape[axis] != 1]
    return 0 if kept == sorted(kept) else None


def _expand(work: Work, output: int) -> int | None:
    return 0 if work.input(0).elements == work.output(output).elements else None


def _cast(work: Work, output: int) -> int | None:
    return 0 if work.input(0).dtype is work.output(output).dtype else None


def _split(work: Work, output: int) -> int | None:
    """Parts of a split whose outer axes have size 1 follow each other."""
    shape = work.input(0).shape
    axis = int(work.attr("axis", 0)) % len(shape)
    if any(d != 1 for d in shape[:axis]):
        return None
    inner = int(np.prod(shape[axis + 1 :], dtype=np.int64)) * work.input(0).dtype.itemsize
    before = [o for o in work.outputs[:output] if o is not None]
    if len(before) != output:
        return None
    return sum(o.shape[axis] for o in before) * inner


def _slice(work: Work, output: int) -> int | None:
    """A slice with step 1 of the outermost axis that is not of size 1."""
    source, result = work.input(0), work.output(output)
    starts = work.maybe(1)
    if starts is None or starts.value is None or result.elements == 0:
        return None
    axes_in, steps = work.maybe(3), work.maybe(4)
    if (axes_in is not None and axes_in.value is None) or (
        steps is not None and (steps.value is None or np.any(steps.value != 1))
    ):
        return None
    first = np.asarray(starts.value).reshape(-1)
    axes = range(len(first)) if axes_in is None or axes_in.value is None else np.asarray(axes_in.value).reshape(-1)
    cut = [a for a, (x, y) in enumerate(zip(source.shape, result.shape, strict=True)) if x != y]
    if not cut:
        return 0
    if len(cut) > 1 or any(d != 1 for d in source.shape[: cut[0]]):
        return None
    start = {int(a) % len(source.shape): int(s) for a, s in zip(axes, first, strict=True)}.get(cut[0], 0)
    size = source.shape[cut[0]]
    start = min(max(start + size if start < 0 else start, 0), size)
    return start * int(np.prod(source.shape[cut[0] + 1 :], dtype=np.int64)) * source.dtype.itemsize


_RULES: dict[str, Callable[[Work, int], int | None]] = {
    "Transpose": _transpose,
    "Expand": _expand,
    "Cast": _cast,
    "Split": _split,
    "Slice": _slice,
}
