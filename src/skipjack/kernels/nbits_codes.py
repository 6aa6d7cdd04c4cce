"""Codes of 2, 4 or 8 bits in groups along K: how they are packed, and kernel code that reads them.

A weight is (code - zero) * scale, with a scale and a zero per output and group of K. Lanes are outputs, a panel is some
vectors of them, and a chunk is one vector: each 4-byte lane holds 32 / bits neighbouring codes of one output. Byte j of
a lane holds those of k + j, k + 4 + j, ..., the first in its lowest bits. As a bitmask there is a mask per field of the
bytes, and byte i of a chunk holds the i-th code of every field that is not its zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.kernels.bitmask import Stream, blob, expand, mask_type, popcount, stream_of
from skipjack.kernels.emit import load_as
from skipjack.kernels.gemv import panel_vectors
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, PTR, Ty
from skipjack.targets.target import Target

_AHEAD_BYTES = 4096
_MASKS_AHEAD_BYTES = 1024
_BYTES_OF_ONE = 0x01010101


@dataclass(frozen=True)
class Codes:
    """What is compiled in. zero: None when every zero is the middle of the codes, else how zeros are stored.

    U8 zeros are codes, others are numbers. masked: the codes are a bitmask stream.
    """

    bits: int
    scale: DType
    zero: DType | None
    masked: bool

    @property
    def fields(self) -> int:
        """Codes in a byte."""
        return 8 // self.bits

    @property
    def per_lane(self) -> int:
        """Neighbouring codes of one output in a lane."""
        return 32 // self.bits

    @property
    def middle(self) -> int:
        return 1 << (self.bits - 1)

    def arguments(self) -> list[tuple[str, Ty]]:
        """The argument words that a Decoder reads."""
        more = [("zeros", PTR)] if self.zero is not None else []
        more += [("starts", PTR), ("masks", PTR)] if self.masked else []
        return [("w", PTR), ("scales", PTR), *more]


class Decoder:
    """The weights of one panel in the order they are stored; made at the panel's begin."""

    def __init__(self, k: Kernel, target: Target, codes: Codes, panel: V, chunk_steps: V, groups: V) -> None:
        self.k, self.target, self.codes = k, target, codes
        self.vl, self.vectors = target.vl, panel_vectors(target)
        self.mask = mask_type(self.vl, 1)
        self.group = panel * groups
        chunks = panel * chunk_steps * self.vectors
        self.masks = k.arg.w
        if codes.masked:
            self.masks = k.arg.masks.at(chunks * (self.mask.nbytes * codes.fields))
            first = k.arg.w.at(k.arg.starts.at(panel, 8).load(I64, 8))
        else:
            first = k.arg.w.at(chunks * target.vector_bytes)
        self.first, self.values = first, k.var(first)
        self.zeros: list[V] = []
        self.rest: list[V] = []

    def rewind(self) -> None:
        """Start the panel again."""
        self.values.set(self.first)

    def begin_group(self, group: V) -> None:
        """Load the zeros of a group."""
        k, codes = self.k, self.codes
        if codes.zero is None:
            self.zeros = [k.constant(I32.vec(self.vl), codes.middle)] * self.vectors
        else:
            self.zeros = [self._per_output(k.arg.zeros, codes.zero, group, t) for t in range(self.vectors)]
            if codes.zero is DType.U8:
                self.zeros = [z.zext(I32) for z in self.zeros]
        if codes.masked:
            self.rest = [z * _BYTES_OF_ONE for z in self.zeros]

    def scales(self, group: V) -> list[V]:
        """The scales of a group, by vector of the panel."""
        return [self._per_output(self.k.arg.scales, self.codes.scale, group, t) for t in range(self.vectors)]

    def _per_output(self, base: V, dtype: DType, group: V, t: int) -> V:
        at = (self.group + group) * (self.vectors * self.vl) + t * self.vl
        return load_as(self.k, base.at(at * dtype.itemsize), dtype, self.vl)

    def step(self, index: V) -> list[list[V]]:
        """Step `index` of the panel: by vector, and by field of its bytes, codes of four neighbouring k per lane."""
        chunks = [self._chunk(index, t) for t in range(self.vectors)]
        return [[self._field(word, f) for f, word in enumerate(chunk)] for chunk in chunks]

    def _chunk(self, index: V, t: int) -> list[V]:
        k, p, fields = self.k, self.values.get(), self.codes.fields
        if not self.codes.masked:
            self.values.set(p.at(self.target.vector_bytes))
            return [p.load(I32.vec(self.vl))] * fields
        k.prefetch(p.at(_AHEAD_BYTES))
        size = self.mask.nbytes
        masks = self.masks.at(index * self.vectors, size * fields)
        if t == 0:
            k.prefetch(masks.at(_MASKS_AHEAD_BYTES))
        at = masks.at(t * fields * size)
        each = [at.at(f * size).load(self.mask) for f in range(fields)]
        most = popcount(k, each[0])
        for m in each[1:]:
            most = k.max(most, popcount(k, m))
        self.values.set(p.at(most))
        rest = [self.rest[t] << (self.codes.bits * f) for f in range(fields)]
        return [expand(k, self.target, p, m, 1, r) for m, r in zip(each, rest, strict=True)]

    def _field(self, word: V, field: int) -> V:
        bits = self.codes.bits
        if bits == 8:
            return word
        return (word >> (bits * field) if field else word) & (((1 << bits) - 1) * _BYTES_OF_ONE)


