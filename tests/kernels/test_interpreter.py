"""The interpreter is the meaning of kernels: compiled code gives the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.harness import executes, run_lowering, target_id

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.kernels.gemm import GEMM
from skipjack.lang import interpreter
from skipjack.lang.kernel import Kernel
from skipjack.lang.program import I64, PTR
from skipjack.targets.target import AVX2, AVX512, host


@pytest.mark.parametrize("target", [AVX2, AVX512], ids=target_id)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 33), (15, 20, 16)], ids=str)
def test_a_product_has_the_same_bits_compiled_and_interpreted(target, shape):
    if not executes(target):
        pytest.skip(f"this machine lacks {target.name}: nothing compiled to compare with")
    rows, inner, columns = shape
    rng = np.random.default_rng(7)
    x = rng.standard_normal((rows, inner)).astype(np.float32)
    w = rng.standard_normal((inner, columns)).astype(np.float32)
    node = Node("Linear", ("x", "w"), ("y",), {}, SKIPJACK)
    outs = [
        run_lowering(GEMM, node, [x, w], [(DType.F32, (rows, columns))], constants=[1], target=target, interpret=i)[0]
        for i in (False, True)
    ]
    np.testing.assert_array_equal(outs[0], outs[1])


def test_a_budget_ends_an_endless_program():
    k = Kernel("endless", [("x", PTR), ("n", I64)])
    with k.while_(lambda: k.i64(1).eq(1)):
        k.arg.x.at(0)
    block = np.zeros(2, np.int64)
    with pytest.raises(interpreter.BudgetSpent):
        interpreter.run(k.finish(), block.ctypes.data, 0, 1, 0, budget=10_000)


def test_the_host_is_among_the_targets_that_execute():
    assert executes(host())
