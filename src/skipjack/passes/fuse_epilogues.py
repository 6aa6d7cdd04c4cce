"""Let a contraction apply the elementwise expression that follows it, before its result reaches memory."""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.ir.types import TensorType
from skipjack.lang.expr import Expr, arg
from skipjack.passes.expressions import round_products, substitute
from skipjack.passes.rewrite import Edit

_CONTRACTIONS = ("Linear", "MatMul", "Conv", "ConvTranspose")
_FLOATS = frozenset({DType.F32, DType.F16, DType.BF16})


@dataclass(frozen=True)
class FuseEpilogues:
    """A Pointwise that alone reads a contraction of its own shape becomes its epilogue.

    The type stays, unless the contraction is one of integers: their epilogues scale sums and make codes again. The
    other operands must hold one value per output feature, or have the shape of the output; those of integer
    contractions may be one value, and where they round a quotient by a constant, they round the product with its
    reciprocal: another code may come out where the quotient is within its own rounding of a tie. Of two contractions
    that meet in one expression the later one takes it; the other is then a residual. Half-precision results are
    rounded once, after the epilogue.
    """

    name: str = "fuse_epilogues"
    max_extras: int = 6

    def apply(self, graph: Graph) -> Graph:
        while True:
            edit = Edit(graph)
            position = {id(n): i for i, n in enumerate(graph.nodes)}
            used: set[int] = set()
            for n in graph.nodes:
                if n.domain != SKIPJACK or n.op != "Pointwise":
                    continue
                found = [edit.made_by(i, *_CONTRACTIONS) for i in n.inputs]
                owned = [c for c in found if c is not None and c.domain == SKIPJACK and id(c) not in used]
                for contraction in sorted(owned, key=lambda c: -position[id(c)]):
                    fused = self._fused(edit, contraction, n)
                    if fused is not None:
                        used.add(id(contraction))
                        edit.replace(n, [fused])
                        break
            if not edit.changed:
                return graph
            graph = edit.finish()

    def _fused(self, edit: Edit, contraction: Node, n: Node) -> Node | None:
        result = contraction.outputs[0]
        before, after = edit.tensor(result), edit.tensor(n.outputs[0])
        if edit.only_reader(result) is not n or before is None or after is None or before.shape is None:
            return None
        if before.shape != after.shape or not _type_fits(edit, contraction, before, after):
            return None
        expr, own = n.attrs["expr"], contraction.attrs.get("epilogue")
        assert isinstance(expr, Expr), "every Pointwise has an expression"
        extras = list(contraction.inputs[2:])
        places: dict[int, Expr] = {}
        for i, name in enumerate(n.inputs):
            if name == result:
                places[i] = own if isinstance(own, Expr) else arg(0, before.dtype)
                continue
            extra = _as_extra(edit, contraction, name, before)
            if extra is None:
                return None
            if extra not in extras:
                extras.append(extra)
            t = edit.tensor(name)
            assert t is not None, "an extra is a tensor"
            places[i] = arg(1 + extras.index(extra), t.dtype)
        if len(extras) > self.max_extras:
            return None
        inputs = (*contraction.inputs[:2], *extras)
        fused = Node(contraction.op, inputs, n.outputs, contraction.attrs, SKIPJACK, contraction.origin)
        whole = substitute(expr, places)
        return fused.with_attrs(epilogue=round_products(whole) if _is_integer(edit, contraction) else whole)


def _type_fits(edit: Edit, contraction: Node, before: TensorType, after: TensorType) -> bool:
    return _is_integer(edit, contraction) or (before.dtype in _FLOATS and before.dtype is after.dtype)


def _is_integer(edit: Edit, contraction: Node) -> bool:
    t = edit.tensor(contraction.input(0))
    return t is not None and t.dtype.is_int


def _as_extra(edit: Edit, contraction: Node, name: str, output: TensorType) -> str | None:
    """The name under which the contraction can read an operand of its epilogue; a constant may change its shape."""
    t = edit.tensor(name)
    if t is None or t.shape is None or output.shape is None:
        return None
    if t.shape == output.shape or (t.shape in ((), (1,)) and _is_integer(edit, contraction)):
        return name
    axis = 1 if contraction.op.startswith("Conv") else len(output.shape) - 1
    padded = (1,) * (len(output.shape) - len(t.shape)) + t.shape
    if len(padded) > len(output.shape) or any(d != 1 for i, d in enumerate(padded) if i != axis):
        return None
    if padded[axis] != output.shape[axis]:
        return None
    if len(t.shape) == 1:
        return name
    array = edit.array(name)
    return None if array is None else edit.constant(array.reshape(-1), f"{name}.vector")
