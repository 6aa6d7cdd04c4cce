"""Elementwise operators in column tiles against references: element types, vectors per feature, padding, codes."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kernels.compare import TARGETS, check, make_node, pick, random, site_of
from tests.kernels.harness import GuardedMemory, execute, target_id, to_columns

import skipjack.kernels.column_quantise  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.ir.types import PLAIN
from skipjack.kernels.kinds import columns
from skipjack.kernels.launch import Bound, Work
from skipjack.lang.expr import Expr, arg, cast, maximum, minimum, unary
from skipjack.targets.target import AVX512, Target

F32, U8, I8, I32 = DType.F32, DType.U8, DType.I8, DType.I32
SHAPES = [(1, 1), (3, 2), (15, 4), (16, 5), (1, 17, 7), (63, 64), (64, 65), (2, 40, 130), (2, 2, 33, 19)]


def requantised(x: Expr, scale: Expr, zero: int, dtype: DType = U8) -> Expr:
    low, high = (0, 255) if dtype is U8 else (-128, 127)
    return cast(minimum(maximum(unary("round", x / scale) + float(zero), float(low)), float(high)), dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_matrices_vectors_and_numbers(shape: tuple[int, ...]) -> None:
    x, y, v = random(shape), random(shape, seed=1), random(shape[-1:], seed=2)
    check("Add", [x, y], layouts="columns")
    check("Mul", [x, v], layouts="columns", constants=(1,))
    check("Sub", [v, x], layouts="columns")
    check("Div", [x, np.array([3.0], np.float32)], layouts="columns")
    check("Clip", [x, None, np.float32(0.5)], layouts="columns", constants=(2,))


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, I8, U8, DType.I16, I32, DType.U16])
def test_element_types(dtype: DType) -> None:
    check("Add", [random((70, 37), dtype), random((37,), dtype, 1)], layouts="columns")
    check("Cast", [random((70, 37), dtype)], {"to": F32.onnx}, layouts="columns")
    check("Cast", [random((70, 37))], {"to": DType.F16.onnx}, layouts="columns")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layouts", ["columns", "plain>columns"])
def test_codes_of_numbers(shape: tuple[int, ...], layouts: str) -> None:
    x, scale = random(shape) * 40, np.float32(0.25)
    for dtype in (U8, I8):
        expr = requantised(arg(0, F32), arg(1, F32), 3, dtype)
        check("Pointwise", [x, scale], {"expr": expr}, domain=SKIPJACK, layouts=layouts)
        steps = random(shape[-1:], seed=1) ** 2 + np.float32(0.1)
        check("Pointwise", [x, steps], {"expr": expr}, domain=SKIPJACK, layouts=layouts, constants=(1,))
    check("QuantizeLinear", [x, scale, np.uint8(9)], layouts=layouts, constants=(1, 2))
    check("QuantizeLinear", [x, steps, np.zeros(shape[-1:], np.int8)], {"axis": -1}, layouts=layouts, constants=(1, 2))


@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_of_codes(shape: tuple[int, ...]) -> None:
    x = random(shape, U8)
    check("DequantizeLinear", [x, np.float32(0.5), np.uint8(7)], layouts="columns", constants=(1, 2))
    sum_ = cast(arg(0, U8), F32) * 0.5 + arg(1, F32) * cast(cast(arg(2, I8), I32), F32)
    check("Pointwise", [x, random(shape), random(shape, I8)], {"expr": sum_}, domain=SKIPJACK, layouts="columns")
    more = cast(minimum(cast(arg(0, U8), I32) + 9, 255), U8)
    check("Pointwise", [x], {"expr": more}, domain=SKIPJACK, layouts="columns")


@pytest.mark.parametrize("layouts", ["columns", "plain>columns"])
@pytest.mark.parametrize("target", TARGETS, ids=target_id)
def test_padding_of_features_is_zero(layouts: str, target: Target) -> None:
    shape = (70, 61)
    x = random(shape)
    node = make_node("Pointwise", [x], attrs={"expr": cast(arg(0, F32) * 0.0 + 5.0, U8)}, domain=SKIPJACK)
    memory = GuardedMemory()
    lay = columns(F32) if layouts == "columns" else PLAIN
    given = Bound("x", F32, shape, memory.put(to_columns(x, lay) if layouts == "columns" else x), lay)
    size = columns(U8).elements(shape)
    made = Bound("y", U8, shape, memory.reserve(size), columns(U8))
    execute(pick(node, layouts=layouts).lower(Work(node, [given], [made], memory, target)), memory, target)
    raw = memory.read(made.place, np.dtype(np.uint8), (2, 16, 64, 4))
    assert (raw[0, 15, :, 0] == 5).all()
    assert not raw[0, 15, :, 1:].any()
    assert (raw[:, :15, :6] == 5).all()


def test_refuses_what_columns_cannot_hold() -> None:
    x = random((5, 6))

    def reason(op: str, inputs: list[np.ndarray], result: np.ndarray) -> str:
        node = make_node(op, inputs)
        return pick(node, layouts="columns").accepts(site_of(node, inputs, [result], (), AVX512))

    assert "shape" in reason("Add", [x, random((5, 1))], x)
    assert "bool" in reason("Less", [x, x], x < 0)
    assert "i64" in reason("Cast", [x.astype(np.int64)], x)
    assert "matrix" in reason("Neg", [x[0]], x[0])
