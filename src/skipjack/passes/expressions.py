"""Building one expression out of several: arguments replaced by expressions, numbers put in, powers made cheap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.lang.expr import Expr, cast


def substitute(e: Expr, replacements: Mapping[int, Expr]) -> Expr:
    """e with argument i replaced by replacements[i]. Shared parts stay shared; arguments without one stay."""
    return _substituted(e, replacements, {})


def _substituted(e: Expr, replacements: Mapping[int, Expr], memo: dict[int, Expr]) -> Expr:
    if id(e) in memo:
        return memo[id(e)]
    if e.op == "input":
        out = replacements.get(int(e.value), e)
    elif not e.args:
        out = e
    else:
        out = _cheaper(replace(e, args=tuple(_substituted(a, replacements, memo) for a in e.args)))
    memo[id(e)] = out
    return out


def _cheaper(e: Expr) -> Expr:
    """Powers with a small constant exponent as products; numbers of codes that never reach memory stay f32."""
    if e.op == "cast" and e.dtype is DType.F32:
        return _number_of_code(e.args[0]) or e
    if e.op != "pow" or e.args[1].op != "const" or not e.dtype.is_float:
        return e
    x, exponent = e.args[0], float(e.args[1].value)
    if x.dtype is not e.dtype:
        return e
    if exponent in (1.0, 2.0, 3.0):
        return {1.0: x, 2.0: x * x, 3.0: x * x * x}[exponent]
    return e


def round_products(e: Expr) -> Expr:
    """e with every rounded quotient by a number as a rounded product with its reciprocal."""
    return _rounding_products(e, {})


def _rounding_products(e: Expr, memo: dict[int, Expr]) -> Expr:
    if id(e) not in memo:
        args = tuple(_rounding_products(a, memo) for a in e.args)
        if e.op == "round" and args[0].op == "div" and args[0].args[1].op == "const":
            x, divisor = args[0].args
            reciprocal = np.float32(1) / np.float32(divisor.value)
            args = (x * float(reciprocal),) if np.isfinite(reciprocal) and divisor.dtype is DType.F32 else args
        same = all(a is b for a, b in zip(args, e.args, strict=True))
        memo[id(e)] = e if same else replace(e, args=args)
    return memo[id(e)]


def _number_of_code(code: Expr) -> Expr | None:
    """A code, or its distance from the zero point, as f32, when the code is made of an f32 that is a whole number."""
    if code.op == "sub" and code.dtype is DType.I32:
        first, zero = code.args
        number = _number_of_code(first.args[0]) if first.op == "cast" and first.dtype is DType.I32 else None
        return None if number is None else number - cast(zero, DType.F32)
    made = code.args[0] if code.op == "cast" and code.dtype is DType.U8 else None
    return made if made is not None and _is_whole_byte(made) else None


def _is_whole_byte(e: Expr) -> bool:
    """Whether e is `min(max(round(...) [+ zero], 0), 255)` in f32, as quantisation writes it."""
    if e.op != "min" or e.dtype is not DType.F32 or e.args[1].op != "const" or e.args[1].value != 255.0:
        return False
    positive = e.args[0]
    if positive.op != "select" or positive.args[2].op != "const" or positive.args[2].value != 0.0:
        return False
    shifted = positive.args[1]
    return shifted.op == "round" or (shifted.op == "add" and shifted.args[0].op == "round")


def count_operations(e: Expr) -> int:
    """How many distinct operations e does; inputs and constants are free."""
    seen: dict[int, Expr] = {}
    _collect(e, seen)
    return sum(1 for part in seen.values() if part.args)


def arguments(e: Expr) -> frozenset[int]:
    """The indices of the arguments e reads."""
    seen: dict[int, Expr] = {}
    _collect(e, seen)
    return frozenset(int(part.value) for part in seen.values() if part.op == "input")


def _collect(e: Expr, seen: dict[int, Expr]) -> None:
    if id(e) in seen:
        return
    seen[id(e)] = e
    for a in e.args:
        _collect(a, seen)
