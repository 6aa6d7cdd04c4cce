"""Objects on disk. The folder is untrusted input: what is foreign, damaged or meant for another key is not used.

A file is a line of magic, a line of JSON facts (its key among them), a line with the hash of the rest, and the code.
There are no locks: files appear whole under their final name, and losing one costs a compilation.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from skipjack.codegen.cache_files import PART, prune
from skipjack.core import knobs
from skipjack.core.trace import debug, warn_once

_MAGIC = b"skipjack-object-1\n"
_FOREIGN_WRITES = 0o022
_TOUCH_AFTER_SECONDS = 3600


@dataclass(frozen=True)
class ObjectFile:
    """A compiled kernel as it lies on disk."""

    key: str
    kernel: str
    scratch_bytes: int
    code: bytes


def cache_directory() -> Path | None:
    """Where objects are kept, None when the cache is off or the directory cannot be trusted or used."""
    if not knobs.CACHE.get():
        return None
    path = (knobs.CACHE_DIR.get() or Path(platformdirs.user_cache_dir("skipjack"))) / "kernels"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = path.stat()
    except OSError as error:
        warn_once(f"kernel cache {path} cannot be used: {error}; kernels are compiled in every process")
        return None
    if _is_foreign(status):
        warn_once(f"kernel cache {path} is not used: it must belong to this user and be writable by nobody else")
        return None
    return path


def _is_foreign(status: os.stat_result) -> bool:
    return hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or bool(status.st_mode & _FOREIGN_WRITES))


def read_object(folder: Path, key: str) -> ObjectFile | None:
    """The object stored under a key, None when there is none that can be trusted."""
    data = _read_owned(folder / key)
    if data is None:
        return None
    found = _parse(data, key)
    if found is None:
        debug(1, f"kernel cache entry {key} is damaged; compiling it again")
    return found


def _read_owned(path: Path) -> bytes | None:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as f:
            status = os.fstat(f.fileno())
            if _is_foreign(status) or not stat.S_ISREG(status.st_mode):
                return None
            if time.time() - status.st_mtime > _TOUCH_AFTER_SECONDS:
                os.utime(path)
            return f.read()
    except OSError:
        return None


def _parse(data: bytes, key: str) -> ObjectFile | None:
    if not data.startswith(_MAGIC):
        return None
    facts, _, rest = data[len(_MAGIC) :].partition(b"\n")
    digest, _, code = rest.partition(b"\n")
    if _digest(facts, code) != digest:
        return None
    known = json.loads(facts)
    return ObjectFile(key, known["kernel"], int(known["scratch"]), code) if known["key"] == key else None


def _digest(facts: bytes, code: bytes) -> bytes:
    return hashlib.sha256(facts + b"\n" + code).hexdigest().encode()


def write_objects(folder: Path, made: list[ObjectFile]) -> None:
    """Store objects and keep the folder below its limit. A full disk costs one warning and leaves no half files."""
    try:
        for one in made:
            _write(folder, one)
        prune(folder, knobs.CACHE_LIMIT.get())
    except OSError as error:
        warn_once(
            f"kernel cache {folder}: could not store compiled kernels: {error.strerror or error}; going on without"
        )


def _write(folder: Path, one: ObjectFile) -> None:
    facts = json.dumps({"key": one.key, "kernel": one.kernel, "scratch": one.scratch_bytes}).encode()
    fd, part = tempfile.mkstemp(dir=folder, prefix=PART)
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(_MAGIC + facts + b"\n" + _digest(facts, one.code) + b"\n" + one.code)
        os.replace(part, folder / one.key)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
