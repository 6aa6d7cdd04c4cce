"""Scalar expressions: what one output element is, given one element of each input.

An elementwise operator is one such expression. numpy evaluates it (its reference), the pointwise kernel generator turns
it into vector code, and epilogues append it to a matrix kernel. Half-precision inputs are computed in f32 and rounded
once at the end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType

Number = int | float | bool


@dataclass(frozen=True)
class Expr:
    """op(args) of type dtype; `input` holds its index and `const` its number in value."""

    op: str
    args: tuple[Expr, ...]
    dtype: DType
    value: Number = 0

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.op, self.args, self.dtype, self.value))

    def _with(self, op: str, other: Expr | Number, swap: bool = False, dtype: DType | None = None) -> Expr:
        o = other if isinstance(other, Expr) else const(other, self.dtype)
        a, b = (o, self) if swap else (self, o)
        return Expr(op, (a, b), dtype or self.dtype)

    def __add__(self, o: Expr | Number) -> Expr:
        return self._with("add", o)

    def __radd__(self, o: Number) -> Expr:
        return self._with("add", o, swap=True)

    def __sub__(self, o: Expr | Number) -> Expr:
        return self._with("sub", o)

    def __rsub__(self, o: Number) -> Expr:
        return self._with("sub", o, swap=True)

    def __mul__(self, o: Expr | Number) -> Expr:
        return self._with("mul", o)

    def __rmul__(self, o: Number) -> Expr:
        return self._with("mul", o, swap=True)

    def __truediv__(self, o: Expr | Number) -> Expr:
        return self._with("div", o)

    def __rtruediv__(self, o: Number) -> Expr:
        return self._with("div", o, swap=True)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __lt__(self, o: Expr | Number) -> Expr:
        return self._with("lt", o, dtype=DType.BOOL)

    def __le__(self, o: Expr | Number) -> Expr:
        return self._with("le", o, dtype=DType.BOOL)

    def __gt__(self, o: Expr | Number) -> Expr:
        return self._with("gt", o, dtype=DType.BOOL)

    def __ge__(self, o: Expr | Number) -> Expr:
        return self._with("ge", o, dtype=DType.BOOL)

    def eq(self, o: Expr | Number) -> Expr:
        return self._with("eq", o, dtype=DType.BOOL)

    def ne(self, o: Expr | Number) -> Expr:
        return self._with("ne", o, dtype=DType.BOOL)


def arg(index: int, dtype: DType) -> Expr:
    """The element of input `index`."""
    return Expr("input", (), dtype, index)


def const(value: Number, dtype: DType) -> Expr:
    """A number of type dtype."""
    return Expr("const", (), dtype, value)


def unary(op: str, x: Expr, dtype: DType | None = None) -> Expr:
    """A function of UNARY applied to x."""
    assert op in UNARY, f"unknown unary {op!r}"
    return Expr(op, (x,), dtype or x.dtype)


def binary(op: str, a: Expr, b: Expr | Number) -> Expr:
    """A function of BINARY applied to a and b; comparisons give BOOL."""
    assert op in BINARY, f"unknown binary {op!r}"
    return a._with(op, b, dtype=DType.BOOL if op in COMPARISONS else None)  # pyright: ignore[reportPrivateUsage]


def select(condition: Expr, a: Expr, b: Expr) -> Expr:
    """a where condition holds, else b."""
    return Expr("select", (condition, a, b), a.dtype)


def cast(x: Expr, dtype: DType) -> Expr:
    """x converted as numpy's astype does; float to integer truncates."""
    return x if x.dtype is dtype else Expr("cast", (x,), dtype)


def minimum(a: Expr, b: Expr | Number) -> Expr:
    """The smaller of both; NaN when one is NaN."""
    return binary("min", a, b)


