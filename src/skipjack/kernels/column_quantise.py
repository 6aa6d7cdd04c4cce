"""Codes in column tiles: QuantizeLinear and DequantizeLinear there, and elementwise operators from rows to codes.

The latter read plain f32 rows and write bytes in column tiles: vl positions times 4 vl features become words that are
exchanged with positions in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX
from skipjack.ir.types import TensorType
from skipjack.kernels.column_pointwise import (
    PITCH_BYTES,
    accepts_columns,
    apply_columns,
    column_terms,
    moved_in_columns_us,
    renumbered,
)
from skipjack.kernels.emit import emit, load_as
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.pointwise import accepts_expression, expression
from skipjack.kernels.positions import CHANNEL, FULL
from skipjack.kernels.quantise import number, quantised
from skipjack.kernels.repack import transpose
from skipjack.lang.expr import Expr, arg, cast
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Program
from skipjack.ops.registry import registered
from skipjack.targets.target import Target

_F32, _I32 = DType.F32, DType.I32
_BYTES = (DType.U8, DType.I8)


@generator("row_codes")
def row_codes(
    target: Target, symbol: str, expr: Expr, kinds: tuple[tuple[str, DType], ...], output: DType, ragged: bool
) -> Program:
    """A unit is vl positions of one tile. Operands are plain; a full one is [positions, features], arg i is operand i.

    ragged: features is no multiple of 4 vl.
    """
    fields = [("y", PTR), *((f"e{i}", PTR) for i in range(len(kinds)))]
    fields += [("features", I64), ("positions", I64)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    a, vl = k.arg, target.vl

    def codes(position: V, feature: V, mask: V | None) -> V:
        """The i32 codes of vl features of one position; zero off the mask."""
        inputs: list[V] = []
        for i, (kind, dtype) in enumerate(kinds):
            p = getattr(a, f"e{i}")
            if kind == FULL:
                p = p.at((position * a.features + feature) * dtype.itemsize)
            elif kind == CHANNEL:
                p = p.at(feature * dtype.itemsize)
            inputs.append(load_as(k, p, dtype, vl, mask) if kind in (FULL, CHANNEL) else load_as(k, p, dtype, 0))
        found = emit(k, expr, inputs, vl)
        return found if mask is None else k.select(mask, found, 0)

    def block(first: V, feature: V, words: V, partial: bool) -> None:
        """vl positions from `first` on times 4 vl features, as words to `words`."""
        masks = [k.below(a.features - feature - j * vl, vl) if partial else None for j in range(4)]
        rows: list[V] = []
        for r in range(vl):
            position = k.min(first + r, a.positions - 1)
            parts = [codes(position, feature + j * vl, mask) for j, mask in enumerate(masks)]
            rows.append(_joined(_joined(parts[0], parts[1]), _joined(parts[2], parts[3])).bitcast(I32.vec(vl)))
        for c, column in enumerate(transpose(rows)):
            if partial:
                with k.when(feature + 4 * c < a.features):
                    words.at(c * PITCH_BYTES).store(column)
            else:
                words.at(c * PITCH_BYTES).store(column)

    with k.units() as unit:
        first = unit * vl
        groups = (a.features + 3) // 4
        base = a.y.at(first // TILE * groups * PITCH_BYTES + first % TILE * 4)
        whole = a.features // (4 * vl) * (4 * vl)
        with k.loop(whole, 0, 4 * vl) as feature:
            block(first, feature, base.at(feature // 4 * PITCH_BYTES), False)
        if ragged:
            block(first, whole, base.at(whole // 4 * PITCH_BYTES), True)
    return k.finish()


def _joined(a: V, b: V) -> V:
    """Both vectors behind one another."""
    return a.shuffle(range(2 * a.ty.lanes), b)


def _rows_accepted(site: Site) -> str:
    """Empty when input 0 is an f32 matrix, all others are numbers or vectors, and the output is bytes."""
    out, x = site.outputs[0], site.inputs[0]
    if out is None or out.dtype not in _BYTES or x is None or x.dtype is not _F32 or site.constants[0] is not None:
        return "not f32 to bytes"
    for t, constant in zip(site.inputs[1:], site.constants[1:], strict=True):
        if t is not None and (t.dtype.itemsize > 4 or (constant is None and (t.rank is None or t.rank > 1))):
            return "more than one matrix"
    return accepts_columns(site)


def _codes_of_rows(
    work: Work, expr: Expr, operands: Sequence[Bound], kinds: tuple[tuple[str, DType], ...]
) -> list[Launch]:
    """expr (operand i is arg i + 1) of plain rows into column tiles."""
    out = work.output()
    if not out.elements:
        return []
    features, vl = out.shape[-1], work.target.vl
    positions = out.elements // features
    own = renumbered(expr, {i + 1: i for i in range(len(operands))})
    places = tuple(b.place for b in operands)
    spec = KernelSpec("row_codes", (own, kinds, out.dtype, features % (4 * vl) != 0))
    words = (out.place, *places, features, positions)
    return [Launch(spec, -(-positions // vl), words, places, (out.place,))]


def _accepts_rows(site: Site) -> str:
    return _rows_accepted(site) or accepts_expression(site)


def _lower_rows(work: Work) -> list[Launch]:
    operands, kinds, numbers = column_terms(work)
    types = [None if b is None else TensorType(b.dtype, b.shape) for b in work.inputs]
    return _codes_of_rows(work, renumbered(expression(types, work), numbers), operands, kinds)


def _accepts_codes(site: Site) -> str:
    """What both forms of QuantizeLinear and DequantizeLinear ask for."""
    x, scale, out = site.inputs[0], site.inputs[1], site.outputs[0]
    real, coded = (x, out) if site.node.op == "QuantizeLinear" else (out, x)
    if x is None or scale is None or out is None or real is None or real.dtype is not _F32 or scale.dtype is not _F32:
        return "a number that is not f32"
    if coded is None or coded.dtype not in (*_BYTES, _I32):
        return "codes that are neither bytes nor i32"
    if site.node.attrs.get("precision", 0) not in (0, 1):
        return "another precision"
    axis, rank = site.node.attrs.get("axis", 1), x.rank or 0
    assert isinstance(axis, int), "an axis is a number"
    if scale.elements != 1 and axis % max(rank, 1) != rank - 1:
        return "scales along an axis that is not the last"
    return ""


def _quantize_expr(work: Work) -> Expr:
    zero = work.maybe(2)
    return quantised(
        arg(0, _F32) / arg(1, _F32), None if zero is None else number(2, zero.dtype, _I32), work.output().dtype
    )


def _dequantize_expr(work: Work) -> Expr:
    x, zero = work.input(0), work.maybe(2)
    wide = DType.I64 if x.dtype is _I32 else _I32
    value = number(0, x.dtype, wide)
    if zero is not None:
        value = value - number(2, zero.dtype, wide)
    return cast(value, _F32) * arg(1, _F32)


def _accepts_linear(site: Site) -> str:
    return _accepts_codes(site) or accepts_columns(site)


def _lower_linear(work: Work) -> list[Launch]:
    operands, kinds, numbers = column_terms(work)
    expr = _quantize_expr(work) if work.node.op == "QuantizeLinear" else _dequantize_expr(work)
    return apply_columns(work, renumbered(expr, numbers), operands, kinds)


def _accepts_quantize_rows(site: Site) -> str:
    return _accepts_codes(site) or _rows_accepted(site)


def _quantize_rows(work: Work) -> list[Launch]:
    operands, kinds, numbers = column_terms(work)
    return _codes_of_rows(work, renumbered(_quantize_expr(work), numbers), operands, kinds)


def _register(
    name: str,
    domain: str,
    op: str,
    accepts: Callable[[Site], str],
    lower: Callable[[Work], list[Launch]],
    layouts: str,
) -> None:
    lowering(Lowering(name, domain, op, accepts, lower, layouts=layouts, cost=moved_in_columns_us))


for _op in registered():
    if _op.expression is not None:
        _register("codes-of-rows", _op.domain, _op.name, _accepts_rows, _lower_rows, "plain>columns")
for _domain in (ONNX, MS):
    _register("codes-of-rows", _domain, "QuantizeLinear", _accepts_quantize_rows, _quantize_rows, "plain>columns")
    for _name in ("QuantizeLinear", "DequantizeLinear"):
        _register("pointwise-columns", _domain, _name, _accepts_linear, _lower_linear, "columns")
