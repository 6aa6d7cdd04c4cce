"""Constants: each once in memory, packed once per way, whoever asks."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from skipjack.core.errors import ResourceError
from skipjack.runtime import weights as module
from skipjack.runtime.weights import Weights, aligned_memory


def test_a_constant_is_packed_once_per_recipe() -> None:
    calls: list[str] = []
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    weights = Weights({"w": w})

    def transposed(a: np.ndarray) -> np.ndarray:
        calls.append("t")
        return a.T

    first = weights.packed("w", "transposed", transposed)
    assert weights.packed("w", "transposed", transposed) is first
    assert first.flags.c_contiguous
    assert first.ctypes.data % 64 == 0
    np.testing.assert_array_equal(first, w.T)
    np.testing.assert_array_equal(weights.packed("w", "doubled", lambda a: a * 2), w * 2)
    assert calls == ["t"]
    assert weights.nbytes == 2 * w.nbytes


def test_plain_constants_are_not_copied() -> None:
    w = np.arange(12, dtype=np.float32)
    weights = Weights({"w": w, "t": w.reshape(3, 4).T, "scalar": np.array(3.0)})
    assert weights.plain("w").ctypes.data == w.ctypes.data
    assert weights.plain("t").flags.c_contiguous
    assert weights.plain("t") is weights.plain("t")
    assert weights.plain("scalar").shape == ()


def test_equal_tables_share_memory_and_unequal_ones_do_not() -> None:
    weights = Weights({})
    a = weights.table(np.array([1, 2], np.int64))
    assert weights.table(np.array([1, 2], np.int64)) is a
    others = [
        weights.table(np.array([[1, 2]], np.int64)),
        weights.table(np.array([1, 2], np.uint64)),
        weights.table(np.zeros((0, 3), np.int64)),
        weights.table(np.array([1, 3], np.int64)),
    ]
    assert all(o is not a for o in others)
    np.testing.assert_array_equal(a, [1, 2])
    np.testing.assert_array_equal(others[3], [1, 3])


def test_threads_share_one_packing() -> None:
    weights = Weights({"w": np.ones(1000, np.float32)})
    calls: list[int] = []
    found: list[np.ndarray] = []

    def pack(a: np.ndarray) -> np.ndarray:
        calls.append(1)
        return a + 1

    threads = [threading.Thread(target=lambda: found.append(weights.packed("w", "p", pack))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(calls) == 1
    assert len({id(a) for a in found}) == 1


def test_memory_that_is_not_there_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def reserve(self, nbytes: int) -> None:
            raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module, "platform", Full)
    with pytest.raises(ResourceError, match="could not reserve 100 bytes"):
        aligned_memory(100)


@pytest.mark.parametrize("nbytes", [0, 1, 100, 5 << 20])
def test_aligned_memory(nbytes: int) -> None:
    memory = aligned_memory(nbytes)
    assert memory.nbytes == nbytes
    assert memory.ctypes.data % 64 == 0 or nbytes == 0
    assert not memory.any()
