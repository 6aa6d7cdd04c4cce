"""Object code into this process: link it and keep it alive as long as somebody holds its addresses."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable

import llvmlite.binding as llvm

from skipjack.codegen.compile_object import compile_text, initialise, target_machine
from skipjack.codegen.lower import lower
from skipjack.lang.program import Program
from skipjack.targets.target import Target

_names = itertools.count()
_jit: dict[str, llvm.LLJIT] = {}
_linking = threading.Lock()

# LLVM's own locks must be free when the process is copied.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_linking.acquire, after_in_parent=_linking.release, after_in_child=_linking.release)


class Library:
    """Linked code. `address(symbol)` is valid while this object lives."""

    def __init__(self, code: bytes, symbols: Iterable[str]) -> None:
        names = list(symbols)
        with _linking:
            self._tracker = _link(code, names)
            self._addresses = {name: int(self._tracker[name]) for name in names}

    def address(self, symbol: str) -> int:
        return self._addresses[symbol]


def _link(code: bytes, names: list[str]) -> llvm.ResourceTracker:
    initialise()
    if "host" not in _jit:
        machine = target_machine(llvm.get_process_triple(), llvm.get_host_cpu_name(), "")
        _jit["host"] = llvm.create_lljit_compiler(machine)
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name in names:
        builder.export_symbol(name)
    return builder.link(_jit["host"], f"skipjack{next(_names)}")


def compile_here(programs: list[Program], target: Target) -> Library:
    """Compile in this process: for tests and tools; an LLVM fatal error would end the process."""
    code = compile_text(lower(programs), target.triple, target.cpu, target.feature_string)
    return Library(code, [p.name for p in programs])
