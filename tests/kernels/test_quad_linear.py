"""Integer linear layers in column tiles: exact sums on awkward sizes and targets, epilogues, sparsity, threads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.kernels.compare import close, make_node, site_of
from tests.kernels.harness import TARGETS, run_lowering, target_id

import skipjack.kernels.quad_dense
import skipjack.kernels.quad_scattered
import skipjack.kernels.quad_sparse  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.launch import Lowering, lowerings
from skipjack.kernels.quad_pack import Cut, pack_dense, pack_fours, pack_scattered, panel_starts, term_count, terms_of
from skipjack.lang.expr import Expr, arg, cast, maximum, minimum, unary
from skipjack.ops.execute import run_node
from skipjack.targets.target import AVX2, AVX512_VNNI, Target

F32, U8, I8, I32 = DType.F32, DType.U8, DType.I8, DType.I32
ALL = (*TARGETS, AVX512_VNNI)
NAMES = ("linear_quads", "linear_fours", "linear_scattered")
SUMS = arg(0, I32)
REAL = cast(SUMS + arg(1, I32), F32) * arg(2, F32) + arg(3, F32)
SIZES = [
    (1, 1, 1),
    (3, 5, 4),
    (4, 4, 16),
    (7, 13, 17),
    (64, 12, 63),
    (65, 11, 64),
    (9, 6, 128),
    (20, 9, 193),
    (130, 25, 65),
    (260, 40, 130),
]


def codes(x: Expr, zero: float, dtype: DType = U8) -> Expr:
    low, high = (0.0, 255.0) if dtype is U8 else (-128.0, 127.0)
    return cast(minimum(maximum(unary("round", x) + zero, low), high), dtype)


def weights(k: int, m: int, kept: float, dtype: type = np.int8, seed: int = 0) -> np.ndarray:
    """Whole range of the type, extremes included, with that share of fours of inputs not all zero."""
    rng = np.random.default_rng(seed)
    low, high = (-128, 127) if dtype is np.int8 else (-255, 255)
    w = rng.integers(low, high + 1, (k, m)).astype(dtype)
    w[rng.random((k, m)) < 0.2] = low
    w[rng.random((k, m)) < 0.2] = high
    fours = np.repeat(rng.random((-(-k // 4), m)) < kept, 4, axis=0)[:k]
    return (w * fours).astype(dtype)


def numbers(p: int, k: int) -> np.ndarray:
    rng = np.random.default_rng(p + k)
    x = rng.integers(0, 256, (p, k), np.uint8)
    x[rng.random((p, k)) < 0.2] = 255
    return x


def vectors(m: int) -> list[np.ndarray]:
    rng = np.random.default_rng(m)
    bias = rng.integers(-3000, 3000, m).astype(np.int32)
    return [bias, (rng.random(m) * 1e-3).astype(np.float32), rng.standard_normal(m).astype(np.float32)]


def compare(
    name: str, inputs: Sequence[np.ndarray], expr: Expr, target: Target, constants: Sequence[int], **tolerance: Any
) -> None:
    """Outputs equal the reference and do not depend on the number of threads or the layout of the output."""
    node = make_node("Linear", inputs, attrs={"epilogue": expr}, domain=SKIPJACK)
    (want,) = run_node(node, list(inputs))
    first = b""
    for layouts, threads in (("columns", 1), ("columns", 3), ("columns>plain", 2)):
        entry = way(name, layouts)
        assert not entry.accepts(site_of(node, inputs, [want], constants, target))
        (got,) = run_lowering(
            entry, node, inputs, [(expr.dtype, want.shape)], constants=constants, target=target, threads=threads
        )
        message = f"{name} {layouts} on {target.name}"
        close(got, want, tolerance.get("rtol", 0.0), tolerance.get("atol", 0.0), message)
        assert not first or first == got.tobytes(), message
        first = got.tobytes()


def way(name: str, layouts: str) -> Lowering:
    return next(e for e in lowerings(SKIPJACK, "Linear") if e.name == name and e.layouts == layouts)


@pytest.mark.parametrize("target", ALL, ids=target_id)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("k", "m", "p"), SIZES)
def test_sums_are_exact(k: int, m: int, p: int, name: str, target: Target) -> None:
    compare(name, [numbers(p, k), weights(k, m, 0.6)], SUMS, target, (1,))


@pytest.mark.parametrize("target", ALL, ids=target_id)
@pytest.mark.parametrize("name", NAMES)
def test_weights_of_nine_bits(name: str, target: Target) -> None:
    for k, m, p in ((5, 3, 7), (66, 13, 70)):
        w = weights(k, m, 0.7, np.int16)
        w[0, 0], w[-1, -1] = 255, -255
        compare(name, [numbers(p, k), w], SUMS, target, (1,))


@pytest.mark.parametrize("kept", [0.0, 0.05, 1.0])
def test_deep_layers_in_blocks_of_inputs(kept: float) -> None:
    for target in (AVX2, AVX512_VNNI):
        w = weights(1700, 20, kept)
        w[:, 4:9] = 0
        for name in NAMES:
            compare(name, [numbers(70, 1700), w], SUMS, target, (1,))


@pytest.mark.parametrize("target", ALL, ids=target_id)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("m", "p"), [(16, 64), (13, 75), (1, 3)])
def test_epilogues(m: int, p: int, name: str, target: Target) -> None:
    k = 24
    rng = np.random.default_rng(m)
    given, constants = [numbers(p, k), weights(k, m, 0.5), *vectors(m)], (1, 2, 3, 4)
    residual = rng.standard_normal((p, m)).astype(np.float32)
    byte = rng.integers(0, 256, (p, m), np.uint8)
    scalar = np.array([0.3], np.float32)
    close_to = {"rtol": 1e-5, "atol": 1e-6}
    compare(name, given, REAL, target, constants, **close_to)
    compare(name, given, cast(REAL, DType.F16), target, constants, rtol=1e-3, atol=1e-3)
    compare(name, given, codes(REAL, 3.0), target, constants, atol=1)
    compare(name, given, codes(REAL * 9.0, -3.0, I8), target, constants, atol=1)
    compare(name, [*given, residual], REAL + arg(4, F32), target, constants, **close_to)
    compare(name, [*given, byte, scalar], REAL + cast(arg(4, U8), F32) * arg(5, F32), target, constants, **close_to)
    compare(name, [*given, byte], codes(maximum(REAL, 0.0) + cast(arg(4, U8), F32), 1.0), target, constants, atol=1)


def test_terms_add_up_to_weights_of_nine_bits() -> None:
    w = np.arange(-255, 256, dtype=np.int16).reshape(7, 73)
    for part in (w, np.minimum(w, 254), np.maximum(w, 0), np.clip(w, -128, 127), np.zeros_like(w)):
        terms = terms_of(part)
        assert len(terms) == term_count(part)
        assert np.array_equal(np.sum([t.astype(np.int16) for t in terms], axis=0), part)


def test_dense_words() -> None:
    w = weights(10, 7, 1.0)
    words = pack_dense(w, 4)
    assert words.shape == (2, 1, 3, 4)
    back = words.view(np.int8).reshape(2, 3, 4, 4).transpose(1, 3, 0, 2).reshape(12, 8)
    assert (back[:10, :7] == w).all()
    assert not back[10:].any()
    assert not back[:, 7:].any()


def test_panels_share_the_work() -> None:
    work = np.ones(48)
    work[:4] = 50
    starts = panel_starts(work, Cut(4, 96, 8)).tolist()
    assert starts[0] == 0
    assert starts[-1] == 192
    assert starts == sorted(starts)
    assert max(b - a for a, b in itertools.pairwise(starts)) <= 96
    assert starts[1] <= 8


def test_fours_hold_the_matrix() -> None:
    w = weights(37, 10, 0.4)
    cut = Cut(3, 8, 4)
    packed = pack_fours(w, cut)
    head = packed[: 8 * 6].view(np.int64)
    starts, blocks = head[2:], 3
    ends = packed[head[0] : head[1]].view(np.int32)
    back = np.zeros((12, 40), np.int32)
    for p, (first, last) in enumerate(itertools.pairwise(starts)):
        table = ends[blocks * first + p :]
        for n in range(blocks * (last - first)):
            block, row = divmod(n, last - first)
            for e in range(head[1] + table[n], head[1] + table[n + 1], 5):
                at = 4 * (block * cut.block + packed[e + 4])
                back[first + row, at : at + 4] += packed[e : e + 4].view(np.int8)
    assert (back[:10, :37] == w.T).all()
    assert not back[10:].any()


def test_scattered_entries_hold_the_matrix() -> None:
    w = weights(37, 10, 0.4)
    w[np.random.default_rng(1).random(w.shape) < 0.5] = 0
    cut = Cut(2, 8, 4)
    packed = pack_scattered(w, cut)
    head = packed[: 8 * 5].view(np.int64)
    starts, blocks = head[2:], 3
    ends = packed[head[0] : head[1]].view(np.int32)
    back = np.zeros((12, 48), np.int32)
    for p, (first, last) in enumerate(itertools.pairwise(starts)):
        table = ends[blocks * first + p :]
        for n in range(blocks * (last - first)):
            block, row = divmod(n, last - first)
            for e in range(head[1] + table[n], head[1] + table[n + 1], 12):
                inputs, values = packed[e : e + 8].view(np.uint16), packed[e + 8 : e + 12].view(np.int8)
                np.add.at(back[first + row], 4 * cut.block * block + inputs, values)
    assert (back[:10, :37] == w.T).all()
    assert not back[10:].any()


def test_refuses_signed_inputs_and_running_weights() -> None:
    x, w = numbers(4, 8), weights(8, 4, 1.0)
    node = make_node("Linear", [x, w], attrs={"epilogue": SUMS}, domain=SKIPJACK)
    out = np.zeros((4, 4), np.int32)
    for name in NAMES:
        entry = way(name, "columns")
        assert "constant" in entry.accepts(site_of(node, [x, w], [out], (), AVX2))
        assert "unsigned" in entry.accepts(site_of(node, [x.view(np.int8), w], [out], (1,), AVX2))
