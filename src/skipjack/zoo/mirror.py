"""A mirror of zoo models over HTTP: `<SKIPJACK_ZOO_ENDPOINT>/<stub>/files.json` lists files with size and SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from skipjack.core import knobs
from skipjack.core.errors import ModelError, ResourceError
from skipjack.zoo.names import StubName, inside

_LIST = "files.json"
_MOST_LIST_BYTES = 4 << 20
_CHUNK = 1 << 20
_TIMEOUT_S = 30.0
Watch = Callable[[str, int, int], None]
"""Called with a file, the bytes that are there and the bytes it has."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a model: its path, its bytes, its hash in hex."""

    path: str
    size: int
    sha256: str


def store() -> Path:
    """Where mirrored models are kept."""
    return (knobs.CACHE_DIR.get() or Path(platformdirs.user_cache_dir("skipjack"))) / "zoo"


def endpoint() -> str | None:
    """The mirror, None when there is none."""
    return knobs.ZOO_ENDPOINT.get()


def fetch(stub: StubName, force: bool = False, watch: Watch = lambda name, done, total: None) -> Path | None:
    """The directory of a stub's files, fetched from the mirror; None when the mirror does not know the stub."""
    base, directory = endpoint(), store() / stub.key
    if base is None or knobs.OFFLINE.get():
        return directory if (directory / _LIST).is_file() else None
    if not base.startswith(("http://", "https://")):
        raise ResourceError(f"SKIPJACK_ZOO_ENDPOINT={base!r}: expected an http:// or https:// address")
    root = f"{base.rstrip('/')}/{urllib.parse.quote(stub.key)}"
    try:
        with _open(f"{root}/{_LIST}") as answer:
            text = answer.read(_MOST_LIST_BYTES + 1)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise ResourceError(f"{stub}: the mirror {base} answered {error.code} {error.reason}") from None
    except OSError as error:
        if (directory / _LIST).is_file():
            return directory
        raise ResourceError(f"{stub}: the mirror {base} cannot be reached: {error}") from None
    for file in _files(stub, text):
        _bring(root, file, directory / file.path, force, watch)
    (directory / _LIST).write_bytes(text)
    return directory


def _open(url: str, headers: dict[str, str] | None = None) -> Any:
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=_TIMEOUT_S)


def _files(stub: StubName, text: bytes) -> list[RemoteFile]:
    """The checked list of a mirror."""
    try:
        if len(text) > _MOST_LIST_BYTES:
            raise ValueError("too long")
        found = [RemoteFile(str(f["path"]), int(f["size"]), str(f["sha256"])) for f in json.loads(text)["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{stub}: the mirror's {_LIST} is damaged: {error}") from None
    for f in found:
        if not inside(f.path) or f.size < 0 or not re.fullmatch("[0-9a-f]{64}", f.sha256) or f.path == _LIST:
            raise ModelError(f"{stub}: the mirror's {_LIST} has an entry that is not accepted: {f.path!r}")
    return found


def _bring(root: str, file: RemoteFile, path: Path, force: bool, watch: Watch) -> None:
    """Fetch one file unless it is there; an interrupted one goes on where it stopped."""
    if path.is_file() and not force and path.stat().st_size == file.size and _hash(path) == file.sha256:
        watch(file.path, file.size, file.size)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if force or (part.exists() and part.stat().st_size >= file.size):
        part.unlink(missing_ok=True)
    try:
        _append(f"{root}/{urllib.parse.quote(file.path)}", file, part, watch)
    except OSError as error:
        raise ResourceError(f"{file.path}: fetching stopped: {error}; run it again to go on") from None
    size = part.stat().st_size
    if size != file.size or _hash(part) != file.sha256:
        part.unlink()
        raise ModelError(f"{file.path}: expected {file.size} bytes with SHA-256 {file.sha256}, got {size} other ones")
    os.replace(part, path)


def _append(url: str, file: RemoteFile, part: Path, watch: Watch) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have == file.size:
        part.touch()
        return
    with _open(url, {"Range": f"bytes={have}-"} if have else None) as answer:
        if have and answer.status != 206:
            have = 0
        with part.open("ab" if have else "wb") as out:
            while have <= file.size and (data := answer.read(_CHUNK)):
                out.write(data)
                have += len(data)
                watch(file.path, have, file.size)


def _hash(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as f:
        while data := f.read(_CHUNK):
            total.update(data)
    return total.hexdigest()
