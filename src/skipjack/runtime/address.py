"""The address of an array's data, fast: a call of a small model is mostly this."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

_DATA_FIELD = 16


def _by_interface(array: np.ndarray) -> int:
    return array.ctypes.data


def _by_field(array: np.ndarray) -> int:
    """Reads the data pointer of numpy's array object, the first field after the object header."""
    return _pointer(id(array) + _DATA_FIELD).value or 0


_pointer = ctypes.c_void_p.from_address


def _choose() -> Callable[[np.ndarray], int]:
    """The field access where it agrees with numpy's own answer; object headers differ between builds of Python."""
    probes = [np.zeros(3), np.zeros((2, 2), np.int8)[1:], np.zeros(5, np.float32)]
    try:
        agrees = np.zeros(0).__class__ is np.ndarray and all(_by_field(p) == p.ctypes.data for p in probes)
    except ValueError:
        agrees = False
    return _by_field if agrees else _by_interface


address_of = _choose()
