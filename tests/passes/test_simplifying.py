"""No-ops, transposes, pads, batch norms and scales."""

from __future__ import annotations

import numpy as np
import pytest

from skipjack.passes.absorb_transposes import AbsorbTransposes
from skipjack.passes.cancel_transposes import CancelTransposes
from skipjack.passes.canonicalise_contractions import CanonicaliseContractions
from skipjack.passes.fold_batch_norms import FoldBatchNorms
from skipjack.passes.fold_pads import FoldPads
from skipjack.passes.fold_scales import FoldScales
from skipjack.passes.remove_no_ops import RemoveNoOps
from skipjack.passes.unwrap_linear import UnwrapLinear
from tests.passes.building import applied, graph_of, ints, number, ops, weights

NO_OPS = {
    "Identity(x)": {},
    "Dropout(x)": {},
    "Cast<to = 1>(x)": {},
    "Reshape(x, c)": {"c": ints(0, -1, 4)},
    "Expand(x, c)": {"c": ints(1, 1)},
    "Pad(x, c)": {"c": ints(0, 0, 0, 0, 0, 0)},
    "Slice(x, c, d)": {"c": ints(0), "d": ints(2**63 - 1)},
    "Transpose<perm = [0, 1, 2]>(x)": {},
    "Concat<axis = 1>(x)": {},
    "Tile(x, c)": {"c": ints(1, 1, 1)},
    "Mul(x, c)": {"c": number(1)},
    "Add(c, x)": {"c": np.zeros((1, 3, 1), np.float32)},
    "Pow(x, c)": {"c": number(1)},
}


@pytest.mark.parametrize("text", NO_OPS)
def test_a_no_op_goes(text: str) -> None:
    graph = graph_of(f"(float[b, 3, 4] x) => (float[b, 3, 4] y) {{ t = {text} y = Exp(t) }}", **NO_OPS[text])
    assert ops(applied(RemoveNoOps(), graph)) == ["Exp"]


OPS_THAT_DO_SOMETHING = {
    "Slice(x, c, d, e, f)": {"c": ints(-1), "d": ints(-9), "e": ints(1), "f": ints(-1)},
    "Pad(x, c)": {"c": ints(0, 1, 0, 0, -1, 0)},
    "Transpose<perm = [0, 2, 1]>(x)": {},
    "Mul(x, c)": {"c": np.ones((2, 1, 1, 1), np.float32)},
    "Cast<to = 11>(x)": {},
}


@pytest.mark.parametrize("text", OPS_THAT_DO_SOMETHING)
def test_what_changes_a_value_stays(text: str) -> None:
    graph = graph_of(
        f"(float[b, 3, 3] x) => (float[b, 3, 3] y) {{ t = {text} y = Exp(t) }}", **OPS_THAT_DO_SOMETHING[text]
    )
    assert len(ops(applied(RemoveNoOps(), graph))) == 2


def test_an_output_that_only_renames_is_made_directly() -> None:
    graph = graph_of("(float[b, 4] x) => (float[b, 4] y, float[b, 4] z) { t = Exp(x) y = Identity(t) z = Abs(t) }")
    assert ops(applied(RemoveNoOps(), graph)) == ["Exp", "Abs"]


def test_an_input_that_is_an_output_keeps_its_copy() -> None:
    graph = graph_of("(float[b, 4] x) => (float[b, 4] y, float[b, 4] z) { y = Identity(x) z = Dropout(x) }")
    assert ops(applied(RemoveNoOps(), graph)) == ["Identity", "Identity"]


def test_chains_of_transposes_and_reshapes_join() -> None:
    graph = graph_of(
        """(float[b, 3, 4] x) => (float[4, b, 3] y, float[b, 12] z) {
        t = Transpose<perm = [0, 2, 1]>(x) y = Transpose<perm = [1, 0, 2]>(t)
        r = Reshape(x, c) z = Reshape(r, d)
    }""",
        c=ints(-1, 2, 6),
        d=ints(-1, 12),
    )
    assert ops(applied(RemoveNoOps(), graph)) == ["Transpose", "Reshape"]


def test_opposite_transposes_cancel_through_elementwise_operators() -> None:
    graph = graph_of(
        """(float[b, 3, h, w] x) => (float[b, 3, h, w] y) {
        t = Transpose<perm = [0, 2, 3, 1]>(x) u = Add(t, c) v = Relu(u) y = Transpose<perm = [0, 3, 1, 2]>(v)
    }""",
        c=weights(3),
    )
    assert ops(applied(CancelTransposes(), graph)) == ["Add", "Relu"]


def test_transposes_cancel_through_concat() -> None:
    graph = graph_of("""(float[b, 3, h, w] x, float[b, 2, h, w] z) => (float[b, 5, h, w] y) {
        t = Transpose<perm = [0, 2, 3, 1]>(x) u = Transpose<perm = [0, 2, 3, 1]>(z)
        c = Concat<axis = 3>(t, u) y = Transpose<perm = [0, 3, 1, 2]>(c)
    }""")
    assert ops(applied(CancelTransposes(), graph)) == ["Concat"]


def test_products_read_transposed_operands() -> None:
    graph = graph_of("""(float[b, s, 2, 4] x, float[b, s, 2, 4] z) => (float[b, 2, s, s2] y) {
        q = Transpose<perm = [0, 2, 1, 3]>(x) k = Transpose<perm = [0, 2, 3, 1]>(z) y = MatMul(q, k)
    }""")
    after = applied([CanonicaliseContractions(), AbsorbTransposes()], graph)
    assert ops(after) == ["Transpose", "Transpose", "*MatMul"]
    assert [n.attrs["perm"] for n in after.nodes[:2]] == [(0, 2, 1, 3)] * 2
    assert after.nodes[2].attrs["trans_b"] == 1


