"""Convolutions: Conv, ConvTranspose, DeformConv, Col2Im and the stateful causal convolution of recurrent mixers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, product
from skipjack.ir.types import Shape, TensorType, ValueType
from skipjack.ops.contraction import conv, conv_transpose
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import fresh_shape, outputs, same_dim
from skipjack.ops.window import Window, known, output_sizes, padded, taps, window


def kernel_of(x: Infer | Ref, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """The spatial sizes of a weight, checked against kernel_shape when that is given."""
    kernel = tuple(shape[2:])
    given = x.attr("kernel_shape")
    if not given:
        return kernel
    if len(given) != len(kernel) or any(isinstance(k, int) and k != g for k, g in zip(kernel, given)):
        x.fail(f"a weight with kernel_shape {tuple(given)}", tuple(shape))
    return tuple(given)


def conv_shapes(i: Infer, x: Shape, w: Shape) -> Window:
    """The window of a convolution after its shapes were checked."""
    if len(x) < 3 or len(x) != len(w):
        i.fail("input and weight of equal rank, at least 3", f"{x} and {w}")
    group = int(i.attr("group", 1))
    if group < 1:
        i.fail("a positive group", group)
    same_dim(i, x[1], w[1] * group, "input channels")
    if isinstance(w[0], int) and w[0] % group:
        i.fail(f"output channels divisible by group {group}", w[0])
    return window(i, kernel_of(i, w))


def _check_bias(i: Infer, index: int, channels: Dim) -> None:
    if i.has(index):
        bias = i.shape(index)
        if bias is not None and len(bias) != 1:
            i.fail("a bias with one axis", bias)
        if bias is not None:
            same_dim(i, channels, bias[0], "output channels and bias")


def _infer_conv(i: Infer) -> list[ValueType]:
    x, w = i.shape(0), i.shape(1)
    dtype = i.tensor(0).dtype
    if x is None or w is None:
        return [TensorType(dtype, None)]
    win = conv_shapes(i, x, w)
    _check_bias(i, 2, w[0])
    return [TensorType(dtype, (x[0], w[0], *output_sizes(i, win, x[2:])))]


def widened(x: np.ndarray) -> np.ndarray:
    """Half precision as f32, everything else as it is: the type sums are formed in."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x


def pads_in_order(w: Window, sizes: Sequence[int]) -> list[int]:
    """Resolved pads as ONNX lists them: all beginnings, then all ends."""
    pads = w.pads_for(sizes)
    return [known(p[0]) for p in pads] + [known(p[1]) for p in pads]


def _ref_conv(r: Ref) -> list[Any]:
    x, w, b = r.inputs[0], r.inputs[1], r.get(2)
    group = int(r.attr("group", 1))
    if x.ndim != w.ndim or x.shape[1] != w.shape[1] * group or w.shape[0] % group:
        r.fail("a weight that fits the input's channels", f"{x.shape} and {w.shape} with group {group}")
    win = window(r, kernel_of(r, w.shape))
    output_sizes(r, win, x.shape[2:])
    y = conv(x, w, win.strides, pads_in_order(win, x.shape[2:]), win.dilations, group)
    if b is not None:
        y = y + widened(b).reshape(1, -1, *[1] * (x.ndim - 2))
    return [y.astype(x.dtype)]


register(Op("Conv", _infer_conv, _ref_conv))


def transposed_sizes(x: Infer | Ref, w: Window, sizes: Sequence[Dim]) -> tuple[tuple[Dim, ...], list[tuple[Dim, Dim]]]:
    """The spatial sizes a transposed convolution gives, and the pads it cuts from either side."""
    extra = tuple(x.attr("output_padding") or (0,) * w.rank)
    wanted = x.attr("output_shape")
    if len(extra) != w.rank or (wanted and len(wanted) != w.rank):
        x.fail(f"output_padding and output_shape with {w.rank} values", (extra, wanted))
    out: list[Dim] = []
    pads: list[tuple[Dim, Dim]] = []
    for axis, size in enumerate(sizes):
        full = (size - 1) * w.strides[axis] + extra[axis] + w.extent(axis)
        if not wanted and not w.auto_pad.startswith("SAME"):
            before, after = w.pads_for(sizes)[axis]
            out.append(full - before - after)
            pads.append((before, after))
            continue
        target = wanted[axis] if wanted else size * w.strides[axis]
        total = full - target
        if isinstance(total, int):
            total = max(total, 0)
        small = total // 2
        out.append(target)
        pads.append((small, total - small) if w.auto_pad == "SAME_UPPER" else (total - small, small))
    return tuple(out), pads


