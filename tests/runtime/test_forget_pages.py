"""Pages of mapped files may go, pages of anonymous memory never do."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from skipjack.runtime.weights import forget_pages

_PAGES = 3 * mmap.PAGESIZE


def test_a_mapped_file_reads_the_same_afterwards(tmp_path: Path) -> None:
    content = np.arange(_PAGES, dtype=np.uint8)
    path = tmp_path / "weights"
    path.write_bytes(content.tobytes())
    with path.open("rb") as file:
        view = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    forget_pages(view[5:])
    np.testing.assert_array_equal(view, content)


def test_anonymous_memory_is_kept() -> None:
    view = np.frombuffer(mmap.mmap(-1, _PAGES), np.uint8)
    view[:] = 7
    forget_pages(view)
    assert (view == 7).all()
