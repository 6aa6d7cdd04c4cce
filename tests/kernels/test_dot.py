"""Products of bytes on every target: exact in the interpreter and on the machine, clean code for ARM."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from harness import executes

from skipjack.codegen.compile_object import assembly
from skipjack.codegen.jit import compile_here
from skipjack.codegen.lower import lower
from skipjack.kernels.dot import broadcast4, dot4
from skipjack.lang import interpreter
from skipjack.lang.kernel import Kernel
from skipjack.lang.program import I32, I64, PTR, Program
from skipjack.targets.instructions import meanings
from skipjack.targets.target import AVX2, AVX512, AVX512_VNNI, NEON, NEON_DOTPROD, NEON_I8MM, Target

_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
EVERY = (AVX2, AVX512, AVX512_VNNI, NEON, NEON_DOTPROD, NEON_I8MM)
ROWS, VECTORS = 4, 4


def _block(target: Target) -> Program:
    """y[r][t] += x[t] . w[r] over `count` fours, for 4 rows and 4 vectors."""
    k = Kernel("block", [("x", PTR), ("w", PTR), ("y", PTR), ("count", I64)], 8 * target.vector_bytes)
    ty = I32.vec(target.vl)
    totals = [[k.var(k.zero(ty)) for _ in range(VECTORS)] for _ in range(ROWS)]
    with k.loop(k.arg.count) as i:
        xs = [k.arg.x.at(i * (VECTORS * ty.nbytes)).at(t * ty.nbytes).load(ty) for t in range(VECTORS)]
        for r in range(ROWS):
            w = broadcast4(k.arg.w.at(i * (4 * ROWS)).at(4 * r), target.vl)
            for t in range(VECTORS):
                totals[r][t].set(dot4(k, target, totals[r][t].get(), xs[t], w))
    for r in range(ROWS):
        for t in range(VECTORS):
            k.arg.y.at((r * VECTORS + t) * ty.nbytes).store(totals[r][t])
    return k.finish()


@pytest.mark.parametrize("target", EVERY, ids=lambda t: t.name)
def test_sums_of_products_are_exact(target: Target) -> None:
    r = np.random.default_rng(3)
    count, positions = 5, VECTORS * target.vl
    x = r.integers(0, 256, (count, positions, 4), np.uint8)
    w = r.integers(-128, 128, (count, ROWS, 4), np.int8)
    x[0], w[0] = 255, -128
    x[1], w[1] = 255, 127
    wanted = np.einsum("kpb,krb->rp", x.astype(np.int32), w.astype(np.int32))
    y = np.zeros((ROWS, positions), np.int32)
    block = np.array([x.ctypes.data, w.ctypes.data, y.ctypes.data, count], np.int64)
    interpreter.run(_block(target), block.ctypes.data, 0, 1, 0, meanings())
    np.testing.assert_array_equal(y, wanted)
    if executes(target):
        y[:] = 0
        library = compile_here([_block(target)], target)
        _CALL(library.address("block"))(block.ctypes.data, 0, 1, 0)
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize(("target", "name"), [(NEON_DOTPROD, "sdot"), (NEON_I8MM, "usdot")])
def test_arm_code_multiplies_bytes_in_registers(target: Target, name: str) -> None:
    text = assembly(lower([_block(target)]), target.triple, target.cpu, target.feature_string)
    loop = [line for line in _innermost(text) if line.strip()]
    names = [line.split()[0] for line in loop]
    # Four rows by four vectors, and one product per row for the shift where bytes are signed.
    assert names.count(name) == ROWS * VECTORS + (ROWS if name == "sdot" else 0)
    assert not [line for line in loop if "sp" in line.replace(",", " ").replace("[", " ").replace("]", " ").split()]


def _innermost(text: str) -> list[str]:
    """The lines of the only loop."""
    lines = text.splitlines()
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":") and not line.startswith("\t")}
    ends = [
        (i, line.split()[-1]) for i, line in enumerate(lines) if line.split()[:1] and line.split()[0].startswith("b.")
    ]
    end, label = next((i, to) for i, to in ends if labels.get(to, i) < i)
    return lines[labels[label] + 1 : end]


def test_targets_of_arm_differ_in_their_instructions() -> None:
    assert NEON.features < NEON_DOTPROD.features < NEON_I8MM.features
