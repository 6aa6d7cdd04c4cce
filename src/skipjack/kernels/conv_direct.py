"""Conv in the blocked layout by direct register blocks: any window, one to three spatial axes, and groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_block import LANES_UNROLLED, WORDS, ConvSpec
from skipjack.kernels.conv_shape import WindowShape, clipped, conv_shape, even_block, segments
from skipjack.kernels.epilogue import accepts_epilogue
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Place, Site, Work, lowering
from skipjack.targets.target import Target

_ROWS_OUTER_BYTES = 256 * 1024
CYCLES_PER_US = 3500.0


def extras_of(work: Work) -> tuple[str, list[Bound]]:
    """One letter per extra input, "c" per map or "r" like the output, and the extras."""
    found = [b for b in work.inputs[2:] if b is not None]
    return "".join("c" if len(b.shape) == 1 else "r" for b in found), found


def not_f32(site: Site) -> str:
    """Why the site cannot use an f32 kernel with constant weights; empty when it can."""
    if any(t is not None and t.dtype is not DType.F32 for t in (*site.inputs, *site.outputs)):
        return "not all values are f32"
    return not_blocked(site)


def not_blocked(site: Site) -> str:
    """Why the site cannot use constant weights and blocked images of f32 or bf16; empty when it can."""
    if any(t is not None and t.dtype not in (DType.F32, DType.BF16) for t in (*site.inputs, *site.outputs)):
        return "not all values are f32 or bf16"
    if site.constants[1] is None:
        return "the weights are not constant"
    t = site.inputs[0]
    if t is None or t.rank is None or not 3 <= t.rank <= 5:
        return "one to three spatial axes"
    return _extras_misfit(site) or accepts_epilogue(site)


def stored_types(work: Work) -> tuple[DType, ...]:
    """The types of the output and of the extras."""
    return (work.output().dtype, *(e.dtype for e in extras_of(work)[1]))


def constant_image(site: Site, first: int = 0) -> str:
    """Why the site cannot be blocked: a constant image, which stays plain. Empty when there is none."""
    found = any(c is not None and c.ndim >= 3 for c in site.constants[first:])
    return "a constant image stays plain" if found else ""


def _extras_misfit(site: Site) -> str:
    out = site.outputs[0]
    for t in site.inputs[2:]:
        if t is not None and t.rank != 1 and (out is None or t.shape != out.shape):
            return "an extra input is neither per map nor like the output"
    return constant_image(site, 2)


def choose_block(target: Target, width: int, vectors: int, spare: int = 1) -> tuple[int, int]:
    """(pixels, vectors) of a block: what wastes the fewest cycles on a row of `width` and `vectors` of maps.

    spare is how many registers stay free of accumulators and weights.
    """
    best, chosen = float("inf"), (1, 1)
    for t in range(1, min(vectors, 6) + 1):
        for r in range(1, min(width, (target.registers - spare) // t - 1) + 1):
            cycles = 0.0
            for n, count in ((r, width // r), (width % r, 1 if width % r else 0)):
                step = max(n * t, n + t + 0.5, 8)
                cycles += count * (step + 0.6)
            rest = vectors % t
            tail = width * max(rest, (rest + 0.08) * 1.1) if rest else 0
            total = cycles * (vectors // t) + tail - 0.001 * r
            if total < best:
                best, chosen = total, (r, t)
    return chosen


def pack(w: np.ndarray, vectors: int, vl: int, x_lanes: int) -> np.ndarray:
    """[M, C, kd, kh, kw] as [map group][channel block][kd][kh][kw][lane][vectors * vl], missing ones zero."""
    m, c, *kernel = w.shape
    blocks, span = -(-c // x_lanes), vectors * vl
    groups = -(-m // span)
    full = np.zeros((groups * span, blocks * x_lanes, *kernel), np.float32)
    full[:m, :c] = w
    shaped = full.reshape(groups, span, blocks, x_lanes, *kernel)
    return np.ascontiguousarray(shaped.transpose(0, 2, 4, 5, 6, 3, 1))


def joined_groups(s: WindowShape, vl: int) -> int:
    """How many groups are treated as one so that their channels and maps fill whole vectors; 0 when none does."""
    if s.group == 1:
        return 1
    c, m = s.channels // s.group, s.maps // s.group
    join = max(vl // gcd(c, vl), vl // gcd(m, vl))
    return join if s.group % join == 0 else 0


def joined_weights(w: np.ndarray, group: int, join: int) -> np.ndarray:
    """Weights of `join` neighbouring groups as one block-diagonal group each."""
    if join == 1:
        return w
    m, c = w.shape[0] // group, w.shape[1]
    out = np.zeros((w.shape[0], c * join, *w.shape[2:]), w.dtype)
    for g in range(group):
        at = g % join
        out[g * m : (g + 1) * m, at * c : (at + 1) * c] = w[g * m : (g + 1) * m]
    return out


def _flattened(s: WindowShape, target: Target) -> WindowShape:
    """A pointwise convolution with its pixels as rows of a width that blocks divide well."""
    if not s.is_pointwise() or not s.pixels:
        return s
    total, vectors = s.pixels, -(-s.maps // target.vl)
    natural = s.out[2]
    r, _ = choose_block(target, total, vectors)
    width = total if total % r or total <= 4 * r else r * max(q for q in range(1, 9) if (total // r) % q == 0)
    if width == total and natural >= r:
        width = natural
    rows = total // width
    return replace(s, size=(1, rows, width), out=(1, rows, width))


@dataclass(frozen=True)
class Phase:
    """A convolution that makes every `step`-th output from `start` on; recipe names what weights does."""

    shape: WindowShape
    start: tuple[int, int, int]
    step: tuple[int, int, int]
    recipe: str
    weights: Callable[[np.ndarray], np.ndarray]


def everything(work: Work) -> Phase:
    """The whole convolution at once."""
    return Phase(_flattened(conv_shape(work), work.target), (0, 0, 0), (1, 1, 1), "", lambda w: w)


class Direct:
    """The launches of one convolution; x_lanes is 1 when the input is a plain image."""

    def __init__(
        self, work: Work, x_lanes: int, block: tuple[int, int] | None = None, phase: Phase | None = None
    ) -> None:
        self.work, self.target, self.vl, self.x_lanes = work, work.target, work.target.vl, x_lanes
        self.phase = phase or everything(work)
        self.s = self.phase.shape
        self.join = joined_groups(self.s, self.vl)
        self.parts = self.s.group // self.join
        self.vectors = -(-self.s.maps // self.vl)
        # Scalars of a plain image are loaded ahead of their use, and need registers of their own then.
        spare = self.target.registers * 5 // 16 if x_lanes == 1 else 1
        self.block = block or choose_block(self.target, self.s.out[2], self.vectors // self.parts, spare)

    def launches(self) -> list[Launch]:
        """One launch over the maps that fill groups of vectors, one for the vectors that remain."""
        pixels, t = self.block
        if self.parts > 1:
            per_part = self.vectors // self.parts
            t = max(n for n in range(1, t + 1) if per_part % n == 0)
            return [self._launch(pixels, t, 0, self.vectors)]
        full = self.vectors // t * t
        found = [self._launch(pixels, t, 0, full)] if full else []
        if full < self.vectors:
            rest = self.vectors - full
            wide = (self.target.registers - 1) // rest - 1
            found.append(self._launch(even_block(self.s.out[2], wide), rest, full, self.vectors))
        return found

    def _launch(self, pixels: int, t: int, first: int, stop: int) -> Launch:
        s, work, vl = self.s, self.work, self.vl
        letters, extras = extras_of(work)
        channels = s.channels // self.parts
        blocks = -(-channels // self.x_lanes)
        w_group = blocks * self.x_lanes * s.taps * t * vl * 4
        rows_outer = w_group * ((stop - first) // t) <= _ROWS_OUTER_BYTES and s.taps == 1
        spec = ConvSpec(
            t,
            self.x_lanes,
            s.kernel,
            s.strides,
            s.dilations,
            s.before[2],
            segments(s, pixels),
            (clipped(s, 0), clipped(s, 1)),
            letters,
            s.maps < stop * vl,
            rows_outer,
            self.phase.step[2],
            work.attr("epilogue"),
            work.input(0).dtype is DType.BF16,
            stored_types(work),
        )
        groups = (stop - first) // t
        x, y = work.input(0), work.output()
        row = s.size[2] * self.x_lanes * 4
        plane, volume = s.size[1] * row, s.size[0] * s.size[1] * row
        y_row, y_plane, y_block, y_start = self._outputs()
        last = channels - (blocks - 1) * self.x_lanes
        words = {
            "groups": groups,
            "rows_d": s.out[0],
            "rows_h": s.out[1],
            "groups_per_part": groups // self.parts if self.parts > 1 else max(groups, 1),
            "part_bytes": blocks * volume,
            "x_image": blocks * self.parts * volume,
            "x_block": volume,
            "x_plane": plane,
            "x_row": row,
            "y_image": self.vectors * y_block,
            "y_block": y_block,
            "y_plane": y_plane,
            "y_row": y_row,
            "blocks": blocks,
            "last_lanes": -(-last // LANES_UNROLLED) * LANES_UNROLLED,
            "first_vector": first,
            "maps": s.maps,
            "w_group": w_group,
            "pad_d": s.before[0],
            "pad_h": s.before[1],
            "depth": s.size[0],
            "height": s.size[1],
        }
        weights = self._weights(t, first, stop)
        units = s.batch * groups * s.out[0] * s.out[1]
        ends = [
            e.place.at(y_start * e.dtype.itemsize // 4) if kind == "r" else e.place for kind, e in zip(letters, extras)
        ]
        y_place = y.place.at(y_start * y.dtype.itemsize // 4)
        return Launch(
            KernelSpec("conv", (spec,)),
            units,
            (x.place, weights, y_place, *ends, *[words[n] for n in WORDS]),
            (x.place, *[e.place for e in extras]),
            (y.place,),
        )

    def _outputs(self) -> tuple[int, int, int, int]:
        """Bytes from one output row, plane and channel block of the phase to the next, and to its first output."""
        start, step, pixel = self.phase.start, self.phase.step, 4 * self.vl
        if step == (1, 1, 1):
            row = self.s.out[2] * pixel
            return row, self.s.out[1] * row, self.s.pixels * pixel, 0
        d, h, w = (1, 1, *self.work.output().shape[2:])[-3:]
        row, plane = w * pixel, h * w * pixel
        return step[1] * row, step[0] * plane, d * plane, start[0] * plane + start[1] * row + start[2] * pixel

    def _weights(self, t: int, first: int, stop: int) -> Place:
        vl, x_lanes, group, join, kernel = self.vl, self.x_lanes, self.s.group, self.join, self.s.kernel

        def rearranged(w: np.ndarray) -> np.ndarray:
            w = self.phase.weights(w)
            shaped = joined_weights(w.reshape(*w.shape[:2], *kernel), group, join)
            return pack(shaped[first * vl : stop * vl], t, vl, x_lanes)

        recipe = f"conv{self.phase.recipe} {t} {vl} {x_lanes} {join} {first} {stop}"
        return self.work.memory.packed(self.work.input(1), recipe, rearranged)


def _accepts(site: Site) -> str:
    reason = not_f32(site)
    if reason:
        return reason
    group, w = int(site.node.attrs.get("group", 1)), site.constants[1]  # type: ignore[arg-type]
    assert w is not None, "not_f32 lets only constant weights pass"
    if group > 1 and (w.shape[0] == group or not _joins(group, w, site.target.vl)):
        return "the channels of its groups do not fill vectors"
    return ""


def _joins(group: int, w: np.ndarray, vl: int) -> bool:
    c, m = w.shape[1], w.shape[0] // group
    return group % max(vl // gcd(c, vl), vl // gcd(m, vl)) == 0


def _accepts_stem(site: Site) -> str:
    reason = not_blocked(site)
    if reason:
        return reason
    x, w = site.inputs[0], site.constants[1]
    assert x is not None, "not_blocked lets only images pass"
    assert w is not None, "not_blocked lets only constant weights pass"
    if x.dtype is not DType.F32 or w.dtype != np.float32:
        return "the operands are not f32"
    if int(site.node.attrs.get("group", 1)) != 1:  # type: ignore[arg-type]
        return "grouped"
    return "" if w.shape[1] < site.target.vl else "a plain input pays only for few channels"


def direct_us(work: Work) -> float:
    """Predicted microseconds on one thread: one vector of products per cycle, half filled vectors counted whole."""
    s, vl = conv_shape(work), work.target.vl
    join = joined_groups(s, vl)
    lanes = -(-(s.channels // s.group * join) // LANES_UNROLLED) * LANES_UNROLLED
    vectors = -(-s.maps // vl)
    return s.batch * s.pixels * s.taps * lanes * vectors * 1.04 / CYCLES_PER_US


def stem_us(work: Work) -> float:
    """Predicted microseconds of a plain image of few channels."""
    s = conv_shape(work)
    return s.batch * s.pixels * s.taps * s.channels * -(-s.maps // work.target.vl) * 1.1 / CYCLES_PER_US


lowering(
    Lowering(
        "conv_direct",
        SKIPJACK,
        "Conv",
        _accepts,
        lambda work: Direct(work, work.target.vl).launches(),
        "blocked",
        10,
        cost=direct_us,
    )
)
lowering(
    Lowering(
        "conv_stem",
        SKIPJACK,
        "Conv",
        _accepts_stem,
        lambda work: Direct(work, 1).launches(),
        "plain>blocked",
        20,
        cost=stem_us,
    )
)
