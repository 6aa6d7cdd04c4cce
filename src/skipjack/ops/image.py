"""Sampling images: Resize in all its modes, GridSample and AffineGrid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.conv import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import axes_of, fresh_shape, ref_axis, same_dim

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
POLICIES = ("stretch", "not_larger", "not_smaller")


def _choice(x: Infer | Ref, name: str, accepted: Sequence[str]) -> str:
    """A string attribute; its default is the first accepted value."""
    value = str(x.attr(name, accepted[0]))
    if value not in accepted:
        x.fail(f"{name} among {tuple(accepted)}", value)
    return value


def scaled_size(size: Dim, scale: float) -> Dim | None:
    """floor(size * scale) in f32; None when size is symbolic and scale is no simple fraction."""
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * np.float32(scale)))
    fraction = Fraction(float(scale)).limit_denominator(64)
    if np.float32(fraction.numerator / fraction.denominator) != np.float32(scale):
        return None
    return size * fraction.numerator // fraction.denominator


def _given(i: Infer, index: int) -> bool:
    """Whether an optional input holds anything; an empty tensor counts as absent."""
    return i.has(index) and i.shape(index) != (0,)


def _infer_resize(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    _choice(i, "mode", ("nearest", "linear", "cubic"))
    _choice(i, "coordinate_transformation_mode", COORDINATES)
    _choice(i, "nearest_mode", NEAREST)
    policy = _choice(i, "keep_aspect_ratio_policy", POLICIES)
    if t.shape is None:
        return [TensorType(t.dtype, None)]
    if _given(i, 2) == _given(i, 3):
        i.fail("either scales or sizes", "both" if _given(i, 2) else "none")
    rank = len(t.shape)
    axes = axes_of(i, i.attr("axes") or range(rank), rank)
    out = list(t.shape)
    for axis, size in zip(axes, _wanted_sizes(i, t.shape, axes, policy)):
        out[axis] = i.fresh(f"size{axis}") if size is None else size
    return [TensorType(t.dtype, tuple(out))]


def _wanted_sizes(i: Infer, shape: Sequence[Dim], axes: Sequence[int], policy: str) -> Sequence[Dim | None]:
    """The output sizes of the resized axes, None where they are not known."""
    if _given(i, 2):
        scales = i.value(2)
        if scales is None:
            return [None] * len(axes)
        if scales.size != len(axes) or not (np.asarray(scales, np.float64) > 0).all():
            i.fail(f"{len(axes)} positive scales", scales.tolist())
        return [scaled_size(shape[a], float(s)) for a, s in zip(axes, scales.reshape(-1))]
    sizes = i.ints(3)
    if sizes is None:
        return [None] * len(axes)
    if len(sizes) != len(axes) or any(isinstance(s, int) and s < 0 for s in sizes):
        i.fail(f"{len(axes)} sizes that are not negative", sizes)
    if policy == "stretch":
        return sizes
    known_sizes = [s for s in sizes if isinstance(s, int)]
    known_inputs = [s for s in (shape[a] for a in axes) if isinstance(s, int)]
    if len(known_sizes) < len(axes) or len(known_inputs) < len(axes):
        return [None] * len(axes)
    return kept_aspect(known_inputs, known_sizes, policy)[1]


def kept_aspect(inputs: Sequence[int], sizes: Sequence[int], policy: str) -> tuple[float, list[int]]:
    """The one scale of all axes under a policy, and the sizes it gives, rounded half up."""
    ratios = [Fraction(s, n) if n else Fraction(1) for n, s in zip(inputs, sizes)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return float(scale), [math.floor(scale * n + Fraction(1, 2)) for n in inputs]


def source_positions(kind: str, size: int, out: int, scale: float, roi: tuple[float, float]) -> np.ndarray:
    """Where in the input each output index lies, along one axis."""
    at = np.arange(out, dtype=np.float64)
    if kind == "asymmetric":
        return at / scale
    if kind == "align_corners":
        length = size * scale
        return at * 0 if out == 1 or length == 1 else at * (size - 1) / (length - 1)
    if kind == "tf_crop_and_resize":
        start, end = roi
        if out == 1:
            return at * 0 + 0.5 * (start + end) * (size - 1)
        return start * (size - 1) + at * (end - start) * (size - 1) / (out - 1)
    if kind == "pytorch_half_pixel" and out == 1:
        return at * 0
    shift = size / 2 * (1 - out / (scale * size)) if kind == "half_pixel_symmetric" else 0.0
    return shift + (at + 0.5) / scale - 0.5


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel with coefficient a."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _nearest_index(r: Ref, x: np.ndarray) -> np.ndarray:
    way = _choice(r, "nearest_mode", NEAREST)
    if way == "round_prefer_floor":
        return np.ceil(x - 0.5)
    if way == "round_prefer_ceil":
        return np.floor(x + 0.5)
    return np.floor(x) if way == "floor" else np.ceil(x)


def axis_weights(r: Ref, x: np.ndarray, size: int, scale: float) -> np.ndarray:
    """[out, size]: how much each input position contributes to each output position along one axis."""
    kind = _choice(r, "mode", ("nearest", "linear", "cubic"))
    weights = np.zeros((len(x), size))
    rows = np.arange(len(x))
    if kind == "nearest":
        weights[rows, np.clip(_nearest_index(r, x), 0, size - 1).astype(np.int64)] = 1
        return weights
    shrink = min(scale, 1.0) if r.attr("antialias", 0) else 1.0
    reach = math.ceil((1 if kind == "linear" else 2) / shrink) + 1
    low = np.floor(x).astype(np.int64)
    for step in range(-reach, reach + 1):
        d = (low + step - x) * shrink
        w = np.maximum(0, 1 - np.abs(d)) if kind == "linear" else cubic(d, float(r.attr("cubic_coeff_a", -0.75)))
        at = low + step
        if r.attr("exclude_outside", 0):
            w = np.where((at >= 0) & (at < size), w, 0)
        np.add.at(weights, (rows, np.clip(at, 0, size - 1)), w)
    return weights / weights.sum(axis=1, keepdims=True)


def resize_plan(r: Ref, axes: Sequence[int]) -> list[tuple[float, int]]:
    """(scale, output size) of each resized axis."""
    x, scales, sizes = r.inputs[0], r.get(2), r.get(3)
    inputs = [x.shape[a] for a in axes]
    if scales is not None and scales.size:
        if scales.size != len(axes):
            r.fail(f"{len(axes)} scales", scales.size)
        return [(float(s), int(np.floor(np.float32(n) * np.float32(s)))) for n, s in zip(inputs, scales)]
    if sizes is None or len(sizes) != len(axes):
        r.fail(f"{len(axes)} sizes", None if sizes is None else len(sizes))
    wanted = [int(s) for s in sizes]
    policy = _choice(r, "keep_aspect_ratio_policy", POLICIES)
    if policy != "stretch":
        scale, kept = kept_aspect(inputs, wanted, policy)
        return [(scale, s) for s in kept]
    return [(s / n if n else 1.0, s) for n, s in zip(inputs, wanted)]


def _ref_resize(r: Ref) -> list[Any]:
    x = r.inputs[0]
    axes = [ref_axis(r, int(a), x.ndim) for a in (r.attr("axes") or range(x.ndim))]
    kind = _choice(r, "coordinate_transformation_mode", COORDINATES)
    roi = r.get(1)
    y = x.astype(np.float64)
    outside = np.zeros((1,) * x.ndim, bool)
    for n, (axis, (scale, out)) in enumerate(zip(axes, resize_plan(r, axes))):
        size = x.shape[axis]
        region = (0.0, 1.0)
        if kind == "tf_crop_and_resize":
            if roi is None or roi.size != 2 * len(axes):
                r.fail(f"a roi of {2 * len(axes)} numbers", None if roi is None else roi.size)
            region = (float(roi[n]), float(roi[n + len(axes)]))
        elif scale == 1 and out == size:
            continue
        at = source_positions(kind, size, out, scale, region)
        y = np.moveaxis(np.tensordot(y, axis_weights(r, at, size, scale), axes=(axis, 1)), -1, axis)
        beyond = (at < 0) | (at > size - 1)
        outside = outside | beyond.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    if kind == "tf_crop_and_resize":
        y = np.where(outside, float(r.attr("extrapolation_value", 0.0)), y)
    return [_stored(y, x.dtype)]


def _stored(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """y as dtype; integers are rounded and saturated."""
    if dtype.kind not in "iu":
        return y.astype(dtype)
    bounds = np.iinfo(dtype)
    return np.clip(np.rint(y), bounds.min, bounds.max).astype(dtype)


register(Op("Resize", _infer_resize, _ref_resize))


def _infer_grid_sample(i: Infer) -> list[ValueType]:
    x, grid = i.shape(0), i.shape(1)
    dtype = i.tensor(0).dtype
    _choice(i, "mode", ("linear", "nearest", "cubic"))
    _choice(i, "padding_mode", ("zeros", "border", "reflection"))
    if x is None or grid is None:
        return [TensorType(dtype, None)]
    if len(x) < 3 or len(grid) != len(x):
        i.fail("input and grid of equal rank, at least 3", f"{x} and {grid}")
    same_dim(i, grid[-1], len(x) - 2, "grid coordinates")
    same_dim(i, x[0], grid[0], "batches")
    return [TensorType(dtype, (x[0], x[1], *grid[1:-1]))]


def _reflected(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """x mirrored at both bounds until it lies between them."""
    span = high - low
    if span <= 0:
        return np.full_like(x, low)
    away = np.mod(x - low, 2 * span)
    return low + np.minimum(away, 2 * span - away)


def _tap(index: np.ndarray, size: int, padding: str, align: bool) -> tuple[np.ndarray, np.ndarray]:
    """(index inside the axis, whether it counts) of an integer position under a padding."""
    inside = np.ones(index.shape, bool)
    if padding == "zeros":
        inside = (index >= 0) & (index < size)
    elif padding == "reflection":
        index = _reflected(index, 0, size - 1) if align else _reflected(index, -0.5, size - 0.5)
    return np.clip(index, 0, size - 1).astype(np.int64), inside


def _axis_taps(r: Ref, x: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(index, weight) pairs along one axis for normalised grid coordinates x."""
    kind = _choice(r, "mode", ("linear", "nearest", "cubic"))
    padding = _choice(r, "padding_mode", ("zeros", "border", "reflection"))
    align = bool(r.attr("align_corners", 0))
    at = (x + 1) / 2 * (size - 1) if align else ((x + 1) * size - 1) / 2
    if padding == "reflection" and kind != "cubic":
        at = np.clip(_reflected(at, 0, size - 1) if align else _reflected(at, -0.5, size - 0.5), 0, size - 1)
    elif padding == "border" and kind != "cubic":
        at = np.clip(at, 0, size - 1)
    if kind == "nearest":
        weights = [(np.rint(at), np.ones(at.shape))]
    elif kind == "linear":
        low = np.floor(at)
        weights = [(low, 1 - (at - low)), (low + 1, at - low)]
    else:
        low = np.floor(at)
        weights = [(low + s, cubic(at - low - s, -0.75)) for s in range(-1, 3)]
    out: list[tuple[np.ndarray, np.ndarray]] = []
    for index, weight in weights:
        where, inside = _tap(index, size, padding, align)
        out.append((where, np.where(inside, weight, 0)))
    return out


