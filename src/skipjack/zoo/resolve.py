"""From a name to files: what `compile_model`, the commands and pipelines ask."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from skipjack.core.errors import ModelError
from skipjack.zoo import hub, mapping, mirror
from skipjack.zoo.layout import find_model
from skipjack.zoo.names import HubName, StubName, parse_name


@dataclass(frozen=True)
class Found:
    """A model on this machine: its file, the directory of what belongs to it, and how the name led there."""

    model: Path
    directory: Path
    via: str


def resolve(name: str | os.PathLike[str], force: bool = False, watch: mirror.Watch = lambda *_: None) -> Found:
    """The files of a model, fetched when the name is a remote one; ModelError says everything that was tried."""
    parsed = parse_name(name)
    if isinstance(parsed, HubName):
        return _from_hub(parsed, force, str(parsed))
    if isinstance(parsed, StubName):
        return _from_stub(parsed, force, watch)
    if parsed.is_dir():
        return Found(find_model(parsed), parsed, "directory")
    if not parsed.exists():
        raise ModelError(f"{parsed}: no such file or directory")
    return Found(parsed, parsed.parent, "path")


def _from_hub(name: HubName, force: bool, via: str) -> Found:
    fetched = hub.fetch(name, force)
    return Found(hub.model_file(name, fetched), fetched.directory, f"{via} at {fetched.commit[:12]}")


def _from_stub(stub: StubName, force: bool, watch: mirror.Watch) -> Found:
    entry, asked = mapping.look_up(stub)
    if entry is not None:
        via = f"{stub} -> {entry.target} ({entry.source})"
        if isinstance(entry.target, HubName):
            return _from_hub(entry.target, force, via)
        found = resolve(entry.target)
        return Found(found.model, found.directory, via)
    directory = mirror.fetch(stub, force, watch)
    if directory is not None:
        return Found(find_model(directory), directory, f"{stub} from {mirror.endpoint() or mirror.store()}")
    asked.append(f"not on the mirror {mirror.endpoint()}" if mirror.endpoint() else "no mirror (SKIPJACK_ZOO_ENDPOINT)")
    raise ModelError(
        f"{stub}: the zoo this name is from was switched off, and nothing here knows it. Tried: {'; '.join(asked)}. "
        f"If you have the files: skipjack zoo add '{stub}' DIRECTORY_OR_HF_NAME"
    )
