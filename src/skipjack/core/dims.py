"""Sizes that may not be known yet: integers, symbols, and polynomials of them.

A `Dim` is an int or a `Sym`. A `Sym` is a polynomial with integer coefficients over atoms; an atom is a named symbol or
an opaque call (floordiv, mod, min, max) of two Dims. Equal polynomials are equal values, so `b*s - s*b` is the int 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from skipjack.core.errors import ModelError


@dataclass(frozen=True, order=True)
class Opaque:
    """`function(a, b)` that has no polynomial form."""

    function: str
    a: Dim
    b: Dim

    def __str__(self) -> str:
        return f"{self.function}({self.a},{self.b})"


Atom = str | Opaque
Monomial = tuple[Atom, ...]


@dataclass(frozen=True)
class Sym:
    """A size that is not a plain integer: the sum of coefficient * product(atoms), terms sorted."""

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def named(name: str) -> Sym:
        """The symbol called name."""
        return Sym((((name,), 1),))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __lt__(self, other: object) -> bool:
        return str(self) < str(other)

    def __add__(self, other: Dim) -> Dim:
        return _combine(_terms(self) + _terms(other))

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (other * -1)

    def __rsub__(self, other: Dim) -> Dim:
        return (self * -1) + other

    def __mul__(self, other: Dim) -> Dim:
        products = [(_key(m + n), a * b) for m, a in self.terms for n, b in _terms(other)]
        return _combine(products)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __bool__(self) -> bool:
        raise TypeError(f"the size {self} is not known yet, so it has no truth value")

    def __str__(self) -> str:
        return "+".join(_term_text(m, c) for m, c in self.terms).replace("+-", "-")

    __repr__ = __str__


Dim = int | Sym


def _order(atom: Atom) -> str:
    return str(atom)


def _key(monomial: Iterable[Atom]) -> Monomial:
    return tuple(sorted(monomial, key=_order))


def _terms(d: Dim) -> list[tuple[Monomial, int]]:
    if isinstance(d, Sym):
        return list(d.terms)
    return [((), int(d))]


def _combine(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    kept = {m: c for m, c in total.items() if c}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return Sym(tuple(sorted(kept.items(), key=lambda t: (-len(t[0]), [str(a) for a in t[0]]))))


def _term_text(monomial: Monomial, coefficient: int) -> str:
    atoms = "*".join(str(a) for a in monomial)
    if not monomial:
        return str(coefficient)
    if coefficient == 1:
        return atoms
    return f"{coefficient}*{atoms}"


def _opaque(function: str, a: Dim, b: Dim) -> Sym:
    return Sym((((Opaque(function, a, b),), 1),))


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b, simplified when every term of a divides by b."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1 or a == 0:
        return a
    if a == b:
        return 1
    quotient = _exact_quotient(a, b)
    if quotient is not None:
        return quotient
    return _opaque("floordiv", a, b)


def _exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """Polynomial long division; None when a remainder is left."""
    divisor = _terms(b)
    if divisor == [((), 0)]:
        return None
    quotient: Dim = 0
    while a != 0:
        step = _term_quotient(_terms(a)[0], divisor[0])
        if step is None:
            return None
        term = _combine([step])
        quotient = quotient + term
        a = a - term * b
    return quotient


def _term_quotient(a: tuple[Monomial, int], b: tuple[Monomial, int]) -> tuple[Monomial, int] | None:
    rest = list(a[0])
    for atom in b[0]:
        if atom not in rest:
            return None
        rest.remove(atom)
    return None if a[1] % b[1] else (tuple(rest), a[1] // b[1])


def exact_div(a: Dim, b: Dim) -> Dim | None:
    """a / b when it divides for every value of the symbols, else None."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    return 1 if a == b else _exact_quotient(a, b)


def mod(a: Dim, b: Dim) -> Dim:
    """a % b, simplified to 0 when it divides exactly."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if exact_div(a, b) is not None:
        return 0
    return _opaque("mod", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """The smallest integer not below a / b."""
    return floordiv(a + b - 1, b)


def dim_max(a: Dim, b: Dim) -> Dim:
    """The larger of both; opaque when a symbol is in the way."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return _extreme("max", "min", a, b)


