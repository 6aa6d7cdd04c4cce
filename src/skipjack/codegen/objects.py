"""Kernels on demand: from memory, from the content-addressed cache on disk, or from a compile child.

The cache is untrusted input: files are owner-checked and carry a hash of their content; what does not match is compiled
again. Its key is a hash of the generator sources, the kernel's name and parameters, LLVM's version and the target.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import platformdirs

from skipjack.codegen.cache_files import prune
from skipjack.codegen.children import CompileJob, compile_in_children
from skipjack.codegen.jit import Library
from skipjack.codegen.lower import lower
from skipjack.core import knobs
from skipjack.core.trace import debug, dump
from skipjack.kernels.launch import KernelSpec, trace
from skipjack.targets.target import Target

_MAGIC = b"skipjack-object-1\n"
_SYMBOL = "kernel"
_SOURCES = ("lang", "kernels", "codegen", "targets")


@dataclass(frozen=True)
class Code:
    """A kernel in this process."""

    address: int
    scratch_bytes: int
    library: Library


_loaded: dict[tuple[Target, KernelSpec], Code] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Loaded:
    """What `load` did: kernels by spec, and how many came from where."""

    codes: dict[KernelSpec, Code]
    compiled: int
    from_disk: int


def load(specs: Iterable[KernelSpec], target: Target) -> Loaded:
    """Every kernel asked for, compiled in children when neither memory nor disk has it."""
    wanted = list(dict.fromkeys(specs))
    with _lock:
        missing = [s for s in wanted if (target, s) not in _loaded]
        from_disk = 0
        to_compile: list[KernelSpec] = []
        for spec in missing:
            code = _read(spec, target)
            if code is None:
                to_compile.append(spec)
            else:
                _loaded[target, spec] = code
                from_disk += 1
        if to_compile:
            _compile(to_compile, target)
        return Loaded({s: _loaded[target, s] for s in wanted}, len(to_compile), from_disk)


@functools.cache
def _generator_digest() -> str:
    root = Path(__file__).parent.parent
    h = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            h.update(path.name.encode())
            h.update(path.read_bytes())
    return h.hexdigest()


def _key(spec: KernelSpec, target: Target) -> str:
    parts = (
        _generator_digest(),
        llvmlite.__version__,
        llvm.llvm_version_info,
        target.triple,
        target.cpu,
        target.feature_string,
        repr(spec),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@functools.cache
def _make_private(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = path.stat()
    except OSError as error:
        debug(1, f"kernel cache {path} cannot be used: {error}")
        return False
    owned = not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
    if not owned:
        debug(1, f"kernel cache {path} is not used: it must belong to this user and be writable by nobody else")
    return owned


def cache_directory() -> Path | None:
    """Where objects are kept, None when the cache is off or the directory cannot be trusted."""
    if not knobs.CACHE.get():
        return None
    path = (knobs.CACHE_DIR.get() or Path(platformdirs.user_cache_dir("skipjack"))) / "kernels"
    return path if _make_private(path) else None


def _read(spec: KernelSpec, target: Target) -> Code | None:
    folder = cache_directory()
    if folder is None:
        return None
    data = _read_owned(folder / _key(spec, target))
    if data is None or not data.startswith(_MAGIC):
        return None
    header, _, rest = data[len(_MAGIC) :].partition(b"\n")
    digest, _, code = rest.partition(b"\n")
    if hashlib.sha256(header + b"\n" + code).hexdigest().encode() != digest:
        debug(1, f"kernel cache entry of {spec.generator} is damaged; compiling it again")
        return None
    library = Library(code, [_SYMBOL])
    return Code(library.address(_SYMBOL), int(json.loads(header)["scratch"]), library)


def _read_owned(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    with os.fdopen(fd, "rb") as f:
        status = os.fstat(f.fileno())
        foreign = hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022)
        if foreign or not stat.S_ISREG(status.st_mode):
            return None
        return f.read()


def _compile(specs: list[KernelSpec], target: Target) -> None:
    jobs: list[CompileJob] = []
    scratch: dict[KernelSpec, int] = {}
    for spec in specs:
        program = trace(spec, target, _SYMBOL)
        scratch[spec] = program.scratch_bytes
        source = lower([program])
        dump(f"kernel-{spec.generator}", source, "ll")
        jobs.append(CompileJob(f"{spec.generator}{spec.params}", source))
    debug(2, f"compiling {len(jobs)} kernels")
    for spec, code in zip(specs, compile_in_children(jobs, target), strict=True):
        library = Library(code, [_SYMBOL])
        _loaded[target, spec] = Code(library.address(_SYMBOL), scratch[spec], library)
        _write(spec, target, scratch[spec], code)
    folder = cache_directory()
    if folder is not None:
        prune(folder, knobs.CACHE_LIMIT.get())


def _write(spec: KernelSpec, target: Target, scratch: int, code: bytes) -> None:
    folder = cache_directory()
    if folder is None:
        return
    header = json.dumps({"scratch": scratch, "kernel": spec.generator}).encode()
    digest = hashlib.sha256(header + b"\n" + code).hexdigest().encode()
    try:
        fd, part = tempfile.mkstemp(dir=folder, prefix=".part")
        with os.fdopen(fd, "wb") as f:
            f.write(_MAGIC + header + b"\n" + digest + b"\n" + code)
        os.replace(part, folder / _key(spec, target))
    except OSError as error:
        debug(1, f"kernel cache: could not store {spec.generator}: {error}")
