"""Conv with a 3 x 3 kernel of stride 1 or 2 by Winograd's minimal filtering: fewer multiplications, larger weights.

Images of f32 or bf16; everything is computed in f32.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.conv_direct import CYCLES_PER_US, extras_of, not_blocked, stored_types
from skipjack.kernels.conv_shape import conv_shape, even_block
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Place, Site, Work, lowering
from skipjack.kernels.winograd_block import INPUT_WORDS, OUTPUT_WORDS, WinogradSpec
from skipjack.kernels.winograd_matrices import Scheme, transformed_weights
from skipjack.targets.target import Target


def _pack(w: np.ndarray, scheme: Scheme, vectors: int, vl: int) -> np.ndarray:
    """[M, C, 3, 3] as [map group][weight][channel block][lane][vectors * vl]."""
    maps, channels = w.shape[:2]
    blocks, span = -(-channels // vl), vectors * vl
    groups = -(-maps // span)
    full = np.zeros((scheme.weights**2, groups * span, blocks * vl), np.float32)
    full[:, :maps, :channels] = transformed_weights(w.reshape(maps, channels, 3, 3).astype(np.float32), scheme)
    return np.ascontiguousarray(full.reshape(-1, groups, span, blocks, vl).transpose(1, 0, 3, 4, 2))


def tile_block(target: Target, tiles: int, vectors: int) -> tuple[int, int]:
    """(tiles, channel vectors) of a block: least work, counting what the last block of either kind wastes."""
    best, chosen = float("inf"), (1, 1)
    for t in range(1, min(vectors, 6) + 1):
        for r in range(1, min((target.registers - 1) // t - 1, max(tiles, 1)) + 1):
            step = max(r * t, r + t + 0.5, 8) + 0.3
            total = -(-tiles // r) * -(-vectors // t) * step
            if total <= best:
                best, chosen = total, (r, t)
    return chosen


class Winograd:
    """The launches of one convolution."""

    def __init__(self, work: Work, scheme: Scheme) -> None:
        self.work, self.scheme, self.vl, m = work, scheme, work.target.vl, scheme.m
        self.s = conv_shape(work)
        self.tiles_h, self.tiles_w = -(-self.s.out[1] // m), -(-self.s.out[2] // m)
        self.tiles = self.s.batch * self.tiles_h * self.tiles_w
        self.vectors, self.blocks = -(-self.s.maps // self.vl), -(-self.s.channels // self.vl)
        self.block = tile_block(work.target, self.tiles, self.vectors)

    def launches(self) -> list[Launch]:
        """Per band of tiles the input transform, then products and output transform; bands share the memory between."""
        pixels = self.block[0]
        group_bytes = self.scheme.samples**2 * (self.blocks * pixels * self.vl * 4 + 64)
        groups = even_block(-(-self.tiles // pixels), max(_BAND_BYTES // group_bytes, 1))
        v, found = self.work.memory.temporary(groups * group_bytes), list[Launch]()
        weights = self._weights()
        for first in range(0, self.tiles, groups * pixels):
            found += self._band(v, weights, first, min(first + groups * pixels, self.tiles))
        return found

    def _weights(self) -> Place:
        scheme, vectors, vl = self.scheme, self.block[1], self.vl
        recipe = f"{scheme.name} {vectors} {vl}"
        return self.work.memory.packed(self.work.input(1), recipe, lambda w: _pack(w, scheme, vectors, vl))

    def _band(self, v: Place, weights: Place, first_tile: int, stop: int) -> list[Launch]:
        s, work, vl, scheme = self.s, self.work, self.vl, self.scheme
        pixels, vectors = self.block
        letters, extras = extras_of(work)
        groups = -(-(stop - first_tile) // pixels)
        x, y, places = work.input(0), work.output(), [e.place for e in extras]
        common = {
            "tiles_h": self.tiles_h,
            "tiles_w": self.tiles_w,
            "blocks": self.blocks,
            "pad_h": s.before[1],
            "pad_w": s.before[2],
            "groups": groups,
            "first_tile": first_tile,
            "tiles": stop,
            "maps": s.maps,
            "map_vectors": self.vectors,
        }
        first = common | {"height": s.size[1], "width": s.size[2]}
        second = common | {"height": s.out[1], "width": s.out[2]}
        spec = WinogradSpec(
            scheme, pixels, vectors, letters, s.maps % vl != 0, work.attr("epilogue"), stored_types(work)
        )
        return [
            Launch(
                KernelSpec("winograd_input", (WinogradSpec(scheme, pixels, types=(x.dtype,)),)),
                stop - first_tile,
                (x.place, v, *[first[n] for n in INPUT_WORDS]),
                (x.place,),
                (v,),
            ),
            Launch(
                KernelSpec("winograd_output", (spec,)),
                groups * -(-self.vectors // vectors),
                (v, weights, y.place, *places, *[second[n] for n in OUTPUT_WORDS]),
                (v, *places),
                (y.place,),
            ),
        ]


def winograd_us(work: Work, scheme: Scheme) -> float:
    """Predicted microseconds on one thread. Images count alike however many there are, so a batch changes no choice."""
    s = replace(conv_shape(work), batch=1)
    m, positions, vl = scheme.m, scheme.samples**2, work.target.vl
    tiles = -(-s.out[1] // m) * -(-s.out[2] // m)
    blocks, vectors = -(-s.channels // vl), -(-s.maps // vl)
    r, t = tile_block(work.target, tiles, vectors)
    products = positions * blocks * vl * -(-tiles // r) * -(-vectors // t) * max(r * t, r + t, 8)
    transforms = tiles * (blocks + vectors) * _TRANSFORM_CYCLES[scheme]
    weights = scheme.weights**2 * blocks * vl * vectors * vl * 4 / _BYTES_PER_CYCLE
    return conv_shape(work).batch * (max(products * 1.03, weights) + transforms) / CYCLES_PER_US


_BAND_BYTES = 4 << 20
_TRANSFORM_CYCLES = {Scheme(1, 2): 70, Scheme(1, 4): 230, Scheme(2, 2): 120, Scheme(2, 3): 240, Scheme(2, 4): 400}
_BYTES_PER_CYCLE = 6


def _accepts(site: Site, stride: int) -> str:
    if reason := not_blocked(site):
        return reason
    w, attrs = site.constants[1], site.node.attrs
    assert w is not None, "not_blocked lets only constant weights pass"
    if w.shape[2:] != (3, 3) or int(attrs.get("group", 1)) != 1:  # type: ignore[arg-type]
        return "not a 3 x 3 kernel over all channels"
    strides = tuple(attrs.get("strides") or (1, 1))  # type: ignore[arg-type]
    if strides != (stride, stride) or any(step != 1 for step in attrs.get("dilations") or ()):  # type: ignore[union-attr]
        return f"strides other than {stride} or dilations other than 1"
    return ""


for _scheme in _TRANSFORM_CYCLES:
    lowering(
        Lowering(
            _scheme.name,
            SKIPJACK,
            "Conv",
            lambda site, stride=_scheme.stride: _accepts(site, stride),
            lambda work, scheme=_scheme: Winograd(work, scheme).launches(),
            "blocked",
            0,
            cost=lambda work, scheme=_scheme: winograd_us(work, scheme),
        )
    )
