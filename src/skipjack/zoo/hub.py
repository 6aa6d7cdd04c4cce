"""Repositories of the Hugging Face hub: only what a model needs, of one revision, from the cache when offline."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipjack.core import knobs
from skipjack.core.errors import ModelError, ResourceError
from skipjack.zoo.layout import find_model
from skipjack.zoo.names import HubName

WANTED = (
    "*.onnx", "*.onnx_data", "*.onnx.data", "*.data", "model.data.*", "*.safetensors", "*.safetensors.index.json",
    "*.json", "*.txt", "*.model", "*.yaml", "*.md", "merges.txt", "*.tiktoken", "*.jinja",
)  # fmt: skip
"""What is fetched of a repository: models, weights that are never unpickled, tokenisers, configurations."""

NEVER = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.py")


@dataclass(frozen=True)
class Fetched:
    """Where a repository's files lie, and the commit they are of."""

    directory: Path
    commit: str


def _library() -> Any:
    return importlib.import_module("huggingface_hub")


def _errors() -> Any:
    return importlib.import_module("huggingface_hub.errors")


def is_offline() -> bool:
    """Whether nothing may be fetched."""
    return bool(knobs.OFFLINE.get()) or bool(importlib.import_module("huggingface_hub.constants").HF_HUB_OFFLINE)


def fetch(name: HubName, force: bool = False) -> Fetched:
    """The files of a repository on this machine, fetched where they are missing.

    A file that the cache has whole is not fetched again; an interrupted one goes on where it stopped; sizes and
    hashes are checked by the library. ModelError says what was missing and what to do.
    """
    patterns = [name.file, *_beside(name.file)] if name.file else list(WANTED)
    errors = _errors()
    try:
        directory = _library().snapshot_download(
            name.repo, revision=name.revision, allow_patterns=patterns, ignore_patterns=list(NEVER),
            local_files_only=is_offline(), force_download=force and not is_offline(),
            library_name="skipjack",
        )  # fmt: skip
    except errors.GatedRepoError:
        raise ModelError(f"{name}: its owner grants access on request; ask on the hub, then set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"{name}: the hub has no such repository, or HF_TOKEN may not read it") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{name}: the repository has no revision {name.revision!r}") from None
    except errors.LocalEntryNotFoundError:
        raise ModelError(_missing(name)) from None
    except (OSError, errors.HfHubHTTPError) as error:
        raise ResourceError(f"{name}: could not be fetched: {_first_line(error)}") from None
    found = Path(directory)
    return Fetched(found, found.name)


def _beside(file: str) -> list[str]:
    """Files that belong to a model file: external data, and what describes it."""
    folder = file.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    return [
        f"{file}_data",
        f"{file}.data",
        f"{prefix}model.data*",
        f"{prefix}*.json",
        f"{prefix}*.txt",
        f"{prefix}*.model",
    ]


def _missing(name: HubName) -> str:
    if is_offline():
        return f"{name}: not in the cache, and fetching is off; where there is a network run: skipjack zoo pull {name}"
    return f"{name}: the hub cannot be reached and the cache does not have it; try again, or use a path"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def model_file(name: HubName, fetched: Fetched) -> Path:
    """The model of a fetched repository."""
    if name.file is None:
        return find_model(fetched.directory)
    path = fetched.directory / name.file
    if not path.is_file():
        raise ModelError(f"{name}: the repository has no file {name.file!r}")
    return path


def cached() -> list[tuple[str, str, int]]:
    """(repository, commit, bytes) of every revision in the cache that holds something skipjack reads."""
    library = _library()
    try:
        info = library.scan_cache_dir()
    except library.CacheNotFound:
        return []
    found: list[tuple[str, str, int]] = []
    for repo in info.repos:
        for revision in repo.revisions:
            if any(matches(f.file_name, ("*.onnx", "*.safetensors")) for f in revision.files):
                found.append((str(repo.repo_id), str(revision.commit_hash), int(revision.size_on_disk)))
    return sorted(found)


def remove(repo: str) -> int:
    """Delete every revision of a repository from the cache; the bytes that became free."""
    info = _library().scan_cache_dir()
    commits = [r.commit_hash for entry in info.repos if entry.repo_id == repo for r in entry.revisions]
    if not commits:
        return 0
    strategy = info.delete_revisions(*commits)
    strategy.execute()
    return int(strategy.expected_freed_size)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file's name fits one of the patterns."""
    test: Callable[[str, str], bool] = fnmatch.fnmatch
    return any(test(name, p) for p in patterns)
