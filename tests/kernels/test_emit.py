"""Expressions as vector code against their numpy meaning, special values included."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from skipjack.codegen.jit import compile_here
from skipjack.core.dtypes import DType
from skipjack.kernels.emit import emit, load_as, store_as, supported
from skipjack.lang.expr import BINARY, COMPARISONS, UNARY, Expr, arg, binary, cast, const, evaluate, select, unary
from skipjack.lang.kernel import Kernel
from skipjack.lang.program import I64, PTR, Program
from skipjack.targets.target import AVX2, AVX512, Target, runnable

TARGETS = [t for t in (AVX2, AVX512) if t in runnable()] or runnable()[:1]
FLOATS = [DType.F32, DType.F64, DType.F16, DType.BF16]
INTS = [DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64]
FLOAT_ONLY = {"isinf", "isnan", "floor", "ceil", "round", "trunc"}
_LANES = 16


def program(name: str, e: Expr, dtypes: list[DType], lanes: int = _LANES) -> Program:
    k = Kernel(name, [*((f"p{i}", PTR) for i in range(len(dtypes) + 1)), ("n", I64)])
    pointers = [getattr(k.arg, f"p{i}") for i in range(len(dtypes) + 1)]
    with k.loop(k.arg.n, step=lanes) as i:
        mask = k.below(k.arg.n - i, lanes)
        values = [load_as(k, p.at(i, d.itemsize), d, lanes, mask) for p, d in zip(pointers, dtypes, strict=False)]
        store_as(k, pointers[-1].at(i, e.dtype.itemsize), emit(k, e, values, lanes), e.dtype, mask)
    return k.finish()


def run(exprs: list[Expr], inputs: list[np.ndarray], target: Target) -> list[np.ndarray]:
    dtypes = [DType.from_numpy(x.dtype) for x in inputs]
    for e in exprs:
        assert supported(e) == ""
    library = compile_here([program(f"k{i}", e, dtypes) for i, e in enumerate(exprs)], target)
    outs = []
    for i, e in enumerate(exprs):
        out = np.zeros(inputs[0].shape, e.dtype.np)
        words = np.array([*(x.ctypes.data for x in inputs), out.ctypes.data, out.size], np.int64)
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        call(library.address(f"k{i}"))(words.ctypes.data, 0, 1, None)
        outs.append(out)
    return outs


def samples(dtype: DType, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, 203).astype(bool)
    if dtype.is_int:
        info = np.iinfo(dtype.np)
        near = rng.integers(-5 if dtype.is_signed else 0, 6, 80).astype(dtype.np)
        far = rng.integers(info.min, info.max, 120, dtype=dtype.np, endpoint=True)
        return rng.permutation(np.concatenate([near, far, np.array([info.min, info.max, 0], dtype.np)]))
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 1e-6, 0.5, -0.5, 2.5, 3.5, -88.0, 104.0, 60000.0]
    tiny = [1e-40, -1e-40, 1.2e-38] if dtype is not DType.F64 else [1e-310, -1e-310, 2.3e-308]
    spread = np.concatenate([rng.normal(0, s, 60) for s in (1e-3, 1, 8)])
    return rng.permutation(np.concatenate([special, tiny, spread])).astype(dtype.np)


def check(e: Expr, got: np.ndarray, inputs: list[np.ndarray], ulps: float) -> None:
    want = evaluate(e, inputs)
    if not e.dtype.is_float:
        np.testing.assert_array_equal(got, want, err_msg=e.op)
        return
    a, b = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=e.op)
    np.testing.assert_array_equal(np.where(np.isinf(a), a, 0), np.where(np.isinf(b), b, 0), err_msg=e.op)
    fine = np.isfinite(b)
    step = {DType.F64: 2.0**-52, DType.F32: 2.0**-23, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}[e.dtype]
    floor = {DType.F64: 5e-324, DType.F32: 1.5e-45, DType.F16: 6e-8, DType.BF16: 1e-40}[e.dtype]
    error = np.abs(a[fine] - b[fine]) / (np.abs(b[fine]) * step + floor)
    worst = int(np.argmax(error)) if error.size else 0
    assert not error.size or error[worst] <= ulps, (
        f"{e.op} {e.dtype}: {error[worst]} at {[x[fine][worst] for x in inputs]}"
    )


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, DType.BOOL], ids=lambda d: d.value)
def test_unary(dtype: DType, target: Target) -> None:
    x = samples(dtype, 1)
    a = arg(0, dtype)
    exprs = []
    for op in UNARY:
        result = DType.BOOL if op in ("isnan", "isinf", "not") else dtype
        e = Expr(op, (a,), result)
        if (not dtype.is_float and op in FLOAT_ONLY) or supported(e):
            continue
        exprs.append(e)
    assert exprs
    for e, got in zip(exprs, run(exprs, [x], target), strict=True):
        check(e, got, [x], 0 if e.op in ("neg", "abs", "sqrt", "floor", "ceil", "round", "trunc", "sign") else 6)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, DType.BOOL], ids=lambda d: d.value)
def test_binary(dtype: DType, target: Target) -> None:
    x, y = samples(dtype, 2), samples(dtype, 3)
    exprs = []
    for op in BINARY:
        e = Expr(op, (arg(0, dtype), arg(1, dtype)), DType.BOOL if op in COMPARISONS else dtype)
        if not supported(e):
            exprs.append(e)
    assert exprs
    for e, got in zip(exprs, run(exprs, [x, y], target), strict=True):
        inputs = [x, y]
        if e.op in ("shl", "shr"):
            ok = (y >= 0) & (y < 8 * x.dtype.itemsize)
            got, inputs = got[ok], [x[ok], y[ok]]
        check(e, got, inputs, 8 if e.op == "pow" else 1)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("source", [*FLOATS, *INTS, DType.BOOL], ids=lambda d: d.value)
def test_cast(source: DType, target: Target) -> None:
    x = samples(source, 4)
    if source.is_float:
        x = x[np.isfinite(x)]
    kinds = [d for d in (*FLOATS, *INTS, DType.BOOL) if d is not source]
    exprs = [cast(arg(0, source), d) for d in kinds]
    for e, got in zip(exprs, run(exprs, [x], target), strict=True):
        keep = np.ones(x.shape, bool)
        if source.is_float and e.dtype.is_int:
            info = np.iinfo(e.dtype.np)
            keep = (x.astype(np.float64) > info.min - 1.0) & (x.astype(np.float64) < min(info.max + 1.0, 2.0**63))
        check(e, got[keep], [x[keep]], 0)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_constants_select_and_sharing(target: Target) -> None:
    x, y = samples(DType.F32, 5), samples(DType.F32, 6)
    a, b = arg(0, DType.F32), arg(1, DType.F32)
    relu = binary("max", a, 0.0)
    shared = a * b
    exprs = [
        relu,
        binary("min", binary("max", a, -1.0), 1.0),
        select(a < b, shared, shared + 1.0),
        binary("pow", a, 2.0),
        binary("pow", a, 3.0),
        cast(cast(shared, DType.BF16), DType.F32),
        cast(cast(shared, DType.F16), DType.F32),
        const(2.5, DType.F32) + a,
    ]
    for e, got in zip(exprs, run(exprs, [x, y], target), strict=True):
        check(e, got, [x, y], 1)


@pytest.mark.parametrize("op, low, high, ulps", [
    ("sigmoid", -87, 88, 2.5), ("exp", -103, 88.7, 1.5), ("log", 1e-42, 1e38, 2), ("tanh", -12, 12, 3),
    ("erf", -5, 5, 5), ("sin", -1e4, 1e4, 1), ("log1p", -0.999, 1e6, 1), ("atan", -50, 50, 1), ("asin", -1, 1, 1),
    ("acosh", 1, 1e30, 1), ("sinh", -89, 89, 1),
])  # fmt: skip
def test_errors_of_functions_in_f32(op: str, low: float, high: float, ulps: float) -> None:
    x = np.concatenate([np.linspace(low, high, 20000), np.linspace(max(low, -1), min(high, 1), 20000)]).astype(
        np.float32
    )
    e = unary(op, arg(0, DType.F32))
    (got,) = run([e], [x], TARGETS[-1])
    want = evaluate(unary(op, arg(0, DType.F64)), [x.astype(np.float64)])
    error = np.abs(got - want) / np.maximum(np.spacing(np.abs(want).astype(np.float32)), 1e-45)
    worst = int(np.argmax(error))
    assert error[worst] <= ulps, f"{op}({x[worst]}) is {error[worst]} units off"


def test_what_is_not_supported_says_why() -> None:
    assert "string" in supported(Expr("eq", (arg(0, DType.STRING), arg(1, DType.STRING)), DType.BOOL))
    assert "needs a float" in supported(unary("exp", arg(0, DType.I32)))
    assert supported(unary("exp", arg(0, DType.BF16))) == ""
