"""Move data as codes: what reorders, selects or joins numbers does the same to the bytes they are stored as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.ir.graph import ONNX, Graph, Node
from skipjack.ops.quantize import limits
from skipjack.ops.registry import find
from skipjack.passes.canonicalise_contractions import ints_attr
from skipjack.passes.merge_common_subexpressions import MergeCommonSubexpressions
from skipjack.passes.quantisation import BYTES, Quant, dequantise, dequantised_codes, quant_of, quantise
from skipjack.passes.rewrite import Edit

_ORDER = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_PARTS = ("Split", "Slice", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth")
_MONOTONE = ("MaxPool", "Resize", "Pad", "Concat")
MOVES = frozenset((*_ORDER, *_PARTS, *_MONOTONE))
_CONTRACTIONS = ("MatMul", "Gemm", "Conv")
_ROUNDS = 24


@dataclass(frozen=True)
class MoveCodes:
    """Between DequantizeLinear and what wants codes again, data moves as codes.

    A DequantizeLinear goes behind a move whose result is quantised or multiplied by a constant; a QuantizeLinear goes
    before MaxPool, Concat and nearest Resize when nobody else reads their result, and before a reshape of an
    elementwise result. Numbers that are dequantised and quantised alike stay codes. All of it is exact: scales are
    positive, so rounding keeps the order of numbers.
    """

    name: str = "move_codes"

    def apply(self, graph: Graph) -> Graph:
        for _ in range(_ROUNDS):
            edit = Edit(graph)
            for n in graph.nodes:
                if n.domain == ONNX and n.op == "QuantizeLinear":
                    _move_up(edit, n)
                elif n.domain == ONNX and n.op in MOVES and n.outputs[0] not in graph.outputs:
                    _move_down(edit, n)
            if not edit.changed:
                break
            graph = MergeCommonSubexpressions().apply(edit.finish())
        return graph


def _move_down(edit: Edit, n: Node) -> None:
    """The move on codes, then DequantizeLinear."""
    found = [dequantised_codes(edit, i) for i in _data(n)]
    quants = [f[1] for f in found if f is not None]
    if len(quants) != len(found) or not any(_wants_codes(edit, o) for o in n.outputs if o):
        return
    codes = [f[0].input(0) for f in found if f is not None]
    quant = _after(edit, n, quants)
    inputs = None if quant is None else _inputs_on_codes(edit, n, codes, quant)
    if quant is None or inputs is None:
        return
    outputs = [edit.name(f"{o}.codes") if o else "" for o in n.outputs]
    real = [dequantise(edit, c, quant, o) for c, o in zip(outputs, n.outputs, strict=True) if o]
    edit.replace(n, [Node(n.op, inputs, tuple(outputs), n.attrs, ONNX, n.origin), *real])


def _data(n: Node) -> Sequence[str]:
    return n.inputs if n.op == "Concat" else n.inputs[:1]


def _after(edit: Edit, n: Node, quants: Sequence[Quant]) -> Quant | None:
    """What the codes mean after the move, None when the move cannot be done on codes."""
    first = quants[0]
    if not _moves_codes(edit, n) or (first.dtype not in BYTES and n.op not in _ORDER):
        return None
    if first.whole:
        return first if all(first.same(q) for q in quants) else None
    perm = ints_attr(n, "perm", ())
    return first.moved(perm.index(first.axis)) if n.op == "Transpose" and perm else None


def _moves_codes(edit: Edit, n: Node) -> bool:
    """Whether the node only moves, selects or repeats elements of its data."""
    if n.op == "Resize":
        nearest = n.attrs.get("mode", "nearest") == "nearest"
        return nearest and n.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"
    if n.op == "MaxPool":
        return len(n.outputs) == 1
    if n.op == "Pad" and n.attrs.get("mode", "constant") == "constant":
        return not n.input(2) or edit.scalar(n.input(2)) == 0
    return True


def _inputs_on_codes(edit: Edit, n: Node, codes: Sequence[str], quant: Quant) -> tuple[str, ...] | None:
    """The inputs of the move on codes; padding is the code of 0."""
    if n.op == "Concat":
        return tuple(codes)
    if n.op != "Pad" or n.attrs.get("mode", "constant") != "constant":
        return (codes[0], *n.inputs[1:])
    low, high = limits(quant.dtype)
    if not low <= int(quant.zero) <= high:
        return None
    value = edit.constant(np.array(quant.zero, quant.dtype.np), f"{n.outputs[0]}.zero")
    return (codes[0], n.input(1), value, *n.inputs[3:])


def _wants_codes(edit: Edit, name: str) -> bool:
    """Whether some reader, perhaps behind more moves, quantises the value or multiplies it by a constant."""
    todo, seen = [name], set[str]()
    while todo:
        value = todo.pop()
        for reader in edit.consumers.get(value, []):
            if reader.op == "QuantizeLinear" or _multiplies(edit, reader, value):
                return True
            if reader.op in MOVES and value in _data(reader):
                todo += [o for o in reader.outputs if o and o not in seen]
                seen.update(reader.outputs)
    return False


def _multiplies(edit: Edit, n: Node, value: str) -> bool:
    if n.domain != ONNX or n.op not in _CONTRACTIONS:
        return False
    return _is_weight(edit, n.input(1)) if value == n.input(0) else value == n.input(1) and _is_weight(edit, value)


def _is_weight(edit: Edit, name: str) -> bool:
    """Whether the value is a dequantised constant, moved or not."""
    made = edit.producers.get(name)
    while made is not None and made.op in MOVES and made.op != "Concat":
        made = edit.producers.get(made.input(0))
    return made is not None and made.op == "DequantizeLinear" and edit.array(made.input(0)) is not None


def _move_up(edit: Edit, n: Node) -> None:
    """QuantizeLinear before the move that makes its input; none after a DequantizeLinear that says the same."""
    quant = quant_of(edit, n)
    if quant is None or not quant.whole or quant.dtype not in BYTES:
        return
    found = dequantised_codes(edit, n.input(0))
    if found is not None:
        if found[1].same(quant):
            edit.forward(n, found[0].input(0))
        return
    move = edit.made_by(n.input(0), "MaxPool", "Concat", "Resize", *_ORDER)
    if move is None or move.domain != ONNX or not _moves_codes(edit, move) or edit.only_reader(n.input(0)) is not n:
        return
    if move.op in _ORDER and not _is_elementwise(edit, move.input(0)):
        return
    made = [quantise(edit, x, quant, edit.name(f"{x}.codes")) for x in _data(move)]
    inputs = [m.outputs[0] for m in made]
    rest = () if move.op == "Concat" else move.inputs[1:]
    edit.replace(n, [*made, Node(move.op, (*inputs, *rest), n.outputs, move.attrs, ONNX, move.origin)])


def _is_elementwise(edit: Edit, name: str) -> bool:
    made = edit.producers.get(name)
    op = None if made is None else find(made.domain, made.op)
    return op is not None and op.expression is not None