def test_zero_padding_becomes_padding_of_the_convolution() -> None:
    graph = graph_of(
        "(float[b, 3, h, w] x) => (float[b, 4, hh, ww] y) { t = Pad(x, p, zero) y = Conv<pads = [0, 1, 0, 1]>(t, k) }",
        p=ints(0, 0, 1, 2, 0, 0, 3, 4),
        zero=number(0),
        k=weights(4, 3, 3, 3),
    )
    after = applied([CanonicaliseContractions(), FoldPads()], graph)
    assert ops(after) == ["*Conv"]
    assert after.nodes[0].attrs["pads"] == (1, 3, 3, 5)


def test_zero_padding_before_an_average_is_counted() -> None:
    graph = graph_of(
        "(float[b, 3, h, w] x) => (float[b, 3, hh, ww] y) { t = Pad(x, p) y = AveragePool<kernel_shape = [2, 2]>(t) }",
        p=ints(0, 0, 1, 0, 0, 0, 0, 1),
    )
    assert ops(applied(FoldPads(), graph)) == ["AveragePool"]


@pytest.mark.parametrize("pads", [(0, 1, 0, 0, 0, 0, 0, 0), (0, 0, -1, 0, 0, 0, 0, 0)])
def test_other_padding_stays(pads: tuple[int, ...]) -> None:
    graph = graph_of(
        "(float[b, 3, h, w] x) => (float[b, 4, hh, ww] y) { t = Pad(x, p) y = Conv(t, k) }",
        p=ints(*pads),
        k=weights(4, 4 if pads[1] else 3, 3, 3),
    )
    assert ops(applied([CanonicaliseContractions(), FoldPads()], graph)) == ["Pad", "*Conv"]


NORM = {
    "g": weights(4, seed=1),
    "o": weights(4, seed=2),
    "m": weights(4, seed=3),
    "v": np.abs(weights(4, seed=4)) + 0.1,
}
STEPS = [CanonicaliseContractions(), FoldBatchNorms(), FoldScales()]


def test_a_batch_norm_folds_into_a_convolution_and_its_bias() -> None:
    graph = graph_of(
        "(float[b, 3, h, w] x) => (float[b, 4, hh, ww] y) { t = Conv(x, k, c) y = BatchNormalization(t, g, o, m, v) }",
        k=weights(4, 3, 3, 3),
        c=weights(4, seed=5),
        **NORM,
    )
    assert ops(applied(STEPS, graph, tol=1e-5)) == ["*Conv"]


def test_a_batch_norm_folds_into_a_grouped_transposed_convolution() -> None:
    graph = graph_of(
        """(float[b, 6, h, w] x) => (float[b, 4, hh, ww] y) {
        t = ConvTranspose<group = 2, strides = [2, 2]>(x, k) y = BatchNormalization(t, g, o, m, v)
    }""",
        k=weights(6, 2, 3, 3),
        **NORM,
    )
    assert ops(applied(STEPS, graph, tol=1e-5)) == ["*ConvTranspose"]


def test_a_batch_norm_folds_into_a_linear_layer() -> None:
    graph = graph_of(
        "(float[b, 3] x) => (float[b, 4] y) { t = Gemm<transB = 1, beta = 0.5>(x, k, c) "
        "y = BatchNormalization(t, g, o, m, v) }",
        k=weights(4, 3),
        c=weights(4, seed=5),
        **NORM,
    )
    assert ops(applied(STEPS, graph, tol=1e-5))[-1] == "*Linear"


def test_a_batch_norm_of_its_own_is_two_elementwise_operators() -> None:
    graph = graph_of("(float[b, 4, h] x) => (float[b, 4, h] y) { y = BatchNormalization(x, g, o, m, v) }", **NORM)
    assert ops(applied(STEPS, graph, tol=1e-5)) == ["Mul", "Add"]


def test_a_result_with_two_readers_is_not_scaled() -> None:
    graph = graph_of(
        "(float[b, 3] x) => (float[b, 4] y, float[b, 4] z) { t = MatMul(x, k) y = Mul(t, c) z = Exp(t) }",
        k=weights(3, 4),
        c=weights(4),
    )
    assert ops(applied(STEPS, graph)) == ["*Linear", "Mul", "Exp"]


def test_scales_along_another_axis_stay() -> None:
    graph = graph_of(
        "(float[b, 4, 3] x) => (float[b, 4, 4] y) { t = MatMul(x, k) y = Mul(t, c) }", k=weights(3, 4), c=weights(4, 1)
    )
    assert ops(applied(STEPS, graph)) == ["*Linear", "Mul"]


def test_reshapes_around_a_linear_layer_go() -> None:
    graph = graph_of(
        """(float[b, s, 3] x) => (float[b, s, 4] y) {
        t = Reshape(x, flat) u = Gemm(t, k, c) n = Shape<start = 0, end = 2>(x) m = Concat<axis = 0>(n, last)
        y = Reshape(u, m)
    }""",
        flat=ints(-1, 3),
        last=ints(4),
        k=weights(3, 4),
        c=weights(4, seed=1),
    )
    after = applied([CanonicaliseContractions(), FoldScales(), UnwrapLinear()], graph)
    assert ops(after) == ["*Linear"]


def test_reshapes_that_mix_rows_and_features_stay() -> None:
    graph = graph_of(
        "(float[b, 2, 4] x) => (float[b, 3, 4] y) { t = Reshape(x, flat) u = MatMul(t, k) y = Reshape(u, back) }",
        flat=ints(-1, 8),
        back=ints(-1, 3, 4),
        k=weights(8, 12),
    )
    assert ops(applied([CanonicaliseContractions(), UnwrapLinear()], graph)) == ["Reshape", "*Linear", "Reshape"]
