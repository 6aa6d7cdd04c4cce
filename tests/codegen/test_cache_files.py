"""The kernel cache's files: order and pruning."""

from __future__ import annotations

import os
from pathlib import Path

from skipjack.codegen.cache_files import cache_files, prune


def fill(folder: Path, *names: str) -> None:
    """100-byte files, used in this order."""
    for age, name in enumerate(names):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1000 + age, 1000 + age))


def test_the_least_recently_used_come_first(tmp_path: Path) -> None:
    fill(tmp_path, "old", "middle", "new")
    assert [f.path.name for f in cache_files(tmp_path)] == ["old", "middle", "new"]


def test_pruning_removes_no_more_than_it_must(tmp_path: Path) -> None:
    fill(tmp_path, "old", "middle", "new")
    assert prune(tmp_path, 300) == (0, 0)
    assert prune(tmp_path, 200) == (1, 100)
    assert prune(tmp_path, 199) == (1, 100)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_a_limit_of_nothing_empties_the_cache(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    assert prune(tmp_path, 0) == (2, 200)


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert cache_files(tmp_path / "gone") == []
    assert prune(tmp_path / "gone", 0) == (0, 0)
