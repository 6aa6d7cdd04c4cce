"""Straight-line code for very small sparse layers, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id

import skipjack.kernels.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.ir.types import TensorType
from skipjack.kernels.launch import Lowering, Site, lowerings
from skipjack.lang.expr import arg, cast, maximum
from skipjack.targets.target import Target, host

BAKED: Lowering = next(way for way in lowerings(SKIPJACK, "Linear") if way.name == "baked_linear")
F32 = DType.F32


def sparse(rng: np.random.Generator, depth: int, rows: int, density: float) -> np.ndarray:
    return (rng.standard_normal((depth, rows)) * (rng.random((depth, rows)) < density)).astype(np.float32)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize(
    ("positions", "depth", "rows", "density"),
    [(1, 1, 1, 1.0), (16, 5, 7, 0.5), (63, 33, 29, 0.2), (64, 64, 64, 0.1), (65, 40, 31, 0.0), (130, 7, 58, 1.0)],
)
def test_agrees_with_numpy(positions: int, depth: int, rows: int, density: float, target: Target) -> None:
    rng = np.random.default_rng(positions + rows)
    x = rng.standard_normal((positions, depth)).astype(np.float32)
    w = sparse(rng, depth, rows, density)
    bias, residual = (
        rng.standard_normal(rows).astype(np.float32),
        rng.standard_normal((positions, rows)).astype(np.float32),
    )
    expr = maximum(arg(0, F32) + arg(1, F32), 0.0) + arg(2, F32)
    node = Node("Linear", ("x", "w", "b", "r"), ("y",), {"epilogue": expr}, SKIPJACK)
    want = np.maximum(x.astype(np.float64) @ w + bias, 0) + residual
    runs = [
        run_lowering(
            BAKED, node, [x, w, bias, residual], [(F32, want.shape)], constants=[1, 2], target=target, threads=n
        )[0]
        for n in (1, 3)
    ]
    assert np.abs(runs[0] - want).max() <= 1e-5 * max(np.abs(want).max(), 1)
    assert np.array_equal(runs[0], runs[1])


def test_packs_rows_of_bytes_into_words() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 9, (70, 12)).astype(np.float32), np.abs(np.rint(sparse(rng, 12, 10, 0.4)))
    node = Node("Linear", ("x", "w"), ("y",), {"epilogue": cast(arg(0, F32), DType.U8)}, SKIPJACK)
    got = run_lowering(BAKED, node, [x, w], [(DType.U8, (70, 10))], constants=[1], target=host())[0]
    assert np.array_equal(got, (x @ w).astype(np.uint8))


def test_refuses_what_would_not_pay() -> None:
    w = np.ones((64, 64), np.float32)
    x, y = TensorType(F32, (8, 64)), TensorType(F32, (8, 64))
    site = Site(Node("Linear", ("x", "w"), ("y",), {}, SKIPJACK), [x, x], [y], [None, w], host())
    assert "more than 2000" in BAKED.accepts(site)
