"""Scalar expressions as vector code, and elements of memory as values to compute with.

In memory an element has the form numpy gives it. In registers bool is i1, half precision is f32, the rest is native.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.kernels import vector_math as vm
from skipjack.lang.expr import BINARY, COMPARISONS, UNARY, Expr, compute_dtype
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F16, F32, F64, I1, I8, I16, I32, I64, Ty

_MEMORY = {
    DType.F32: F32, DType.F64: F64, DType.F16: F16, DType.BF16: I16, DType.BOOL: I8,
    DType.I8: I8, DType.I16: I16, DType.I32: I32, DType.I64: I64,
    DType.U8: I8, DType.U16: I16, DType.U32: I32, DType.U64: I64,
}  # fmt: skip
_REGISTER = _MEMORY | {DType.F16: F32, DType.BF16: F32, DType.BOOL: I1}
_FLOAT_FUNCTIONS: dict[str, Callable[[Kernel, V], V]] = {
    "exp": vm.exp, "log": vm.log, "tanh": vm.tanh, "erf": vm.erf, "sin": vm.sin, "cos": vm.cos, "tan": vm.tan,
    "asin": vm.asin, "acos": vm.acos, "atan": vm.atan, "sinh": vm.sinh, "cosh": vm.cosh, "asinh": vm.asinh,
    "acosh": vm.acosh, "atanh": vm.atanh, "log1p": vm.log1p, "sigmoid": vm.sigmoid,
}  # fmt: skip
_ROUNDING = {"floor": "floor", "ceil": "ceil", "round": "rint", "trunc": "trunc"}
_INT_SIMPLE = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_BOOL_SIMPLE = {"add": "or", "mul": "and", "min": "and", "max": "or", "and": "and", "or": "or", "xor": "xor"}
_FLOAT_SIMPLE = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


def memory_type(dtype: DType) -> Ty:
    """The scalar type of one element in memory. KeyError for types kernels do not compute with."""
    return _MEMORY[dtype]


def register_type(dtype: DType) -> Ty:
    """The scalar type elements are computed in. KeyError for types kernels do not compute with."""
    return _REGISTER[dtype]


def supported_dtype(dtype: DType) -> bool:
    """Whether kernels load, compute and store this type."""
    return dtype in _MEMORY


def supported(expr: Expr) -> str:
    """Empty when `emit` can write the expression, else the reason why not."""
    if not supported_dtype(expr.dtype):
        return f"kernels do not compute with {expr.dtype.value}"
    for a in expr.args:
        if reason := supported(a):
            return reason
    x = expr.args[0].dtype if expr.args else expr.dtype
    if expr.op in _FLOAT_FUNCTIONS and not compute_dtype(x).is_float:
        return f"{expr.op} of {x.value} needs a float"
    if expr.op == "sqrt" and not x.is_float:
        return f"{expr.op} of {x.value} needs a float"
    if x is DType.BOOL and expr.op in ("neg", "sub", "div", "mod", "fmod", "pow", "shl", "shr", "sign"):
        return f"{expr.op} is not defined for bool"
    if x.is_float and expr.op in ("and", "or", "xor", "shl", "shr", "bitnot"):
        return f"{expr.op} is not defined for {x.value}"
    known = expr.op in UNARY or expr.op in BINARY or expr.op in ("input", "const", "select", "cast")
    return "" if known else f"unknown function {expr.op!r}"


def half_bits(k: Kernel, x: V) -> V:
    """The i16 bits of f32 rounded to bf16, ties to even; NaN stays NaN."""
    bits = x.bitcast(x.ty.of(I32))
    rounded = bits + ((bits >> 16) & 1) + 0x7FFF
    return (k.select(vm.is_nan(x), bits | 0x400000, rounded) >> 16).trunc(I16)


def from_half_bits(x: V) -> V:
    """f32 of the i16 bits of a bf16."""
    return (x.zext(I32) << 16).bitcast(x.ty.of(F32))


def to_compute(k: Kernel, raw: V, dtype: DType) -> V:
    """An element as memory holds it in the form it is computed in."""
    if dtype is DType.BOOL:
        return raw.ne(0)
    if dtype is DType.BF16:
        return from_half_bits(raw)
    return raw.convert("fpext", F32) if dtype is DType.F16 else raw


def to_memory(k: Kernel, x: V, dtype: DType) -> V:
    """A computed value in the form memory holds."""
    if dtype is DType.BOOL:
        return x.zext(I8)
    if dtype is DType.BF16:
        return half_bits(k, x)
    return x.convert("fptrunc", F16) if dtype is DType.F16 else x


def load_as(k: Kernel, pointer: V, dtype: DType, lanes: int, mask: V | None = None) -> V:
    """Elements at pointer in the form they are computed in (lanes 0: one); off the mask zero and not touched."""
    ty = Ty(_MEMORY[dtype].elt, lanes)
    if dtype is DType.F16 and mask is not None:
        raw = pointer.load_masked(ty.of(I16), mask).bitcast(ty)
    else:
        raw = pointer.load(ty) if mask is None else pointer.load_masked(ty, mask)
    return to_compute(k, raw, dtype)


def store_as(k: Kernel, pointer: V, value: V, dtype: DType, mask: V | None = None) -> None:
    """Computed elements into memory of type dtype; lanes off the mask are not touched."""
    raw = to_memory(k, value, dtype)
    if mask is None:
        pointer.store(raw)
    else:
        pointer.store_masked(raw.bitcast(raw.ty.of(I16)) if dtype is DType.F16 else raw, mask)


def emit(k: Kernel, expr: Expr, inputs: Sequence[V], lanes: int | None = None) -> V:
    """The value of the expression; inputs and result in the form they are computed in.

    lanes is needed only when there are no inputs. Shared subexpressions are written once.
    """
    width = lanes if lanes is not None else inputs[0].ty.lanes if inputs else 0
    return _Emitter(k, inputs, width).value(expr)


class _Emitter:
    """Writes one expression."""

    def __init__(self, k: Kernel, inputs: Sequence[V], lanes: int) -> None:
        self.k = k
        self.inputs = inputs
        self.lanes = lanes
        self.memo: dict[int, V] = {}

    def value(self, e: Expr) -> V:
        if id(e) not in self.memo:
            self.memo[id(e)] = self._value(e)
        return self.memo[id(e)]

    def _value(self, e: Expr) -> V:
        k = self.k
        if e.op == "input":
            v = self.inputs[int(e.value)]
            return v.splat(self.lanes) if self.lanes and not v.ty.lanes else v
        if e.op == "const":
            return self.number(e.dtype, e.value)
        if e.op == "select":
            a, b = (self.converted(x, e.dtype) for x in e.args[1:])
            return k.select(self.converted(e.args[0], DType.BOOL), a, b)
        if e.op == "cast":
            return cast(k, self.value(e.args[0]), e.args[0].dtype, e.dtype)
        if e.op in UNARY:
            y, dtype = unary(k, e.op, self.value(e.args[0]), e.args[0].dtype)
        else:
            y, dtype = self.binary(e)
        return y if _REGISTER[dtype] == _REGISTER[e.dtype] else cast(k, y, dtype, e.dtype)

    def number(self, dtype: DType, value: int | float | bool) -> V:
        ty = _REGISTER[dtype].vec(self.lanes)
        with np.errstate(all="ignore"):
            n = np.asarray(value).astype(compute_dtype(dtype).np)
        if not dtype.is_float and dtype is not DType.BOOL and not dtype.is_signed:
            n = n.view(f"i{dtype.itemsize}")
        return self.k.constant(ty, n.item())

    def converted(self, e: Expr, dtype: DType) -> V:
        v = self.value(e)
        return v if compute_dtype(e.dtype) is compute_dtype(dtype) else cast(self.k, v, e.dtype, dtype)

    def binary(self, e: Expr) -> tuple[V, DType]:
        a, b = e.args
        common = compute_dtype(a.dtype)
        x, y = self.value(a), self.converted(b, a.dtype)
        if e.op in COMPARISONS:
            return compare(e.op, x, y, common), DType.BOOL
        if e.op == "pow" and b.op == "const" and common.is_float and float(b.value) in _POWERS:
            return _POWERS[float(b.value)](self.k, x), common
        if e.op in ("min", "max") and common.is_float and b.op == "const" and not math.isnan(b.value):
            # With the number first the instruction itself lets a NaN of x through.
            return (self.k.min if e.op == "min" else self.k.max)(y, x), common
        return binary(self.k, e.op, x, y, common), common


_POWERS: dict[float, Callable[[Kernel, V], V]] = {
    2.0: lambda k, x: x * x,
    3.0: lambda k, x: x * x * x,
    1.0: lambda k, x: x,
    -1.0: lambda k, x: 1.0 / x,
}


def unary(k: Kernel, op: str, x: V, dtype: DType) -> tuple[V, DType]:
    """A function of lang.expr.UNARY and the type of its value."""
    kind = compute_dtype(dtype)
    if op == "not":
        return (x ^ 1 if kind is DType.BOOL else x.eq(0)), DType.BOOL
    if op == "isnan":
        return (vm.is_nan(x) if kind.is_float else k.constant(x.ty.of(I1), 0)), DType.BOOL
    if op == "isinf":
        return (vm.absolute(k, x).eq(math.inf) if kind.is_float else k.constant(x.ty.of(I1), 0)), DType.BOOL
    if kind.is_float:
        return _float_unary(k, op, x), kind
    return _int_unary(k, op, x, kind), kind


def _float_unary(k: Kernel, op: str, x: V) -> V:
    if op in _FLOAT_FUNCTIONS:
        return _FLOAT_FUNCTIONS[op](k, x)
    if op in _ROUNDING:
        return k.unary(_ROUNDING[op], x)
    if op == "neg":
        return -x
    if op == "abs":
        return vm.absolute(k, x)
    if op == "sign":
        below = k.select(x < 0.0, k.constant(x.ty, -1.0), x)
        return k.select(x > 0.0, k.constant(x.ty, 1.0), below)
    assert op == "sqrt", f"{op} of a float reached the kernel writer"
    return k.unary("sqrt", x)


def _int_unary(k: Kernel, op: str, x: V, dtype: DType) -> V:
    if op == "bitnot":
        return x ^ (1 if dtype is DType.BOOL else -1)
    if op == "neg":
        return -x
    if op in _ROUNDING or dtype is DType.BOOL or (op == "abs" and not dtype.is_signed):
        return x
    if op == "abs":
        return k.select(x < 0, -x, x)
    assert op == "sign", f"{op} of an integer reached the kernel writer"
    positive = x.ne(0).zext(x.ty)
    return k.select(x < 0, k.constant(x.ty, -1), positive) if dtype.is_signed else positive


def compare(op: str, x: V, y: V, dtype: DType) -> V:
    """eq ne lt le gt ge of two values of one type."""
    relation = op if dtype.is_float or dtype.is_signed or op in ("eq", "ne") else "u" + op
    return x.k.emit("fcmp" if x.ty.is_float else "icmp", x.ty.of(I1), (x, y), relation)


def binary(k: Kernel, op: str, x: V, y: V, dtype: DType) -> V:
    """A function of lang.expr.BINARY that is no comparison; both values of type dtype."""
    if dtype is DType.BOOL:
        return k.emit(_BOOL_SIMPLE[op], x.ty, (x, y))
    if dtype.is_float:
        return _float_binary(k, op, x, y)
    if op in _INT_SIMPLE:
        return k.emit(_INT_SIMPLE[op], x.ty, (x, y))
    if op in ("min", "max"):
        return k.emit(("s" if dtype.is_signed else "u") + op, x.ty, (x, y))
    if op in ("shl", "shr"):
        return _shift(k, op, x, y, dtype)
    if op == "pow":
        return _int_power(k, x, y, dtype)
    quotient = _int_quotient(k, x, y, dtype)
    if op == "div":
        return quotient
    rest = k.select(y.eq(0), k.constant(x.ty, 0), x - quotient * y)
    if op == "fmod" or not dtype.is_signed:
        return rest
    return k.select(rest.ne(0) & ((rest ^ y) < 0), rest + y, rest)


def _float_binary(k: Kernel, op: str, x: V, y: V) -> V:
    if op in _FLOAT_SIMPLE:
        return k.emit(_FLOAT_SIMPLE[op], x.ty, (x, y))
    if op in ("min", "max"):
        return k.select(vm.is_nan(x), x, (k.min if op == "min" else k.max)(x, y))
    if op == "pow":
        return vm.power(k, x, y)
    rest = vm.fmod(k, x, y)
    if op == "fmod":
        return rest
    other_side = rest.ne(0.0) & (rest < 0.0).ne(y < 0.0)
    return k.select(other_side, rest + y, k.select(rest.eq(0.0), vm.with_sign(k, vm.absolute(k, rest), y), rest))


def _shift(k: Kernel, op: str, x: V, count: V, dtype: DType) -> V:
    bits = x.ty.bits
    valid = count.ult(bits)
    if op == "shl":
        return k.select(valid, x << k.select(valid, count, 0), k.constant(x.ty, 0))
    if dtype.is_signed:
        return x.sar(k.select(valid, count, bits - 1))
    return k.select(valid, x >> k.select(valid, count, 0), k.constant(x.ty, 0))


def _int_quotient(k: Kernel, x: V, y: V, dtype: DType) -> V:
    """x / y truncated; 0 where y is 0; the most negative number over -1 is itself."""
    ty = x.ty
    if ty.bits < 64:
        # f64 holds both operands exactly and a quotient this short truncates right.
        to, back = ("sitofp", "fptosi") if dtype.is_signed else ("uitofp", "fptoui")
        divisor = k.select(y.eq(0), k.constant(ty, 1), y)
        q = x.convert(to, F64) / divisor.convert(to, F64)
        wide = F64 if dtype.is_signed and ty.bits == 32 else None
        if wide is not None:
            # 2^31, which only the most negative number over -1 gives, would not fit.
            q = k.select(q < 2.0**31, q, -(2.0**31))
        return k.select(
            y.eq(0), k.constant(ty, 0), q.convert(back, I32).trunc(ty) if ty.bits < 32 else q.convert(back, ty)
        )
    if not dtype.is_signed:
        return k.select(y.eq(0), k.constant(ty, 0), x.udiv(k.select(y.eq(0), k.constant(ty, 1), y)))
    special = y.eq(0) | y.eq(-1)
    q = x // k.select(special, k.constant(ty, 1), y)
    return k.select(y.eq(0), k.constant(ty, 0), k.select(y.eq(-1), -x, q))


def _int_power(k: Kernel, x: V, y: V, dtype: DType) -> V:
    """x^y modulo 2^bits by squaring; a negative exponent leaves the truncated reciprocal."""
    result, square = k.var(k.constant(x.ty, 1)), k.var(x)
    left = k.var(k.select(y < 0, k.constant(y.ty, 0), y) if dtype.is_signed else y)
    with k.while_(lambda: vm.any_lane(k, left.get().ne(0))):
        odd = (left.get() & 1).ne(0)
        result.set(k.select(odd, result.get() * square.get(), result.get()))
        square.set(square.get() * square.get())
        left.set(left.get() >> 1)
    power = result.get()
    if not dtype.is_signed:
        return power
    unit = k.select((y & 1).ne(0), k.constant(x.ty, -1), 1)
    inverse = k.select(x.eq(-1), unit, x.eq(1).zext(x.ty))
    return k.select(y < 0, inverse, power)


def cast(k: Kernel, x: V, source: DType, target: DType) -> V:
    """A computed value converted as numpy's astype does; to half precision means rounded to it."""
    if source is target:
        return x
    a, b = compute_dtype(source), compute_dtype(target)
    if target is DType.BOOL:
        return x.ne(0)
    if a.is_float and b.is_float:
        return _float_to_float(k, x, target)
    if a.is_float:
        return _float_to_int(x, target)
    if b.is_float:
        return _float_to_float(k, _int_to_float(x, a, b), target)
    ty = _REGISTER[target]
    if x.ty.bits == ty.bits:
        return x
    if x.ty.bits > ty.bits:
        return x.trunc(ty)
    return x.sext(ty) if a.is_signed and a is not DType.BOOL else x.zext(ty)


