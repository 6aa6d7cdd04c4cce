"""The transforms of Winograd convolution F(m x m, 3 x 3): exact constants, and vector code that applies a matrix."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from skipjack.lang.kernel import Kernel, V

_POINTS = {2: (Fraction(1),), 4: (Fraction(3, 4), Fraction(3, 2))}
Matrix = tuple[tuple[float, ...], ...]


def _product(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the polynomial with these roots, lowest power first."""
    c = [Fraction(1)]
    for root in roots:
        c = [(c[i - 1] if i else Fraction(0)) - root * (c[i] if i < len(c) else 0) for i in range(len(c) + 1)]
    return c


@functools.cache
def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(output, weight, input) transforms of F(m, 3): interpolation at 0, pairs of opposite points, and infinity."""
    points = [Fraction(0)]
    for p in _POINTS[m]:
        points += [p, -p]
    n = m + 2
    output = [[*[p**i for p in points], Fraction(int(i == m - 1))] for i in range(m)]
    weight, image = list[list[Fraction]](), list[list[Fraction]]()
    for j, p in enumerate(points):
        others = [q for i, q in enumerate(points) if i != j]
        scale = Fraction(1)
        for q in others:
            scale *= p - q
        c = _product(others)
        image.append([*c, *[Fraction(0)] * (n - len(c))])
        weight.append([p**k / scale for k in range(3)])
    image.append(_product(points))
    weight.append([Fraction(0), Fraction(0), Fraction(1)])
    return _floats(output), _floats(weight), _floats(image)


def _floats(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in rows)


def transformed_weights(w: np.ndarray, m: int) -> np.ndarray:
    """[M, C, 3, 3] as [(m + 2)^2, M, C], computed in f64."""
    g = np.asarray(matrices(m)[1])
    u = np.einsum("ik,mckl,jl->ijmc", g, w.astype(np.float64), g)
    return u.reshape(-1, *w.shape[:2]).astype(np.float32)


def _sum(k: Kernel, coefficients: Sequence[float], values: Sequence[V]) -> V | None:
    total: V | None = None
    for c, v in sorted(zip(coefficients, values), key=lambda t: abs(t[0]) != 1.0):
        if c == 0:
            continue
        if total is None:
            total = v if c == 1 else v * c
        elif abs(c) == 1:
            total = total + v if c == 1 else total - v
        else:
            total = k.fma(v, c, total)
    return total


def apply_input(k: Kernel, m: int, d: Sequence[V]) -> list[V]:
    """The input transform of m + 2 values; rows of opposite points share their even and odd parts."""
    rows, out = matrices(m)[2], list[V]()
    first = _sum(k, rows[0], d)
    assert first is not None, "row 0 of the input transform is not empty"
    out.append(first)
    for i in range(1, len(rows) - 1, 2):
        even = _sum(k, [c if j % 2 == 0 else 0.0 for j, c in enumerate(rows[i])], d)
        odd = _sum(k, [c if j % 2 == 1 else 0.0 for j, c in enumerate(rows[i])], d)
        assert even is not None, "a pair of points has an even part"
        assert odd is not None, "a pair of points has an odd part"
        # The power of x that the row's own factor adds decides which part changes its sign between p and -p.
        out += [even + odd, even - odd] if _flips_odd(rows, i) else [even + odd, odd - even]
    last = _sum(k, rows[-1], d)
    assert last is not None, "the last row of the input transform is not empty"
    return [*out, last]


def _flips_odd(rows: Matrix, i: int) -> bool:
    return all(b == (a if j % 2 == 0 else -a) for j, (a, b) in enumerate(zip(rows[i], rows[i + 1])))


def apply_output(k: Kernel, m: int, v: Sequence[V]) -> list[V]:
    """The output transform of m + 2 values: m outputs from sums and differences of opposite points."""
    rows, parts = matrices(m)[0], [v[0]]
    for i in range(1, m + 1, 2):
        parts += [v[i] + v[i + 1], v[i] - v[i + 1]]
    parts.append(v[m + 1])
    out = list[V]()
    for power, row in enumerate(rows):
        kept = [c if j in (0, m + 1) or (j + 1) % 2 == power % 2 else 0.0 for j, c in enumerate(row)]
        # Column 2i+1 holds p^power: it multiplies the sum for even powers; column 2i+2 the difference for odd ones.
        kept = [abs(c) if 0 < j <= m else c for j, c in enumerate(kept)]
        total = _sum(k, kept, parts)
        assert total is not None, "an output is a sum of at least one value"
        out.append(total)
    return out
