"""The transforms of Winograd convolution F(m x m, 3 x 3): exact constants, and vector code that applies a matrix.

With stride 2 the samples under a tile split, per side, into even and odd ones. Taps 0 and 2 meet only even samples, by
minimal filtering F(m, 2); tap 1 meets only odd samples, each used once, which stay as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from skipjack.lang.kernel import Kernel, V

_POINTS = {
    (1, 2): (0, 1, -1),
    (1, 4): (0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
    (2, 2): (0, 1),
    (2, 3): (0, 1, -1),
    (2, 4): (0, 1, -1, Fraction(1, 2)),
}
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Scheme:
    """Tiles of m x m outputs of a 3 x 3 convolution.

    A tile reads `samples` inputs per side and has as many positions: first the `filtered` ones, then one for each odd
    sample when the stride is 2. All odd samples of a side meet the same weight, so position i has weight min(i, m + 1).
    """

    stride: int
    m: int

    @property
    def samples(self) -> int:
        return (self.m - 1) * self.stride + 3

    @property
    def filtered(self) -> int:
        return self.m + (2 if self.stride == 1 else 1)

    @property
    def weights(self) -> int:
        """Distinct weights per side."""
        return self.m + 2

    @property
    def step(self) -> int:
        """Samples from one tile to the next."""
        return self.m * self.stride

    @property
    def name(self) -> str:
        return f"conv_winograd{self.m}" if self.stride == 1 else f"conv_winograd_s{self.stride}_{self.m}"

    @property
    def points(self) -> tuple[Fraction, ...]:
        """Where minimal filtering interpolates besides infinity: 0, pairs of opposite points, then single ones."""
        return tuple(Fraction(p) for p in _POINTS[self.stride, self.m])

    @property
    def pairs(self) -> int:
        p = self.points
        return sum(p[i] == -p[i + 1] for i in range(1, len(p) - 1, 2))


def _product(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the polynomial with these roots, lowest power first."""
    c = [Fraction(1)]
    for root in roots:
        c = [(c[i - 1] if i else Fraction(0)) - root * (c[i] if i < len(c) else 0) for i in range(len(c) + 1)]
    return c


@functools.cache
def matrices(scheme: Scheme) -> tuple[Matrix, Matrix, Matrix]:
    """(output, weight, input) transforms of the filtered positions of one side."""
    points, n = scheme.points, scheme.filtered
    taps = n - scheme.m + 1
    output = [[*[p**i for p in points], Fraction(int(i == scheme.m - 1))] for i in range(scheme.m)]
    weight, image = list[list[Fraction]](), list[list[Fraction]]()
    for j, p in enumerate(points):
        others = [q for i, q in enumerate(points) if i != j]
        scale = Fraction(1)
        for q in others:
            scale *= p - q
        c = _product(others)
        image.append([*c, *[Fraction(0)] * (n - len(c))])
        weight.append([p**k / scale for k in range(taps)])
    image.append(_product(points))
    weight.append([Fraction(int(k == taps - 1)) for k in range(taps)])
    return _floats(output), _floats(weight), _floats(image)


def _floats(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in rows)


def transformed_weights(w: np.ndarray, scheme: Scheme) -> np.ndarray:
    """[M, C, 3, 3] as [distinct weights of a tile, M, C], computed in f64."""
    g = np.zeros((scheme.weights, 3))
    g[: scheme.filtered, :: scheme.stride] = matrices(scheme)[1]
    if scheme.stride == 2:
        g[-1, 1] = 1
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


def apply_input(k: Kernel, scheme: Scheme, samples: Sequence[V]) -> list[V]:
    """The input transform of one side; rows of opposite points share what they have in common and where they differ."""
    rows, d, out = matrices(scheme)[2], samples[:: scheme.stride], list[V]()
    out.append(_row(k, rows[0], d))
    paired = 2 * scheme.pairs
    for a, b in zip(rows[1:paired:2], rows[2 : paired + 1 : 2]):
        common = _row(k, [(x + y) / 2 for x, y in zip(a, b)], d)
        apart = _row(k, [(x - y) / 2 for x, y in zip(a, b)], d)
        out += [common + apart, common - apart]
    out += [_row(k, row, d) for row in rows[paired + 1 :]]
    return out if scheme.stride == 1 else [*out, *samples[1::2]]


def _row(k: Kernel, coefficients: Sequence[float], values: Sequence[V]) -> V:
    total = _sum(k, coefficients, values)
    assert total is not None, "no row of a transform is empty"
    return total


def apply_output(k: Kernel, scheme: Scheme, v: Sequence[V]) -> list[V]:
    """The output transform of one side: m outputs from sums and differences of opposite points."""
    rows, parts, paired = matrices(scheme)[0], [v[0]], 2 * scheme.pairs
    for i in range(1, paired, 2):
        parts += [v[i] + v[i + 1], v[i] - v[i + 1]]
    parts += v[paired + 1 : scheme.filtered]
    out = list[V]()
    for power, row in enumerate(rows):
        # Column 2i+1 holds p^power: it multiplies the sum for even powers; column 2i+2 the difference for odd ones.
        kept = [c if not 0 < j <= paired else abs(c) if (j + 1) % 2 == power % 2 else 0.0 for j, c in enumerate(row)]
        out.append(_row(k, kept, parts))
    return out if scheme.stride == 1 else [y + odd for y, odd in zip(out, v[scheme.filtered :], strict=True)]