def _ref_grid_sample(r: Ref) -> list[Any]:
    x, grid = widened(r.inputs[0]), r.inputs[1].astype(np.float64)
    rank = x.ndim - 2
    if grid.ndim != x.ndim or grid.shape[-1] != rank or grid.shape[0] != x.shape[0]:
        r.fail(f"a grid of {x.shape[0]} batches with {rank} coordinates", grid.shape)
    y = np.zeros((x.shape[0], x.shape[1], *grid.shape[1:-1]), np.result_type(x.dtype, np.float32))
    for n in range(x.shape[0]):
        per_axis = [_axis_taps(r, grid[n, ..., rank - 1 - a], x.shape[2 + a]) for a in range(rank)]
        for taps in itertools.product(*per_axis):
            weight = np.prod([w for _, w in taps], axis=0)
            y[n] += (x[n][(slice(None), *[where for where, _ in taps])] * weight).astype(y.dtype)
    return [y.astype(r.inputs[0].dtype)]


register(Op("GridSample", _infer_grid_sample, _ref_grid_sample))


def _infer_affine(i: Infer) -> list[ValueType]:
    t, size = i.tensor(0), i.ints(1)
    if t.shape is not None and len(t.shape) != 3:
        i.fail("theta with three axes", t.shape)
    if size is not None:
        if len(size) not in (4, 5):
            i.fail("a size of four or five numbers", size)
        return [TensorType(t.dtype, (size[0], *size[2:], len(size) - 2))]
    rank = t.shape[1] if t.shape is not None else None
    if not isinstance(rank, int):
        return [TensorType(t.dtype, None)]
    return [TensorType(t.dtype, (*fresh_shape(i, rank + 1), rank))]


def _ref_affine(r: Ref) -> list[Any]:
    theta, size = r.inputs[0], [int(n) for n in r.inputs[1]]
    rank = len(size) - 2
    if theta.shape != (size[0], rank, rank + 1):
        r.fail(f"theta of shape {(size[0], rank, rank + 1)}", theta.shape)
    steps = [
        (np.linspace(-1, 1, n) if n > 1 else np.full(n, -1.0))
        if r.attr("align_corners", 0)
        else (2 * np.arange(n) + 1) / n - 1
        for n in size[2:]
    ]
    grid = np.meshgrid(*steps, indexing="ij")
    points = np.stack([*grid[::-1], np.ones(size[2:])], axis=-1)
    return [np.einsum("...k,njk->n...j", points, theta.astype(np.float64)).astype(theta.dtype)]


register(Op("AffineGrid", _infer_affine, _ref_affine))
