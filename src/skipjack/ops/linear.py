"""Matrix products: MatMul, Gemm, Einsum, and the determinant."""

from __future__ import annotations

import string

import numpy as np

from skipjack.core.dims import Dim
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.contraction import accumulator
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import broadcast_dim, broadcast_shapes, same_dim


def matmul_shape(i: Infer, a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of numpy's matmul."""
    if a is None or b is None:
        return None
    if not a or not b:
        i.fail("operands with at least one axis", f"{a} and {b}")
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    same_dim(i, left[-1], right[-2], "the summed axis")
    batch = broadcast_shapes(i, [left[:-2], right[:-2]])
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return (*(batch or ()), *rows, *columns)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """numpy's matmul, summed in the accumulator type of the operands."""
    total = accumulator(a.dtype)
    return np.matmul(a.astype(total, copy=False), b.astype(total, copy=False))


def _infer_matmul(i: Infer) -> list[ValueType]:
    return [TensorType(i.tensor(0).dtype, matmul_shape(i, i.shape(0), i.shape(1)))]


def _matmul(r: Ref) -> list[np.ndarray]:
    a, b = np.asarray(r.inputs[0]), np.asarray(r.inputs[1])
    return [np.asarray(product(a, b)).astype(a.dtype, copy=False)]


def _infer_gemm(i: Infer) -> list[ValueType]:
    a, b = i.shape(0), i.shape(1)
    dtype = i.tensor(0).dtype
    rows: Dim = i.fresh("rows") if a is None else _matrix(i, a, "transA")[0]
    columns: Dim = i.fresh("columns") if b is None else _matrix(i, b, "transB")[1]
    if a is not None and b is not None:
        same_dim(i, _matrix(i, a, "transA")[1], _matrix(i, b, "transB")[0], "the summed axis")
    added = broadcast_shapes(i, [i.shape(2), (rows, columns)]) if i.has(2) else None
    if added is not None and len(added) != 2:
        i.fail("an addend with at most two axes", i.shape(2))
    for a, b in zip(added or (), (rows, columns)):
        same_dim(i, a, b, "addend and product")
    return [TensorType(dtype, (rows, columns))]


def _matrix(i: Infer, shape: Shape, transpose: str) -> tuple[Dim, Dim]:
    if len(shape) != 2:
        i.fail("a matrix", f"shape {shape}")
    return (shape[1], shape[0]) if i.attr(transpose, 0) else (shape[0], shape[1])


def _gemm(r: Ref) -> list[np.ndarray]:
    a, b, c = np.asarray(r.inputs[0]), np.asarray(r.inputs[1]), r.get(2)
    y = product(a.T if r.attr("transA", 0) else a, b.T if r.attr("transB", 0) else b)
    if r.attr("alpha", 1.0) != 1.0:
        y = y * r.attr("alpha")
    if c is not None:
        y = y + np.asarray(c).astype(y.dtype) * (r.attr("beta", 1.0) if r.attr("beta", 1.0) != 1.0 else 1)
    return [y.astype(a.dtype, copy=False)]


register(Op("MatMul", _infer_matmul, _matmul))
register(Op("Gemm", _infer_gemm, _gemm))


def _terms(x: Infer | Ref, count: int) -> tuple[list[str], str | None]:
    """Input terms and the output term of an equation, None when the output is implicit; `...` is written as `.`."""
    equation = str(x.attr("equation", "")).replace(" ", "").replace("...", ".")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    allowed = set(string.ascii_letters + ".")
    if len(terms) != count or set("".join(terms) + right) - allowed:
        x.fail(f"an equation of letters with {count} input terms", repr(equation))
    return terms, right if arrow else None


def _implicit(terms: list[str]) -> str:
    letters = "".join(terms).replace(".", "")
    dots = "." if any("." in t for t in terms) else ""
    return dots + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))


def _infer_einsum(i: Infer) -> list[ValueType]:
    terms, out = _terms(i, len(i.types))
    out = _implicit(terms) if out is None else out
    dtype = i.tensor(0).dtype
    sizes: dict[str, Dim] = {}
    batch: Shape = ()
    for n, term in enumerate(terms):
        shape = i.shape(n)
        if shape is None:
            return [TensorType(dtype, None)]
        hidden = len(shape) - len(term.replace(".", ""))
        if hidden < 0 or (hidden and "." not in term):
            i.fail(f"input {n} to fit the term {term!r}", shape)
        at = term.find(".")
        named = shape if at < 0 else (*shape[:at], *shape[at + hidden :])
        if at >= 0:
            batch = broadcast_shapes(i, [batch, shape[at : at + hidden]]) or ()
        for letter, size in zip(term.replace(".", ""), named):
            joined = broadcast_dim(sizes.get(letter, 1), size)
            sizes[letter] = i.fail(f"equal sizes for {letter!r}", size) if joined is None else joined
    shape_out: list[Dim] = []
    for letter in out:
        shape_out += batch if letter == "." else [sizes[letter]]
    return [TensorType(dtype, tuple(shape_out))]


def _einsum(r: Ref) -> list[np.ndarray]:
    arrays = [np.asarray(v) for v in r.inputs]
    terms, out = _terms(r, len(arrays))
    total = accumulator(arrays[0].dtype)
    equation = f"{','.join(terms)}->{_implicit(terms) if out is None else out}".replace(".", "...")
    return [np.asarray(np.einsum(equation, *[a.astype(total) for a in arrays])).astype(arrays[0].dtype)]


register(Op("Einsum", _infer_einsum, _einsum))


def _infer_det(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    if t.shape is None:
        return [TensorType(t.dtype, None)]
    if len(t.shape) < 2:
        i.fail("square matrices", t.shape)
    same_dim(i, t.shape[-1], t.shape[-2], "a square matrix")
    return [TensorType(t.dtype, t.shape[:-2])]


def _det(r: Ref) -> list[np.ndarray]:
    x = np.asarray(r.inputs[0])
    return [np.asarray(np.linalg.det(x.astype(np.float64))).astype(x.dtype)]


register(Op("Det", _infer_det, _det))