def _infer_transpose(i: Infer) -> list[ValueType]:
    x, w = i.shape(0), i.shape(1)
    dtype = i.tensor(0).dtype
    if x is None or w is None:
        return [TensorType(dtype, None)]
    if len(x) < 3 or len(x) != len(w):
        i.fail("input and weight of equal rank, at least 3", f"{x} and {w}")
    same_dim(i, x[1], w[0], "input channels")
    channels = w[1] * int(i.attr("group", 1))
    _check_bias(i, 2, channels)
    sizes, _ = transposed_sizes(i, window(i, kernel_of(i, w)), x[2:])
    if any(isinstance(s, int) and s < 0 for s in sizes):
        i.fail("pads that leave something of the output", sizes)
    return [TensorType(dtype, (x[0], channels, *sizes))]


def _ref_transpose(r: Ref) -> list[Any]:
    x, w, b = r.inputs[0], r.inputs[1], r.get(2)
    group = int(r.attr("group", 1))
    if x.ndim != w.ndim or x.shape[1] != w.shape[0] or x.shape[1] % group:
        r.fail("a weight that fits the input's channels", f"{x.shape} and {w.shape} with group {group}")
    win = window(r, kernel_of(r, w.shape))
    sizes, pads = transposed_sizes(r, win, x.shape[2:])
    nothing = [0] * (2 * win.rank)
    full = conv_transpose(x, w, win.strides, nothing, win.dilations, group, nothing[: win.rank])
    y = np.zeros((*full.shape[:2], *[known(n) for n in sizes]), full.dtype)
    kept = tuple(slice(known(p[0]), known(p[0]) + known(n)) for p, n in zip(pads, sizes))
    part = full[(slice(None), slice(None), *kept)]
    y[tuple(slice(0, n) for n in part.shape)] = part
    if b is not None:
        y = y + widened(b).reshape(1, -1, *[1] * (x.ndim - 2))
    return [y.astype(x.dtype)]


register(Op("ConvTranspose", _infer_transpose, _ref_transpose))


def _infer_deform(i: Infer) -> list[ValueType]:
    x, w = i.shape(0), i.shape(1)
    dtype = i.tensor(0).dtype
    if x is None or w is None:
        return [TensorType(dtype, None)]
    win = conv_shapes(i, x, w)
    _check_bias(i, 3, w[0])
    sizes = output_sizes(i, win, x[2:])
    offset = i.shape(2)
    if offset is not None:
        same_dim(i, offset[1], product(win.kernel) * (len(x) - 2) * int(i.attr("offset_group", 1)), "offset channels")
        sizes = tuple(same_dim(i, a, b, "output and offset") for a, b in zip(sizes, offset[2:]))
    return [TensorType(dtype, (x[0], w[0], *sizes))]


def sample_linear(x: np.ndarray, positions: Sequence[np.ndarray]) -> np.ndarray:
    """x [..., spatial] read at fractional positions [points] per spatial axis, zero outside; result [..., points]."""
    rank = len(positions)
    lows = [np.floor(p).astype(np.int64) for p in positions]
    total = np.zeros((*x.shape[: x.ndim - rank], len(positions[0])), np.result_type(x.dtype, np.float32))
    for corner in itertools.product((0, 1), repeat=rank):
        weight = np.ones(len(positions[0]), np.float64)
        inside = np.ones(len(positions[0]), bool)
        at: list[np.ndarray] = []
        for c, low, p, n in zip(corner, lows, positions, x.shape[x.ndim - rank :]):
            weight = weight * (p - low if c else 1 - (p - low))
            inside = inside & (low + c >= 0) & (low + c < n)
            at.append(np.clip(low + c, 0, n - 1))
        total += (x[(..., *at)] * np.where(inside, weight, 0)).astype(total.dtype)
    return total


