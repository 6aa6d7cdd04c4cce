"""The one place that opens files named by a model: external tensor bytes, mapped read-only.

A location is relative, has no `..`, and its real path lies in the directory of the given model path, in the directory
of the model's real path, or in the blob store of the same Hugging Face cache repository. Only regular files are opened,
without following a link at the last moment, and never with an open that can block.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import TensorProto

from skipjack.core.errors import ModelError

_KEYS = ("location", "offset", "length", "checksum", "basepath")
_MAX_DIGITS = 19
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


class ExternalFiles:
    """External data of one model. model_path is None for a model that came as bytes: then there is no external data."""

    def __init__(self, model_path: Path | None, strict_links: bool = False) -> None:
        self._path = model_path
        self._strict = strict_links
        self._maps: dict[str, np.ndarray] = {}

    def read(self, tensor: TensorProto, byte_count: int, what: str) -> np.ndarray:
        """The bytes of a tensor stored outside the model file, as a read-only view of exactly byte_count bytes."""
        entries = _entries(tensor, what)
        location = entries.get("location", "")
        data = self._map(location, what)
        offset = _number(entries.get("offset", "0"), f"{what}: external data offset")
        if offset > data.size:
            raise ModelError(f"{what}: external data offset {offset} is past the {data.size} bytes of {location!r}")
        length = data.size - offset
        if "length" in entries:
            length = _number(entries["length"], f"{what}: external data length")
        if length > data.size - offset:
            raise ModelError(
                f"{what}: expected {length} bytes at {offset} in {location!r}, the file has {data.size} bytes;"
                " download the data file again"
            )
        if length != byte_count:
            raise ModelError(f"{what}: expected {byte_count} bytes of external data for its dims, got {length}")
        return data[offset : offset + length]

    def _map(self, location: str, what: str) -> np.ndarray:
        if location not in self._maps:
            self._maps[location] = self._open(location, what)
        return self._maps[location]

    def _open(self, location: str, what: str) -> np.ndarray:
        if self._path is None:
            raise ModelError(f"{what}: external data {location!r} needs a model path; load the model from its file")
        root, parts = self._resolve(self._path, location, what)
        try:
            fd = _open_beneath(root, parts)
        except OSError as e:
            raise ModelError(f"{what}: external data {location!r} cannot be opened: {e.strerror}") from e
        try:
            return _map_regular(fd, os.path.join(root, *parts), self._strict, f"{what}: external data {location!r}")
        finally:
            os.close(fd)

    def _resolve(self, model_path: Path, location: str, what: str) -> tuple[str, tuple[str, ...]]:
        """(allowed directory, path components below it) of a location; no component is a link."""
        _check_location(location, what)
        directory = os.path.dirname(os.path.abspath(model_path))
        try:
            real = os.path.realpath(os.path.join(directory, location), strict=True)
        except (OSError, ValueError) as e:
            raise ModelError(
                f"{what}: external data file {location!r} is not readable in {directory!r}; put it beside the model"
            ) from e
        for root in _allowed_roots(model_path):
            if real.startswith(root.rstrip(os.sep) + os.sep):
                return root, Path(os.path.relpath(real, root)).parts
        raise ModelError(
            f"{what}: external data {location!r} leads outside the model's directory (to {real!r}); copy it there"
        )


def _entries(tensor: TensorProto, what: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries:
            raise ModelError(f"{what}: external data key {entry.key!r} is given twice")
        if entry.key in _KEYS:
            entries[entry.key] = entry.value
    return entries


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ModelError(f"{what}: expected an integer from 0, got {text[:40]!r}")
    return int(text)


def _check_location(location: str, what: str) -> None:
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or ".." in parts or os.path.isabs(location) or location[0] in "/\\~":
        raise ModelError(
            f"{what}: external data location must be a relative path without '..', got {location[:200]!r};"
            " save the model with its data beside it"
        )


def _allowed_roots(model_path: Path) -> Iterator[str]:
    given = os.path.abspath(model_path)
    yield os.path.realpath(os.path.dirname(given))
    yield os.path.dirname(os.path.realpath(given))
    for parent in Path(given).parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            yield os.path.realpath(parent.parent / "blobs")


def _open_beneath(root: str, parts: tuple[str, ...]) -> int:
    """Open root/parts following no link below root, where the system can do it component by component."""
    if os.open not in os.supports_dir_fd:
        return os.open(os.path.join(root, *parts), _FLAGS)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for i, part in enumerate(parts):
        flags = _FLAGS if i == len(parts) - 1 else _FLAGS | os.O_DIRECTORY
        try:
            inner = os.open(part, flags, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _map_regular(fd: int, path: str, strict_links: bool, what: str) -> np.ndarray:
    opened, named = os.fstat(fd), os.lstat(path)
    if not stat.S_ISREG(opened.st_mode):
        raise ModelError(f"{what} is not a regular file")
    if (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino):
        raise ModelError(f"{what} was replaced while it was being opened; load the model again")
    if strict_links and opened.st_nlink > 1:
        raise ModelError(f"{what} has {opened.st_nlink} hard links, strict_links allows one; copy the file")
    return map_file(fd, opened.st_size)


def map_file(fd: int, size_bytes: int) -> np.ndarray:
    """All bytes of an open regular file as a read-only array; the mapping outlives fd."""
    if size_bytes == 0:
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(fd, size_bytes, access=mmap.ACCESS_READ), np.uint8)
