"""What is certain about a symbolic size: the interval its value lies in, given that no symbol is negative."""

from __future__ import annotations

from skipjack.core.dims import Dim, Opaque, Sym

Bound = int | None
Interval = tuple[Bound, Bound]


def lower(d: Dim) -> Bound:
    """The largest known integer that d is never below; None when there is none."""
    return interval(d)[0]


def upper(d: Dim) -> Bound:
    """The smallest known integer that d is never above; None when there is none."""
    return interval(d)[1]


def never_below(a: Dim, b: Dim) -> bool:
    """Whether a >= b for every value of the symbols, as far as intervals can tell."""
    least = lower(a - b)
    return least is not None and least >= 0


def never_negative(d: Dim) -> bool:
    """Whether d >= 0 for every value of the symbols."""
    return never_below(d, 0)


def always_negative(d: Dim) -> bool:
    """Whether d < 0 for every value of the symbols."""
    most = upper(d)
    return most is not None and most < 0


def interval(d: Dim) -> Interval:
    """(lower, upper) bound of d; None stands for no bound."""
    if not isinstance(d, Sym):
        return d, d
    low: Bound = 0
    high: Bound = 0
    for monomial, coefficient in d.terms:
        term: Interval = (1, 1)
        for atom in monomial:
            term = _product(term, (0, None) if isinstance(atom, str) else _opaque(atom))
        least, most = _product(term, (coefficient, coefficient))
        low = None if low is None or least is None else low + least
        high = None if high is None or most is None else high + most
    return low, high


def _product(a: Interval, b: Interval) -> Interval:
    """Exact for intervals that do not cross zero; no bound where a side is open and signs are mixed."""
    if a[0] is not None and a[0] >= 0 and b[0] is not None and b[0] >= 0:
        return a[0] * b[0], None if a[1] is None or b[1] is None else a[1] * b[1]
    if a[0] is not None and a[0] >= 0 and b[1] is not None and b[1] <= 0:
        low = None if a[1] is None or b[0] is None else a[1] * b[0]
        return low, a[0] * b[1]
    if None in a or None in b:
        return None, None
    corners = [x * y for x in a for y in b if x is not None and y is not None]
    return min(corners), max(corners)


def _opaque(atom: Opaque) -> Interval:
    a, b = interval(atom.a), interval(atom.b)
    if atom.function == "max":
        return _largest(a[0], b[0]), None if a[1] is None or b[1] is None else max(a[1], b[1])
    if atom.function == "min":
        return None if a[0] is None or b[0] is None else min(a[0], b[0]), _smallest(a[1], b[1])
    if b[0] is None or b[0] < 0:
        return None, None
    if atom.function == "mod":
        return 0, None if b[1] is None else max(b[1] - 1, 0)
    if a[0] is None or a[0] < 0:
        return None, None
    return 0, a[1]


def _largest(a: Bound, b: Bound) -> Bound:
    return b if a is None else a if b is None else max(a, b)


def _smallest(a: Bound, b: Bound) -> Bound:
    return b if a is None else a if b is None else min(a, b)