def _deform_columns(r: Ref, x: np.ndarray, win: Window, out: Sequence[int]) -> np.ndarray:
    """[N, C, taps, positions]: what each kernel element reads after its offset, scaled by the mask."""
    offset, mask = r.inputs[2], r.get(4)
    groups, rank, count = int(r.attr("offset_group", 1)), win.rank, int(np.prod([known(k) for k in win.kernel]))
    n, c = x.shape[:2]
    shift = offset.reshape(n, groups, count, rank, -1)
    scale = np.ones((n, groups, count, 1)) if mask is None else mask.reshape(n, groups, count, -1)
    starts = np.meshgrid(*[np.arange(o) * s for o, s in zip(out, win.strides)], indexing="ij")
    begins = win.pads_for(x.shape[2:])
    columns = np.zeros((n, c, count, int(np.prod(out))), x.dtype)
    for b, g in itertools.product(range(n), range(groups)):
        channels = slice(g * (c // groups), (g + 1) * (c // groups))
        for t, index in enumerate(itertools.product(*[range(known(k)) for k in win.kernel])):
            at = [
                starts[a].reshape(-1) - known(begins[a][0]) + index[a] * win.dilations[a] + shift[b, g, t, a]
                for a in range(rank)
            ]
            columns[b, channels, t] = sample_linear(x[b, channels], at) * scale[b, g, t]
    return columns


def _ref_deform(r: Ref) -> list[Any]:
    x, w, b = r.inputs[0], r.inputs[1], r.get(3)
    group = int(r.attr("group", 1))
    if x.shape[1] != w.shape[1] * group or w.shape[0] % group or x.shape[1] % int(r.attr("offset_group", 1)):
        r.fail("a weight that fits the input's channels", f"{x.shape} and {w.shape} with group {group}")
    win = window(r, kernel_of(r, w.shape))
    out = [known(s) for s in output_sizes(r, win, x.shape[2:])]
    columns = _deform_columns(r, widened(x), win, out)
    n, c = x.shape[:2]
    grouped = columns.reshape(n, group, c // group, columns.shape[2], -1)
    weights = widened(w).reshape(group, w.shape[0] // group, c // group, -1)
    y = np.einsum("ngctp,gmct->ngmp", grouped, weights).reshape(n, w.shape[0], *out)
    if b is not None:
        y = y + widened(b).reshape(1, -1, *[1] * win.rank)
    return [y.astype(x.dtype)]


register(Op("DeformConv", _infer_deform, _ref_deform))


def _infer_col2im(i: Infer) -> list[ValueType]:
    x, image, block = i.shape(0), i.ints(1), i.ints(2)
    dtype = i.tensor(0).dtype
    shape = i.shape(1)
    rank = len(image) if image is not None else shape[0] if shape and isinstance(shape[0], int) else None
    if rank is None:
        return [TensorType(dtype, None)]
    sizes = tuple(image) if image is not None else fresh_shape(i, rank)
    if x is None:
        return [TensorType(dtype, (i.fresh("batch"), i.fresh("channels"), *sizes))]
    if len(x) != 3:
        i.fail("columns with three axes", x)
    return [TensorType(dtype, (x[0], i.fresh("channels") if block is None else x[1] // product(block), *sizes))]


def _ref_col2im(r: Ref) -> list[Any]:
    x, image, block = r.inputs[0], [int(v) for v in r.inputs[1]], [int(v) for v in r.inputs[2]]
    win = window(r, block)
    out = [known(s) for s in output_sizes(r, win, image)]
    count = int(np.prod(block))
    if x.shape[1] % count or x.shape[2] != int(np.prod(out)):
        r.fail(f"columns with a multiple of {count} rows and {int(np.prod(out))} columns", x.shape)
    channels = x.shape[1] // count
    y = padded(np.zeros((x.shape[0], channels, *image), x.dtype), win, out, 0)
    columns = x.reshape(x.shape[0], channels, count, *out)
    for t, (_, view) in enumerate(taps(y, win, out)):
        view += columns[:, :, t]
    kept = tuple(slice(known(p[0]), known(p[0]) + n) for p, n in zip(win.pads_for(image), image))
    return [np.ascontiguousarray(y[(slice(None), slice(None), *kept)])]


register(Op("Col2Im", _infer_col2im, _ref_col2im))


def _infer_causal(i: Infer) -> list[ValueType]:
    x, w = i.shape(0), i.shape(1)
    dtype = i.tensor(0).dtype
    if str(i.attr("activation", "none")) not in ("none", "silu", "swish"):
        i.fail("activation among none, silu, swish", i.attr("activation"))
    if x is None:
        return outputs(i, TensorType(dtype, None), TensorType(dtype, None))
    if len(x) != 3 or (w is not None and len(w) != 3):
        i.fail("input and weight with three axes", f"{x} and {w}")
    if w is not None:
        same_dim(i, x[1], w[0], "channels")
    _check_bias(i, 2, x[1])
    state = i.fresh("state") if w is None else w[2] - 1
    return outputs(i, TensorType(dtype, x), TensorType(dtype, (x[0], x[1], state)))


def _ref_causal(r: Ref) -> list[Any]:
    x, w, bias, past = r.inputs[0], r.inputs[1], r.get(2), r.get(3)
    k = w.shape[2]
    if w.shape[:2] != (x.shape[1], 1):
        r.fail(f"a weight of shape ({x.shape[1]}, 1, k)", w.shape)
    state = np.zeros((*x.shape[:2], k - 1), x.dtype) if past is None else past
    if state.shape != (*x.shape[:2], k - 1):
        r.fail(f"a past state of shape {(*x.shape[:2], k - 1)}", state.shape)
    whole = np.concatenate([state, x], axis=2)
    y = conv(whole, w, [1], [0, 0], [1], x.shape[1])
    if bias is not None:
        y = y + widened(bias).reshape(1, -1, 1)
    if str(r.attr("activation", "none")) != "none":
        y = y / (1 + np.exp(-y))
    present = whole[:, :, whole.shape[2] - (k - 1) :]
    return [y.astype(x.dtype), np.ascontiguousarray(present)][: r.n_outputs]


register(Op("CausalConvWithState", _infer_causal, _ref_causal))
