"""LSTM, GRU and RNN: one product for the inputs of all steps, then the recurrent steps of every sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Place, Site, Work, lowering
from skipjack.kernels.rnn_project import project
from skipjack.kernels.rnn_step import Cell, scratch_bytes
from skipjack.ops.registry import Ref
from skipjack.ops.rnn import DIRECTIONS, direction_of, gate_activations
from skipjack.targets.target import Target

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


@dataclass(frozen=True)
class Sizes:
    """directions, steps, batch, hidden features and their number rounded up to whole vectors, gates."""

    directions: int
    steps: int
    batch: int
    hidden: int
    padded: int
    gates: int

    @property
    def columns(self) -> int:
        """Columns of the projected inputs, a multiple of two vectors."""
        return self.gates * self.padded


def _accepts(site: Site) -> str:
    for i, t in enumerate(site.inputs):
        if t is not None and i != 4 and t.dtype is not DType.F32:
            return f"elements of {t.dtype.value}"
    for i in (1, 2, 3, 7):
        if i < len(site.inputs) and site.inputs[i] is not None and site.constants[i] is None:
            return "weights that are no constants"
    lengths = site.inputs[4] if len(site.inputs) > 4 else None
    return "lengths that are not i32" if lengths is not None and lengths.dtype is not DType.I32 else ""


def _gate_columns(w: np.ndarray, gates: int, padded: int) -> np.ndarray:
    """[D, G * H, ...] as [D, G, padded, ...] with zeros behind every gate."""
    d, rows, *rest = w.shape
    hidden = rows // gates
    out = np.zeros((d, gates, padded, *rest), np.float32)
    out[:, :, :hidden] = w.reshape(d, gates, hidden, *rest)
    return out


def _pack_input(w: np.ndarray, gates: int, padded: int, lanes: int) -> np.ndarray:
    """W [D, G * H, I] as [D, column block, I, lanes]."""
    columns = _gate_columns(w, gates, padded).reshape(w.shape[0], gates * padded, w.shape[2])
    blocks = columns.reshape(w.shape[0], -1, lanes, w.shape[2])
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 2))


def _pack_recurrence(r: np.ndarray, gates: int, padded: int, lanes: int, chosen: Sequence[int]) -> np.ndarray:
    """R [D, G * H, H] as [D, feature block, H, chosen gate, lanes]."""
    columns = _gate_columns(r, gates, padded)[:, list(chosen)]
    blocks = columns.reshape(r.shape[0], len(chosen), padded // lanes, lanes, r.shape[2])
    return np.ascontiguousarray(blocks.transpose(0, 2, 4, 1, 3))


def _bias(work: Work, s: Sizes, separate: bool) -> tuple[Place, Place]:
    """(bias of the projected inputs [D, columns], bias of the last gate's recurrence [D, padded])."""
    b = work.maybe(3)
    if b is None:
        none = np.zeros((s.directions, s.columns), np.float32)
        return work.memory.constant(none), work.memory.constant(none[:, : s.padded])

    def both(x: np.ndarray) -> np.ndarray:
        inputs, recurrent = np.split(x, 2, axis=1)
        total = inputs + recurrent
        if separate:
            total[:, 2 * s.hidden :] = inputs[:, 2 * s.hidden :]
        return _gate_columns(total, s.gates, s.padded).reshape(s.directions, -1)

    def last(x: np.ndarray) -> np.ndarray:
        recurrent = np.split(x, 2, axis=1)[1]
        return _gate_columns(recurrent, s.gates, s.padded)[:, -1]

    name = f"rnn{s.gates}x{s.padded}"
    return work.memory.packed(b, f"{name}sum{separate}", both), work.memory.packed(b, f"{name}last", last)


def _sizes(work: Work, target: Target) -> Sizes:
    x, r = work.input(0), work.input(2)
    batch_first = bool(work.attr("layout", 0))
    steps, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    hidden = r.shape[2]
    padded = -(-hidden // (2 * target.vl)) * 2 * target.vl
    return Sizes(r.shape[0], steps, batch, hidden, padded, _GATES[work.node.op])


def _outputs(work: Work, s: Sizes) -> list[Bound | None]:
    return [*work.outputs, None, None, None][:3]


def _strides(work: Work, s: Sizes) -> tuple[list[int], list[int], list[int]]:
    """Strides in elements: of projected rows (step, batch), of Y and of states (direction, batch)."""
    h, d, n, t = s.hidden, s.directions, s.batch, s.steps
    if work.attr("layout", 0):
        return [1, t], [d * h, h, t * d * h], [h, d * h]
    return [n, 1], [d * n * h, n * h, h], [n * h, h]


def _lower(work: Work) -> list[Launch]:
    s = _sizes(work, work.target)
    if s.batch * s.hidden == 0:
        return []
    op, vl = work.node.op, work.target.vl
    ref = Ref(work.node, [])
    acts = gate_activations(ref, _DEFAULTS[op])
    before = op == "GRU" and bool(work.attr("linear_before_reset", 0))
    bias, last_bias = _bias(work, s, before)
    w = work.memory.packed(
        work.input(1), f"rnn{s.gates}x{s.padded}v{vl}", lambda x: _pack_input(x, s.gates, s.padded, vl)
    )
    x = work.input(0)
    rows, features = s.steps * s.batch, x.shape[2]
    fed = work.memory.temporary(max(1, s.directions * rows * s.columns * 4))
    launches = project(x.place, w, bias, fed, s.directions, rows, features, s.columns)
    count = len(_DEFAULTS[op])
    per_direction = [tuple(acts[d * count : (d + 1) * count]) for d in range(DIRECTIONS[direction_of(ref)])]
    for first in range(s.directions):
        same = all(a == per_direction[0] for a in per_direction)
        if same and first > 0:
            break
        directions = s.directions if same else 1
        launches.append(_recurrence(work, s, per_direction[first], (first, directions), (fed, last_bias)))
    return launches


def _recurrence(
    work: Work, s: Sizes, acts: tuple[tuple[str, float, float], ...], span: tuple[int, int], made: tuple[Place, Place]
) -> Launch:
    op, vl = work.node.op, work.target.vl
    before = op == "GRU" and bool(work.attr("linear_before_reset", 0))
    split = op == "GRU" and not before
    main = (0, 1) if split else tuple(range(s.gates))

    def packed(chosen: Sequence[int]) -> Place:
        recipe = f"rnn{s.gates}x{s.padded}v{vl}:{chosen}"
        return work.memory.packed(work.input(2), recipe, lambda x: _pack_recurrence(x, s.gates, s.padded, vl, chosen))

    peephole = work.maybe(7)
    lengths, h0, c0 = work.maybe(4), work.maybe(5), work.maybe(6)
    outs = _outputs(work, s)
    optional = [
        ("lengths", lengths), ("h0", h0), ("c0", c0), ("y", outs[0]), ("h_last", outs[1]), ("c_last", outs[2]),
    ]  # fmt: skip
    present = tuple(n for n, b in optional if b is not None)
    cell = Cell(
        op, acts, float(work.attr("clip", 0.0) or math.inf), before, bool(work.attr("input_forget", 0)),
        peephole is not None, present,
    )  # fmt: skip
    places = [made[0], packed(main), packed((2,)) if split else packed(main), made[1]]
    if peephole is not None:
        places.append(
            work.memory.packed(
                peephole, f"rnnp{s.padded}", lambda p: _gate_columns(p, 3, s.padded).reshape(s.directions, -1)
            )
        )
    places += [b.place for _, b in optional if b is not None]
    reverse = direction_of(Ref(work.node, [])) == "reverse"
    first, directions = span
    rows, y_steps, states = _strides(work, s)
    words = (
        *places, first, s.batch, s.steps, s.hidden, s.padded, int(reverse), s.steps * s.batch,
        *rows, *y_steps, *states,
    )  # fmt: skip
    writes = tuple(b.place for b in outs if b is not None)
    reads = tuple(p for p in places if p not in writes)
    spec = KernelSpec("rnn_steps", (cell,))
    return Launch(spec, directions * s.batch, words, reads, writes, scratch_bytes(s.padded))


for _op in _GATES:
    lowering(Lowering("steps", ONNX, _op, _accepts, _lower))
