"""Conv of bf16 in the blocked layout by direct register blocks: pairs of channels take the place of channels.

Weights are packed [map group][channel block][kd][kh][kw][pair][vectors * vl][2].
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_direct import Direct, Phase, constant_image, direct_us, everything
from skipjack.kernels.epilogue import accepts_epilogue
from skipjack.kernels.launch import Launch, Lowering, Place, Site, Work, lowering
from skipjack.targets.instructions import DOT_BF16_512

_STORED = (DType.F32, DType.BF16)


def pack_pairs(w: np.ndarray, vectors: int, vl: int) -> np.ndarray:
    """[M, C, kd, kh, kw] as [map group][channel block][kd][kh][kw][pair][vectors * vl][2], missing ones zero."""
    m, c, *kernel = w.shape
    blocks, span = -(-c // vl), vectors * vl
    groups = -(-m // span)
    full = np.zeros((groups * span, blocks * vl, *kernel), w.dtype)
    full[:m, :c] = w
    shaped = full.reshape(groups, span, blocks, vl // 2, 2, *kernel)
    return np.ascontiguousarray(shaped.transpose(0, 2, 5, 6, 7, 3, 1, 4))


def _paired(work: Work) -> Phase:
    phase = everything(work)
    return replace(phase, shape=replace(phase.shape, channels=-(-phase.shape.channels // 2)))


class _Pairs(Direct):
    """The launches of one convolution whose channels are counted in pairs."""

    def __init__(self, work: Work) -> None:
        super().__init__(work, work.target.vl // 2, phase=_paired(work))

    def _weights(self, t: int, first: int, stop: int) -> Place:
        vl, kernel = self.vl, self.s.kernel

        def rearranged(w: np.ndarray) -> np.ndarray:
            shaped = w.reshape(*w.shape[:2], *kernel)
            return pack_pairs(shaped[first * vl : stop * vl], t, vl)

        return self.work.memory.packed(self.work.input(1), f"conv pairs {t} {vl} {first} {stop}", rearranged)


def _accepts(site: Site) -> str:
    x, w, out = site.inputs[0], site.constants[1], site.outputs[0]
    if not site.target.has(DOT_BF16_512.feature):
        return "this CPU has no products of bf16"
    if w is None:
        return "the weights are not constant"
    if x is None or x.dtype is not DType.BF16 or DType.from_numpy(w.dtype) is not DType.BF16:
        return "the operands are not bf16"
    if x.rank is None or not 3 <= x.rank <= 5:
        return "one to three spatial axes"
    if site.node.attrs.get("group", 1) != 1:
        return "grouped"
    for t in site.inputs[2:]:
        if t is not None and (t.dtype not in _STORED or (t.rank != 1 and (out is None or t.shape != out.shape))):
            return "an extra input is neither per map nor like the output"
    if out is None or out.dtype not in _STORED:
        return "the output is neither f32 nor bf16"
    return constant_image(site, 2) or accepts_epilogue(site)


def _lower(work: Work) -> list[Launch]:
    return _Pairs(work).launches()


lowering(
    Lowering("conv_bf16", SKIPJACK, "Conv", _accepts, _lower, "blocked", 20, cost=lambda work: direct_us(work) / 2)
)
