"""Normal forms of contractions, elementwise chains and epilogues."""

from __future__ import annotations

import numpy as np
import pytest

from skipjack.passes.canonicalise_contractions import CanonicaliseContractions
from skipjack.passes.fuse_epilogues import FuseEpilogues
from skipjack.passes.fuse_pointwise import FusePointwise
from tests.passes.building import applied, graph_of, number, ops, weights

W, V = weights(4, 4), weights(4, seed=1)
CONTRACTIONS = {
    "MatMul(x, k)": (["*Linear"], {"k": W}),
    "MatMul(x, x)": (["*MatMul"], {}),
    "Gemm<alpha = 0.5, transB = 1>(x, k)": (["*Linear"], {"k": W}),
    "Gemm<alpha = 0.5, transA = 1>(x, k)": (["*MatMul"], {"k": W}),
    "Gemm<beta = 2.0>(x, x, c)": (["*MatMul", "Add"], {"c": V}),
    "Gemm<beta = 2.0>(x, k, x)": (["*Linear", "Mul", "Add"], {"k": W}),
    "Gemm(x, k, c)": (["*Linear", "Add"], {"k": W, "c": V}),
    "com.microsoft.FusedMatMul<alpha = 0.3, transB = 1>(x, x)": (["*MatMul"], {}),
}


@pytest.mark.parametrize("text", CONTRACTIONS)
def test_products_have_two_forms(text: str) -> None:
    expected, constants = CONTRACTIONS[text]
    graph = graph_of(f"(float[4, 4] x) => (float[4, 4] y) {{ y = {text} }}", **constants)
    assert ops(applied(CanonicaliseContractions(), graph)) == expected


@pytest.mark.parametrize(
    ("attrs", "pads"),
    [
        ("", (0, 0, 0, 0)),
        ('auto_pad = "SAME_UPPER", strides = [2, 2]', (0, 1, 1, 1)),
        ('auto_pad = "SAME_LOWER", strides = [2, 2]', (1, 1, 0, 1)),
        ('auto_pad = "VALID", dilations = [2, 1]', (0, 0, 0, 0)),
    ],
)
def test_padding_of_a_convolution_is_explicit(attrs: str, pads: tuple[int, ...]) -> None:
    graph = graph_of(
        f"(float[b, 3, 8, 9] x) => (float[b, 4, h, w] y) {{ y = Conv<{attrs}>(x, k, c) }}".replace("<>", ""),
        k=weights(4, 3, 3, 3),
        c=V,
    )
    after = applied(CanonicaliseContractions(), graph)
    assert ops(after) == ["*Conv"]
    assert after.nodes[0].attrs["pads"] == pads


def test_same_padding_waits_for_the_size() -> None:
    graph = graph_of(
        '(float[b, 3, h, w] x) => (float[b, 4, m, n] y) { y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, k) }',
        k=weights(4, 3, 3, 3),
    )
    after = applied(CanonicaliseContractions(), graph)
    assert after.nodes[0].attrs["auto_pad"] == "SAME_UPPER"


def test_a_fused_convolution_is_taken_apart() -> None:
    graph = graph_of(
        """(float[b, 3, h, w] x) => (float[b, 4, hh, ww] y) {
        y = com.microsoft.FusedConv<activation = "LeakyRelu", activation_params = [0.1]>(x, k, c)
    }""",
        k=weights(4, 3, 3, 3),
        c=V,
    )
    assert ops(applied(CanonicaliseContractions(), graph)) == ["*Conv", "LeakyRelu"]


