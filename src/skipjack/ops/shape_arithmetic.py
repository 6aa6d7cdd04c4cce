"""Integer operators on values that may hold unknown sizes: what each does to one element, None when undecidable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, Opaque, Sym, dim_max, dim_min, exact_div, floordiv, mod
from skipjack.core.dtypes import DType
from skipjack.ops.registry import Infer
from skipjack.ops.rules import compute_known, is_symbolic

Element = Callable[..., Any]
Propagate = Callable[[Infer], list[np.ndarray | None]]


def lower_bound(d: Dim) -> int | None:
    """A number that d never goes below, given that named sizes are not negative; None when none is evident."""
    if not isinstance(d, Sym):
        return int(d)
    least = 0
    for monomial, coefficient in d.terms:
        if not monomial:
            least += coefficient
        elif coefficient < 0 or not all(isinstance(a, str) or _not_negative(a) for a in monomial):
            return None
    return least


def _not_negative(call: Opaque) -> bool:
    a, b = (lower_bound(d) for d in (call.a, call.b))
    if call.function == "max":
        return (a is not None and a >= 0) or (b is not None and b >= 0)
    if call.function == "mod":
        return b is not None and b >= 0
    return a is not None and b is not None and a >= 0 and b >= 0


def _add(a: Any, b: Any) -> Any:
    return a + b


def _sub(a: Any, b: Any) -> Any:
    return a - b


def _mul(a: Any, b: Any) -> Any:
    return a * b


def _neg(a: Any) -> Any:
    return -a


def _same(a: Any) -> Any:
    return a


def _absolute(a: Any) -> Any:
    least = lower_bound(a)
    return a if least is not None and least >= 0 else None


def _div(a: Any, b: Any) -> Any:
    """Truncating division; with sizes it is known when it is exact or neither side is negative."""
    exact = exact_div(a, b)
    if exact is not None or b == 0:
        return exact
    low_a, low_b = lower_bound(a), lower_bound(b)
    return floordiv(a, b) if low_a is not None and low_b is not None and low_a >= 0 and low_b >= 0 else None


def _exact(a: Any, b: Any) -> Any:
    return exact_div(a, b)


def _mod(a: Any, b: Any) -> Any:
    return None if b == 0 else mod(a, b)


def _maximum(*dims: Any) -> Any:
    total = dims[0]
    for d in dims[1:]:
        total = dim_max(total, d)
    return total


def _minimum(*dims: Any) -> Any:
    total = dims[0]
    for d in dims[1:]:
        total = dim_min(total, d)
    return total


def _sum(*dims: Any) -> Any:
    total: Any = 0
    for d in dims:
        total = total + d
    return total


def is_positive(d: Dim) -> bool | None:
    """Whether d > 0; None when it depends on the sizes."""
    low = lower_bound(d)
    if low is not None and low > 0:
        return True
    low = lower_bound(-d)
    return False if low is not None and low >= 0 else None


def _greater(a: Any, b: Any) -> bool | None:
    return is_positive(a - b)


def _less(a: Any, b: Any) -> bool | None:
    return is_positive(b - a)


def _greater_equal(a: Any, b: Any) -> bool | None:
    return is_positive(a - b + 1)


def _less_equal(a: Any, b: Any) -> bool | None:
    return is_positive(b - a + 1)


def _equal(a: Any, b: Any) -> bool | None:
    difference = a - b
    if not isinstance(difference, Sym):
        return difference == 0
    return False if is_positive(difference) or is_positive(-difference) else None


def _where(condition: Any, a: Any, b: Any) -> Any:
    return a if a == b or condition else b


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else dim_max(x, low)
    return x if high is None else dim_min(x, high)


INTEGER: dict[str, Element] = {
    "Abs": _absolute,
    "Add": _add,
    "Div": _div,
    "Max": _maximum,
    "Min": _minimum,
    "Mod": _mod,
    "Mul": _mul,
    "Neg": _neg,
    "Sub": _sub,
    "Sum": _sum,
}
WHOLE_FLOAT: dict[str, Element] = {
    **INTEGER,
    "Ceil": _same,
    "Div": _exact,
    "Floor": _same,
    "Round": _same,
}
COMPARE = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
ELEMENTS: dict[str, Element] = {
    "Clip": _clip,
    "Equal": _equal,
    "Greater": _greater,
    "GreaterOrEqual": _greater_equal,
    "Less": _less,
    "LessOrEqual": _less_equal,
    "Where": _where,
}


def propagate(i: Infer) -> list[np.ndarray | None]:
    """The result of an operator of INTEGER, WHOLE_FLOAT or ELEMENTS when an input holds a size."""
    element = _element(i)
    if element is None or not any(v is not None and is_symbolic(v) for v in i.values):
        return [None]
    out = i.tensor(1 if i.node.op == "Where" else 0).dtype
    return compute_known(i, _on_whole(element), DType.BOOL if i.node.op in COMPARE else out)


def _element(i: Infer) -> Element | None:
    op = i.node.op
    if op == "Mod" and i.attr("fmod", 0):
        return None
    if op == "Clip" and "" in i.node.inputs:
        return None
    if op in ELEMENTS:
        return ELEMENTS[op]
    return INTEGER.get(op) if i.tensor(0).dtype.is_int else WHOLE_FLOAT.get(op)


def _on_whole(element: Element) -> Element:
    """The element function with integral floats made integers; unknown for other floats."""

    def call(*args: Any) -> Any:
        whole = [int(a) if isinstance(a, float) and a.is_integer() else a for a in args]
        return None if any(isinstance(a, float) for a in whole) else element(*whole)

    return call