def dim_min(a: Dim, b: Dim) -> Dim:
    """The smaller of both; opaque when a symbol is in the way."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return _extreme("min", "max", a, b)


def _extreme(function: str, inner: str, a: Dim, b: Dim) -> Dim:
    """function(a, b), arguments in a fixed order; max(x, min(x, y)) and min(x, max(x, y)) are x."""
    if a == b:
        return a
    if a in _arguments(inner, b):
        return a
    if b in _arguments(inner, a):
        return b
    return _opaque(function, *sorted((a, b), key=lambda d: (isinstance(d, Sym), str(d))))


def _arguments(function: str, d: Dim) -> tuple[Dim, ...]:
    if isinstance(d, Sym) and len(d.terms) == 1 and d.terms[0][1] == 1 and len(d.terms[0][0]) == 1:
        atom = d.terms[0][0][0]
        if isinstance(atom, Opaque) and atom.function == function:
            return (atom.a, atom.b)
    return ()


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all dims; 1 when there is none."""
    total: Dim = 1
    for d in dims:
        total = total * d
    return total


_CALLS = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
}


def evaluate(d: Dim, sizes: Mapping[str, int]) -> int:
    """The value of d when every symbol has the value given; ModelError names a symbol that has none."""
    if not isinstance(d, Sym):
        return int(d)
    total = 0
    for monomial, coefficient in d.terms:
        value = coefficient
        for atom in monomial:
            value *= _atom_value(atom, sizes)
        total += value
    return total


def _atom_value(atom: Atom, sizes: Mapping[str, int]) -> int:
    if isinstance(atom, str):
        if atom not in sizes:
            raise ModelError(f"the size {atom!r} is not known; known sizes are {sorted(sizes)}")
        return sizes[atom]
    a, b = evaluate(atom.a, sizes), evaluate(atom.b, sizes)
    if atom.function in ("floordiv", "mod") and b == 0:
        raise ModelError(f"a size is divided by zero in {atom}")
    return int(_CALLS[atom.function](a, b))


def substitute(d: Dim, sizes: Mapping[str, Dim]) -> Dim:
    """d with symbols replaced by other Dims."""
    if not isinstance(d, Sym):
        return d
    total: Dim = 0
    for monomial, coefficient in d.terms:
        value: Dim = coefficient
        for atom in monomial:
            value = value * _replaced(atom, sizes)
        total = total + value
    return total


_FOLD = {"floordiv": floordiv, "mod": mod, "min": dim_min, "max": dim_max}


def _replaced(atom: Atom, sizes: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, str):
        return sizes.get(atom, Sym.named(atom))
    return _FOLD[atom.function](substitute(atom.a, sizes), substitute(atom.b, sizes))


def symbols(d: Dim) -> frozenset[str]:
    """The names of all symbols in d."""
    if not isinstance(d, Sym):
        return frozenset()
    names: set[str] = set()
    for monomial, _ in d.terms:
        for atom in monomial:
            names |= {atom} if isinstance(atom, str) else symbols(atom.a) | symbols(atom.b)
    return frozenset(names)


_TOKEN = re.compile(r"\s*(\d+|[A-Za-z_][\w.:/-]*?(?=[\s*+(),-]|$)|[-+*(),])")


def parse_dim(text: str) -> Dim:
    """The Dim that str() printed. Symbol names are letters, digits, `_`, `.`, `:` and `/`."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", ""):
        raise ModelError(f"{text!r} is not a size: expected integers, names, + - * and min, max, floordiv, mod")
    value, rest = _parse_sum(tokens)
    if rest:
        raise ModelError(f"{text!r} is not a size: unexpected {rest[0]!r}")
    return value


def _parse_sum(tokens: list[str]) -> tuple[Dim, list[str]]:
    sign = 1
    if tokens[:1] == ["-"]:
        sign, tokens = -1, tokens[1:]
    total, tokens = _parse_product(tokens)
    total = total * sign
    while tokens and tokens[0] in "+-":
        sign = 1 if tokens[0] == "+" else -1
        value, tokens = _parse_product(tokens[1:])
        total = total + value * sign
    return total, tokens


def _parse_product(tokens: list[str]) -> tuple[Dim, list[str]]:
    value, tokens = _parse_atom(tokens)
    while tokens[:1] == ["*"]:
        other, tokens = _parse_atom(tokens[1:])
        value = value * other
    return value, tokens


def _parse_atom(tokens: list[str]) -> tuple[Dim, list[str]]:
    if not tokens:
        raise ModelError("a size ends too early")
    head, rest = tokens[0], tokens[1:]
    if head.isdigit():
        return int(head), rest
    if rest[:1] != ["("]:
        return Sym.named(head), rest
    a, rest = _parse_sum(rest[1:])
    b, rest = _parse_sum(rest[1:])
    if head not in _FOLD:
        raise ModelError(f"unknown function {head!r} in a size")
    return _FOLD[head](a, b), rest[1:]
