"""LLVM text to object code. Runs in a child process: LLVM aborts the process on some errors.

Run as `python -m skipjack.codegen.compile_object`: reads one request per line of JSON on stdin
({"source": path, "object": path, "triple", "cpu", "features"}), writes the object, answers "ok" or "error: ..." per line.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import llvmlite.binding as llvm

_ready = False


def initialise() -> None:
    """Make LLVM's own targets usable; safe to call again."""
    global _ready
    if not _ready:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        llvm.initialize_native_asmparser()
        _ready = True


def target_machine(triple: str, cpu: str, features: str) -> llvm.TargetMachine:
    """The LLVM machine that code for a target is made with."""
    initialise()
    native = triple == llvm.get_process_triple()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu,
        features=features,
        opt=2,
        reloc="pic",
        codemodel="jitdefault" if native else "default",
    )


def optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Variables become registers, addresses are simplified; loops keep the shape their generator gave them."""
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_unrolling = options.loop_interleaving = False
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.run(module, llvm.create_pass_builder(machine, options))


def compile_text(source: str, triple: str, cpu: str, features: str) -> bytes:
    """The object code of an LLVM module given as text."""
    machine = target_machine(triple, cpu, features)
    module = llvm.parse_assembly(source)
    module.triple = triple
    optimise(module, machine)
    return machine.emit_object(module)


def assembly(source: str, triple: str, cpu: str, features: str) -> str:
    """The assembly text of an LLVM module, for people and tests."""
    machine = target_machine(triple, cpu, features)
    module = llvm.parse_assembly(source)
    module.triple = triple
    optimise(module, machine)
    return machine.emit_assembly(module)


def _answer(line: str) -> str:
    try:
        request = json.loads(line)
        source = Path(request["source"]).read_text()
        code = compile_text(source, request["triple"], request["cpu"], request["features"])
        target = Path(request["object"])
        part = target.with_suffix(f".part{os.getpid()}")
        part.write_bytes(code)
        os.replace(part, target)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        return "error: " + " ".join(str(error).split())
    return "ok"


def main() -> None:
    """Serve requests until stdin closes."""
    for line in sys.stdin:
        print(_answer(line), flush=True)


if __name__ == "__main__":
    main()