def _int_to_float(x: V, source: DType, target: DType) -> V:
    signed = source.is_signed and source is not DType.BOOL
    return x.convert("sitofp" if signed else "uitofp", _REGISTER[target])


def _float_to_int(x: V, target: DType) -> V:
    ty = _REGISTER[target]
    if ty.bits < 32:
        return x.convert("fptosi", I32).trunc(ty)
    if target is DType.U32:
        return x.convert("fptosi", I64).trunc(I32)
    return x.convert("fptosi" if target.is_signed else "fptoui", ty)


def _float_to_float(k: Kernel, x: V, target: DType) -> V:
    if target is DType.F64:
        return x if x.ty.elt == "f64" else x.convert("fpext", F64)
    if x.ty.elt == "f64":
        x = x.convert("fptrunc", F32) if target is DType.F32 else _to_odd(k, x)
    return x if target is DType.F32 else rounded_to(k, x, target)


def _to_odd(k: Kernel, x: V) -> V:
    """f32 of an f64 such that rounding it again to half precision equals rounding once."""
    near = x.convert("fptrunc", F32)
    back = near.convert("fpext", F64)
    bits = near.bitcast(near.ty.of(I32))
    beyond = vm.absolute(k, back) > vm.absolute(k, x)
    odd = k.select(beyond, bits - 1, bits) | 1
    changed = (back < x) | (back > x)
    return k.select(changed, odd, bits).bitcast(near.ty)


def rounded_to(k: Kernel, x: V, dtype: DType) -> V:
    """An f32 value rounded to what dtype stores, still f32."""
    return to_compute(k, to_memory(k, x, dtype), dtype) if dtype in (DType.F16, DType.BF16) else x
