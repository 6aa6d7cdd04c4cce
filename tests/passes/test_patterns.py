"""Normalisation and attention, spelled out by exporters or fused by other optimisers."""

from __future__ import annotations

import numpy as np
import pytest

from skipjack.ir.graph import Graph
from skipjack.passes import pipeline
from skipjack.passes.recognise_normalization import RecogniseNormalization
from tests.passes.building import applied, assert_same, graph_of, ints, number, ops, weights

SHAPES = "(float[b, s, 4] x) => (float[b, s, 4] y) "
PARTS = {
    "axes": ints(-1),
    "two": number(2),
    "one": number(1),
    "eps": number(1e-5),
    "g": weights(4, seed=1),
    "o": weights(4, seed=2),
}
CENTRED = "m = ReduceMean(x, axes) d = Sub(x, m) "
ROOT = " v = ReduceMean(q, axes) e = Add(v, eps) r = Sqrt(e) "
NORMS = {
    "LayerNormalization": [
        f"{CENTRED} q = Pow(d, two) {ROOT} n = Div(d, r) t = Mul(n, g) y = Add(t, o)",
        f"{CENTRED} q = Mul(d, d) {ROOT} n = Div(d, r) t = Mul(g, n) y = Add(o, t)",
        f"{CENTRED} q = Mul(d, d) {ROOT} i = Reciprocal(r) y = Mul(d, i)",
    ],
    "RMSNormalization": [
        f"q = Pow(x, two) {ROOT} n = Div(x, r) y = Mul(n, g)",
        f"q = Mul(x, x) {ROOT} i = Reciprocal(r) n = Mul(x, i) y = Mul(g, n)",
        f"q = Pow(x, two) {ROOT} i = Div(one, r) n = Mul(x, i) y = Mul(g, n)",
    ],
}


@pytest.mark.parametrize(("op", "text"), [(op, text) for op, texts in NORMS.items() for text in texts])
def test_a_spelled_out_norm_is_one_node(op: str, text: str) -> None:
    assert ops(applied(RecogniseNormalization(), graph_of(f"{SHAPES} {{ {text} }}", **PARTS), tol=1e-5)) == [op]


@pytest.mark.parametrize("text", [f"q = Pow(x, two) {ROOT} n = Div(d, r) y = Mul(n, g)"])
def test_the_square_must_be_of_the_same_value(text: str) -> None:
    graph = graph_of(f"(float[b, s, 4] x, float[b, s, 4] d) => (float[b, s, 4] y) {{ {text} }}", **PARTS)
    assert "Div" in ops(applied(RecogniseNormalization(), graph))


def _finished(graph: Graph, tol: float = 1e-5) -> Graph:
    after = pipeline.run(graph)
    assert_same(graph, after, tol=tol)
    return after


