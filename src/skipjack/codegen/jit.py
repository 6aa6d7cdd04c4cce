"""Object code into this process: link it and keep it alive as long as somebody holds its addresses."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import llvmlite.binding as llvm

from skipjack.codegen.compile_object import compile_text, initialise, target_machine
from skipjack.codegen.lower import lower
from skipjack.lang.program import Program
from skipjack.targets.target import Target

_names = itertools.count()
_jit: dict[str, llvm.LLJIT] = {}


class Library:
    """Linked code. `address(symbol)` is valid while this object lives."""

    def __init__(self, code: bytes, symbols: Iterable[str]) -> None:
        initialise()
        if "host" not in _jit:
            machine = target_machine(llvm.get_process_triple(), llvm.get_host_cpu_name(), "")
            _jit["host"] = llvm.create_lljit_compiler(machine)
        builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        names = list(symbols)
        for name in names:
            builder.export_symbol(name)
        self._tracker = builder.link(_jit["host"], f"skipjack{next(_names)}")
        self._addresses = {name: int(self._tracker[name]) for name in names}

    def address(self, symbol: str) -> int:
        return self._addresses[symbol]


def compile_here(programs: list[Program], target: Target) -> Library:
    """Compile in this process: for tests and tools; an LLVM fatal error would end the process."""
    code = compile_text(lower(programs), target.triple, target.cpu, target.feature_string)
    return Library(code, [p.name for p in programs])
