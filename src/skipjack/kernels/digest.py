"""A hash of everything that decides what kernels are generated: it changes when they may have."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_SOURCES = ("lang", "kernels", "codegen", "targets")


@functools.cache
def sources_digest() -> str:
    """The hash of the generators' sources, of the whole archive when the package lies in one."""
    root = Path(__file__).parent.parent
    h = hashlib.sha256()
    if not root.is_dir():
        archive = next(p for p in root.parents if p.is_file())
        h.update(archive.read_bytes())
    for folder in _SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            h.update(path.name.encode())
            h.update(path.read_bytes())
    return h.hexdigest()
