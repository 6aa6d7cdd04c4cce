"""Which place a zoo: stub stands for: the user's own entries, SKIPJACK_ZOO, and the table of known mirrors.

A mapping is a YAML or JSON object from stub (without `zoo:`) to a path or an hf: name. Keys may use * and ?; an exact
key wins over a pattern, and earlier mappings win over later ones.
"""

from __future__ import annotations

import fnmatch
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs

from skipjack.core import knobs
from skipjack.core.errors import ConfigError
from skipjack.zoo.names import HubName, StubName, parse_name

_MOST_BYTES = 8 << 20
SHIPPED = "known mirrors that come with skipjack"


@dataclass(frozen=True)
class Entry:
    """Where a stub leads, and which mapping says so."""

    target: Path | HubName
    source: str


def _yaml() -> Any:
    return importlib.import_module("yaml")


def user_file() -> Path:
    """The user's own mapping, which `skipjack zoo add` writes."""
    return Path(platformdirs.user_config_dir("skipjack")) / "zoo.yaml"


def places() -> list[Path]:
    """The directories and mapping files of SKIPJACK_ZOO."""
    return [Path(p).expanduser() for p in (knobs.ZOO.get() or "").split(os.pathsep) if p]


def read_mapping(path: Path) -> dict[str, str]:
    """A mapping file; ConfigError when it is none."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: a mapping of more than {_MOST_BYTES >> 20} MiB")
        loaded: Any = _yaml().safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, _yaml().YAMLError) as error:
        raise ConfigError(f"{path}: not a mapping of model names: {str(error).splitlines()[0][:200]}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected lines such as `stub: hf:owner/name`, got {type(loaded).__name__}")
    entries: dict[Any, Any] = loaded  # pyright: ignore[reportUnknownVariableType]
    wrong = [k for k, v in entries.items() if not (isinstance(k, str) and isinstance(v, str))]
    if wrong:
        raise ConfigError(f"{path}: the entry {wrong[0]!r} is not text to text")
    return {k.removeprefix("zoo:"): v for k, v in entries.items()}


def mappings() -> Iterator[tuple[str, Path | None, dict[str, str]]]:
    """(where it comes from, the directory its relative paths start at, entries), strongest first."""
    if user_file().is_file():
        yield str(user_file()), user_file().parent, read_mapping(user_file())
    for place in places():
        if place.is_file():
            yield str(place), place.parent, read_mapping(place)
    with resources.as_file(resources.files("skipjack.zoo") / "mirrors.yaml") as path:
        yield SHIPPED, None, read_mapping(path)


def look_up(stub: StubName) -> tuple[Entry | None, list[str]]:
    """Where a stub leads, and what was asked in vain."""
    asked: list[str] = []
    for place in places():
        if place.is_dir():
            if (place / stub.key).is_dir():
                return Entry(place / stub.key, str(place)), asked
            asked.append(f"no directory {place / stub.key}")
    for source, base, entries in mappings():
        text = entries.get(stub.key) or next((v for k, v in entries.items() if fnmatch.fnmatchcase(stub.key, k)), None)
        if text is not None:
            return Entry(_target(text, base, source), source), asked
        asked.append(f"not in {source}")
    return None, asked


def _target(text: str, base: Path | None, source: str) -> Path | HubName:
    name = parse_name(text)
    if isinstance(name, StubName):
        raise ConfigError(f"{source}: {text!r} is a stub again; give a path or an hf: name")
    if isinstance(name, Path):
        path = name.expanduser()
        return path if path.is_absolute() or base is None else base / path
    return name


def add(stub: StubName, target: str) -> Path:
    """Write an entry to the user's mapping; the file it is in."""
    entries = read_mapping(user_file()) if user_file().is_file() else {}
    entries[stub.key] = target
    return _write(entries)


def remove(stub: StubName) -> bool:
    """Take an entry out of the user's mapping; False when there was none."""
    entries = read_mapping(user_file()) if user_file().is_file() else {}
    if entries.pop(stub.key, None) is None:
        return False
    _write(entries)
    return True


def _write(entries: dict[str, str]) -> Path:
    path = user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_text(_yaml().safe_dump(entries, sort_keys=True), encoding="utf-8")
    fresh.replace(path)
    return path
