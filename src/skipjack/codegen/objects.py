"""Kernels on demand: from memory, from the content-addressed cache on disk, or from a compile child.

The key of an object is a hash of the generator sources, the kernel's name and parameters, LLVM's version and target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from skipjack.codegen.children import CompileJob, compile_in_children
from skipjack.codegen.jit import Library
from skipjack.codegen.lower import lower
from skipjack.codegen.object_files import ObjectFile, cache_directory, read_object, write_objects
from skipjack.core.forking import ForkLock
from skipjack.core.trace import debug, dump
from skipjack.kernels.digest import sources_digest
from skipjack.kernels.launch import KernelSpec, trace
from skipjack.targets.target import Target

_SYMBOL = "kernel"


@dataclass(frozen=True)
class Code:
    """A kernel in this process."""

    address: int
    scratch_bytes: int
    library: Library


_loaded: dict[tuple[Target, KernelSpec], Code] = {}
_lock = ForkLock()


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
        folder = cache_directory() if missing else None
        from_disk = 0
        to_compile: list[KernelSpec] = []
        for spec in missing:
            code = None if folder is None else _read(folder, spec, target)
            if code is None:
                to_compile.append(spec)
            else:
                _loaded[target, spec] = code
                from_disk += 1
        if to_compile:
            _compile(to_compile, target, folder)
        return Loaded({s: _loaded[target, s] for s in wanted}, len(to_compile), from_disk)


def _key(spec: KernelSpec, target: Target) -> str:
    parts = (
        sources_digest(),
        llvmlite.__version__,
        llvm.llvm_version_info,
        target.triple,
        target.cpu,
        target.feature_string,
        repr(spec),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _read(folder: Path, spec: KernelSpec, target: Target) -> Code | None:
    found = read_object(folder, _key(spec, target))
    return None if found is None else _link(found.code, found.scratch_bytes)


def _link(code: bytes, scratch_bytes: int) -> Code:
    library = Library(code, [_SYMBOL])
    return Code(library.address(_SYMBOL), scratch_bytes, library)


def _compile(specs: list[KernelSpec], target: Target, folder: Path | None) -> None:
    jobs: list[CompileJob] = []
    scratch: dict[KernelSpec, int] = {}
    for spec in specs:
        program = trace(spec, target, _SYMBOL)
        scratch[spec] = program.scratch_bytes
        source = lower([program])
        dump(f"kernel-{spec.generator}", source, "ll")
        jobs.append(CompileJob(f"{spec.generator}{spec.params}", source))
    debug(2, f"compiling {len(jobs)} kernels")
    made: list[ObjectFile] = []
    for spec, code in zip(specs, compile_in_children(jobs, target), strict=True):
        _loaded[target, spec] = _link(code, scratch[spec])
        made.append(ObjectFile(_key(spec, target), spec.generator, scratch[spec], code))
    if folder is not None:
        write_objects(folder, made)
