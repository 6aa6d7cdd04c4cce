"""Products of two computed matrices: in f32 the right one is packed and the gemm runs; other types run a plain loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.emit import load_as, register_type
from skipjack.kernels.epilogue import Ending, Epilogue, accepts_epilogue, epilogue_of, extras_of
from skipjack.kernels.gemm import Matrices, launch
from skipjack.kernels.gemm_block import block_shape
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Place, Site, Work, generator, lowering
from skipjack.kernels.repack import PACK_ROWS, PACK_TRANSPOSED
from skipjack.lang.expr import Expr, arg
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import Target

_FLOATS = (DType.F32, DType.F16, DType.BF16)
_PLAIN_PRODUCTS_PER_US = 300.0
_PLAIN = (DType.F64, DType.I32, DType.I64, DType.U32, DType.U64, DType.I8, DType.U8, DType.I16, DType.U16)
_WORDS = ("rows", "k", "columns", "a_row", "a_k", "b_k", "b_column")


@dataclass(frozen=True)
class Product:
    """Sizes of Y [batch, rows, columns] = op(A) op(B), and for every batch which matrix of A and of B."""

    rows: int
    depth: int
    columns: int
    trans_a: bool
    trans_b: bool
    a_index: np.ndarray
    b_index: np.ndarray


def _product(work: Work) -> Product:
    a, b, y = work.input(0), work.input(1), work.output()
    ta, tb = bool(work.attr("trans_a", 0)), bool(work.attr("trans_b", 0))
    depth = a.shape[-2] if ta else a.shape[-1]
    batch = y.shape[:-2]

    def index(shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(np.arange(int(np.prod(shape))).reshape(shape), batch).reshape(-1)

    return Product(y.shape[-2], depth, y.shape[-1], ta, tb, index(a.shape[:-2]), index(b.shape[:-2]))


def scaled(expr: Expr | None, alpha: float, dtype: DType) -> Expr | None:
    """The epilogue of alpha times the accumulator."""
    if alpha == 1.0:
        return expr
    accumulator = arg(0, dtype)
    return _replaced(expr or accumulator, accumulator, accumulator * alpha)


def _replaced(e: Expr, old: Expr, new: Expr) -> Expr:
    if e.op == old.op and e.value == old.value:
        return new
    return Expr(e.op, tuple(_replaced(a, old, new) for a in e.args), e.dtype, e.value) if e.args else e


def _epilogue(work: Work) -> Epilogue:
    e = epilogue_of(work)
    a = work.input(0).dtype
    kind = DType.F32 if a in _FLOATS else a
    return Epilogue(scaled(e.expr, float(work.attr("alpha", 1.0)), kind), e.extras, e.output)


def _accepts(site: Site) -> str:
    a, b = site.inputs[0], site.inputs[1]
    assert a is not None, "a MatMul node lacks its left operand"
    assert b is not None, "a MatMul node lacks its right operand"
    if a.dtype not in _FLOATS or b.dtype not in _FLOATS:
        return f"computes in f32, the operands are {a.dtype.value} and {b.dtype.value}"
    return accepts_epilogue(site)


def _transposed(work: Work, x: Bound, panels: bool) -> tuple[Place, Launch]:
    """[.., rows, columns] as f32 with the last two axes exchanged; in panels of the block's columns or row-major."""
    s = block_shape(work.target)
    rows, columns = x.shape[-2:]
    matrices = x.elements // (rows * columns)
    stored = -(-rows // s.columns) * s.columns if panels else rows
    batch_bytes = 4 * stored * columns
    place = work.memory.temporary(batch_bytes * matrices)
    blocks = -(-rows // s.vl)
    if panels:
        per_panel, panel_bytes, pitch = s.vectors, 4 * s.columns * columns, 4 * s.columns
    else:
        per_panel, panel_bytes, pitch = blocks, 0, 4 * rows
    words = (rows, columns, blocks, per_panel, stored, panel_bytes, pitch, batch_bytes)
    spec = KernelSpec(PACK_TRANSPOSED, (x.dtype,))
    return place, Launch(spec, matrices * blocks, (x.place, place, *words), (x.place,), (place,))


def _panels(work: Work, b: Bound, transposed: bool) -> tuple[Place, Launch]:
    """op(B) as f32 panels."""
    if transposed:
        return _transposed(work, b, panels=True)
    s = block_shape(work.target)
    rows, columns = b.shape[-2:]
    matrices, panels = b.elements // (rows * columns), -(-columns // s.columns)
    place = work.memory.temporary(4 * matrices * panels * s.columns * rows)
    words = (rows, columns, panels)
    spec = KernelSpec(PACK_ROWS, (b.dtype,))
    return place, Launch(spec, matrices * panels, (b.place, place, *words), (b.place,), (place,))


def _lower(work: Work) -> list[Launch]:
    a, b, p, s = work.input(0), work.input(1), _product(work), block_shape(work.target)
    if not work.output().elements:
        return []
    if not p.depth:
        return _lower_plain(work)
    launches: list[Launch] = []
    a_place, a_type = a.place, a.dtype
    if p.trans_a:
        a_place, made = _transposed(work, a, panels=False)
        a_type = DType.F32
        launches.append(made)
    b_place, made = _panels(work, b, p.trans_b)
    launches.append(made)
    e = _epilogue(work)
    if b.elements == p.depth * p.columns and a.elements == p.a_index.size * p.rows * p.depth:
        rows = p.a_index.size * p.rows
        return [*launches, launch(work, Matrices(a_place, a_type, b_place, rows, p.depth, p.columns), e)]
    a_bytes = p.rows * p.depth * a_type.itemsize
    b_bytes = 4 * p.depth * -(-p.columns // s.columns) * s.columns
    offsets = (p.a_index * a_bytes, p.b_index * b_bytes)
    m = Matrices(a_place, a_type, b_place, p.rows, p.depth, p.columns, offsets)
    return [*launches, launch(work, m, e)]


MATMUL = lowering(Lowering("matmul_f32", SKIPJACK, "MatMul", _accepts, _lower, rank=10))


@generator("matmul_plain")
def matmul_plain(target: Target, symbol: str, dtype: DType, b_type: DType, strided: bool, e: Epilogue) -> Program:
    """A unit is one output row; `strided` when neighbouring columns of op(B) are not neighbours in memory."""
    fields = [("a", PTR), ("b", PTR), *e.fields(), ("a_offsets", PTR), ("b_offsets", PTR)]
    k = Kernel(symbol, [*fields, *((name, I64) for name in _WORDS)], target.vector_bytes * 8)
    lanes = target.lanes(max(dtype.itemsize, 4))
    with k.units() as unit:
        batch, row = unit // k.arg.rows, unit % k.arg.rows
        a = k.arg.a.at(k.arg.a_offsets.at(batch, 8).load(I64, 8) + row * k.arg.a_row)
        b = k.arg.b.at(k.arg.b_offsets.at(batch, 8).load(I64, 8))
        with k.loop(k.arg.columns, 0, lanes) as column:
            mask = k.below(k.arg.columns - column, lanes)
            acc = k.var(k.zero(register_type(dtype).vec(lanes)))
            with k.loop(k.arg.k) as i:
                x = load_as(k, a.at(i * k.arg.a_k), dtype, 0).splat(lanes)
                at = b.at(i * k.arg.b_k + column * k.arg.b_column)
                y = _strided(k, at, b_type, lanes, mask) if strided else load_as(k, at, b_type, lanes, mask)
                acc.set(k.fma(x, y, acc) if dtype.is_float else acc.get() + x * y)
            Ending(k, e, column, lanes, mask).store(acc.get(), unit * k.arg.columns + column)
    return k.finish()


def _strided(k: Kernel, at: V, dtype: DType, lanes: int, mask: V) -> V:
    """Lanes b_column bytes apart, one scalar load each; lanes off the mask repeat the first."""
    last = mask.zext(I64)
    ty = register_type(dtype).vec(lanes)
    offsets = k.iota(I64.vec(lanes)) * k.arg.b_column.splat(lanes) * last
    buffer = k.local(ty.nbytes)
    for lane in range(lanes):
        buffer.at(lane * ty.scalar.nbytes).store(load_as(k, at.at(offsets.extract(lane)), dtype, 0))
    return buffer.load(ty)


def _accepts_plain(site: Site) -> str:
    a, b = site.inputs[0], site.inputs[1]
    assert a is not None, "a matrix product lacks its left operand"
    assert b is not None, "a matrix product lacks its right operand"
    both_half = a.dtype in _FLOATS and b.dtype in _FLOATS
    if not both_half and (a.dtype is not b.dtype or a.dtype not in _PLAIN):
        return f"no product of {a.dtype.value} and {b.dtype.value}"
    return accepts_epilogue(site)


def _lower_plain(work: Work) -> list[Launch]:
    a, b, y = work.input(0), work.input(1), work.output()
    if not y.elements:
        return []
    if work.node.op == "Linear":
        rows, columns = y.elements // y.shape[-1], y.shape[-1]
        p = Product(rows, b.shape[0], columns, False, False, np.zeros(1, np.int64), np.zeros(1, np.int64))
    else:
        p = _product(work)
    sa, sb = a.dtype.itemsize, b.dtype.itemsize
    a_strides = (sa, p.rows * sa) if p.trans_a else (p.depth * sa, sa)
    b_strides = (sb, p.depth * sb) if p.trans_b else (p.columns * sb, sb)
    tables = [
        work.memory.constant((index * size).astype(np.int64))
        for index, size in ((p.a_index, p.rows * p.depth * sa), (p.b_index, p.depth * p.columns * sb))
    ]
    extras = [x.place for x in extras_of(work)]
    spec = KernelSpec("matmul_plain", (a.dtype, b.dtype, p.trans_b, _epilogue(work)))
    words = (p.rows, p.depth, p.columns, *a_strides, *b_strides)
    reads = (a.place, b.place, *extras, *tables)
    return [
        Launch(spec, p.a_index.size * p.rows, (a.place, b.place, y.place, *extras, *tables, *words), reads, (y.place,))
    ]


def _linear_plain_us(work: Work) -> float:
    return work.output().elements * work.input(1).shape[0] / _PLAIN_PRODUCTS_PER_US


MATMUL_PLAIN = lowering(Lowering("matmul_plain", SKIPJACK, "MatMul", _accepts_plain, _lower_plain))
LINEAR_PLAIN = lowering(
    Lowering("linear_plain", SKIPJACK, "Linear", _accepts_plain, _lower_plain, rank=-1, cost=_linear_plain_us)
)
