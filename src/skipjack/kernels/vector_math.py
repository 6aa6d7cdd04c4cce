"""Elementary functions on values of a kernel: f32 and f64, any number of lanes, no calls.

NaN propagates, limits are exact (exp(-inf) = 0, log(0) = -inf, tanh and erf end at 1) and results may be denormal.
exp, log, tanh, sigmoid and erf have f32 forms of a few units in the last place; other functions compute f32 in f64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, F64, I32, I64, Ty

Function = Callable[[Kernel, V], V]

_LN2 = {"f32": (0.693359375, -2.12194440054690583e-4), "f64": (6.93147180369123816490e-1, 1.90821492927058770002e-10)}
_ROUNDER = {"f32": 1.5 * 2.0**23, "f64": 1.5 * 2.0**52}
_MANTISSA = {"f32": 23, "f64": 52}
_BIAS = {"f32": 127, "f64": 1023}


def _ints(x: V) -> Ty:
    """The integers of the same width."""
    return x.ty.of(I32 if x.ty.elt == "f32" else I64)


def polynomial(k: Kernel, x: V, coefficients: Sequence[float]) -> V:
    """c[0] + c[1] x + c[2] x^2 + ... by Horner's rule."""
    total = k.constant(x.ty, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = k.fma(total, x, k.constant(x.ty, c))
    return total


def is_nan(x: V) -> V:
    return x.ne(x)


def absolute(k: Kernel, x: V) -> V:
    return k.unary("fabs", x)


def clamp(k: Kernel, x: V, low: float, high: float) -> V:
    """x limited to [low, high]; NaN stays."""
    return k.min(k.constant(x.ty, high), k.max(k.constant(x.ty, low), x))


def with_sign(k: Kernel, size: V, sign: V) -> V:
    """size >= 0 with the sign bit of `sign`."""
    ints = _ints(size)
    bit = sign.bitcast(ints) & (-(1 << (size.ty.bits - 1)))
    return (size.bitcast(ints) | bit).bitcast(size.ty)


def _round_parts(k: Kernel, x: V, factor: float) -> tuple[V, V]:
    """(x * factor rounded to an integer as a float, as an integer) for results below 2^21 (f32) or 2^50 (f64)."""
    rounder = k.constant(x.ty, _ROUNDER[x.ty.elt])
    shifted = k.fma(x, factor, rounder)
    ints = _ints(x)
    return shifted - rounder, shifted.bitcast(ints) - rounder.bitcast(ints)


def _power_of_two(x: Ty, n: V) -> V:
    """2^n for n of the exponents of normal numbers."""
    return ((n + _BIAS[x.elt]) << _MANTISSA[x.elt]).bitcast(x)


def _reduced(k: Kernel, x: V) -> tuple[V, V]:
    """(n, r) with x = n ln 2 + r, r within half of ln 2."""
    n, i = _round_parts(k, x, 1 / math.log(2))
    high, low = _LN2[x.ty.elt]
    return i, k.fma(n, -low, k.fma(n, -high, x))


def _tail_of_exp(k: Kernel, r: V) -> V:
    """exp(r) - 1 near zero."""
    degree = 7 if r.ty.elt == "f32" else 13
    series = polynomial(k, r, [1 / math.factorial(n) for n in range(2, degree + 1)])
    return k.fma(series, r * r, r)


def exp(k: Kernel, x: V) -> V:
    """e^x."""
    low, high = (-104.0, 89.0) if x.ty.elt == "f32" else (-746.0, 710.0)
    i, r = _reduced(k, clamp(k, x, low, high))
    half = i.sar(1)
    near = _tail_of_exp(k, r) + 1.0
    return near * _power_of_two(x.ty, half) * _power_of_two(x.ty, i - half)


def exp_of_negative(k: Kernel, x: V) -> V:
    """e^x of f32 values up to zero, cheaper than `exp`: results that would be denormal are zero."""
    low = -87.0
    i, r = _reduced(k, k.max(k.constant(x.ty, low), x))
    near = _tail_of_exp(k, r) + 1.0
    grown = (near.bitcast(i.ty) + (i << _MANTISSA[x.ty.elt])).bitcast(x.ty)
    return k.select(x < low, k.constant(x.ty, 0.0), grown)


def tanh(k: Kernel, x: V) -> V:
    """Hyperbolic tangent, by e^2x - 1 computed without cancellation."""
    end = 10.0 if x.ty.elt == "f32" else 20.0
    i, r = _reduced(k, clamp(k, x, -end, end) * 2.0)
    scale = _power_of_two(x.ty, i)
    grown = k.fma(scale, _tail_of_exp(k, r), scale - 1.0)
    return grown / (grown + 2.0)


def _split(k: Kernel, x: V) -> tuple[V, V]:
    """(exponent as a float, mantissa within [sqrt 1/2, sqrt 2]) of a positive number, denormal ones too."""
    bits, ints = _MANTISSA[x.ty.elt], _ints(x)
    tiny = x < 2.0 ** (1 - _BIAS[x.ty.elt])
    raised = k.select(tiny, x * 2.0 ** (bits + 2), x)
    shift = k.select(tiny, k.constant(x.ty, -(bits + 2.0)), 0.0)
    offset = int(np.array(math.sqrt(0.5), f"f{x.ty.bits // 8}").view(f"i{x.ty.bits // 8}"))
    above = raised.bitcast(ints) - offset
    mantissa = ((above & ((1 << bits) - 1)) + offset).bitcast(x.ty)
    rounder = k.constant(x.ty, _ROUNDER[x.ty.elt])
    exponent = (above.sar(bits) + rounder.bitcast(ints)).bitcast(x.ty) - rounder
    return exponent + shift, mantissa


def _limits_of_log(k: Kernel, x: V, y: V) -> V:
    y = k.select(x < math.inf, y, x)
    y = k.select(x.eq(0.0), k.constant(x.ty, -math.inf), y)
    return k.select(x < 0.0, k.constant(x.ty, math.nan), y)


def _log_series(k: Kernel, s: V) -> V:
    """(2 atanh(s) - 2 s) / s^3 for |s| up to 0.172."""
    terms = 6 if s.ty.elt == "f32" else 12
    return polynomial(k, s * s, [2 / (2 * n + 3) for n in range(terms)])


def log(k: Kernel, x: V) -> V:
    """Natural logarithm."""
    e, m = _split(k, x)
    f = m - 1.0
    s = f / (m + 1.0)
    high, low = _LN2[x.ty.elt]
    tail = k.fma(s * s * s, _log_series(k, s), e * low)
    return _limits_of_log(k, x, k.fma(e, high, k.fma(s, 2.0, tail)))


def log1p(k: Kernel, x: V) -> V:
    """log(1 + x), the rounding of the sum repaired."""
    return _wide(k, x, _log1p)


def _log1p(k: Kernel, x: V) -> V:
    u = x + 1.0
    d = u - 1.0
    return log(k, u) + k.select(d.eq(x), k.constant(x.ty, 0.0), (x - d) / u)


# Fit of 2 exp(-r) within half of ln 2, relative error 2e-9.
_TWICE_EXP = (2.0, -2.0, 0.9999998411, -0.3333283936, 0.08333645738, -0.01674971414, 0.002767358729)


def sigmoid(k: Kernel, x: V) -> V:
    """1 / (1 + exp(-x)); zero from where exp(-x) is infinite."""
    if x.ty.elt == "f64":
        return 1.0 / (exp(k, -x) + 1.0)
    end = 88.72283
    c = clamp(k, x, -end, 80.0)
    shifted = k.fma(c, -1 / math.log(2), k.constant(x.ty, _ROUNDER["f32"]))
    n, (high, low) = shifted - _ROUNDER["f32"], _LN2["f32"]
    r = k.fma(n, low, k.fma(n, high, c))
    twice = polynomial(k, r, _TWICE_EXP)
    # n sits in the lowest bits of `shifted`; half of 2^n is finite even for the largest n.
    half = ((shifted.bitcast(_ints(x)) + (_BIAS["f32"] - 1)) << _MANTISSA["f32"]).bitcast(x.ty)
    return k.select(x < -end, k.constant(x.ty, 0.0), 1.0 / k.fma(twice, half, k.constant(x.ty, 1.0)))


# Rational fit of erf(x) / x in x^2 over [0, 3.93], relative error 2e-8.
_ERF_P = (1.12837914672, 0.190700351333, 0.0527784841257, 0.00377579114298, 0.000284684371652, 2.04213314576e-6)
_ERF_Q = (1.0, 0.502336528954, 0.114222318025, 0.0149898603749, 0.00116421282538, 3.79992026709e-5)
_ERF_PIECES = ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.5), (4.5, 6.0))


