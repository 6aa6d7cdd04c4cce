"""LLVM text to object code. Runs in a child process: LLVM aborts the process on some errors.

Run as `python -m skipjack.codegen.compile_object`: reads requests on stdin, each a line of JSON ({"triple", "cpu",
"features", "bytes"}) and so many bytes of LLVM text; answers on stdout with a line that starts with ANSWER and goes on
in JSON: {"error"}, or {"bytes"} and so many bytes of object code.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO

import llvmlite.binding as llvm

ANSWER = b"skipjack-answer "
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


def _answer(line: bytes, requests: IO[bytes]) -> tuple[dict[str, str | int], bytes]:
    try:
        request = json.loads(line)
        source = requests.read(request["bytes"]).decode()
        code = compile_text(source, request["triple"], request["cpu"], request["features"])
    except (RuntimeError, ValueError, KeyError) as error:
        return {"error": " ".join(str(error).split())}, b""
    return {"bytes": len(code)}, code


def main() -> None:
    """Serve requests until stdin closes. Whatever else prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        facts, code = _answer(line, sys.stdin.buffer)
        answers.write(ANSWER + json.dumps(facts).encode() + b"\n" + code)
        answers.flush()


if __name__ == "__main__":
    main()
