"""Sizes behave like the integers they stand for."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from skipjack.core.dims import (
    Dim,
    Sym,
    ceildiv,
    dim_max,
    dim_min,
    evaluate,
    exact_div,
    floordiv,
    mod,
    parse_dim,
    product,
    substitute,
    symbols,
)
from skipjack.core.errors import ModelError

NAMES = ("b", "s", "h")
SIZES = st.fixed_dictionaries({name: st.integers(1, 50) for name in NAMES})
CALLS = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "sub": (lambda a, b: a - b, lambda a, b: a - b),
    "mul": (lambda a, b: a * b, lambda a, b: a * b),
    "floordiv": (lambda a, b: floordiv(a, b), lambda a, b: a // b),
    "mod": (lambda a, b: mod(a, b), lambda a, b: a % b),
    "max": (dim_max, max),
    "min": (dim_min, min),
}


@st.composite
def dims(draw: st.DrawFn, depth: int = 3) -> tuple[Dim, object]:
    """A Dim, and the function from sizes to the integer it must equal."""
    if depth == 0 or draw(st.booleans()):
        if draw(st.booleans()):
            value = draw(st.integers(0, 9))
            return value, lambda sizes: value
        name = draw(st.sampled_from(NAMES))
        return Sym.named(name), lambda sizes: sizes[name]
    call, plain = CALLS[draw(st.sampled_from(sorted(CALLS)))]
    (a, value_a), (b, value_b) = draw(dims(depth - 1)), draw(dims(depth - 1))
    if call in (CALLS["floordiv"][0], CALLS["mod"][0]):
        b, value_b = 3, lambda sizes: 3
    return call(a, b), lambda sizes: plain(value_a(sizes), value_b(sizes))


@given(dims(), SIZES)
@settings(deadline=None)
def test_arithmetic_on_sizes_is_arithmetic_on_integers(pair: tuple, sizes: dict) -> None:
    d, expected = pair
    assert evaluate(d, sizes) == expected(sizes)


@given(dims())
@settings(deadline=None)
def test_text_parses_back_to_an_equal_size(pair: tuple) -> None:
    d, _ = pair
    assert parse_dim(str(d)) == d


@given(dims(), SIZES)
@settings(deadline=None)
def test_substituting_all_symbols_gives_the_integer(pair: tuple, sizes: dict) -> None:
    d, expected = pair
    assert substitute(d, sizes) == expected(sizes)
    assert symbols(d) <= set(NAMES)


@given(dims(), dims(), SIZES)
@settings(deadline=None)
def test_equal_sizes_have_equal_values(first: tuple, second: tuple, sizes: dict) -> None:
    if first[0] == second[0]:
        assert first[1](sizes) == second[1](sizes)


@given(dims(), dims(), SIZES)
@settings(deadline=None)
def test_exact_division_undoes_multiplication(first: tuple, second: tuple, sizes: dict) -> None:
    divisor = evaluate(second[0], sizes)
    quotient = exact_div(first[0] * second[0], second[0])
    if quotient is not None and divisor:
        assert evaluate(quotient, sizes) == first[1](sizes)


def test_simplification_of_what_shape_arithmetic_meets() -> None:
    b, s = Sym.named("b"), Sym.named("s")
    assert b * s - s * b == 0
    assert floordiv(b * s * 12, s * 4) == b * 3
    assert mod(b * 8, 4) == 0
    assert ceildiv(s * 2, 2) == s or evaluate(ceildiv(s * 2, 2), {"s": 7}) == 7
    assert product([b, 2, s]) == b * s * 2


def test_a_size_has_no_truth_value() -> None:
    with pytest.raises(TypeError, match="no truth value"):
        bool(Sym.named("b"))


def test_an_unknown_symbol_is_named() -> None:
    with pytest.raises(ModelError, match="'b' is not known"):
        evaluate(Sym.named("b") + 1, {"s": 3})


@pytest.mark.parametrize("text", ["", "b+", "b b", "?", "sqrt(b,2)"])
def test_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="size"):
        parse_dim(text)