def erf(k: Kernel, x: V) -> V:
    """The error function."""
    if x.ty.elt == "f64":
        return _erf64(k, x)
    c = clamp(k, x, -3.93, 3.93)
    z = c * c
    return clamp(k, c * polynomial(k, z, _ERF_P) / polynomial(k, z, _ERF_Q), -1.0, 1.0)


@functools.cache
def _erf_piece(low: float, high: float) -> tuple[float, ...]:
    """Coefficients in t = (2 x - low - high) / (high - low) of erf(x) - 1; from 0 to 1 of erf(sqrt x) / sqrt x - 1."""

    def odd(t: float) -> float:
        z = (t + 1) / 2
        return math.erf(math.sqrt(z)) / math.sqrt(z) - 1

    def plain(t: float) -> float:
        return -math.erfc((low + high + t * (high - low)) / 2)

    f = np.vectorize(odd if low == 0.0 else plain)
    fit = np.polynomial.chebyshev.chebinterpolate(f, 12 if low == 0.0 else 21)
    return tuple(float(c) for c in np.polynomial.chebyshev.cheb2poly(fit))


def _erf64(k: Kernel, x: V) -> V:
    size = clamp(k, absolute(k, x), 0.0, 6.0)
    total = k.fma(size, polynomial(k, k.fma(size * size, 2.0, k.constant(x.ty, -1.0)), _erf_piece(0.0, 1.0)), size)
    for low, high in _ERF_PIECES[1:]:
        t = (size * 2.0 - (low + high)) * (1 / (high - low))
        total = k.select(size > low, polynomial(k, t, _erf_piece(low, high)) + 1.0, total)
    return with_sign(k, total, x)


