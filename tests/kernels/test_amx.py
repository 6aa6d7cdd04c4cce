"""Linear layers on matrix tiles: the kernel interpreter runs them where the machine has no tiles."""

from __future__ import annotations

from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
from harness import run_lowering

from skipjack.codegen.compile_object import assembly
from skipjack.codegen.lower import lower
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.ir.types import tensor
from skipjack.kernels.amx_conv import AMX_CONV
from skipjack.kernels.amx_linear import AMX_DENSE, AMX_DENSE_TO_ROWS, AMX_SKIPPING, AMX_SKIPPING_TO_ROWS
from skipjack.kernels.amx_products import live_tiles, weight_tiles
from skipjack.kernels.launch import Bound, Launch, Lowering, Plainly, Site, Work, trace
from skipjack.lang import interpreter
from skipjack.lang.expr import Expr, arg, binary, cast, evaluate, unary
from skipjack.lang.kernel import Kernel
from skipjack.lang.program import PTR
from skipjack.lang.tiles import DOT_BF16, DOT_S8_S8, DOT_S8_U8, Tiles
from skipjack.ops.contraction import conv
from skipjack.targets.target import AMX, AVX512_VNNI, Target

WAYS = pytest.mark.parametrize(
    "way",
    [AMX_DENSE, AMX_SKIPPING, AMX_DENSE_TO_ROWS, AMX_SKIPPING_TO_ROWS],
    ids=lambda w: f"{w.name} {w.layouts}",
)
F, I, U = DType.F32, DType.I32, DType.U8
SUM = cast(arg(0, I) + arg(1, I), F) * arg(2, F)
CODES = cast(binary("max", binary("min", unary("round", SUM), 255.0), 0.0), U)
PLUS = SUM + cast(arg(3, U), F)


def exact_sums(x: np.ndarray, w: np.ndarray, options: dict) -> np.ndarray:
    """The convolution of x, padded with pad_code, in integers."""
    rank = x.ndim - 2
    pads = options.get("pads", (0,) * (2 * rank))
    around = [(0, 0), (0, 0), *((pads[i], pads[i + rank]) for i in range(rank))]
    full = np.pad(x.astype(np.float64), around, constant_values=options.get("pad_code", 0))
    strides, dilations = (options.get(n, (1,) * rank) for n in ("strides", "dilations"))
    return conv(full, w.astype(np.float64), strides, (0,) * (2 * rank), dilations, 1).astype(np.int32)


def run(way: Lowering, inputs: list[np.ndarray], out: DType, epilogue: Expr | None, threads: int = 1) -> np.ndarray:
    attrs = MappingProxyType({} if epilogue is None else {"epilogue": epilogue})
    node = Node("Linear", tuple(f"i{n}" for n in range(len(inputs))), ("y",), attrs, SKIPJACK)
    shape = (*inputs[0].shape[:-1], inputs[1].shape[1])
    return run_lowering(way, node, inputs, [(out, shape)], constants=[1], target=AMX, threads=threads)[0]


def codes(positions: int, depth: int, rows: int, seed: int = 0) -> list[np.ndarray]:
    """x, w with whole tiles of zeros, an offset and a scale per row, codes of the output's shape."""
    r = np.random.default_rng([seed, positions, depth, rows])
    w = r.integers(-127, 128, (depth, rows), np.int8)
    w[:, 16:32] = 0
    w[64:128] = 0
    x = r.integers(0, 256, (positions, depth), np.uint8)
    offsets, scales = r.integers(-999, 999, rows, np.int32), r.random(rows, np.float32) / 300
    return [x, w, offsets, scales, r.integers(0, 256, (positions, rows), np.uint8)]


@WAYS
@pytest.mark.parametrize(
    ("positions", "depth", "rows"), [(1, 1, 1), (64, 64, 32), (3, 65, 33), (65, 63, 5), (16, 600, 16), (2, 3, 50)]
)
def test_sums_of_codes_are_exact(way: Lowering, positions: int, depth: int, rows: int) -> None:
    x, w, offsets, scales, residual = codes(positions, depth, rows)
    exact = x.astype(np.int32) @ w.astype(np.int32)
    np.testing.assert_array_equal(run(way, [x, w, offsets], I, arg(0, I) + arg(1, I)), exact + offsets)
    wanted = evaluate(CODES, [exact, offsets, scales])
    np.testing.assert_array_equal(run(way, [x, w, offsets, scales], U, CODES), wanted)
    found = run(way, [x, w, offsets, scales, residual], F, PLUS)
    np.testing.assert_allclose(found, evaluate(PLUS, [exact, offsets, scales, residual]), rtol=1e-6, atol=1e-4)


