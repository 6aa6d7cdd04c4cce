"""Elementwise lowerings against their references: broadcasting, element types, blocked images."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.compare import TARGETS, check, make_node, pick, random
from tests.kernels.harness import GuardedMemory, execute, to_blocked

import skipjack.kernels.copy
import skipjack.kernels.pointwise  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import PLAIN, Layout
from skipjack.kernels.launch import Bound, Work
from skipjack.lang.expr import arg, maximum

F32 = DType.F32
SHAPES = [
    ((), ()),
    ((1,), (1,)),
    ((0, 3), (1, 3)),
    ((15,), (15,)),
    ((17,), (1,)),
    ((3, 33), (33,)),
    ((3, 33), (3, 1)),
    ((2, 1, 5), (1, 4, 1)),
    ((2, 3, 1, 5, 1, 3), (3, 4, 1, 2, 3)),
    ((2, 1, 2, 1, 2, 1, 2, 1, 2, 1), (1, 2, 1, 2, 1, 2, 1, 2, 1, 2)),
    ((70, 300), (70, 300)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_addition_broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check("Add", [random(a), random(b, seed=1)])


@pytest.mark.parametrize(
    "dtype",
    [d for d in DType if d.value in ["f16", "bf16", "f64", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"]],
)
def test_element_types(dtype: DType) -> None:
    check("Add", [random((5, 37), dtype), random((37,), dtype, 1)])
    check("Less", [random((5, 37), dtype), random((5, 1), dtype, 1)])


def test_optional_and_mixed_inputs() -> None:
    x = random((4, 19))
    check("Clip", [x, None, np.float32(0.5)])
    check("Clip", [x, np.float32(-0.5), None])
    check("Where", [x > 0, x, random((19,), seed=3)])
    check("Cast", [x], {"to": DType.I64.onnx})
    check("Cast", [random((3, 40), DType.BOOL)], {"to": DType.F16.onnx})
    check("Not", [random((77,), DType.BOOL)])


def test_functions() -> None:
    x = random((9, 100))
    check("Gelu", [x], rtol=1e-5, atol=1e-6)
    check("Erf", [x], rtol=1e-5, atol=1e-6)
    check("Sigmoid", [x.astype(np.float16)], rtol=1e-3)


BLOCKED = [
    ((2, 16, 3, 5), (2, 16, 3, 5)),
    ((2, 19, 3, 5), (2, 19, 3, 5)),
    ((2, 19, 3, 5), (2, 19, 1, 1)),
    ((1, 3, 7, 7), (1, 1, 7, 7)),
    ((2, 1, 4, 4), (2, 33, 4, 4)),
    ((2, 8, 4), (2, 8, 4)),
    ((2, 20, 4, 4), ()),
]


@pytest.mark.parametrize(("a", "b"), BLOCKED)
@pytest.mark.parametrize("op", ["Add", "Div"])
def test_blocked_images(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check(op, [random(a), random(b, seed=1)], layouts="blocked")


@pytest.mark.parametrize("shape", [(19, 1, 1), (1, 19, 1, 1), (19, 3, 5), (3, 5), (5,), (1,), ()])
def test_blocked_images_with_constants(shape: tuple[int, ...]) -> None:
    check("Mul", [random((2, 19, 3, 5)), random(shape, seed=1)], layouts="blocked", constants=[1])
    check("Add", [random((2, 19, 3, 5)), random(shape, seed=1)], layouts="blocked", constants=[1])


def test_channels_that_only_pad_stay_zero() -> None:
    x = random((1, 5, 3, 2))
    for op, inputs, known in (
        ("Exp", [x], ()),
        ("Add", [x, random((1, 1, 3, 2))], ()),
        ("Add", [x, random((1,))], (1,)),
    ):
        node = make_node(op, inputs)
        for target in TARGETS:
            memory, block = GuardedMemory(), Layout("blocked", target.vl)
            bound: list[Bound] = []
            for i, (n, v) in enumerate(zip(node.inputs, inputs)):
                constant = i in known
                place = memory.put(v if constant else to_blocked(v, target.vl))
                bound.append(Bound(n, F32, v.shape, place, PLAIN if constant else block, v if constant else None))
            out = Bound("out", F32, x.shape, memory.reserve(target.vl * 6 * 4), block)
            work = Work(node, bound, [out], memory, target)
            execute(pick(node, layouts="blocked").lower(work), memory, target)
            got = memory.read(out.place, np.dtype(np.float32), (1, 1, 3, 2, target.vl))
            assert (got[..., 5:] == 0).all()


def test_fused_expression() -> None:
    e = maximum(arg(0, F32) * arg(1, F32) + arg(2, F32), 0.0)
    check("Pointwise", [random((4, 50)), random((50,)), random((4, 1))], {"expr": e}, domain=SKIPJACK, rtol=1e-6)


def test_copies() -> None:
    check("Identity", [random((3, 41))])
    check("Identity", [random((7,), DType.U8)])
    check("Reshape", [random((3, 40), DType.BF16), np.array([4, 30])])
    check("Identity", [random((2, 19, 3, 3))], layouts="blocked")
