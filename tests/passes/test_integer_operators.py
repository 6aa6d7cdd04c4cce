"""Operators on codes: taken apart they give the bits of their definitions; moves of numbers become moves of codes."""

from __future__ import annotations

import numpy as np
import pytest

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Graph
from skipjack.passes.pipeline import run
from tests.passes.building import assert_same, graph_of, ops
from tests.passes.test_integer_contractions import CODES, codes, feeds, float_weights, scale, zero

ODD = {"xs": scale(0.0131), "ws": scale(0.0072, 0.011, 0.0093, 0.0105), "ys": scale(0.127), "w1": scale(0.0077)}


def same(graph: Graph) -> Graph:
    """The graph after all passes, checked to give the very same bits."""
    after = run(graph)
    assert_same(graph, after, feeds(graph), tol=0)
    return after


@pytest.mark.parametrize("x", CODES)
@pytest.mark.parametrize("w", CODES)
@pytest.mark.parametrize("ws", ["ws", "w1"])
@pytest.mark.parametrize(
    ("body", "form"),
    [
        ("y = QLinearConv<pads = [1, 0, 0, 1], strides = [2, 1]>(x, xs, xz, k, WS, kz, ys, yz)", "*Conv"),
        ("y = QLinearConv<pads = [1, 1, 1, 1]>(x, xs, xz, k, WS, kz, ys, yz, c)", "*Conv"),
        ("y = QLinearConv<group = 2>(x, xs, xz, kg, WS, kz, ys, yz, c)", "*Conv"),
        ("y = QLinearMatMul(x, xs, xz, m, WS, kz, ys, yz)", "*Linear"),
    ],
)
def test_layers_of_codes_round_as_they_are_defined(body: str, form: str, x: str, w: str, ws: str) -> None:
    graph = graph_of(
        f"({x}[b, 4, 5, 4] x) => ({x}[b, i, j, l] y) {{ {body.replace('WS', ws)} }}",
        k=codes(w, 4, 4, 3, 3), kg=codes(w, 4, 2, 3, 3), m=codes(w, 4, 4), c=np.array([900, -3000, 0, 77], np.int32),
        xz=zero(x, 17), kz=zero(w, 5), yz=zero(x, 100), **ODD,
    )  # fmt: skip
    after = same(graph)
    assert [o for o in ops(after) if o != "*Pointwise"] == [form]
    assert len(after.nodes) <= 3
    assert not float_weights(after)


GEMM = {
    "y = com.microsoft.QGemm(x, xs, xz, k, ws, kz, c, ys, yz)": "uint8",
    "y = com.microsoft.QGemm<alpha = 0.7>(x, xs, xz, k, w1, kz, c2, ys, yz)": "uint8",
    "y = com.microsoft.QGemm<transB = 1>(x, xs, xz, k, ws, kz)": "float",
}


@pytest.mark.parametrize("body", GEMM)
def test_gemm_of_codes(body: str) -> None:
    graph = graph_of(
        f"(uint8[b, 4] x) => ({GEMM[body]}[b, 4] y) {{ {body} }}",
        k=codes("int8", 4, 4), c=np.array([900, -3000, 0, 77], np.int32), c2=np.array([[900, -3000, 0, 77]], np.int32),
        xz=zero("uint8", 17), kz=zero("int8", 0), yz=zero("uint8", 100), **ODD,
    )  # fmt: skip
    assert ops(same(graph)) == ["*Linear"]


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize(
    ("body", "form"),
    [
        ("y = com.microsoft.QLinearAdd(x, xs, xz, x, w1, yz, ys, yz)", []),
        ("y = com.microsoft.QLinearMul(x, xs, xz, k, w1, yz, ys, yz)", []),
        ("y = com.microsoft.QLinearSigmoid(x, xs, xz, w1, xz)", []),
        ("y = com.microsoft.QLinearLeakyRelu<alpha = 0.3>(x, xs, xz, w1, yz)", []),
        ("y = com.microsoft.QLinearConcat<axis = 1>(ys, yz, x, xs, xz, x, w1, yz)", ["Concat"]),
        ("y = com.microsoft.QLinearGlobalAveragePool(x, xs, xz, w1, yz)", ["GlobalAveragePool"]),
        ("y = com.microsoft.QLinearSoftmax<axis = -1, opset = 13>(x, xs, xz, w1, yz)", ["Softmax"]),
        (
            """y = com.microsoft.QLinearAveragePool<kernel_shape = [2, 3], pads = [1, 0, 0, 1], strides = [2, 1]>(
                x, xs, xz, w1, yz)""",
            ["AveragePool"],
        ),
    ],
)
def test_other_operators_on_codes(body: str, form: list[str], dtype: str) -> None:
    graph = graph_of(
        f"({dtype}[b, 4, 5, 4] x) => ({dtype}[i, j, l, m] y) {{ {body} }}",
        k=codes(dtype, 4, 1, 1), xz=zero(dtype, 17), yz=zero(dtype, 100), **ODD,
    )  # fmt: skip
    assert [o for o in ops(same(graph)) if o != "*Pointwise"] == form