@WAYS
def test_signed_codes_and_threads(way: Lowering) -> None:
    x, w, *_ = codes(130, 70, 20)
    signed = x.view(np.int8)
    exact = signed.astype(np.int32) @ w.astype(np.int32)
    for threads in (1, 3):
        np.testing.assert_array_equal(run(way, [signed, w], I, arg(0, I), threads), exact)


@WAYS
@pytest.mark.parametrize(("positions", "depth", "rows"), [(1, 2, 1), (5, 33, 17), (65, 31, 3), (16, 300, 16)])
def test_products_of_bf16(way: Lowering, positions: int, depth: int, rows: int) -> None:
    r = np.random.default_rng([positions, depth, rows])
    x = r.standard_normal((positions, depth)).astype(ml_dtypes.bfloat16)
    w = r.standard_normal((depth, rows)).astype(ml_dtypes.bfloat16)
    w[32:64] = 0
    found = run(way, [x, w], F, arg(0, F))
    exact = x.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6 * depth)


def test_tiles_of_zeros_are_left_out() -> None:
    _, w, *_ = codes(1, 256, 64)
    assert weight_tiles(w, 1).shape == (4, 4, 16, 64)
    assert live_tiles(w) == 9
    site = _site(w)
    assert AMX_DENSE.accepts(site) == AMX_SKIPPING.accepts(site) == ""
    costs = [_cost(way, w) for way in (AMX_DENSE, AMX_SKIPPING)]
    assert costs[1] < costs[0]
    w[:] = 1
    dense = w.copy()
    assert _cost(AMX_SKIPPING, dense) > _cost(AMX_DENSE, dense)


def _site(w: np.ndarray, target=AMX) -> Site:
    node = Node("Linear", ("x", "w"), ("y",), MappingProxyType({"epilogue": arg(0, I)}), SKIPJACK)
    types = [tensor(U, 8, w.shape[0]), tensor(DType.I8, *w.shape)]
    return Site(node, types, [tensor(I, 8, w.shape[1])], [None, w], target)


def _work(w: np.ndarray) -> Work:
    memory = Plainly()
    x, y = np.zeros((64, w.shape[0]), np.uint8), np.zeros((64, w.shape[1]), np.int32)
    bound = [Bound("x", U, x.shape, memory.hold(x)), Bound("w", DType.I8, w.shape, memory.hold(w), value=w)]
    node = Node("Linear", ("x", "w"), ("y",), MappingProxyType({"epilogue": arg(0, I)}), SKIPJACK)
    return Work(node, bound, [Bound("y", I, y.shape, memory.hold(y))], memory, AMX)


def _cost(way: Lowering, w: np.ndarray) -> float:
    assert way.cost is not None
    return way.cost(_work(w))


def test_other_targets_have_no_tiles() -> None:
    w = np.ones((4, 4), np.int8)
    assert "no tile products" in AMX_DENSE.accepts(_site(w, AVX512_VNNI))
    assert "not a constant" in AMX_DENSE.accepts(_site(w.astype(np.int16)))


def _compiled(launch: Launch) -> list[str]:
    """The names of the instructions of its kernel."""
    text = assembly(lower([trace(launch.spec, AMX, "kernel")]), AMX.triple, AMX.cpu, AMX.feature_string)
    return [line.split()[0] for line in text.splitlines() if line.startswith("\t") and not line.startswith("\t.")]


def _is_paired(names: list[str]) -> bool:
    one_each = names.count("ldtilecfg") == names.count("tilerelease") == 1
    return one_each and names.index("ldtilecfg") < names.index("tdpbsud") < names.index("tilerelease")


@WAYS
def test_compiled_code_configures_and_releases_tiles(way: Lowering) -> None:
    names = _compiled(way.lower(_work(np.ones((100, 40), np.int8)))[0])
    assert _is_paired(names)
    assert names.count("tdpbsud") == 4


@pytest.mark.parametrize("name", [DOT_S8_S8, DOT_S8_U8, DOT_BF16])
def test_the_meaning_of_a_tile_product(name: str) -> None:
    r = np.random.default_rng(1)
    a, b = (r.integers(0, 256, (16, 64), np.uint8) for _ in range(2))
    if name == DOT_BF16:
        a, b = (r.standard_normal((16, 32)).astype(ml_dtypes.bfloat16) for _ in range(2))
    c = np.arange(256, dtype=np.float32 if name == DOT_BF16 else np.int32).reshape(16, 16)
    right = b.reshape(16, 16, -1).transpose(0, 2, 1).reshape(-1, 16)
    left, right = (a, right) if name == DOT_BF16 else (a.view(np.int8), right)
    right = right.view(np.int8) if name == DOT_S8_S8 else right
    wanted = c + left.astype(np.float64) @ right.astype(np.float64)
    k = Kernel("one", [("a", PTR), ("b", PTR), ("c", PTR)])
    tiles = Tiles(k)
    with tiles.configured():
        for tile, p in ((0, k.arg.a), (1, k.arg.b), (2, k.arg.c)):
            tiles.load(tile, p, 64)
        tiles.dot(name, 2, 0, 1)
        tiles.store(2, k.arg.c, 64)
    block = np.array([x.ctypes.data for x in (a, b, c)], np.int64)
    interpreter.run(k.finish(), block.ctypes.data, 0, 1, 0)
    np.testing.assert_allclose(c, wanted, rtol=1e-5)


