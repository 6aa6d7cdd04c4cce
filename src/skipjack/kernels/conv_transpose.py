"""ConvTranspose in the blocked layout: outputs whose positions agree modulo the strides are one convolution each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import gcd, prod

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_direct import CYCLES_PER_US, Direct, Phase, not_f32
from skipjack.kernels.conv_shape import WindowShape
from skipjack.kernels.launch import Launch, Lowering, Site, Work, lowering

_DEFAULTS = {"strides": 1, "dilations": 1, "pads": 0}


def _three(work: Work, name: str, rank: int) -> tuple[int, int, int]:
    """The first `rank` values of an attribute, with defaults for the missing leading axes."""
    fill = _DEFAULTS[name]
    values = [int(v) for v in (work.attr(name) or ())][:rank] or [fill] * rank
    a, b, c = [*[fill] * (3 - rank), *values]
    return a, b, c


def pads_before(work: Work) -> tuple[int, int, int]:
    """What is cut off at the beginning of every axis of the scattered image, auto_pad resolved."""
    rank = len(work.input(0).shape) - 2
    kind = str(work.attr("auto_pad", "NOTSET"))
    if not kind.startswith("SAME"):
        return (0, 0, 0) if kind == "VALID" else _three(work, "pads", rank)
    strides, dilations = _three(work, "strides", rank), _three(work, "dilations", rank)
    extra = tuple(work.attr("output_padding") or (0,) * rank)
    found = [0] * (3 - rank)
    sizes = zip(work.input(0).shape[2:], work.output().shape[2:], work.input(1).shape[2:], extra)
    for (n, out, k, e), s, d in zip(sizes, strides[3 - rank :], dilations[3 - rank :]):
        total = max((n - 1) * s + e + (k - 1) * d + 1 - out, 0)
        found.append(total // 2 if kind == "SAME_UPPER" else total - total // 2)
    return found[0], found[1], found[2]


def transposed_steps(work: Work) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(strides, dilations) of the node."""
    rank = len(work.input(0).shape) - 2
    return _three(work, "strides", rank), _three(work, "dilations", rank)


def _flipped(w: np.ndarray, group: int, first: Sequence[int], step: Sequence[int]) -> np.ndarray:
    """[C, M / group, kernel] as the weights [M, C / group, taps] of a convolution over every step-th tap, reversed."""
    c, m = w.shape[:2]
    taps = w[(slice(None), slice(None), *[slice(f, None, s) for f, s in zip(first, step)])]
    taps = np.flip(taps, tuple(range(2, taps.ndim)))
    grouped = taps.reshape(group, c // group, m, *taps.shape[2:])
    return np.ascontiguousarray(np.moveaxis(grouped, 2, 1)).reshape(group * m, c // group, *taps.shape[2:])


def phases(work: Work) -> list[Phase]:
    """One convolution of stride 1 per residue of the output position; dilations are 1."""
    x, y, w = work.input(0).shape, work.output().shape, work.input(1).shape
    rank, group = len(x) - 2, int(work.attr("group", 1))
    strides, pads = _three(work, "strides", rank), pads_before(work)
    size, out, kernel = ((*[1] * (3 - rank), *v[2:]) for v in (x, y, w))
    found: list[Phase] = []
    for start in itertools.product(*[range(min(s, n)) for s, n in zip(strides, out)]):
        first = [(a + p) % s for a, p, s in zip(start, pads, strides)]
        taps = [-(-(k - f) // s) for k, f, s in zip(kernel, first, strides)]
        before = [t - 1 - (a + p) // s for t, a, p, s in zip(taps, start, pads, strides)]
        count = [-(-(n - a) // s) for n, a, s in zip(out, start, strides)]
        ones = (1, 1, 1)
        shape = WindowShape(
            x[0], x[1], y[1], group, (taps[0], taps[1], taps[2]), ones, ones, (before[0], before[1], before[2]),
            (size[0], size[1], size[2]), (count[0], count[1], count[2]),
        )  # fmt: skip

        def weights(w: np.ndarray, first: Sequence[int] = first) -> np.ndarray:
            return _flipped(w, group, first[3 - rank :], strides[3 - rank :])

        begin = (start[0], start[1], start[2])
        found.append(Phase(shape, begin, strides, f" transposed {first} {strides}", weights))
    return found


def _lower(work: Work) -> list[Launch]:
    found = list[Launch]()
    for phase in phases(work):
        found += Direct(work, work.target.vl, phase=phase).launches()
    return found


def _accepts(site: Site) -> str:
    if reason := not_f32(site):
        return reason
    w, attrs = site.constants[1], site.node.attrs
    assert w is not None, "not_f32 lets only constant weights pass"
    group, vl = int(attrs.get("group", 1)), site.target.vl  # type: ignore[arg-type]
    strides = attrs.get("strides") or (1,) * (w.ndim - 2)
    assert isinstance(strides, tuple), "strides are integers after the passes"
    if any(d != 1 for d in attrs.get("dilations") or ()):  # type: ignore[union-attr]
        return "dilations other than 1"
    if any(s > k for s, k in zip(strides, w.shape[2:])):
        return "strides larger than the kernel leave outputs without a tap"
    c, m = w.shape[0] // group, w.shape[1]
    if group > 1 and group % max(vl // gcd(c, vl), vl // gcd(m, vl)):
        return "the channels of its groups do not fill vectors"
    return "" if site.inputs[0] and site.inputs[0].dtype is DType.F32 else "not f32"


def _transpose_us(work: Work) -> float:
    x, w, vl = work.input(0).shape, work.input(1).shape, work.target.vl
    vectors = -(-w[1] * int(work.attr("group", 1)) // vl)
    return x[0] * prod(x[2:]) * prod(w[2:]) * w[0] // int(work.attr("group", 1)) * vectors * 1.1 / CYCLES_PER_US


lowering(
    Lowering("conv_transpose_phases", SKIPJACK, "ConvTranspose", _accepts, _lower, "blocked", 10, cost=_transpose_us)
)
