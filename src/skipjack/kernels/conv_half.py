"""Conv of bf16 by direct register blocks, writing the blocked layout: pairs take the place of numbers of f32.

In a blocked image two channels make a pair; weights are packed [map group][channel block][kd][kh][kw][pair]
[vectors * vl][2]. In a plain image of few channels two neighbouring pixels do, which needs an even width and stride.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_direct import Direct, Phase, direct_us, everything, not_blocked, stem_us
from skipjack.kernels.conv_shape import conv_shape
from skipjack.kernels.launch import Launch, Lowering, Place, Site, Work, lowering
from skipjack.targets.instructions import DOT_BF16_512


def pack_pairs(w: np.ndarray, vectors: int, vl: int, lanes: int) -> np.ndarray:
    """[M, C, kd, kh, kw] as [map group][channel block][kd][kh][kw][pair][vectors * vl][2], missing ones zero.

    lanes is how many channels a block holds.
    """
    m, c, *kernel = w.shape
    blocks, span = -(-c // lanes), vectors * vl
    groups = -(-m // span)
    full = np.zeros((groups * span, blocks * lanes, *kernel), w.dtype)
    full[:m, :c] = w
    shaped = full.reshape(groups, span, blocks, lanes // 2, 2, *kernel)
    return np.ascontiguousarray(shaped.transpose(0, 2, 5, 6, 7, 3, 1, 4))


def pixel_pairs(w: np.ndarray, pad: int) -> np.ndarray:
    """[M, C, kd, kh, kw] as [M, 2 C, kd, kh, pairs]: taps of pairs that begin at even pixels, channel by channel."""
    m, c, kd, kh, kw = w.shape
    left = pad % 2
    full = np.zeros((m, c, kd, kh, -(-(left + kw) // 2) * 2), w.dtype)
    full[..., left : left + kw] = w
    return full.reshape(m, c, kd, kh, -1, 2).transpose(0, 1, 5, 2, 3, 4).reshape(m, 2 * c, kd, kh, -1)


def _three_axes(w: np.ndarray) -> np.ndarray:
    return w.reshape(*w.shape[:2], *[1] * (5 - w.ndim), *w.shape[2:])


def _paired_channels(work: Work) -> Phase:
    phase = everything(work)
    shape = replace(phase.shape, channels=-(-phase.shape.channels // 2))
    return replace(phase, shape=shape, weights=_three_axes)


def _paired_pixels(work: Work) -> Phase:
    s = conv_shape(work)
    pad = s.before[2]

    def halved(v: tuple[int, int, int], n: int) -> tuple[int, int, int]:
        return v[0], v[1], n

    shape = replace(
        s,
        kernel=halved(s.kernel, -(-(pad % 2 + s.kernel[2]) // 2)),
        strides=halved(s.strides, s.strides[2] // 2),
        before=halved(s.before, -(-pad // 2)),
        size=halved(s.size, s.size[2] // 2),
    )
    recipe = f" pixels {pad % 2}"
    return Phase(shape, (0, 0, 0), (1, 1, 1), recipe, lambda w: pixel_pairs(_three_axes(w), pad))


class _Pairs(Direct):
    """The launches of one convolution whose channels, or pixels of a row, are counted in pairs."""

    def __init__(self, work: Work, x_lanes: int, phase: Phase) -> None:
        super().__init__(work, x_lanes, phase=phase)

    def _weights(self, t: int, first: int, stop: int) -> Place:
        vl, phase, lanes = self.vl, self.phase, 2 * self.x_lanes

        def rearranged(w: np.ndarray) -> np.ndarray:
            return pack_pairs(phase.weights(w)[first * vl : stop * vl], t, vl, lanes)

        recipe = f"conv pairs {t} {vl} {first} {stop} {lanes}{phase.recipe}"
        return self.work.memory.packed(self.work.input(1), recipe, rearranged)


def _not_half(site: Site) -> str:
    if reason := not_blocked(site):
        return reason
    x, w = site.inputs[0], site.constants[1]
    assert x is not None, "not_blocked lets only images pass"
    assert w is not None, "not_blocked lets only constant weights pass"
    if not site.target.has(DOT_BF16_512.feature):
        return "this CPU has no products of bf16"
    if x.dtype is not DType.BF16 or DType.from_numpy(w.dtype) is not DType.BF16:
        return "the operands are not bf16"
    return "grouped" if site.node.attrs.get("group", 1) != 1 else ""


def _accepts_stem(site: Site) -> str:
    if reason := _not_half(site):
        return reason
    x, w, attrs = site.inputs[0], site.constants[1], site.node.attrs
    assert x is not None, "_not_half lets only images pass"
    assert w is not None, "_not_half lets only constant weights pass"
    if w.shape[1] >= site.target.vl:
        return "a plain input pays only for few channels"
    width = (x.shape or (1,))[-1]
    strides, dilations = (tuple(attrs.get(n) or (1,)) for n in ("strides", "dilations"))  # type: ignore[arg-type]
    if not isinstance(width, int) or width % 2 or strides[-1] % 2 or dilations[-1] != 1:
        return "pairs of pixels need an even width and stride"
    return ""


def _lower(work: Work) -> list[Launch]:
    return _Pairs(work, work.target.vl // 2, _paired_channels(work)).launches()


def _lower_stem(work: Work) -> list[Launch]:
    return _Pairs(work, 1, _paired_pixels(work)).launches()


def _us(work: Work) -> float:
    return direct_us(work) / 2


def _stem_us(work: Work) -> float:
    return stem_us(work) / 2


lowering(Lowering("conv_bf16", SKIPJACK, "Conv", _not_half, _lower, "blocked", 20, cost=_us))
lowering(Lowering("conv_bf16_stem", SKIPJACK, "Conv", _accepts_stem, _lower_stem, "plain>blocked", 30, cost=_stem_us))
