"""Weights as bitmask streams: a bit per weight says whether it is there; those that are follow in a second stream.

A chunk is what fills one vector of 4-byte lanes; its mask is read as one integer. Values of a chunk are read as a whole
vector wherever they begin, so PADDING bytes follow the last value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I32, I64, Ty
from skipjack.targets.instructions import DEPOSIT_BITS, EXPAND_BYTES, EXPAND_DOUBLE_WORDS, EXPAND_WORDS
from skipjack.targets.target import Target

PADDING = 128
_EXPANSIONS = {1: EXPAND_BYTES, 2: EXPAND_WORDS, 4: EXPAND_DOUBLE_WORDS}
_ONE_PER_ELEMENT = {1: 0x0101010101010101, 2: 0x0001000100010001, 4: 0x0000000100000001}


def can_expand(target: Target, itemsize: int) -> bool:
    """Whether the target has an instruction that spreads elements of itemsize bytes by a mask."""
    return _whole(target, itemsize) or target.has(DEPOSIT_BITS.feature)


def _whole(target: Target, itemsize: int) -> bool:
    return target.vector_bytes == 64 and target.has(_EXPANSIONS[itemsize].feature)


def expansion_cycles(target: Target, itemsize: int) -> float:
    """About how long one expansion takes, its mask and the step to the next value included."""
    return 2.2 if _whole(target, itemsize) else 3.0 * target.vl


def mask_type(lanes: int, itemsize: int) -> Ty:
    """The integer that holds a bit per element of one vector of `lanes` 4-byte lanes."""
    return Ty(f"i{lanes * 4 // itemsize}")


def expand(k: Kernel, target: Target, values: V, mask: V, itemsize: int, rest: V | None = None) -> V:
    """A vector of i32 lanes: the elements that begin at `values` where mask has bits, those of rest (zeros) elsewhere.

    values points at memory of which a whole vector can be read.
    """
    lanes = target.vl
    if _whole(target, itemsize):
        instruction = _EXPANSIONS[itemsize]
        ty = instruction.result
        other = k.zero(ty) if rest is None else rest.bitcast(ty)
        bits = mask.bitcast(instruction.operands[2])
        return k.intrinsic(instruction.name, ty, values.load(ty), other, bits).bitcast(I32.vec(lanes))
    return _deposited(k, lanes, values, mask, itemsize, rest)


def _deposited(k: Kernel, lanes: int, values: V, mask: V, itemsize: int, rest: V | None) -> V:
    """The same, eight bytes at a time."""
    elements, pointer = 8 // itemsize, values
    wide = mask if mask.ty == I64 else mask.zext(I64)
    data: list[V] = []
    there: list[V] = []
    for word in range(lanes // 2):
        bits = wide >> (word * elements) & ((1 << elements) - 1)
        ones = k.intrinsic(DEPOSIT_BITS.name, I64, bits, k.i64(_ONE_PER_ELEMENT[itemsize]))
        places = (ones << (8 * itemsize)) - ones
        data.append(k.intrinsic(DEPOSIT_BITS.name, I64, pointer.load(I64), places))
        there.append(places)
        pointer = pointer.at(k.unary("ctpop", bits), itemsize)
    found = _vector(k, data, lanes)
    if rest is None:
        return found
    kept = _vector(k, there, lanes)
    return found | (rest & (kept ^ -1))


def _vector(k: Kernel, words: list[V], lanes: int) -> V:
    """A vector of i32 lanes made of 64-bit words."""
    place = k.iota(I64.vec(lanes // 2))
    found = words[0].splat(len(words))
    for i, word in enumerate(words[1:], 1):
        found = k.select(place.eq(i), word.splat(len(words)), found)
    return found.bitcast(I32.vec(lanes))


def popcount(k: Kernel, mask: V) -> V:
    """How many bits are set, as i64."""
    n = k.unary("ctpop", mask)
    return n if n.ty == I64 else n.zext(I64)


@dataclass(frozen=True)
class Stream:
    """Where the parts of one packed blob begin (bytes): starts of panels, masks, values."""

    masks: int
    values: int


def stream_of(panels: int, chunks: int, mask_bytes: int) -> Stream:
    """The parts of the blob of `panels` panels of `chunks` chunks."""
    masks = _aligned(8 * panels)
    return Stream(masks, masks + _aligned(panels * chunks * mask_bytes) + 64)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


def pack_stream(elements: np.ndarray) -> np.ndarray:
    """Elements [panel, chunk, elements of a chunk] as one blob of bytes, see `stream_of`.

    starts: the byte offset of the first value of each panel, i64.
    """
    panels, chunks, width = elements.shape
    bits = elements.view(f"u{elements.itemsize}")
    if elements.dtype.kind == "f" or elements.dtype.name == "bfloat16":
        bits = np.where(bits == 1 << (8 * elements.itemsize - 1), bits.dtype.type(0), bits)
    live = bits != 0
    values = bits[live]
    counts = live.reshape(panels, -1).sum(axis=1, dtype=np.int64) * elements.itemsize
    masks = np.packbits(live.reshape(-1, width), axis=1, bitorder="little")
    return blob(counts, masks, values, stream_of(panels, chunks, width // 8))


def blob(counts: np.ndarray, masks: np.ndarray, values: np.ndarray, parts: Stream) -> np.ndarray:
    """The parts together; counts are the bytes of values of each panel."""
    starts = np.cumsum(counts, dtype=np.int64) - counts
    out = np.zeros(parts.values + values.nbytes + PADDING, np.uint8)
    out[: starts.nbytes] = starts.view(np.uint8)
    out[parts.masks : parts.masks + masks.nbytes] = masks.reshape(-1).view(np.uint8)
    out[parts.values : parts.values + values.nbytes] = values.reshape(-1).view(np.uint8)
    return out
