"""Column tiles: values brought into them and back, and norms computed down them."""

from __future__ import annotations

import numpy as np
import pytest
from harness import TARGETS, GuardedMemory, arranged, execute, restored, run_lowering, target_id
from tests.kernels.compare import check, make_node, pick, random, site_of

import skipjack.kernels.column_norms  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.ir.types import PLAIN, Layout
from skipjack.kernels.column_reorder import REORDER
from skipjack.kernels.kinds import columns
from skipjack.kernels.launch import Bound, Work
from skipjack.targets.target import Target

POSITIONS = [(1,), (2, 7), (63,), (64,), (65,), (3, 50)]
FEATURES = [1, 3, 15, 16, 18, 64, 203]


def reordered(x: np.ndarray, source: Layout, to: Layout, target: Target, threads: int = 1) -> np.ndarray:
    """The memory of x after it was moved from one layout into another."""
    memory, dtype = GuardedMemory(), DType.from_numpy(x.dtype)
    given = Bound("x", dtype, x.shape, memory.put(arranged(x, source)), source)
    made = Bound("y", dtype, x.shape, memory.reserve(to.elements(x.shape) * dtype.itemsize), to)
    node = Node("Reorder", ("x",), ("y",), {"to": str(to)}, SKIPJACK)
    execute(REORDER.lower(Work(node, [given], [made], memory, target)), memory, target, threads)
    return memory.read(made.place, dtype.np, (to.elements(x.shape),))


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.U8], ids=lambda d: d.value)
@pytest.mark.parametrize("positions", POSITIONS)
def test_reorder_both_ways(positions: tuple[int, ...], dtype: DType, target: Target) -> None:
    tiles = columns(dtype)
    for features in FEATURES:
        x = np.random.default_rng(features).integers(0, 255, (*positions, features)).astype(dtype.np)
        raw = reordered(x, PLAIN, tiles, target)
        np.testing.assert_array_equal(restored(raw, tiles, x.shape), x)
        words = raw.reshape(-1, -(-features // tiles.pack), tiles.block, tiles.pack)
        valid = (np.prod(positions) - 1) % tiles.block + 1
        padding = words[-1, -1, :valid].reshape(valid, tiles.pack)[:, (features - 1) % tiles.pack + 1 :]
        assert not padding.astype(np.float64).any()
        for threads in (1, 2):
            np.testing.assert_array_equal(reordered(x, tiles, PLAIN, target, threads).reshape(x.shape), x)


@pytest.mark.parametrize("shape", [(0, 5), (4, 0)])
def test_reorder_of_nothing(shape: tuple[int, int]) -> None:
    x = np.zeros(shape, np.float32)
    assert reordered(x, PLAIN, columns(DType.F32), TARGETS[-1]).size == columns(DType.F32).elements(shape)


@pytest.mark.parametrize("features", [1, 2, 5, 8, 203])
@pytest.mark.parametrize("positions", [(1,), (3, 5), (64,), (130,)])
def test_norms(positions: tuple[int, ...], features: int) -> None:
    x, scale, bias = random((*positions, features)) * 3 + 1, random((features,), seed=1), random((features,), seed=2)
    for attrs in ({}, {"axis": -1, "epsilon": 0.1}):
        for inputs in ([x, scale, bias], [x, scale]):
            check("LayerNormalization", inputs, attrs, layouts="columns", rtol=1e-5, atol=1e-5)
        check("RMSNormalization", [x, scale], attrs, layouts="columns", rtol=1e-5, atol=1e-5)
    check("LayerNormalization", [x + 1000, scale, bias], {}, layouts="columns", rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
def test_norms_of_a_position_depend_on_nothing_else(target: Target) -> None:
    x, scale = random((130, 50)), random((50,), seed=1)
    node = make_node("LayerNormalization", [x, scale])
    entry = pick(node, layouts="columns")
    whole = run_lowering(entry, node, [x, scale], [(DType.F32, x.shape)], constants=[1], target=target)[0]
    for p in (0, 17, 129):
        alone = run_lowering(entry, node, [x[p : p + 1], scale], [(DType.F32, (1, 50))], constants=[1], target=target)
        np.testing.assert_array_equal(alone[0][0], whole[p])


@pytest.mark.parametrize(
    "shapes, attrs",
    [(((4, 6), (6,)), {"axis": 0}), (((4, 6), (1, 6)), {}), (((6,), (6,)), {}), (((4, 6), (1,)), {})],
)
def test_norms_over_something_else_are_refused(shapes: tuple[tuple[int, ...], ...], attrs: dict[str, int]) -> None:
    inputs = [np.ones(s, np.float32) for s in shapes]
    node = make_node("LayerNormalization", inputs, attrs=attrs)
    assert pick(node, layouts="columns").accepts(site_of(node, inputs, inputs[:1], (), TARGETS[0]))
