"""The short way: a whole model in one chunk, called with its input arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from skipjack.runtime.address import address_of
from skipjack.runtime.chunk import Chunk
from skipjack.runtime.team import Team

Spots = tuple[tuple[int, int], ...]


class Direct:
    """A chunk that is the whole model: every output has memory of its own, nothing runs on the host."""

    def __init__(self, chunk: Chunk, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._chunk = chunk
        self._table = chunk.table
        self._scratch_bytes = chunk.scratch_bytes
        self._words = (ctypes.c_int64 * max(len(chunk.words), 1)).from_address(chunk.words.ctypes.data)
        self._inputs = tuple(_spots(chunk, name) for name in inputs)
        self._outputs = tuple(
            (chunk.shapes[name].shape, chunk.shapes[name].dtype.np, _spots(chunk, name)) for name in outputs
        )

    @staticmethod
    def fits(chunk: Chunk, nodes: int, outputs: Sequence[str]) -> bool:
        """Whether a chunk is the whole model and makes every output in the output's own memory."""
        whole = chunk.start == 0 and chunk.end == nodes and len(set(outputs)) == len(outputs)
        return whole and all(n in chunk.shapes and n not in chunk.views and n in chunk.externals for n in outputs)

    def run(self, arrays: Sequence[np.ndarray], team: Team) -> list[np.ndarray]:
        """The outputs; arrays have the shapes the chunk was bound to."""
        words = self._words
        for array, spots in zip(arrays, self._inputs):
            address = address_of(array)
            for index, offset in spots:
                words[index] = address + offset
        results: list[np.ndarray] = []
        for shape, dtype, spots in self._outputs:
            array = np.empty(shape, dtype)
            address = address_of(array)
            for index, offset in spots:
                words[index] = address + offset
            results.append(array)
        team.run(self._table, self._scratch_bytes)
        return results


def _spots(chunk: Chunk, name: str) -> Spots:
    patch = chunk.patches.get(name)
    if patch is None:
        return ()
    return tuple((int(w), int(o)) for w, o in zip(patch.words, patch.offsets, strict=True))
