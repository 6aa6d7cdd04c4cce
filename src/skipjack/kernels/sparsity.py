"""How many weights of a constant are not zero, alone and in fours of inputs: what kernels that skip zeros go by."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np

from skipjack.ir.patterns import live_fours

_BAND_BYTES = 1 << 24


@dataclass(frozen=True)
class Zeros:
    """elements, how many are not zero (-0.0 is zero), and how many fours of neighbouring inputs hold one that is not.

    A matrix is [inputs, outputs] as Linear has it; a convolution's weight [outputs, inputs, positions...].
    """

    elements: int
    nonzeros: int
    quads: int
    live_quads: int

    @property
    def density(self) -> float:
        return self.nonzeros / self.elements if self.elements else 0.0

    @property
    def quad_density(self) -> float:
        return self.live_quads / self.quads if self.quads else 0.0


_known: dict[int, tuple[weakref.ref[np.ndarray], Zeros]] = {}


def zeros_of(w: np.ndarray) -> Zeros:
    """Counted once per array."""
    found = _known.get(id(w))
    if found is not None and found[0]() is w:
        return found[1]
    counted = _count(w)
    key = id(w)
    _known[key] = (weakref.ref(w, lambda _: _known.pop(key, None)), counted)
    return counted


def _count(w: np.ndarray) -> Zeros:
    """Bands of inputs (of outputs for a convolution) at a time, so that no second copy of a large weight is made."""
    if w.ndim < 2 or not w.size:
        return Zeros(int(w.size), int(np.count_nonzero(w)), 0, 0)
    rows = max(_BAND_BYTES // max(w[0].nbytes, 1) // 4 * 4, 4)
    zeros = quads = live = 0
    for first in range(0, w.shape[0], rows):
        band = w[first : first + rows] == 0
        counted = live_fours(_arranged(band))
        zeros, quads, live = zeros + counted[0], quads + counted[1], live + counted[2]
    return Zeros(int(w.size), int(w.size) - zeros, quads, live)


def _arranged(band: np.ndarray) -> np.ndarray:
    """As [outputs, positions, inputs]."""
    if band.ndim == 2:
        return band.T[:, None, :]
    return np.moveaxis(band.reshape(*band.shape[:2], -1), 1, 2)