HEAD_SPLIT = "a = Reshape(x, split) q = Transpose<perm = [0, 2, 1, 3]>(a) b2 = Reshape(z, split) "
HEAD_JOIN = " j = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(j, join)"
SPLIT = {
    "split": ints(0, 0, 2, 4),
    "join": ints(0, 0, 8),
    "seen": np.tril(np.ones((5, 3), np.bool_)),
    "scale": number(0.5),
    "low": number(-1e9),
    "zero": number(0),
    "root": number(0.7),
}
SELF = "(float[b, s, 8] x, float[b, p, 8] z, float[b, 1, 1, p] mask) => (float[b, s, 8] y) "
KEYS = " k = Transpose<perm = [0, 2, 3, 1]>(b2) v = Transpose<perm = [0, 2, 1, 3]>(b2) "
ATTENTIONS = {
    "scaled scores": "c = MatMul(q, k) d = Mul(c, scale) e = Add(d, mask) f = Softmax(e) o = MatMul(f, v)",
    "divided scores": "c = MatMul(q, k) d = Div(c, scale) f = Softmax(d) o = MatMul(f, v)",
    "scaled queries": "qq = Mul(q, scale) c = MatMul(qq, k) e = Add(mask, c) f = Softmax(e) o = MatMul(f, v)",
    "scaled both": "qq = Mul(q, root) kk = Mul(k, root) c = MatMul(qq, kk) f = Softmax(c) o = MatMul(f, v)",
    "two masks": "c = MatMul(q, k) e = Add(c, mask) g = Where(seen, e, low) f = Softmax(g) o = MatMul(f, v)",
    "zeroed rows": "c = MatMul(q, k) f = Softmax(c) n = IsNaN(f) g = Where(n, zero, f) o = MatMul(g, v)",
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_spelled_out_attention_is_one_node(name: str) -> None:
    inputs = SELF.replace("s, ", "5, ").replace("p", "3")
    after = _finished(graph_of(f"{inputs} {{ {HEAD_SPLIT} {KEYS} {ATTENTIONS[name]} {HEAD_JOIN} }}", **SPLIT))
    assert "*Attention" in ops(after)
    assert not {"Softmax", "*MatMul", "Transpose", "Reshape"} & set(ops(after))


def test_scores_that_are_read_keep_attention_spelled_out() -> None:
    graph = graph_of(
        """(float[b, 2, s, 4] q, float[b, 2, p, 4] k) => (float[b, 2, s, 4] y, float[b, 2, s, p] f) {
        t = Transpose<perm = [0, 1, 3, 2]>(k) c = MatMul(q, t) f = Softmax(c) y = MatMul(f, k)
    }"""
    )
    assert "*Attention" not in ops(_finished(graph))


def test_a_mask_before_the_scale_is_not_absorbed() -> None:
    graph = graph_of(
        """(float[b, 2, s, 4] q, float[b, 2, p, 4] k, float[s, p] m) => (float[b, 2, s, 4] y) {
        t = Transpose<perm = [0, 1, 3, 2]>(k) c = MatMul(q, t) e = Add(c, m) d = Mul(e, scale)
        f = Softmax(d) y = MatMul(f, k)
    }""",
        scale=number(0.5),
    )
    assert "*Attention" not in ops(_finished(graph))


def test_repeated_keys_are_read_unrepeated() -> None:
    graph = graph_of(
        """(float[b, 4, s, 4] q, float[b, 2, p, 4] k) => (float[b, 4, s, 4] y) {
        u = Unsqueeze(k, two) w = Expand(u, grow) r = Reshape(w, heads)
        t = Transpose<perm = [0, 1, 3, 2]>(r) c = MatMul(q, t) f = Softmax(c) y = MatMul(f, r)
    }""",
        two=ints(2),
        grow=ints(1, 1, 2, 1, 1),
        heads=ints(0, 4, -1, 4),
    )
    after = _finished(graph)
    assert ops(after) == ["*Attention"]
    assert (after.nodes[0].attrs["q_heads"], after.nodes[0].attrs["kv_heads"]) == (4, 2)


ROTARY = """
    i = Slice(x, half, end, last) n = Neg(i) j = Slice(x, zero, half, last) t = Concat<axis = -1>(n, j)
    u = Mul(x, c) w = Mul(t, d) y = Add(u, w)
"""
ANGLES = "e = Concat<axis = -1>(a, a) cc = Cos(e) c = Unsqueeze(cc, one) ss = Sin(e) d = Unsqueeze(ss, one) "
SLICES = {"zero": ints(0), "half": ints(2), "end": ints(2**63 - 1), "last": ints(3), "one": ints(1)}


def test_spelled_out_rotation_is_one_node() -> None:
    inputs = "float[b, 2, s, 4] x, float[b, s, 2] a"
    graph = graph_of(f"({inputs}) => (float[b, 2, s, 4] y) {{ {ANGLES} {ROTARY} }}", **SLICES)
    assert ops(_finished(graph)) == ["*Pointwise", "*Pointwise", "RotaryEmbedding"]


def test_angles_without_a_batch_are_tables_of_batch_one() -> None:
    angles = "e = Concat<axis = -1>(a, a) c = Cos(e) d = Sin(e) "
    graph = graph_of(f"(float[b, 2, s, 4] x, float[s, 2] a) => (float[b, 2, s, 4] y) {{ {angles} {ROTARY} }}", **SLICES)
    after = _finished(graph)
    assert ops(after)[-1] == "RotaryEmbedding"
    assert [after.tensor(i).rank for i in after.nodes[-1].inputs] == [4, 3, 3]


def test_rotation_of_split_heads_is_done_before_the_split() -> None:
    inputs = "float[b, s, 8] z, float[b, s, 2] a, float[b, 2, s, 4] k"
    rotated = "r = Reshape(z, split) x = Transpose<perm = [0, 2, 1, 3]>(r) " + ANGLES + ROTARY.replace("y =", "q =")
    attention = "kt = Transpose<perm = [0, 1, 3, 2]>(k) m = MatMul(q, kt) f = Softmax(m) y = MatMul(f, k)"
    graph = graph_of(
        f"({inputs}) => (float[b, 2, s, 4] y) {{ {rotated} {attention} }}", **SLICES, split=ints(0, 0, 2, 4)
    )
    assert ops(_finished(graph))[-2:] == ["RotaryEmbedding", "*Attention"]


def test_a_rotation_with_different_halves_stays_spelled_out() -> None:
    inputs = "float[b, 2, s, 4] x, float[b, 1, s, 4] c, float[b, 1, s, 4] d"
    assert "RotaryEmbedding" not in ops(
        _finished(graph_of(f"({inputs}) => (float[b, 2, s, 4] y) {{ {ROTARY} }}", **SLICES))
    )


ONNX_ATTENTION = {
    "Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, k)": "float[b, s, 16] q, float[b, p, 8] k, float[1] m",
    "Attention<is_causal = 1, scale = 0.3>(q, k, k, m)": "float[b, 4, s, 4] q, float[b, 2, p, 4] k, float[s, p] m",
    "Attention<softcap = 2.0>(q, k, k)": "float[b, 4, s, 4] q, float[b, 2, p, 4] k, float[1] m",
}


@pytest.mark.parametrize("text", ONNX_ATTENTION)
def test_onnx_attention_is_brought_to_the_normal_form(text: str) -> None:
    inputs = ONNX_ATTENTION[text]
    out = "float[b, s, 16] y" if "heads" in text else "float[b, 4, s, 4] y"
    assert ops(_finished(graph_of(f"({inputs}) => ({out}) {{ y = {text} }}"))) == ["*Attention"]


def test_onnx_attention_with_a_cache_extends_it_first() -> None:
    graph = graph_of(
        """(float[b, 4, s, 4] q, float[b, 2, s, 4] k, float[b, 2, p, 4] u, float[b, 2, p, 4] w)
        => (float[b, 4, s, 4] y, float[b, 2, t, 4] nk, float[b, 2, t, 4] nv) {
        y, nk, nv = Attention<is_causal = 1>(q, k, k, , u, w)
    }"""
    )
    assert ops(_finished(graph)) == ["Concat", "Concat", "*Attention"]


def test_skip_norms_become_sums_and_norms() -> None:
    graph = graph_of(
        """(float[b, s, 4] x, float[b, s, 4] z) => (float[b, s, 4] y, float[b, s, 4] t, float[b, s, 4] r) {
        y, m, i, t = com.microsoft.SkipLayerNormalization<epsilon = 0.01>(x, z, g, o, c)
        r = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 0.01>(x, t, g)
    }""",
        g=weights(4),
        o=weights(4, seed=1),
        c=weights(4, seed=2),
    )
    assert set(ops(_finished(graph))) == {"*Pointwise", "LayerNormalization", "RMSNormalization"}


def test_embedding_norms_become_gathers() -> None:
    graph = graph_of(
        """(int32[b, s] ids, int32[b, s] segments, int32[b, s] mask) => (float[b, s, 4] y, int32[b] n) {
        y, n = com.microsoft.EmbedLayerNormalization(ids, segments, words, places, kinds, g, o, mask)
    }""",
        words=weights(9, 4),
        places=weights(8, 4, seed=1),
        kinds=weights(2, 4, seed=2),
        g=weights(4, seed=3),
        o=weights(4, seed=4),
    )
    assert "LayerNormalization" in ops(_finished(graph))


MASKS = {"int32[b, s] mask": "rows", "int32[b] mask": "lengths"}


@pytest.mark.parametrize("mask", MASKS, ids=MASKS.get)
def test_packed_attention_becomes_three_linear_layers_and_attention(mask: str) -> None:
    graph = graph_of(
        f"(float[b, s, 4] x, {mask}) => (float[b, s, 8] y) {{ "
        "y = com.microsoft.Attention<num_heads = 2, unidirectional = 1>(x, k, c, mask) }",
        k=weights(4, 24),
        c=weights(24, seed=1),
    )
    found = ops(_finished(graph))
    assert found.count("*Linear") == 3
    assert found[-1] == "*Attention"


def test_multi_head_attention_is_brought_to_the_normal_form() -> None:
    graph = graph_of(
        """(float[b, s, 8] q, float[b, p, 8] k, float[b, p, 8] v, int32[b, p] mask, float[b, 2, s, p] bias)
        => (float[b, s, 8] y) {
        y = com.microsoft.MultiHeadAttention<num_heads = 2, scale = 0.3>(q, k, v, c, mask, bias)
    }""",
        c=weights(24),
    )
    assert set(ops(_finished(graph))) == {"*Pointwise", "Unsqueeze", "*Attention"}


@pytest.mark.parametrize("inputs", ["float[b, s, 8] x, int64[b, s] at", "float[b, 2, s, 4] x, int64[b, s] at"])
def test_rotary_embedding_of_com_microsoft_is_onnx_s(inputs: str) -> None:
    out = inputs.split(" x")[0]
    graph = graph_of(
        f"({inputs}) => ({out} y) {{ y = com.microsoft.RotaryEmbedding(x, at, cos, sin) }}",
        cos=weights(6, 2),
        sin=weights(6, 2, seed=1),
    )
    after = _finished(graph)
    assert [(n.domain, n.op) for n in after.nodes] == [("", "RotaryEmbedding")]


def test_fused_activations_are_elementwise() -> None:
    graph = graph_of(
        """(float[b, s, 4] x) => (float[b, s, 4] y) {
        t = com.microsoft.BiasGelu(x, c) u = com.microsoft.FastGelu(t) y = com.microsoft.QuickGelu(u)
    }""",
        c=weights(4),
    )
    assert ops(_finished(graph)) == ["*Pointwise"]


def test_the_pipeline_shows_each_stage_and_can_leave_passes_out() -> None:
    seen: list[str] = []
    graph = graph_of("(float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }")
    options = pipeline.Options(frozenset({"fuse_pointwise"}), lambda name, _: seen.append(name))
    assert ops(pipeline.run(graph, options)) == ["Relu"]
    assert "fuse_epilogues" in seen
    assert "fuse_pointwise" not in seen


def test_origins_are_kept() -> None:
    graph = graph_of(
        "(float[b, 4] x) => (float[b, 4] y) { t = MatMul(x, k) y = Relu(t) }", k=np.eye(4, dtype=np.float32)
    )
    assert pipeline.run(graph).nodes[0].origin.op == "MatMul"