def test_tiles_that_are_not_configured_or_not_released() -> None:
    k = Kernel("forgot", [("a", PTR)])
    Tiles(k).zero(0)
    block = np.zeros(1, np.int64)
    with pytest.raises(AssertionError, match="before the tiles were configured"):
        interpreter.run(k.finish(), block.ctypes.data, 0, 1, 0)
    k = Kernel("kept", [("a", PTR)])
    with Tiles(k).configured():
        pass
    program = k.finish()
    program.body = [s for s in program.body if getattr(s, "attr", None) != ("tilerelease",)]
    with pytest.raises(AssertionError, match="without releasing"):
        interpreter.run(program, block.ctypes.data, 0, 1, 0)


CONVS = [
    ((1, 4, 3, 3), 4, (1, 1), {}),
    ((2, 5, 4, 7), 18, (3, 3), {"pads": (1, 1, 1, 1), "pad_code": 77}),
    ((1, 8, 9, 9), 33, (1, 1), {"strides": (2, 2)}),
    ((1, 3, 9, 12), 6, (3, 2), {"strides": (2, 1), "pads": (0, 1, 2, 0), "dilations": (2, 3), "pad_code": 255}),
    ((1, 70, 16, 8), 3, (1, 1), {}),
    ((1, 9, 20), 8, (5,), {"pads": (2, 2)}),
]


@pytest.mark.parametrize("out", [I, U, F])
@pytest.mark.parametrize(("shape", "maps", "kernel", "options"), CONVS)
def test_convolutions_of_codes_are_exact(shape, maps: int, kernel, options, out: DType) -> None:
    r = np.random.default_rng([*shape, maps])
    x = r.integers(0, 256, shape, np.uint8)
    w = r.integers(-127, 128, (maps, shape[1], *kernel), np.int8)
    sums = exact_sums(x, w, options)
    offsets, scales = r.integers(-999, 999, maps, np.int32), r.random(maps, np.float32) / 300
    residual = r.integers(0, 256, sums.shape, np.uint8)
    expr = {I: arg(0, I) + arg(1, I), U: CODES, F: PLUS}[out]
    extras = [offsets, scales, residual][: {I: 1, U: 2, F: 3}[out]]
    tail = (-1, *[1] * len(kernel))
    wanted = evaluate(expr, [sums, *(e.reshape(tail) if e.ndim == 1 else e for e in extras)])
    inputs = [x, w, *extras]
    node = Node("Conv", tuple(f"i{n}" for n in range(len(inputs))), ("y",), {**options, "epilogue": expr}, SKIPJACK)
    for threads in (1, 3):
        found = run_lowering(AMX_CONV, node, inputs, [(out, sums.shape)], constants=[1], target=AMX, threads=threads)[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-6 if out is F else 0, atol=1e-4 if out is F else 0)


def test_convolutions_that_tiles_cannot_do() -> None:
    def reason(w: np.ndarray, target: Target, **attrs: int) -> str:
        node = Node("Conv", ("x", "w"), ("y",), {"epilogue": arg(0, I), **attrs}, SKIPJACK)
        types = [tensor(U, 1, 8, 5, 5), tensor(DType.from_numpy(w.dtype), *w.shape)]
        return AMX_CONV.accepts(Site(node, types, [tensor(I, 1, 8, 5, 5)], [None, w], target))

    w = np.ones((8, 8, 1, 1), np.int8)
    assert reason(w, AMX) == ""
    assert "no tile products" in reason(w, AVX512_VNNI)
    assert "wider than a byte" in reason(w.astype(np.int16), AMX)
    assert "more than one group" in reason(w[:, :4], AMX, group=2)


def test_compiled_convolutions() -> None:
    memory = Plainly()
    x, w = np.zeros((1, 8, 9, 9), np.uint8), np.ones((8, 8, 3, 3), np.int8)
    bound = [Bound("x", U, x.shape, memory.hold(x)), Bound("w", DType.I8, w.shape, memory.hold(w), value=w)]
    out = Bound("y", I, (1, 8, 7, 7), memory.hold(np.zeros((1, 8, 7, 7), np.int32)))
    work = Work(Node("Conv", ("x", "w"), ("y",), {"epilogue": arg(0, I)}, SKIPJACK), bound, [out], memory, AMX)
    assert _is_paired(_compiled(AMX_CONV.lower(work)[0]))
    assert AMX_CONV.cost is not None
    assert AMX_CONV.cost(work) > 0
