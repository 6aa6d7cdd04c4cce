"""Conv with one channel per group in the blocked layout: lanes are channels."""

from __future__ import annotations

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_direct import CYCLES_PER_US, extras_of, not_blocked, stored_types
from skipjack.kernels.conv_shape import WindowShape, clipped, conv_shape, even_block, segments
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, lowering
from skipjack.kernels.window_block import WORDS, WindowSpec
from skipjack.targets.target import Target

_WIDEST_KERNEL = 33
_PRODUCTS_PER_BLOCK = 256


def row_block(target: Target, width: int, taps: int) -> int:
    """Outputs per block: as many as fit beside weights and one input, fewer when a row of the kernel is long."""
    return even_block(width, max(min(target.registers // 2, _PRODUCTS_PER_BLOCK // taps), 4))


def window_words(s: WindowShape, vl: int, ends: tuple[int, int]) -> list[int]:
    """The argument words of the window kernel; ends are the last counted positions of depth and height plus one."""
    row, y_row, blocks = s.size[2] * vl * 4, s.out[2] * vl * 4, -(-s.channels // vl)
    words = {
        "blocks": blocks,
        "rows_d": s.out[0],
        "rows_h": s.out[1],
        "x_volume": s.size[0] * s.size[1] * row,
        "x_plane": s.size[1] * row,
        "x_row": row,
        "y_volume": s.out[0] * s.out[1] * y_row,
        "y_row": y_row,
        "w_block": s.taps * vl * 4,
        "maps": s.channels,
        "pad_d": s.before[0],
        "pad_h": s.before[1],
        "depth": s.size[0],
        "height": s.size[1],
        "end_d": ends[0],
        "end_h": ends[1],
    }
    return [words[n] for n in WORDS]


def _pack(w: np.ndarray, vl: int) -> np.ndarray:
    """[C, 1, taps] as [C / vl][taps][vl], zeros where there is no channel."""
    c = w.shape[0]
    blocks = -(-c // vl)
    full = np.zeros((blocks * vl, w[0].size), np.float32)
    full[:c] = w.reshape(c, -1)
    return np.ascontiguousarray(full.reshape(blocks, vl, -1).transpose(0, 2, 1))


def _lower(work: Work) -> list[Launch]:
    s, vl = conv_shape(work), work.target.vl
    letters, extras = extras_of(work)
    spec = WindowSpec(
        "conv",
        s.kernel,
        s.strides,
        s.dilations,
        s.before[2],
        segments(s, row_block(work.target, s.out[2], s.kernel[2])),
        (clipped(s, 0), clipped(s, 1)),
        False,
        letters,
        s.maps % vl != 0,
        work.attr("epilogue"),
        stored_types(work),
    )
    weights = work.memory.packed(work.input(1), f"depthwise {vl}", lambda w: _pack(w, vl))
    x, y, places = work.input(0), work.output(), [e.place for e in extras]
    words = (x.place, weights, y.place, *places, *window_words(s, vl, (s.size[0], s.size[1])))
    units = s.batch * -(-s.channels // vl) * s.out[0] * s.out[1]
    return [Launch(KernelSpec("window", (spec,)), units, words, (x.place, *places), (y.place,))]


def _accepts(site: Site) -> str:
    reason = not_blocked(site)
    if reason:
        return reason
    x, w = site.inputs[0], site.constants[1]
    assert x is not None, "not_blocked lets only images pass"
    assert w is not None, "not_blocked lets only constant weights pass"
    if x.dtype is not DType.F32 or w.dtype != np.float32:
        return "the operands are not f32"
    if w.shape[0] != int(site.node.attrs.get("group", 1)) or w.shape[1] != 1:  # type: ignore[arg-type]
        return "not one channel and one map per group"
    return "" if w.shape[-1] <= _WIDEST_KERNEL else f"the kernel is wider than {_WIDEST_KERNEL}"


def _depthwise_us(work: Work) -> float:
    s = conv_shape(work)
    return s.batch * -(-s.maps // work.target.vl) * s.pixels * (s.taps + 4) / CYCLES_PER_US


lowering(Lowering("conv_depthwise", SKIPJACK, "Conv", _accepts, _lower, "blocked", 30, cost=_depthwise_us))