def maximum(a: Expr, b: Expr | Number) -> Expr:
    """The larger of both; NaN when one is NaN."""
    return binary("max", a, b)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x))."""
    return unary("sigmoid", x)


_NODES_PER_UNIT = 128
_ERF_END = 6


@functools.cache
def _erf_table() -> np.ndarray:
    """Taylor coefficients of erf, orders 0 to 6, around each node n / 128 of [0, 6]: [order, node]."""
    x = np.arange(_ERF_END * _NODES_PER_UNIT + 1) / _NODES_PER_UNIT
    hermite = [np.ones_like(x), 2 * x]
    for n in range(1, 5):
        hermite.append(2 * x * hermite[n] - 2 * n * hermite[n - 1])
    slope = 2 / math.sqrt(math.pi) * np.exp(-x * x)
    signs = [(-1) ** n / math.factorial(n + 1) for n in range(6)]
    return np.stack([np.array([math.erf(v) for v in x]), *(c * h * slope for c, h in zip(signs, hermite))])


def _np_erf(x: np.ndarray) -> np.ndarray:
    """erf to the last bit or two of f64; beyond 6 it is 1."""
    table = _erf_table()
    size = np.minimum(np.abs(np.asarray(x, np.float64)), _ERF_END)
    node = np.where(np.isnan(size), 0, np.rint(size * _NODES_PER_UNIT)).astype(np.int64)
    step = size - node / _NODES_PER_UNIT
    total = table[-1][node]
    for order in table[-2::-1]:
        total = total * step + order[node]
    return np.copysign(total, x).astype(x.dtype)


def _np_pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Power; for integers a negative exponent gives the truncated quotient, 0 when the base is 0."""
    if np.result_type(a, b).kind != "i" or not np.any(np.less(b, 0)):
        return np.power(a, b)
    inverse = np.where(a == 1, 1, np.where(a == -1, 1 - 2 * (b % 2), 0))
    return np.where(b < 0, inverse, np.power(a, np.maximum(b, 0)))


def _np_div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Division; integers truncate towards zero, and division by zero gives 0."""
    if np.result_type(a, b).kind in "iu":
        with np.errstate(all="ignore"):
            q = np.floor_divide(a, b)
            exact = a - q * b == 0
            return np.where(((a < 0) != (b < 0)) & ~exact & (b != 0), q + 1, q).astype(q.dtype)
    return np.divide(a, b)


UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "erf": _np_erf,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "log1p": np.log1p,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "sign": np.sign,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "not": np.logical_not,
    "bitnot": np.invert,
}
BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _np_div,
    "mod": np.mod,
    "fmod": np.fmod,
    "pow": _np_pow,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_HALF = frozenset({DType.F16, DType.BF16})


def compute_dtype(dtype: DType) -> DType:
    """The type arithmetic on dtype is done in: f32 for half precision, itself otherwise."""
    return DType.F32 if dtype in _HALF else dtype


def evaluate(e: Expr, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """The expression applied with numpy broadcasting; the meaning every kernel is tested against."""
    with np.errstate(all="ignore"):
        return np.asarray(_evaluate(e, inputs, {})).astype(e.dtype.np, copy=False)


def _evaluate(e: Expr, inputs: Sequence[np.ndarray], memo: dict[int, np.ndarray]) -> np.ndarray:
    if id(e) in memo:
        return memo[id(e)]
    compute = compute_dtype(e.dtype).np
    if e.op == "input":
        out = np.asarray(inputs[int(e.value)]).astype(compute, copy=False)
    elif e.op == "const":
        out = np.asarray(e.value, dtype=compute)
    else:
        args = [_evaluate(a, inputs, memo) for a in e.args]
        out = _apply(e, args).astype(compute, copy=False)
        if e.op == "cast" and e.dtype in _HALF:
            out = out.astype(e.dtype.np).astype(compute)
    memo[id(e)] = out
    return out


def _apply(e: Expr, args: list[np.ndarray]) -> np.ndarray:
    if e.op == "select":
        return np.where(args[0], args[1], args[2])
    if e.op == "cast":
        return args[0].astype(e.dtype.np)
    if e.op in UNARY:
        return UNARY[e.op](args[0])
    return BINARY[e.op](args[0], args[1])
