"""Which packages `skipjack doctor` finds: versions, required ones, and the extras with what they lack."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from importlib import metadata

import llvmlite.binding as llvm

import skipjack

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w.-]+)['"]""")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> list[tuple[str, str]]:
    """(package, extra) of every requirement of skipjack; the extra is empty for required packages."""
    try:
        lines = metadata.requires("skipjack") or []
    except metadata.PackageNotFoundError:
        return []
    found: list[tuple[str, str]] = []
    for line in lines:
        name, extra = _NAME.match(line), _EXTRA.search(line)
        if name is not None:
            found.append((name.group(), extra.group(1) if extra else ""))
    return found


def _versions() -> tuple[str, str]:
    python = f"Python {platform.python_version()} ({platform.python_implementation()})"
    backend = f"LLVM {'.'.join(map(str, llvm.llvm_version_info))}"
    named = [f"{name} {_version(name) or 'not found'}" for name in ("numpy", "onnx", "llvmlite")]
    return "ok", ", ".join([f"skipjack {skipjack.__version__}", python, *named, backend])


def _required() -> tuple[str, str]:
    required = [name for name, extra in _requirements() if not extra]
    missing = [name for name in required if _version(name) is None]
    if missing:
        return "missing", f"not installed: {', '.join(missing)}; run pip install skipjack"
    return "ok", f"{len(required)} packages" if required else "skipjack runs from its sources and was not installed"


def _optional() -> tuple[str, str]:
    extras: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra and name != "skipjack":
            extras.setdefault(extra, []).append(name)
    parts: list[str] = []
    for extra, names in sorted(extras.items()):
        missing = [n for n in names if _version(n) is None]
        lacks = f"needs {', '.join(missing)} (pip install 'skipjack[{extra}]')"
        parts.append(f"{extra}: {lacks if missing else 'complete'}")
    return "", "\n".join(parts)


CHECKS: dict[str, Callable[[], tuple[str, str]]] = {
    "versions": _versions,
    "required": _required,
    "extras": _optional,
}
"""Topic -> (status, text)."""