def group_added(k: Kernel, codes: Codes, sums: Sequence[V], x_sums: Sequence[V], zero: V, factor: V, total: V) -> V:
    """total + factor * the group's sum of (code - zero) * x, for sums of code * x and of x by plane, the highest first.

    The one way in which sums of integers become numbers, so that kernels agree in every bit.
    """
    lanes = total.ty.lanes
    if codes.zero is None or codes.zero is DType.U8:
        part = combined(k, [s - zero * x for s, x in zip(sums, x_sums, strict=True)])
    else:
        part = combined(k, sums) - zero * combined(k, [x.splat(lanes) for x in x_sums])
    return k.fma(factor, part, total)


def combined(k: Kernel, planes: Sequence[V]) -> V:
    """The f32 number that planes of integers stand for: each is worth 256 of the next."""
    found = planes[-1].to_float()
    for n, plane in enumerate(reversed(planes[:-1]), 1):
        found = k.fma(plane.to_float(), 256.0**n, found)
    return found


def in_panels(array: np.ndarray, columns: int, fill: int | float = 0) -> np.ndarray:
    """[outputs, groups] as [panel, group, columns]."""
    n, groups = array.shape
    full = np.full((-(-n // columns) * columns, groups), fill, array.dtype)
    full[:n] = array
    return full.reshape(-1, columns, groups).transpose(0, 2, 1)


def pack_codes(codes: np.ndarray, bits: int, columns: int, vectors: int) -> np.ndarray:
    """Codes [outputs, K], K a multiple of 32 / bits, as bytes [panel, step, vector, lane, 4]."""
    n, depth = codes.shape
    fields, lanes = 8 // bits, columns // vectors
    panels, steps = -(-n // columns), depth // (4 * fields)
    full = codes
    if n % columns:
        full = np.zeros((panels * columns, depth), np.uint8)
        full[:n] = codes
    shaped = full.reshape(panels, vectors, lanes, steps, fields, 4).transpose(0, 3, 1, 2, 5, 4)
    out = np.ascontiguousarray(shaped[..., 0])
    for f in range(1, fields):
        out |= shaped[..., f] << (bits * f)
    return out


def pack_masked(codes: np.ndarray, live: np.ndarray, bits: int, columns: int, vectors: int) -> np.ndarray:
    """Codes [outputs, K] of which only the live ones are kept, as a blob (kernels/bitmask.py)."""
    fields = 8 // bits
    width = columns // vectors * 4
    apart = [_fields(codes, f, bits, columns, vectors).reshape(-1, width) for f in range(fields)]
    there = [_fields(live.view(np.uint8), f, bits, columns, vectors).reshape(-1, width) != 0 for f in range(fields)]
    counts = np.stack([m.sum(axis=1) for m in there])
    most = counts.max(axis=0)
    starts = np.cumsum(most) - most
    values = np.zeros(int(most.sum()), np.uint8)
    for f, (data, mask, count) in enumerate(zip(apart, there, counts, strict=True)):
        first = np.cumsum(count) - count
        rows = np.repeat(np.arange(len(count)), count)
        values[starts[rows] + np.arange(len(rows)) - first[rows]] |= data[mask] << (bits * f)
    masks = np.stack([np.packbits(m, axis=1, bitorder="little") for m in there], axis=1)
    panels = -(-len(codes) // columns)
    per_panel = most.reshape(panels, -1).sum(axis=1)
    return blob(per_panel, masks, values, masked_parts(panels, len(most) // panels if panels else 0, bits, width))


def masked_parts(panels: int, chunks: int, bits: int, width: int) -> Stream:
    """Where the parts of a masked blob of panels of `chunks` chunks begin; a chunk has `width` bytes."""
    return stream_of(panels, chunks, width // 8 * (8 // bits))


def _fields(codes: np.ndarray, field: int, bits: int, columns: int, vectors: int) -> np.ndarray:
    """One field of the bytes of pack_codes, a code to a byte."""
    n, depth = codes.shape
    fields = 8 // bits
    one = codes.reshape(n, depth // (4 * fields), fields, 4)[:, :, field].reshape(n, -1)
    return pack_codes(np.ascontiguousarray(one), 8, columns, vectors)
