"""Write QuantizeLinear and DequantizeLinear as expressions, so that they join what makes and what reads their codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.lang.expr import Expr, arg, const
from skipjack.passes.quantisation import Quant, nearest_code, quant_of, real_number
from skipjack.passes.rewrite import Edit, node

_WHOLE_CODES = (DType.U8, DType.I8, DType.I32)


@dataclass(frozen=True)
class ExpressQuantisation:
    """Each with constant parameters for all elements, or for the indices of one axis, becomes a Pointwise.

    The arithmetic is ONNX's, step by step: a quotient rounded to f32, then to even; a difference of integers times the
    scale in f32.
    """

    name: str = "express_quantisation"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            quant = quant_of(edit, n)
            if quant is not None and edit.rank(n.input(0)) is not None and quant.dtype in _WHOLE_CODES:
                _express(edit, n, quant)
        return edit.finish()


def _express(edit: Edit, n: Node, quant: Quant) -> None:
    inputs = [n.input(0)]
    rank = edit.rank(n.input(0)) or 0

    def parameter(array: np.ndarray, what: str) -> Expr:
        dtype = DType.from_numpy(array.dtype)
        if array.size == 1:
            return const(array.item(), dtype)
        shape = (-1, *[1] * (rank - 1 - quant.axis))
        inputs.append(edit.constant(array.reshape(shape), f"{n.outputs[0]}.{what}"))
        return arg(len(inputs) - 1, dtype)

    wanted = bool(quant.zero.any())
    scale = parameter(quant.scale, "scale")
    if n.op == "QuantizeLinear":
        x = arg(0, DType.F32)
        steps = x if scale.op == "const" and scale.value == 1 else x / scale
        expr = nearest_code(steps, parameter(quant.zero.astype(np.float32), "zero") if wanted else None, quant.dtype)
    elif quant.dtype is DType.I32 and wanted:
        return
    else:
        zero = parameter(quant.zero.astype(np.int32), "zero") if wanted else None
        expr = real_number(arg(0, quant.dtype), scale, zero)
    edit.replace(n, [node("Pointwise", inputs, n.outputs[0], SKIPJACK, expr=expr)])
