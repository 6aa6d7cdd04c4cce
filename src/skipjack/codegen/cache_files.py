"""The files of the kernel cache: what is there, and keeping it small."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

PART = ".part"
_ABANDONED_SECONDS = 3600


@dataclass(frozen=True)
class CacheFile:
    """One cached object."""

    path: Path
    nbytes: int
    last_used: float


def cache_files(folder: Path) -> list[CacheFile]:
    """The objects in a cache folder, least recently used first; what another process removes meanwhile is left out."""
    found: list[CacheFile] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            status = path.lstat()
        except OSError:
            continue
        being_written = path.name.startswith(PART) and time.time() - status.st_mtime < _ABANDONED_SECONDS
        if path.is_file() and not being_written:
            found.append(CacheFile(path, status.st_size, max(status.st_atime, status.st_mtime)))
    return sorted(found, key=lambda f: (f.last_used, f.path.name))


def prune(folder: Path, limit_bytes: int) -> tuple[int, int]:
    """Remove the least recently used objects until the rest fits into limit_bytes; (files, bytes) removed."""
    files = cache_files(folder)
    excess = sum(f.nbytes for f in files) - limit_bytes
    count = nbytes = 0
    for f in files:
        if nbytes >= excess:
            break
        with contextlib.suppress(OSError):
            f.path.unlink()
        count, nbytes = count + 1, nbytes + f.nbytes
    return count, nbytes
