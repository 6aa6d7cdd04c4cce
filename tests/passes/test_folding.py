"""Constant folding, size arithmetic, dead code, common subexpressions, branches."""

from __future__ import annotations

import numpy as np

from skipjack.passes.eliminate_dead_code import EliminateDeadCode
from skipjack.passes.fold_constants import FoldConstants
from skipjack.passes.inline_constant_branches import InlineConstantBranches
from skipjack.passes.merge_common_subexpressions import MergeCommonSubexpressions
from skipjack.passes.replace_size_arithmetic import ReplaceSizeArithmetic
from tests.passes.building import applied, graph_of, ints, number, ops, weights


def test_constant_inputs_are_computed_once() -> None:
    graph = graph_of("(float[b, 4] x) => (float[b, 4] y) { t = Mul(w, w) u = Exp(t) y = Add(x, u) }", w=weights(4))
    assert ops(applied(FoldConstants(), graph)) == ["Add"]


def test_a_result_larger_than_its_inputs_and_the_limit_stays() -> None:
    graph = graph_of("(float[80, b] x) => (float[80, b] y) { t = ConstantOfShape(n) y = MatMul(t, x) }", n=ints(80, 80))
    assert ops(applied(FoldConstants(free_elems=6399), graph)) == ["ConstantOfShape", "MatMul"]
    assert ops(applied(FoldConstants(free_elems=6400), graph)) == ["MatMul"]


def test_random_numbers_are_not_constants() -> None:
    graph = graph_of("(float[4] x) => (float[4] z) { r = RandomNormal<shape = [4]>() y = Sub(r, r) z = Add(x, y) }")
    assert "RandomNormal" in ops(FoldConstants().apply(graph))


QDQ = """(float[b, 4] x) => (float[b, 4] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    v = DequantizeLinear(w, s, z)
    y = MatMul(d, v)
}"""


def test_a_quantised_weight_stays_beside_a_quantised_activation() -> None:
    constants = {"s": number(0.1), "z": np.array(0, np.int8), "w": np.arange(-8, 8).reshape(4, 4).astype(np.int8)}
    assert ops(applied(FoldConstants(), graph_of(QDQ, **constants))).count("DequantizeLinear") == 2
    plain = QDQ.replace("MatMul(d, v)", "MatMul(x, v)")
    assert ops(applied(FoldConstants(), graph_of(plain, **constants))) == ["MatMul"]


def test_shape_arithmetic_becomes_one_size_vector() -> None:
    graph = graph_of(
        """(float[b, s, 8] x) => (float[b, s2, h, d] y) {
        shape = Shape(x)
        rows = Gather(shape, zero)
        rows1 = Unsqueeze(rows, zeros)
        columns = Gather(shape, one)
        columns1 = Unsqueeze(columns, zeros)
        target = Concat<axis = 0>(rows1, columns1, rest)
        y = Reshape(x, target)
    }""",
        zero=np.array(0, np.int64),
        one=np.array(1, np.int64),
        zeros=ints(0),
        rest=ints(2, 4),
    )
    after = applied(ReplaceSizeArithmetic(), graph)
    assert ops(after) == ["*SizeVector", "Reshape"]
    assert after.nodes[0].attrs["dims"] == ("b", "s", "2", "4")


def test_sizes_that_depend_on_data_keep_their_arithmetic() -> None:
    graph = graph_of("(float[4] x) => (int64[1] y, int64[1] z) { n = NonZero(x) y = Shape<start = 1>(n) z = Shape(x) }")
    assert ops(applied(ReplaceSizeArithmetic(), graph)) == ["NonZero", "Shape", "Shape"]


def test_what_nobody_reads_goes() -> None:
    graph = graph_of("(float[b, 4] x) => (float[b, 4] y) { t = Exp(x) u = Add(t, w) y = Abs(x) }", w=weights(4))
    after = applied(EliminateDeadCode(), graph)
    assert ops(after) == ["Abs"]
    assert not after.constants


def test_equal_nodes_and_equal_constants_are_one() -> None:
    graph = graph_of(
        "(float[b, 4] x) => (float[b, 4] y) { p = Add(x, v) q = Add(x, w) r = Exp(p) t = Exp(q) y = Mul(r, t) }",
        v=weights(4),
        w=weights(4),
    )
    after = applied(MergeCommonSubexpressions(), graph)
    assert ops(after) == ["Add", "Exp", "Mul"]
    assert len(after.constants) == 1


def test_a_known_condition_leaves_one_branch() -> None:
    graph = graph_of(
        """(float[b, 3] x) => (float[b, 3] y) {
        a = Relu(x)
        y = If (c) <then_branch = g1 () => (float[m, 3] t) { t = Mul(a, w) },
                    else_branch = g2 () => (float[m, 3] e) { e = Add(x, x) }>
    }""",
        c=np.array(True),
        w=weights(3),
    )
    after = applied(InlineConstantBranches(), graph)
    assert "If" not in ops(after)
    assert ops(after)[:2] == ["Relu", "Mul"]


def test_bodies_own_the_constants_they_read() -> None:
    graph = graph_of(
        """(bool c, float[b, 3] x) => (float[b, 3] y) {
        y = If (c) <then_branch = g1 () => (float[m, 3] t) { u = Mul(w, w) t = Mul(x, u) },
                    else_branch = g2 () => (float[m, 3] e) { e = Add(x, x) }>
    }""",
        w=weights(3),
    )
    after = applied([InlineConstantBranches(), FoldConstants()], graph)
    bodies = dict(after.nodes[0].subgraphs())
    assert ops(bodies["then_branch"]) == ["Mul"]
    assert bodies["then_branch"].captured == ("x",)
