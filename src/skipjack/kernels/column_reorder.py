"""Reorder: plain token matrices to column tiles and back.

Whatever the element type, a column tile holds 32-bit words: neighbouring features of one position. So both ways are a
transpose of words, and blocks of vl positions x vl words turn in registers. Only the last word of a position whose
bytes are no multiple of 4 is put together from bytes.
"""

from __future__ import annotations

from math import prod

from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import PLAIN
from skipjack.kernels.kinds import TILE, columns
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.kernels.layout import transpose
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I8, I32, I64, PTR, Program, Ty
from skipjack.targets.target import Target

_WORD = 4
_PITCH = TILE * _WORD
_CHUNK_BLOCKS = 12


class _Mover:
    """Traces the move of vl positions: plain words at `plain` (rows of a.row_bytes), the tile's words at `tile`."""

    def __init__(self, k: Kernel, vl: int, to_columns: bool, tail_bytes: int) -> None:
        self.k, self.vl, self.to_columns, self.tail_bytes = k, vl, to_columns, tail_bytes
        self.vector = I32.vec(vl)

    def block(self, plain: V, tile: V, positions: V | None, words: V | None) -> None:
        """vl words of vl positions; positions and words say how many of them exist, None when all do."""
        k, vl, pitch = self.k, self.vl, self.k.arg.row_bytes
        mask = None if words is None else k.below(words, vl)

        def of_position(p: int) -> V | None:
            there = None if positions is None else (positions > p).splat(vl)
            return there if mask is None else mask if there is None else mask & there

        if self.to_columns:
            rows = [_load(plain.at(pitch * p), self.vector, of_position(p)) for p in range(vl)]
            for w, v in enumerate(transpose(rows)):
                _store(tile.at(_PITCH * w), v, None if words is None else (words > w).splat(vl))
        else:
            there = [None if words is None else (words > w).splat(vl) for w in range(vl)]
            rows = [_load(tile.at(_PITCH * w), self.vector, there[w]) for w in range(vl)]
            for p, v in enumerate(transpose(rows)):
                _store(plain.at(pitch * p), v, of_position(p))

    def tail(self, plain: V, tile: V, positions: V) -> None:
        """The last word of each position, of which tail_bytes bytes exist on the plain side."""
        k = self.k
        with k.loop(positions) as p:
            source, at = plain.at(p * k.arg.row_bytes), tile.at(p, _WORD)
            if self.to_columns:
                word = k.i32(0)
                for byte in range(self.tail_bytes):
                    word = word | (source.at(byte).load(I8).zext(I32) << (8 * byte))
                at.store(word)
            else:
                word = at.load(I32)
                for byte in range(self.tail_bytes):
                    source.at(byte).store((word >> (8 * byte)).trunc(I8))


def _load(p: V, vector: Ty, mask: V | None) -> V:
    return p.load(vector) if mask is None else p.load_masked(vector, mask)


def _store(p: V, value: V, mask: V | None) -> None:
    if mask is None:
        p.store(value)
    else:
        p.store_masked(value, mask)


@generator("column_reorder")
def column_reorder(target: Target, symbol: str, to_columns: bool, tail_bytes: int) -> Program:
    """A unit is `chunk` words of one tile of positions."""
    names = ("positions", "row_bytes", "words", "pitch_words", "chunk", "chunks")
    k = Kernel(symbol, [("plain", PTR), ("tiles", PTR), *((n, I64) for n in names)], 8 * target.vector_bytes)
    a, vl = k.arg, target.vl
    move = _Mover(k, vl, to_columns, tail_bytes)
    with k.units() as unit:
        index, first = unit // a.chunks, unit % a.chunks * a.chunk
        last = k.min(first + a.chunk, a.words)
        begin = index * TILE
        valid = k.min(a.positions - begin, TILE)
        tile, plain = a.tiles.at(index * a.pitch_words * _PITCH), a.plain.at(begin * a.row_bytes)
        with k.loop(last, first, vl) as w, k.loop(valid, 0, vl) as p:
            left, here = last - w, valid - p
            x, y = plain.at(p * a.row_bytes).at(w, _WORD), tile.at(w * _PITCH).at(p, _WORD)
            k.branch(
                (left >= vl) & (here >= vl),
                lambda x=x, y=y: move.block(x, y, None, None),
                lambda x=x, y=y, here=here, left=left: move.block(x, y, here, left),
            )
        if tail_bytes:
            with k.when(last.eq(a.words)):
                move.tail(plain.at(a.words, _WORD), tile.at(a.words * _PITCH), valid)
    return k.finish()


def _lower(work: Work) -> list[Launch]:
    x, y, vl = work.input(0), work.output(), work.target.vl
    *axes, features = x.shape
    positions, row_bytes = prod(axes), features * x.dtype.itemsize
    if not positions or not features:
        return []
    to_columns = x.layout == PLAIN
    plain, tiles = (x.place, y.place) if to_columns else (y.place, x.place)
    words, tail = divmod(row_bytes, _WORD)
    chunk = _CHUNK_BLOCKS * vl
    chunks = max(-(-words // chunk), 1)
    arguments = (plain, tiles, positions, row_bytes, words, words + (tail > 0), chunk, chunks)
    spec = KernelSpec("column_reorder", (to_columns, tail))
    return [Launch(spec, -(-positions // TILE) * chunks, arguments, (x.place,), (y.place,))]


def _accepts(site: Site) -> str:
    x, y = site.inputs[0], site.outputs[0]
    if x is None or y is None or x.dtype.itemsize not in (1, 2, 4):
        return "only elements of one, two or four bytes"
    tiles = columns(x.dtype)
    if (x.layout, y.layout) not in ((PLAIN, tiles), (tiles, PLAIN)):
        return f"between plain and {tiles} only"
    return ""


REORDER = lowering(Lowering("column_reorder", SKIPJACK, "Reorder", _accepts, _lower, "any"))