PER_TENSOR = {"s": scale(0.0131), "z": zero("uint8", 17), "t": scale(0.02), "u": zero("uint8", 3)}
MOVES = {
    "Reshape(r, shape)": ["Reshape"],
    "Transpose<perm = [0, 2, 3, 1]>(r)": ["Transpose"],
    "MaxPool<kernel_shape = [2, 2], pads = [1, 1, 0, 0]>(r)": ["MaxPool"],
    "Pad(r, pads)": ["Pad"],
    "Concat<axis = 1>(r, r)": ["Concat"],
    "Slice(r, one, two, one)": ["Slice"],
    "Gather<axis = 2>(r, two)": ["Gather"],
    'Resize<mode = "nearest">(r, , scales)': ["Resize"],
    "Squeeze(r, none)": ["Squeeze"],
}
CONSTANTS = {
    "shape": np.array([-1, 8, 2, 5], np.int64), "pads": np.array([0, 0, 1, 1, 0, 0, 0, 2], np.int64),
    "one": np.array([1], np.int64), "two": np.array([3], np.int64), "none": np.array([], np.int64),
    "scales": np.array([1, 1, 2, 2], np.float32),
}  # fmt: skip


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("again", ["s, z", "t, u"])
def test_moves_are_moves_of_codes(move: str, again: str) -> None:
    """Between equal parameters nothing but the move is left, between others one step from code to code."""
    graph = graph_of(
        f"""(uint8[2, 4, 5, 4] x) => (uint8[i, j, l, m] y) {{
            r = DequantizeLinear(x, s, z) n = {move} y = QuantizeLinear(n, {again})
        }}""".replace("[i, j, l, m]", "[i, j, l, m]" if "none" not in move else "[2, 4, 5, 4]"),
        **PER_TENSOR, **CONSTANTS,
    )  # fmt: skip
    after = same(graph)
    kept = [o for o in ops(after) if o not in ("*Pointwise", "Identity")]
    assert kept == (MOVES[move] if "Squeeze" not in move else kept)
    assert all(after.types[n.outputs[0]].dtype is DType.U8 for n in after.nodes)  # type: ignore[union-attr]
    if again == "s, z":
        assert "*Pointwise" not in ops(after)


def test_different_scales_meet_in_a_concatenation() -> None:
    graph = graph_of(
        """(uint8[2, 4] x, uint8[2, 3] e) => (uint8[2, 7] y) {
            a = DequantizeLinear(x, s, z) b = DequantizeLinear(e, t, u) n = Concat<axis = 1>(a, b)
            y = QuantizeLinear(n, s, z)
        }""",
        **PER_TENSOR,
    )
    assert ops(same(graph)) == ["*Pointwise", "Concat"]


def test_pools_of_pools_quantise_once() -> None:
    """As spatial pyramids do: the input is quantised once, everything behind it are codes."""
    pool = "MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
    graph = graph_of(
        f"""(float[2, 4, 5, 5] x) => (uint8[2, c, 5, 5] y) {{
            v = Relu(x) a = {pool}(v) b = {pool}(a) c = {pool}(b) n = Concat<axis = 1>(v, a, b, c)
            y = QuantizeLinear(n, s, z)
        }}""",
        **PER_TENSOR,
    )
    assert ops(same(graph)) == ["*Pointwise", "MaxPool", "MaxPool", "MaxPool", "Concat"]


def test_a_fake_quantisation_stays() -> None:
    graph = graph_of(
        """(float[2, 4] x) => (float[2, 4] y) {
            q = QuantizeLinear(x, s, z) r = DequantizeLinear(q, s, z) y = Softmax(r)
        }""",
        **PER_TENSOR,
    )
    assert ops(same(graph)) == ["*Pointwise", "Softmax"]


def test_a_transposed_weight_is_still_a_weight() -> None:
    graph = graph_of(
        """(uint8[b, 3, 4] x) => (float[b, 3, 5] y) {
            r = DequantizeLinear(x, p, z) w = DequantizeLinear<axis = 0>(k, ws, kz) t = Transpose<perm = [1, 0]>(w)
            y = MatMul(r, t)
        }""",
        p=scale(0.5), z=zero("uint8", 7), k=codes("int8", 5, 4), ws=scale(1, 2, 0.5, 0.25, 4), kz=np.zeros(5, np.int8),
    )  # fmt: skip
    assert ops(same(graph)) == ["*Linear"]


BITS = [("int4", 32, True), ("uint4", 16, True), ("uint4", 16, False), ("int8", 32, True), ("uint8", 0, True)]


@pytest.mark.parametrize(("dtype", "block", "zeros"), BITS)
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_alone_in_codes_are_packed(dtype: str, block: int, zeros: bool, transposed: bool) -> None:
    k, n = 40, 6
    kind = DType(("i" if dtype[0] == "i" else "u") + dtype[-1])
    rng = np.random.default_rng(0)
    low = -(1 << (int(dtype[-1]) - 1)) if dtype[0] == "i" else 0
    values = rng.integers(low, low + (1 << int(dtype[-1])), (k, n))
    shape = (-(-k // block), n) if block else (n,)
    points = rng.integers(low, low + 8, shape)
    scales = rng.uniform(0.1, 1, shape).astype(np.float32)
    axis = 0 if block else 1
    if transposed:
        values, points, scales, axis = values.T, points.T, scales.T, 1 - axis
    graph = graph_of(
        f"""(float[b, {k}] x) => (float[b, {n}] y) {{
            w = DequantizeLinear<axis = {axis}, block_size = {block}>(k, s{", z" if zeros else ""})
            y = Gemm<transB = {int(transposed)}>(x, w, c)
        }}""",
        k=values.astype(kind.np), s=scales, z=points.astype(kind.np), c=np.arange(n, dtype=np.float32),
    )  # fmt: skip
    after = run(graph)
    assert_same(graph, after, feeds(graph))
    assert [o for o in ops(after) if o != "*Pointwise"] == ["MatMulNBits"]
