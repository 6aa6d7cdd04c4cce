"""The grammar of model names: a path, `hf:owner/name[@revision][:file]`, or a `zoo:` stub in one of two forms."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from skipjack.core.errors import ConfigError

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][\w./-]*))?(?::(?P<file>.+))?")
_STUB_PART = re.compile(r"[A-Za-z0-9._-]+")
_OLD_PARTS = ("domain", "sub_domain", "architecture", "framework", "repo", "dataset", "sparse_tag")
_NEW_FEWEST, _NEW_MOST = 3, 5
HUB_FORM = "hf:owner/name[@revision][:file]"
STUB_FORMS = (
    "zoo:domain/sub_domain/architecture/framework/repo/dataset/sparse_tag or zoo:architecture-dataset-sparse_tag"
)


@dataclass(frozen=True)
class HubName:
    """A repository of the Hugging Face hub; file is a path inside it, None for the model that lies there."""

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{revision}" + (f":{self.file}" if self.file else "")


@dataclass(frozen=True)
class StubName:
    """A name in the grammar of SparseZoo: seven parts with slashes, or three to five with dashes.

    key is the name without its prefix and options, what mappings are keyed by.
    """

    key: str
    parts: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = field(default=())

    @property
    def is_old(self) -> bool:
        return "/" in self.key

    @property
    def described(self) -> dict[str, str]:
        """What each part of the old form says; the new form has only its first and last part for sure."""
        if self.is_old:
            return dict(zip(_OLD_PARTS, self.parts, strict=True))
        return {"architecture": self.parts[0], "sparse_tag": self.parts[-1]}

    def __str__(self) -> str:
        return f"zoo:{self.key}"


Name = Path | HubName | StubName


def is_remote(text: object) -> bool:
    """Whether a model is named by hf: or zoo: and not by a path."""
    return isinstance(text, str) and text.startswith(("hf:", "zoo:"))


def parse_name(text: str | os.PathLike[str]) -> Name:
    """What a name means; ConfigError when it begins like a name of the hub or the zoo and is none."""
    if isinstance(text, str) and text.startswith("hf:"):
        return _hub(text)
    if isinstance(text, str) and text.startswith("zoo:"):
        return _stub(text)
    return Path(text)


def _hub(text: str) -> HubName:
    found = _HUB.fullmatch(text.removeprefix("hf:").removeprefix("//"))
    if found is None:
        raise ConfigError(f"model name {text!r}: expected {HUB_FORM}")
    file = found["file"]
    if file is not None and not inside(file):
        raise ConfigError(f"model name {text!r}: the file must be a relative path inside the repository")
    return HubName(found["repo"], found["revision"], file)


def _stub(text: str) -> StubName:
    key, _, query = text.removeprefix("zoo:").partition("?")
    key = key.strip("/")
    parts = tuple(key.split("/")) if "/" in key else tuple(key.split("-"))
    right = len(parts) == len(_OLD_PARTS) if "/" in key else _NEW_FEWEST <= len(parts) <= _NEW_MOST
    if not right or not all(_STUB_PART.fullmatch(p) and p not in (".", "..") for p in parts):
        raise ConfigError(f"model name {text!r}: expected {STUB_FORMS}")
    return StubName(key, parts, tuple(parse_qsl(query)))


def inside(path: str) -> bool:
    """Whether a path with forward slashes stays below the directory it is joined to."""
    parts = path.split("/")
    return (
        not path.startswith("/")
        and "\\" not in path
        and "\0" not in path
        and all(p not in ("", ".", "..") for p in parts)
    )