def _wide(k: Kernel, x: V, f: Function) -> V:
    """f of x, computed in f64."""
    return f(k, x) if x.ty.elt == "f64" else f(k, x.convert("fpext", F64)).convert("fptrunc", F32)


_HALF_PI = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21)


def _turned(k: Kernel, x: V, quarter: int) -> V:
    """sin(x + quarter * pi / 2); exact to f64 for |x| up to a few millions."""
    n, i = _round_parts(k, x, 2 / math.pi)
    r = x
    for part in _HALF_PI:
        r = k.fma(n, -part, r)
    z = r * r
    sine = k.fma(r * z, polynomial(k, z, [(-1) ** (n + 1) / math.factorial(2 * n + 3) for n in range(8)]), r)
    cosine = polynomial(k, z, [(-1) ** n / math.factorial(2 * n) for n in range(10)])
    i = i + quarter
    y = k.select((i & 1).ne(0), cosine, sine)
    return k.select((i & 2).ne(0), -y, y)


def sin(k: Kernel, x: V) -> V:
    return _wide(k, x, lambda k, x: _turned(k, x, 0))


def cos(k: Kernel, x: V) -> V:
    return _wide(k, x, lambda k, x: _turned(k, x, 1))


def tan(k: Kernel, x: V) -> V:
    return _wide(k, x, lambda k, x: _turned(k, x, 0) / _turned(k, x, 1))


def atan(k: Kernel, x: V) -> V:
    return _wide(k, x, _atan)


def _atan(k: Kernel, x: V) -> V:
    size = absolute(k, x)
    far, middle = size > 1 + math.sqrt(2), size > math.sqrt(2) - 1
    r = k.select(far, -1.0 / size, k.select(middle, (size - 1.0) / (size + 1.0), size))
    start = k.select(far, k.constant(x.ty, math.pi / 2), k.select(middle, k.constant(x.ty, math.pi / 4), 0.0))
    z = r * r
    series = polynomial(k, z, [(-1) ** (n + 1) / (2 * n + 3) for n in range(21)])
    return with_sign(k, start + k.fma(r * z, series, r), x)


def asin(k: Kernel, x: V) -> V:
    return _wide(k, x, lambda k, x: _atan(k, x / k.unary("sqrt", (1.0 - x) * (x + 1.0))))


def acos(k: Kernel, x: V) -> V:
    return _wide(k, x, lambda k, x: _atan(k, k.unary("sqrt", (1.0 - x) / (x + 1.0))) * 2.0)


def sinh(k: Kernel, x: V) -> V:
    return _wide(k, x, _sinh)


def _sinh(k: Kernel, x: V) -> V:
    size = absolute(k, x)
    t = exp(k, size * 0.5)
    large = (t * 0.5) * t - 0.5 / (t * t)
    z = x * x
    small = k.fma(size * z, polynomial(k, z, [1 / math.factorial(2 * n + 3) for n in range(8)]), size)
    return with_sign(k, k.select(size < 1.0, small, large), x)


def cosh(k: Kernel, x: V) -> V:
    return _wide(k, x, _cosh)


def _cosh(k: Kernel, x: V) -> V:
    t = exp(k, absolute(k, x) * 0.5)
    return (t * 0.5) * t + 0.5 / (t * t)


def asinh(k: Kernel, x: V) -> V:
    return _wide(k, x, _asinh)


def _asinh(k: Kernel, x: V) -> V:
    size = absolute(k, x)
    z = size * size
    near = _log1p(k, size + z / (k.unary("sqrt", z + 1.0) + 1.0))
    return with_sign(k, k.select(size > 1e8, log(k, size) + math.log(2), near), x)


def acosh(k: Kernel, x: V) -> V:
    return _wide(k, x, _acosh)


def _acosh(k: Kernel, x: V) -> V:
    t = x - 1.0
    near = _log1p(k, t + k.unary("sqrt", t * (t + 2.0)))
    y = k.select(x > 1e8, log(k, x) + math.log(2), near)
    return k.select(x < 1.0, k.constant(x.ty, math.nan), y)


