from __future__ import annotations

import itertools

import pytest

from skipjack.core.bounds import always_negative, interval, lower, never_below, never_negative, upper
from skipjack.core.dims import Dim, Sym, dim_max, dim_min, evaluate, exact_div, floordiv, mod

A, B = Sym.named("a"), Sym.named("b")
DIMS: list[Dim] = [
    7,
    A,
    A * B,
    A + 3,
    A - 3,
    -2 * A,
    A * B - A,
    5 - A * A,
    dim_max(A, 4),
    dim_min(A, 4),
    dim_max(A - 5, 0),
    floordiv(A + 1, 2),
    floordiv(A - 5, 2),
    floordiv(A, B + 1),
    mod(A, 4),
    mod(A - 9, 3),
    mod(A, B + 1),
    dim_min(A, 4) * dim_min(B, 3) - 2,
    dim_min(A - 3, 2) * dim_max(B - 4, -1),
    (dim_min(A, 4) - 2) * (dim_min(B, 3) - 1),
    -1 * dim_max(A, 4) * B,
]


@pytest.mark.parametrize("d", DIMS, ids=str)
def test_every_value_lies_in_the_interval(d: Dim) -> None:
    low, high = interval(d)
    for a, b in itertools.product(range(9), repeat=2):
        value = evaluate(d, {"a": a, "b": b})
        assert low is None or low <= value, (a, b)
        assert high is None or value <= high, (a, b)


def test_what_shape_rules_ask() -> None:
    assert lower(A + 3) == 3
    assert upper(dim_min(A, 4)) == 4
    assert never_below(A + B, B)
    assert not never_below(A, B)
    assert never_negative(dim_max(A - 5, 0))
    assert always_negative(-1 - A)
    assert not always_negative(-A)


@pytest.mark.parametrize(
    "a, b, quotient",
    [
        ((A + B) * A * 8, (A + B) * A, 8),
        ((A + B) * (A - B), A - B, A + B),
        ((A + B) * (A + B), A + B, A + B),
        (6 * A + 4, 2, 3 * A + 2),
        (A + B, A, None),
        (A * A + B, A + B, None),
        (A, 0, None),
        (3 * A, 2, None),
    ],
)
def test_polynomials_divide_exactly_or_not_at_all(a: Dim, b: Dim, quotient: Dim | None) -> None:
    assert exact_div(a, b) == quotient


def test_extremes_absorb_each_other_and_have_one_order() -> None:
    assert dim_max(A, dim_min(A, 512)) == A
    assert dim_min(dim_max(A, B), A) == A
    assert dim_max(512, dim_min(A, 512)) == 512
    assert dim_min(A, 512) - dim_min(512, A) == 0
