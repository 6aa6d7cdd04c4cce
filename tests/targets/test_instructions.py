"""Every registered instruction does on the machine what its numpy meaning says."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from skipjack.codegen.jit import compile_here
from skipjack.lang import interpreter
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import PTR, Program, Ty
from skipjack.targets.instructions import INSTRUCTIONS, Instruction, meanings
from skipjack.targets.target import host, host_features

_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def _operand(p: V, ty: Ty) -> V:
    """A mask lies in memory as an integer, one bit per lane."""
    return p.load(Ty(f"i{ty.lanes}")).bitcast(ty) if ty.elt == "i1" else p.load(ty)


def _program(instruction: Instruction) -> Program:
    fields = [(f"x{i}", PTR) for i in range(len(instruction.operands))]
    k = Kernel("one", [*fields, ("y", PTR)], 8 * instruction.result.nbytes)
    operands = [_operand(getattr(k.arg, n), ty) for (n, _), ty in zip(fields, instruction.operands, strict=True)]
    k.arg.y.store(k.intrinsic(instruction.name, instruction.result, *operands))
    return k.finish()


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda i: i.name)
def test_an_instruction_means_what_numpy_says(instruction: Instruction) -> None:
    if instruction.feature not in host_features():
        pytest.skip(f"this machine lacks {instruction.feature}")
    program = _program(instruction)
    library = compile_here([program], host())
    call = _CALL(library.address("one"))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        operands = [rng.integers(0, 256, ty.nbytes, np.uint8) for ty in instruction.operands]
        results = [np.zeros(instruction.result.nbytes, np.uint8) for _ in range(2)]
        blocks = [np.array([x.ctypes.data for x in (*operands, y)], np.int64) for y in results]
        call(blocks[0].ctypes.data, 0, 1, 0)
        interpreter.run(program, blocks[1].ctypes.data, 0, 1, 0, meanings())
        np.testing.assert_array_equal(results[0], results[1], err_msg=f"seed {seed}")
