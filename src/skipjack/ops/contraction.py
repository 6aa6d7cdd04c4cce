"""Independent numpy references of the contractions: convolution in n dimensions and its transpose."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def accumulator(dtype: np.dtype) -> np.dtype:
    """The type sums of products of dtype are kept in: f64 for f64, i64 for integers, f32 for smaller floats."""
    if dtype.kind in "iub":
        return np.dtype(np.int64)
    return dtype if dtype.kind == "c" or dtype.itemsize > 4 else np.dtype(np.float32)


def split_pads(pads: Sequence[int], rank: int) -> list[tuple[int, int]]:
    """(begin, end) per spatial axis, from ONNX's order of all begins before all ends."""
    return [(int(pads[n]), int(pads[n + rank])) for n in range(rank)]


def conv(
    x: np.ndarray,
    w: np.ndarray,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> np.ndarray:
    """Cross-correlation of x [N, C, spatial] with w [M, C/group, kernel], summed in accumulator(x.dtype)."""
    rank = x.ndim - 2
    total = accumulator(x.dtype)
    padded = np.pad(x.astype(total), [(0, 0), (0, 0), *split_pads(pads, rank)])
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations)]
    spatial = tuple(range(2, 2 + rank))
    windows = sliding_window_view(padded, reach, axis=spatial)
    steps = tuple(slice(None, None, s) for s in strides)
    taps = tuple(slice(None, None, d) for d in dilations)
    windows = windows[(slice(None), slice(None), *steps, *taps)]
    channels, maps = w.shape[1], w.shape[0] // group
    kernel = tuple(range(2 + rank, 2 + 2 * rank))
    out = [
        np.tensordot(
            windows[:, g * channels : (g + 1) * channels],
            w[g * maps : (g + 1) * maps].astype(total),
            axes=((1, *kernel), (1, *spatial)),
        )
        for g in range(group)
    ]
    return np.moveaxis(np.concatenate(out, axis=-1), -1, 1)


def conv_transpose(
    x: np.ndarray,
    w: np.ndarray,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    output_padding: Sequence[int],
) -> np.ndarray:
    """The adjoint of conv: every element of x [N, C, spatial] scatters w [C, M/group, kernel] into the output."""
    rank = x.ndim - 2
    total = accumulator(x.dtype)
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations)]
    full = [(n - 1) * s + r + o for n, s, r, o in zip(x.shape[2:], strides, reach, output_padding)]
    maps, channels = w.shape[1], x.shape[1] // group
    out = np.zeros((x.shape[0], maps * group, *full), total)
    for g in range(group):
        part = x[:, g * channels : (g + 1) * channels].astype(total)
        weights = w[g * channels : (g + 1) * channels].astype(total)
        target = out[:, g * maps : (g + 1) * maps]
        for tap in itertools.product(*(range(k) for k in w.shape[2:])):
            product = np.moveaxis(np.tensordot(part, weights[(slice(None), slice(None), *tap)], axes=(1, 0)), -1, 1)
            starts = [t * d for t, d in zip(tap, dilations)]
            stops = [b + (n - 1) * s + 1 for b, n, s in zip(starts, x.shape[2:], strides)]
            where = tuple(slice(b, e, s) for b, e, s in zip(starts, stops, strides))
            target[(slice(None), slice(None), *where)] += product
    keep = tuple(slice(b, n - e) for (b, e), n in zip(split_pads(pads, rank), full))
    return out[(slice(None), slice(None), *keep)]