FUSED = "(float[b, 4] x) => (float[b, 4] y) "
CHAINS = {
    "silu": "{ s = Sigmoid(x) y = Mul(x, s) }",
    "gelu": "{ d = Div(x, c) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half) }",
    "hardswish": "{ a = Add(x, half) b = Clip(a, zero, one) m = Mul(x, b) y = Div(m, c) }",
    "shared": "{ t = Add(x, v) s = Sigmoid(t) y = Mul(t, s) }",
    "where": "{ l = Less(x, half) n = Not(l) y = Where(n, x, v) }",
    "twice": "{ y = Mul(x, x) }",
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_one_node(name: str) -> None:
    graph = graph_of(FUSED + CHAINS[name], c=number(1.5), one=number(1), half=number(0.5), zero=number(0), v=V)
    after = applied(FusePointwise(), graph)
    assert ops(after) == ["*Pointwise"]
    assert set(after.nodes[0].inputs) <= {"x", "v"}


def test_nothing_is_computed_twice_or_at_a_larger_size() -> None:
    shared = graph_of("(float[b, 4] x) => (float[b, 4] y, float[b, 4] z) { t = Exp(x) y = Neg(t) z = Abs(t) }")
    assert len(ops(applied(FusePointwise(), shared))) == 3
    small = graph_of("(float[b, 4] x, float[4] v) => (float[b, 4] y) { t = Exp(v) y = Mul(x, t) }")
    assert len(ops(applied(FusePointwise(), small))) == 2


def test_a_one_element_constant_that_makes_the_result_larger_stays_an_input() -> None:
    graph = graph_of("(float[4] x) => (float[1, 4] y) { y = Mul(x, c) }", c=np.full((1, 1), 2, np.float32))
    assert len(applied(FusePointwise(), graph).nodes[0].inputs) == 2


def test_limits_cut_a_long_chain() -> None:
    body = " ".join(f"t{i + 1} = Sin(t{i})" for i in range(9))
    graph = graph_of(f"(float[b, 4] t0) => (float[b, 4] t9) {{ {body} }}")
    assert ops(applied(FusePointwise(max_operations=5), graph)) == ["*Pointwise"] * 2


EPILOGUE = [CanonicaliseContractions(), FusePointwise(), FuseEpilogues()]


def test_bias_activation_and_residual_become_an_epilogue() -> None:
    graph = graph_of(
        "(float[b, s, 4] x) => (float[b, s, 4] y) { t = MatMul(x, k) a = Add(v, t) r = Relu(a) y = Add(r, x) }",
        k=W,
        v=V,
    )
    after = applied(EPILOGUE, graph)
    assert ops(after) == ["*Linear"]
    assert set(after.nodes[0].inputs) == {"x", "k", "v"}


def test_the_later_of_two_convolutions_takes_the_sum() -> None:
    graph = graph_of(
        """(float[b, 4, h, w] x) => (float[b, 4, h, w] y) {
        p = Conv(x, k, c) q = Conv(x, l, c) s = Add(p, q) m = Mul(s, g) y = Relu(m)
    }""",
        k=weights(4, 4, 1, 1),
        l=weights(4, 4, 1, 1, seed=2),
        c=V,
        g=weights(4, 1, 1, seed=3),
    )
    after = applied(EPILOGUE, graph)
    assert ops(after) == ["*Conv", "*Conv"]
    assert "p" in after.nodes[1].inputs


@pytest.mark.parametrize("tail", ["y = Mul(t, z)", "y = Mul(t, x)"])
def test_operands_that_broadcast_otherwise_stay_outside(tail: str) -> None:
    graph = graph_of(
        f"(float[b, s, 1] x, float[s, 4] z) => (float[b, s, 4] y) {{ t = MatMul(x, k) {tail} }}", k=weights(1, 4)
    )
    assert ops(applied(EPILOGUE, graph)) == ["*Linear", "*Pointwise"]


def test_a_result_with_two_readers_has_no_epilogue() -> None:
    graph = graph_of(
        "(float[b, 4] x) => (float[b, 4] y, float[b, 4] z) { t = MatMul(x, k) y = Relu(t) z = Exp(t) }", k=W
    )
    assert ops(applied(EPILOGUE, graph)) == ["*Linear", "*Pointwise", "*Pointwise"]
