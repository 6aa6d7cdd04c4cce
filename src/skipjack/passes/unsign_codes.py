"""Let activations be unsigned bytes, whose products kernels know best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, Graph, Node
from skipjack.passes.move_codes import MOVES
from skipjack.passes.quantisation import Quant, dequantise, quant_of, quantise
from skipjack.passes.rewrite import Edit


@dataclass(frozen=True)
class UnsignCodes:
    """Signed codes between QuantizeLinear and DequantizeLinear, and moves of them, are unsigned, 128 higher.

    Codes that something else makes or reads stay signed, with all that are joined to them.
    """

    name: str = "unsign_codes"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        signed = {v for v in graph.types if _is_signed(edit, v) and v not in graph.constants}
        stay = {v for v in signed if not _is_free(edit, v)}
        # A move joins the codes it reads with those it makes.
        grown = True
        while grown:
            joined = {v for n in graph.nodes if _is_move(n) for v in _joined(n, signed, stay)}
            grown = not joined <= stay
            stay |= joined
        for n in graph.nodes:
            _rewrite(edit, n, signed - stay)
        return edit.finish()


def _is_signed(edit: Edit, name: str) -> bool:
    t = edit.tensor(name)
    return t is not None and t.dtype is DType.I8


def _is_move(n: Node) -> bool:
    return n.domain == ONNX and n.op in MOVES


def _data(n: Node) -> tuple[str, ...]:
    """What a move reads as codes: its data, and the number it pads with."""
    if n.op == "Concat":
        return n.inputs
    return (n.input(0), n.input(2)) if n.op == "Pad" and n.input(2) else n.inputs[:1]


def _joined(n: Node, signed: set[str], stay: set[str]) -> Iterable[str]:
    values = [v for v in (*_data(n), *n.outputs) if v in signed]
    return values if any(v in stay for v in values) else ()


def _is_free(edit: Edit, name: str) -> bool:
    """Whether only nodes that can change their codes make and read the value."""
    made = edit.producers.get(name)
    if made is None or name in edit.graph.outputs or not (_is_move(made) or _changeable(edit, made, name)):
        return False
    if _is_move(made) and any(edit.array(v) is not None for v in _data(made)[:1]):
        return False
    return all((_is_move(r) and name in _data(r)) or _changeable(edit, r, name) for r in edit.consumers.get(name, []))


def _changeable(edit: Edit, n: Node, name: str) -> bool:
    """Whether the node quantises or dequantises the value with constant parameters."""
    quant = quant_of(edit, n)
    return quant is not None and quant.whole and name in (n.outputs[0] if n.op == "QuantizeLinear" else n.input(0),)


def _rewrite(edit: Edit, n: Node, changed: set[str]) -> None:
    quant = quant_of(edit, n)
    if quant is not None and n.op == "QuantizeLinear" and n.outputs[0] in changed:
        edit.replace(n, [quantise(edit, n.input(0), _raised(quant), n.outputs[0])])
    elif quant is not None and n.op == "DequantizeLinear" and n.input(0) in changed:
        edit.replace(n, [dequantise(edit, n.input(0), _raised(quant), n.outputs[0])])
    elif _is_move(n) and n.outputs[0] in changed:
        data = [v for v in _data(n) if edit.array(v) is not None]
        raised = {v: edit.constant(_unsigned(edit, v), f"{v}.unsigned") for v in data}
        if raised:
            edit.replace(n, [n.with_inputs(raised.get(v, v) for v in n.inputs)])


def _raised(quant: Quant) -> Quant:
    return replace(quant, dtype=DType.U8, zero=quant.zero + 128)


def _unsigned(edit: Edit, name: str) -> np.ndarray:
    array = edit.array(name)
    assert array is not None, "only constants are raised"
    return (array.astype(np.int16) + 128).astype(np.uint8)