def atanh(k: Kernel, x: V) -> V:
    return _wide(k, x, _atanh)


def _atanh(k: Kernel, x: V) -> V:
    size = absolute(k, x)
    y = _log1p(k, (size + size) / (1.0 - size)) * 0.5
    return with_sign(k, k.select(size > 1.0, k.constant(x.ty, math.nan), y), x)


def power(k: Kernel, x: V, y: V) -> V:
    """x^y with the special values of IEEE 754."""
    if x.ty.elt == "f64":
        return _power(k, x, y)
    return _power(k, x.convert("fpext", F64), y.convert("fpext", F64)).convert("fptrunc", F32)


def _log_pair(k: Kernel, x: V) -> tuple[V, V]:
    """log(x) of a positive number as a sum of two, good to about 2^-65."""
    e, m = _split(k, x)
    f, d = m - 1.0, m + 1.0
    s = f / d
    left = k.fma(-s, d, f) - s * (m - (d - 1.0))
    high, low = _LN2["f64"]
    big, small = e * high, s * 2.0
    total = big + small
    lost = small - (total - big)
    tail = k.fma(s * s * s, _log_series(k, s), k.fma(e, low, (left / d) * 2.0 + lost))
    return total, tail


def _exp_of_pair(k: Kernel, x: V, rest: V) -> V:
    """e^(x + rest) for a tiny rest, good to 0.55 of the last place: powers that are whole numbers come out exact."""
    x = clamp(k, x, -746.0, 710.0)
    n, i = _round_parts(k, x, 1 / math.log(2))
    high, low = _LN2["f64"]
    first = k.fma(n, -high, x)
    r = k.fma(n, -low, first)
    rest = rest + k.fma(n, -low, first - r)
    series = polynomial(k, r, [1 / math.factorial(n) for n in range(2, 14)])
    near = r + 1.0
    lost = r - (near - 1.0)
    near = near + k.fma(rest, near, k.fma(series, r * r, lost))
    half = i.sar(1)
    return near * _power_of_two(x.ty, half) * _power_of_two(x.ty, i - half)


def _power(k: Kernel, x: V, y: V) -> V:
    size = absolute(k, x)
    high, low = _log_pair(k, size)
    high = _limits_of_log(k, size, high)
    product = y * high
    finite = absolute(k, product) < 1e4
    rest = k.select(finite, k.fma(y, high, -product) + y * low, 0.0)
    total = product + rest
    rest = k.select(finite, rest - (total - product), 0.0)
    z = _exp_of_pair(k, k.select(finite, total, product), rest)
    whole = k.unary("floor", y).eq(y)
    odd = whole & k.unary("floor", y * 0.5).ne(y * 0.5)
    negative = x.bitcast(x.ty.of(I64)) < 0
    z = k.select(negative & odd, -z, z)
    z = k.select((x < 0.0) & whole.eq(0) & (x > -math.inf), k.constant(x.ty, math.nan), z)
    z = k.select(size.eq(1.0) & ((x > 0.0) | whole), k.select(odd & negative, k.constant(x.ty, -1.0), 1.0), z)
    return k.select(y.eq(0.0), k.constant(x.ty, 1.0), z)


def any_lane(k: Kernel, mask: V) -> V:
    """Whether the mask holds anywhere, as a scalar i1."""
    if not mask.ty.lanes:
        return mask
    return k.reduce("max", mask.zext(I32)).ne(0)


def fmod(k: Kernel, x: V, y: V) -> V:
    """The exact remainder of the truncated division, with the sign of x."""
    if x.ty.elt == "f32":
        return fmod(k, x.convert("fpext", F64), y.convert("fpext", F64)).convert("fptrunc", F32)
    size, unit = absolute(k, x), absolute(k, y)
    valid = (size < math.inf) & (unit > 0.0)
    rest = k.var(k.select(valid, size, 0.0))
    ints = x.ty.of(I64)
    with k.while_(lambda: any_lane(k, valid & (rest.get() >= unit))):
        scaled = unit
        for _ in range(3):
            scaled = k.select(rest.get() * 2.0**-500 >= scaled, scaled * 2.0**500, scaled)
        quotient = rest.get() / scaled
        # 27 bits of the quotient at a time: their product with the divisor leaves an exact remainder.
        part = k.unary("trunc", (quotient.bitcast(ints) & -(1 << 26)).bitcast(x.ty))
        left = k.fma(-part, scaled, rest.get())
        rest.set(k.select((rest.get() >= unit) & valid, left, rest.get()))
    y_ok = k.select(valid & unit.eq(unit), rest.get(), k.constant(x.ty, math.nan))
    return with_sign(k, y_ok, x)
