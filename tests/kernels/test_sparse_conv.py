"""Sparse convolutions of plain images against numpy: windows, awkward sizes, densities, epilogues, cuts of the work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from harness import TARGETS, run_lowering, target_id

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.kernels import sparse_conv as module
from skipjack.kernels.conv_shape import WindowShape
from skipjack.kernels.launch import Bound, Lowering, Plainly, Work, lowerings
from skipjack.kernels.sparse_conv_pack import BAND, DIRECT, TILE, Geometry, choose, pointwise_row
from skipjack.lang.expr import Expr, arg, maximum, minimum, sigmoid
from skipjack.targets.target import AVX512, Target

_F = DType.F32
SPARSE: Lowering = next(e for e in lowerings(SKIPJACK, "Conv") if e.name == "sparse_conv")


def reference(x, w, strides, pads, dilations) -> np.ndarray:
    """In doubles, tap by tap."""
    sh, sw = strides
    dh, dw = dilations
    kh, kw = w.shape[2:]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    oh = (padded.shape[2] - (kh - 1) * dh - 1) // sh + 1
    ow = (padded.shape[3] - (kw - 1) * dw - 1) // sw + 1
    y = np.zeros((x.shape[0], w.shape[0], oh, ow))
    for i in range(kh):
        for j in range(kw):
            seen = padded[:, :, i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
            y += np.einsum("mc,nchw->nmhw", w[:, :, i, j].astype(np.float64), seen)
    return y


def weights(rng, shape, density) -> np.ndarray:
    return (rng.standard_normal(shape) * (rng.random(shape) < density)).astype(np.float32)


def conv_node(strides, pads, dilations, epilogue: Expr | None = None) -> Node:
    attrs = {"strides": strides, "pads": pads, "dilations": dilations, "group": 1}
    return Node("Conv", ("x", "w"), ("y",), attrs | ({"epilogue": epilogue} if epilogue else {}), SKIPJACK)


def run(x, w, node: Node, shape, target: Target, extras=(), threads: int = 1) -> np.ndarray:
    return run_lowering(SPARSE, node, [x, w, *extras], [(_F, shape)], constants=(1,), target=target, threads=threads)[0]


def check(shape, maps, kernel, strides, pads, dilations, density, target, threads=1) -> None:
    rng = np.random.default_rng(maps + sum(shape))
    x, w = rng.standard_normal(shape, np.float32), weights(rng, (maps, shape[1], *kernel), density)
    expected = reference(x, w, strides, pads, dilations)
    y = run(x, w, conv_node(strides, pads, dilations), expected.shape, target, threads=threads)
    np.testing.assert_allclose(
        y, expected, rtol=0, atol=2e-6 * max(np.abs(expected).max(initial=1), 1), err_msg=f"{shape} {maps}"
    )


POINTWISE = [
    ((1, 1, 1, 1), 1),
    ((2, 17, 7, 7), 19),
    ((1, 3, 8, 8), 5),
    ((1, 33, 3, 5), 1),
    ((2, 130, 9, 7), 6),
    ((1, 4, 16, 16), 7),
    ((1, 600, 5, 13), 3),
    ((0, 3, 4, 4), 2),
]


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize(("shape", "maps"), POINTWISE, ids=str)
def test_pointwise(shape, maps, target):
    check(shape, maps, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 0.3, target)


WINDOWS = [
    ((2, 5, 9, 13), 7, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((1, 70, 14, 14), 6, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((1, 3, 17, 33), 4, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((1, 3, 12, 12), 4, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1)),
    ((1, 2, 19, 20), 3, (5, 4), (3, 2), (2, 1, 0, 3), (2, 1)),
    ((1, 2, 18, 40), 3, (3, 5), (1, 3), (4, 2, 1, 7), (1, 2)),
    ((1, 9, 15, 14), 5, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((1, 2, 6, 6), 3, (1, 1), (1, 1), (2, 1, 1, 2), (1, 1)),
    ((1, 2, 4, 300), 3, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((1, 2, 7, 3), 3, (7, 1), (1, 1), (3, 0, 3, 0), (1, 1)),
    ((1, 2, 3, 3), 2, (3, 3), (1, 1), (3, 3, 3, 3), (1, 1)),
    ((1, 1, 30, 30), 2, (2, 29), (1, 1), (0, 3, 0, 0), (1, 1)),
]


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_windows(case, target):
    check(*case, 0.4, target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_densities(density, target):
    check((1, 40, 6, 6), 9, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), density, target)
    check((1, 20, 6, 6), 9, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), density, target)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize(("kernel", "maps"), [(1, 12), (3, 6), (3, 24)])
def test_groups(kernel, maps, target):
    rng = np.random.default_rng(8)
    x, w = rng.standard_normal((2, 12, 9, 10), np.float32), weights(rng, (maps, 4, kernel, kernel), 0.6)
    pads = (kernel // 2,) * 4
    parts = [
        reference(x[:, 4 * g : 4 * g + 4], w[g * maps // 3 : (g + 1) * maps // 3], (1, 1), pads, (1, 1))
        for g in range(3)
    ]
    attrs = {"strides": (1, 1), "pads": pads, "dilations": (1, 1), "group": 3}
    y = run(x, w, Node("Conv", ("x", "w"), ("y",), attrs, SKIPJACK), (2, maps, 9, 10), target)
    np.testing.assert_allclose(y, np.concatenate(parts, axis=1), rtol=0, atol=2e-5)


def test_one_spatial_axis():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 6, 45), np.float32), weights(rng, (5, 6, 3), 0.5)
    node = Node("Conv", ("x", "w"), ("y",), {"strides": (2,), "pads": (1, 1), "dilations": (1,)}, SKIPJACK)
    (y,) = run_lowering(SPARSE, node, [x, w], [(_F, (2, 5, 23))], constants=(1,))
    expected = reference(x[:, :, None], w[:, :, None], (1, 2), (0, 1, 0, 1), (1, 1))[:, :, 0]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("long", [False, True], ids=["relu6", "silu"])
def test_epilogue_with_bias_and_residual(kernel, long, target):
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((2, 21, 9, 11), np.float32), weights(rng, (7, 21, kernel, kernel), 0.3)
    pads = (kernel // 2,) * 4
    conv = reference(x, w, (1, 1), pads, (1, 1))
    bias, residual = rng.standard_normal(7, np.float32), rng.standard_normal(conv.shape, np.float32)
    e = arg(0, _F) + arg(1, _F)
    total = conv + bias[:, None, None]
    if long:
        e, expected = e * sigmoid(e) + arg(2, _F), total / (1 + np.exp(-total)) + residual
    else:
        e, expected = minimum(maximum(e + arg(2, _F), 0.0), 6.0), np.clip(total + residual, 0, 6)
    y = run(x, w, conv_node((1, 1), pads, (1, 1), e), conv.shape, target, (bias, residual))
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-5)


def test_input_may_hold_infinities_where_no_weight_reads():
    x = np.full((1, 2, 4, 4), np.inf, np.float32)
    x[:, 1] = 2.0
    w = np.zeros((3, 2, 1, 1), np.float32)
    w[:, 1] = 0.5
    w[0, 0] = -0.0
    y = run(x, w, conv_node((1, 1), (0,) * 4, (1, 1)), (1, 3, 4, 4), TARGETS[0])
    assert np.array_equal(y, np.ones((1, 3, 4, 4), np.float32))


def test_bits_depend_neither_on_threads_nor_batch_nor_cut(monkeypatch):
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((3, 90, 13, 13), np.float32), weights(rng, (40, 90, 3, 3), 0.2)
    node, shape = conv_node((1, 1), (1,) * 4, (1, 1)), (3, 40, 13, 13)
    whole = run(x, w, node, shape, AVX512)
    assert np.array_equal(run(x, w, node, shape, AVX512, threads=4), whole)
    assert np.array_equal(run(x[1:2], w, node, (1, *shape[1:]), AVX512), whole[1:2])
    for geometry in cuts(WindowShape(1, 90, 40, 1, (1, 3, 3), *((1, 1, 1),) * 2, (0, 1, 1), *((1, 13, 13),) * 2)):
        monkeypatch.setattr(module, "choose", lambda *_, g=geometry: (g, 0.0))
        assert np.array_equal(run(x, w, node, shape, AVX512), whole), geometry


def cuts(s: WindowShape) -> list[Geometry]:
    shapes = [(16, 3, 1, 2, 1, 90), (8, 2, 1, 1, 1, 11), (8, 2, 1, 3, 2, 90), (8, 7, 2, 1, 1, 7)]
    return [Geometry(BAND, *numbers, s) for numbers in shapes]


@pytest.mark.parametrize("target", TARGETS, ids=target_id)
@pytest.mark.parametrize("source", [DIRECT, TILE])
@pytest.mark.parametrize("cut", [(1, 1, 1), (2, 2, 5), (5, 1, 64), (1, 3, 64)], ids=str)
def test_every_way_to_read_pointwise_inputs(source, cut, target, monkeypatch):
    vectors, across, block = cut
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((2, 64, 7, 9), np.float32), weights(rng, (12, 64, 1, 1), 0.3)
    flat = (1, 1, 63)
    s = WindowShape(1, 64, 12, 1, *((1, 1, 1),) * 3, (0, 0, 0), flat, flat)
    monkeypatch.setattr(module, "choose", lambda *_: (Geometry(source, 8, 1, vectors, 1, across, block, s), 0.0))
    y = run(x, w, conv_node((1, 1), (0,) * 4, (1, 1)), (2, 12, 7, 9), target)
    np.testing.assert_allclose(y, reference(x, w, (1, 1), (0,) * 4, (1, 1)), rtol=0, atol=2e-5)


def bound_work(w: np.ndarray, threads: int) -> Work:
    memory = Plainly()
    x, y = np.zeros((1, w.shape[1], 14, 14), np.float32), np.zeros((1, w.shape[0], 14, 14), np.float32)
    values = [
        Bound(n, _F, a.shape, memory.hold(a), value=v) for n, a, v in (("x", x, None), ("w", w, w), ("y", y, None))
    ]
    return Work(conv_node((1, 1), (0,) * 4, (1, 1)), values[:2], values[2:], memory, AVX512, threads)


def test_units_grow_with_threads_and_cost_with_density():
    rng = np.random.default_rng(1)
    dense, sparse = (weights(rng, (256, 128, 1, 1), d) for d in (1.0, 0.1))
    (alone,), (shared,) = (SPARSE.lower(bound_work(sparse, n)) for n in (1, 8))
    assert shared.units >= 32 > alone.units
    assert SPARSE.cost is not None
    assert SPARSE.cost(bound_work(dense, 1)) > 5 * SPARSE.cost(bound_work(sparse, 1))


def test_uneven_rows_are_shared_by_their_entries():
    w = np.zeros((256, 128, 1, 1), np.float32)
    w[:16] = 1.0
    work = bound_work(w, 8)
    (launch,) = SPARSE.lower(work)
    firsts = launch.words[2]
    assert isinstance(work.memory, Plainly)
    table = np.frombuffer(work.memory.arrays[firsts.buffer].tobytes(), np.int64, 17, firsts.offset_bytes)
    assert table[0] == 0
    assert 0 < table[table > 0][0] < 16


def test_a_tile_never_spans_registers():
    for size in (1, 7, 14, 20, 40, 56, 112):
        for target in TARGETS:
            s = WindowShape(1, 64, 64, 1, (1, 3, 3), *((1, 1, 1),) * 2, (0, 1, 1), *((1, size, size),) * 2)
            for shape in (s, pointwise_row(replace(s, kernel=(1, 1, 1), before=(0, 0, 0)))):
                g, cycles = choose(shape, 0.2, target)
                assert g.rows * g.vectors < target.registers
                assert cycles > 0
