"""Matrix tiles: eight registers of 16 rows of 64 bytes that a thread configures, uses and releases.

`Tiles` writes their instructions into a kernel. `TileFile` is what they mean: numpy arrays behind the same names.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Generator, Sequence

import numpy as np

from skipjack.lang.half_products import from_bits, fused, without_denormals
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import I8

TILES, TILE_ROWS, ROW_BYTES = 8, 16, 64
TILE_BYTES = TILE_ROWS * ROW_BYTES
DOT_S8_S8, DOT_S8_U8, DOT_BF16 = "tdpbssd", "tdpbsud", "tdpbf16ps"
_SIGNED = {DOT_S8_S8: (np.int8, np.int8), DOT_S8_U8: (np.int8, np.uint8)}


def _configuration() -> list[int]:
    """The 64 bytes that give every tile its full size."""
    row_bytes = [ROW_BYTES, 0] * TILES
    return [1, *[0] * 15, *row_bytes, *[0] * 16, *[TILE_ROWS] * TILES, *[0] * 8]


class Tiles:
    """Tile instructions of one kernel; tiles are named by numbers that are known when it is traced."""

    def __init__(self, k: Kernel) -> None:
        self.k = k

    @contextlib.contextmanager
    def configured(self) -> Generator[None, None, None]:
        """All tiles in full size for what is traced inside; loops and branches begin and end inside or outside."""
        k = self.k
        block = k.local(64)
        block.store(k.lanes(I8.vec(64), _configuration()))
        k.effect("tile", (block,), ("ldtilecfg",))
        yield
        k.effect("tile", (), ("tilerelease",))

    def zero(self, tile: int) -> None:
        self.k.effect("tile", (), ("tilezero", tile))

    def load(self, tile: int, at: V, pitch: V | int) -> None:
        """Rows of 64 bytes, `pitch` bytes apart."""
        self.k.effect("tile", (at, self._pitch(pitch)), ("tileloadd64", tile))

    def store(self, tile: int, at: V, pitch: V | int) -> None:
        self.k.effect("tile", (at, self._pitch(pitch)), ("tilestored64", tile))

    def dot(self, name: str, total: int, a: int, b: int) -> None:
        """total[m][n] += sum over the words k of a[m][k] . b[k][n]: four bytes or two bf16 in every 32-bit word."""
        self.k.effect("tile", (), (name, total, a, b))

    def _pitch(self, pitch: V | int) -> V:
        return self.k.i64(pitch) if isinstance(pitch, int) else pitch


class TileFile:
    """The tile registers of one thread. Using them before they are configured is an error."""

    def __init__(self) -> None:
        self.tiles: np.ndarray | None = None

    def step(self, attr: Sequence[str | int], args: Sequence[int]) -> None:
        """One tile instruction; args are addresses and pitches."""
        name, numbers = str(attr[0]), [int(n) for n in attr[1:]]
        if name == "ldtilecfg":
            raw = list(ctypes.string_at(int(args[0]), 64))
            assert raw == _configuration(), "tiles are configured in full size or not at all"
            self.tiles = np.zeros((TILES, TILE_ROWS, ROW_BYTES), np.uint8)
            return
        tiles = self.tiles
        assert tiles is not None, f"{name} before the tiles were configured"
        if name == "tilerelease":
            self.tiles = None
        elif name == "tilezero":
            tiles[numbers[0]] = 0
        elif name == "tileloadd64":
            for r in range(TILE_ROWS):
                raw = ctypes.string_at(int(args[0]) + r * int(args[1]), ROW_BYTES)
                tiles[numbers[0], r] = np.frombuffer(raw, np.uint8)
        elif name == "tilestored64":
            for r in range(TILE_ROWS):
                ctypes.memmove(int(args[0]) + r * int(args[1]), tiles[numbers[0], r].tobytes(), ROW_BYTES)
        else:
            total, a, b = (tiles[n] for n in numbers)
            total[:] = (_halves if name == DOT_BF16 else _bytes)(name, total, a, b)


def _bytes(name: str, total: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    left, right = _SIGNED[name]
    x = a.view(left).astype(np.int64)
    y = b.view(right).astype(np.int64).reshape(TILE_ROWS, TILE_ROWS, 4).transpose(0, 2, 1).reshape(ROW_BYTES, -1)
    sums = total.view(np.int32).astype(np.int64) + x @ y
    return sums.astype(np.int32).view(np.uint8)


def _halves(name: str, total: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Even and odd bf16 are summed apart in ascending k, from zero; then both sums join, and join the total."""
    x, y = from_bits(a).reshape(TILE_ROWS, -1, 2), from_bits(b).reshape(TILE_ROWS, -1, 2)
    sums = np.zeros((2, TILE_ROWS, TILE_ROWS), np.float32)
    for k in range(TILE_ROWS):
        for half in (0, 1):
            left, right = np.broadcast_arrays(x[:, k, half, None], y[None, k, :, half])
            sums[half] = fused(left, right, sums[half])
    both = without_denormals(sums[0] + sums[1])
    found = without_denormals(without_denormals(total.view(np.float32)) + both)
    return found.astype(np.float32).view(np.uint8)
