"""Fourier transforms, windows and the mel filter bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.conv import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import attr_dtype, axis_of, ref_axis


def _scalar(i: Infer, index: int) -> Dim | None:
    values = i.ints(index)
    return values[0] if values else None


def _complex_or_real(i: Infer, shape: Sequence[Dim]) -> None:
    if len(shape) < 2 or (isinstance(shape[-1], int) and shape[-1] not in (1, 2)):
        i.fail("a last axis of 1 (real) or 2 (complex)", tuple(shape))


def _infer_dft(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    inverse, onesided = bool(i.attr("inverse", 0)), bool(i.attr("onesided", 0))
    if t.shape is None:
        return [TensorType(t.dtype, None)]
    _complex_or_real(i, t.shape)
    last = 1 if inverse and onesided else 2
    axis = _scalar(i, 2) if i.has(2) else -2
    if not isinstance(axis, int):
        return [TensorType(t.dtype, (*[i.fresh(f"size{n}") for n in range(len(t.shape) - 1)], last))]
    at = axis_of(i, axis, len(t.shape))
    if at == len(t.shape) - 1:
        i.fail("an axis before the last one", axis)
    length = t.shape[at]
    if i.has(1):
        given = _scalar(i, 1)
        length = i.fresh("length") if given is None else given
    elif inverse and onesided:
        length = (length - 1) * 2
    out = [*t.shape[:-1], last]
    out[at] = length // 2 + 1 if onesided and not inverse else length
    return [TensorType(t.dtype, tuple(out))]


def _as_complex(x: np.ndarray) -> np.ndarray:
    wide = widened(x)
    return wide[..., 0] + 1j * wide[..., 1] if x.shape[-1] == 2 else wide[..., 0] + 0j


def _as_pair(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.stack([np.real(x), np.imag(x)], axis=-1).astype(dtype)


def _ref_dft(r: Ref) -> list[Any]:
    x = r.inputs[0]
    inverse, onesided = bool(r.attr("inverse", 0)), bool(r.attr("onesided", 0))
    axis = ref_axis(r, int(np.asarray(r.inputs[2]).reshape(-1)[0]) if r.get(2) is not None else -2, x.ndim)
    if axis == x.ndim - 1 or x.shape[-1] not in (1, 2):
        r.fail("a last axis of 1 or 2 that is not transformed", x.shape)
    if onesided and not inverse and x.shape[-1] == 2:
        r.fail("a real input for a one-sided transform", x.shape)
    length = None if r.get(1) is None else int(np.asarray(r.inputs[1]).reshape(-1)[0])
    if length is not None and length < 1:
        r.fail("a positive dft_length", length)
    values = _as_complex(x)
    if inverse and onesided:
        return [np.fft.irfft(values, n=length, axis=axis)[..., None].astype(x.dtype)]
    y = np.fft.ifft(values, n=length, axis=axis) if inverse else np.fft.fft(values, n=length, axis=axis)
    if onesided:
        y = np.take(y, np.arange(y.shape[axis] // 2 + 1), axis=axis)
    return [_as_pair(y, x.dtype)]


register(Op("DFT", _infer_dft, _ref_dft))


def _infer_stft(i: Infer) -> list[ValueType]:
    t, step = i.tensor(0), _scalar(i, 1)
    window = i.shape(2) if i.has(2) else None
    length = _scalar(i, 3) if i.has(3) else window[0] if window else None
    if t.shape is None:
        return [TensorType(t.dtype, None)]
    if len(t.shape) != 3:
        i.fail("a signal with three axes", t.shape)
    _complex_or_real(i, t.shape)
    if not i.has(2) and not i.has(3):
        i.fail("a window or a frame length", "neither")
    if (isinstance(step, int) and step < 1) or (isinstance(length, int) and length < 1):
        i.fail("a positive frame step and length", (step, length))
    frames = i.fresh("frames") if step is None or length is None else (t.shape[1] - length) // step + 1
    if isinstance(frames, int) and frames < 1:
        i.fail(f"a signal of at least {length} samples", t.shape[1])
    bins = i.fresh("bins") if length is None else length // 2 + 1 if i.attr("onesided", 1) else length
    return [TensorType(t.dtype, (t.shape[0], frames, bins, 2))]


def _ref_stft(r: Ref) -> list[Any]:
    x, step = r.inputs[0], int(np.asarray(r.inputs[1]).reshape(-1)[0])
    window: Any = r.get(2)
    given: Any = r.get(3)
    if window is None and given is None:
        r.fail("a window or a frame length", "neither")
    length = len(np.asarray(window)) if given is None else int(np.asarray(given).reshape(-1)[0])
    if step < 1 or length < 1 or x.shape[1] < length or (window is not None and len(window) != length):
        r.fail(f"frames and a window of {length} samples inside the signal", x.shape)
    weights = np.ones(length) if window is None else window.astype(np.float64)
    starts = np.arange((x.shape[1] - length) // step + 1) * step
    frames = _as_complex(x)[:, starts[:, None] + np.arange(length)] * weights
    y = np.fft.fft(frames, axis=-1)
    return [_as_pair(y[..., : length // 2 + 1] if r.attr("onesided", 1) else y, x.dtype)]


register(Op("STFT", _infer_stft, _ref_stft))


def _infer_window(i: Infer) -> list[ValueType]:
    size = _scalar(i, 0)
    if isinstance(size, int) and size < 0:
        i.fail("a size that is not negative", size)
    return [TensorType(attr_dtype(i, "output_datatype", DType.F32), (i.fresh("size") if size is None else size,))]


def _cosines(*coefficients: float) -> Callable[[Ref], list[Any]]:
    """The window sum of c[k] * cos(2 pi k n / N)."""

    def reference(r: Ref) -> list[Any]:
        size = int(np.asarray(r.inputs[0]).reshape(-1)[0])
        period = size if r.attr("periodic", 1) else size - 1
        angle = 2 * np.pi * np.arange(size) / max(period, 1)
        y = sum(c * np.cos(k * angle) for k, c in enumerate(coefficients))
        return [np.asarray(y).astype(DType.from_onnx(int(r.attr("output_datatype", 1))).np)]

    return reference


register(Op("HannWindow", _infer_window, _cosines(0.5, -0.5)))
register(Op("HammingWindow", _infer_window, _cosines(25 / 46, -21 / 46)))
register(Op("BlackmanWindow", _infer_window, _cosines(0.42, -0.5, 0.08)))


def _infer_mel(i: Infer) -> list[ValueType]:
    bins, length = _scalar(i, 0), _scalar(i, 1)
    rows = i.fresh("bins") if length is None else length // 2 + 1
    return [TensorType(attr_dtype(i, "output_datatype", DType.F32), (rows, i.fresh("mel") if bins is None else bins))]


def _ref_mel(r: Ref) -> list[Any]:
    bins, length, rate = (int(np.asarray(v).reshape(-1)[0]) for v in r.inputs[:3])
    low, high = (2595 * np.log10(1 + float(np.asarray(v).reshape(-1)[0]) / 700) for v in r.inputs[3:5])
    if bins < 1 or length < 1 or rate < 1:
        r.fail("positive num_mel_bins, dft_length and sample_rate", (bins, length, rate))
    mels = low + (high - low) / (bins + 2) * np.arange(bins + 2)
    hertz = 700 * (10 ** (mels / 2595) - 1)
    edges = np.floor((length + 1) * hertz / rate).astype(np.int64)
    rows = length // 2 + 1
    if edges.min() < 0 or edges.max() > rows:
        r.fail("edges between 0 and half the sample rate", hertz[[0, -1]].tolist())
    y = np.zeros((rows, bins))
    for n in range(bins):
        left, centre, right = edges[n : n + 3]
        at = np.arange(left, min(centre + 1, rows))
        y[at, n] = 1 if centre == left else (at - left) / (centre - left)
        at = np.arange(centre, right)
        y[at, n] = (right - at) / max(right - centre, 1)
    return [y.astype(DType.from_onnx(int(r.attr("output_datatype", 1))).np)]


register(Op("MelWeightMatrix", _infer_mel, _ref_mel))
