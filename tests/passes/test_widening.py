"""Half precision computed in f32."""

from __future__ import annotations

import numpy as np
import pytest

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Graph
from skipjack.passes.fold_constants import FoldConstants
from skipjack.passes.remove_no_ops import RemoveNoOps
from skipjack.passes.widen_half import WidenHalf
from tests.passes.building import applied, graph_of, ops, results, weights

_HALF_BITS = 2e-3
HALVES = {"float16": 10, "bfloat16": 16}


def widened(graph: Graph, tol: float = _HALF_BITS) -> Graph:
    return applied([WidenHalf(), RemoveNoOps()], graph, tol=tol)


@pytest.mark.parametrize("half", HALVES)
def test_only_the_ends_of_a_chain_are_halves(half: str) -> None:
    body = "{ t = MatMul(x, w) u = Relu(t) v = Transpose<perm = [1, 0]>(u) y = Softmax(v) }"
    graph = graph_of(f"({half}[b, 4] x, {half}[4, 3] w) => ({half}[3, b] y) {body}")
    after = widened(graph, tol=2e-2 if half == "bfloat16" else _HALF_BITS)
    assert ops(after) == ["Cast", "Cast", "MatMul", "Relu", "Transpose", "Softmax", "Cast"]
    inner = [after.tensor(o).dtype for n in after.nodes[:-1] for o in n.outputs]
    assert inner == [DType.F32] * 6


def test_weights_become_f32_constants() -> None:
    w = weights(4, 3, dtype=np.float16)
    after = widened(graph_of("(float16[b, 4] x) => (float16[b, 3] y) { t = MatMul(x, w) y = Relu(t) }", w=w))
    assert ops(after) == ["Cast", "MatMul", "Relu", "Cast"]
    (constant,) = after.constants.values()
    assert constant.dtype == np.float32
    assert np.array_equal(constant, w)


def test_a_cast_of_the_model_rounds() -> None:
    text = "(float[b, 4] x) => (float[b, 4] y) { h = Cast<to = 10>(x) z = Add(h, h) y = Cast<to = 1>(z) }"
    after = widened(graph_of(text), tol=0)
    assert ops(after) == ["Cast", "Cast", "Add"]
    x = np.full((2, 4), 1 + 2.0**-13, np.float32)
    assert np.array_equal(results(after, {"x": x})[0], np.full((2, 4), 2, np.float32))


def test_nothing_between_operators_is_rounded() -> None:
    text = "(float16[b] x, float16[b] c) => (float16[b] y) { t = Add(x, c) y = Sub(t, c) }"
    after = WidenHalf().apply(graph_of(text))
    x, c = np.full(2, 2.0**-10, np.float16), np.full(2, 64, np.float16)
    assert np.array_equal(results(after, {"x": x, "c": c})[0], x)


def test_movement_alone_stays_half() -> None:
    graph = graph_of("(float16[b, 4] x) => (float16[4, b] y) { t = Transpose<perm = [1, 0]>(x) y = Identity(t) }")
    assert WidenHalf().apply(graph) is graph


def test_a_comparison_reads_what_was_computed() -> None:
    after = widened(graph_of("(float16[b, 4] x) => (bool[b, 4] y) { t = Exp(x) y = Less(t, x) }"))
    assert ops(after) == ["Cast", "Exp", "Less"]


def test_operators_it_does_not_know_get_halves() -> None:
    text = "(float16[b, 4] x) => (float16[b, 4] y) { t = Relu(x) u = Mod<fmod = 1>(t, x) y = Sqrt(u) }"
    assert ops(widened(graph_of(text))) == ["Cast", "Relu", "Cast", "Mod", "Cast", "Sqrt", "Cast"]


def test_bodies_get_the_halves_they_capture() -> None:
    text = """(float16[b, 4] x, bool c) => (float16[b, 4] y) {
        t = Relu(x)
        y = If (c) <then_branch = a () => (float16[b, 4] p) { p = Exp(t) },
                    else_branch = d () => (float16[b, 4] q) { q = Neg(t) }>
    }"""
    after = widened(graph_of(text))
    assert ops(after) == ["Cast", "Relu", "Cast", "If"]
    bodies = dict(after.nodes[-1].subgraphs())
    assert ops(bodies["then_branch"]) == ["Cast", "Exp", "Cast"]


def test_an_output_that_others_read_is_made_once() -> None:
    after = widened(graph_of("(float16[b] x) => (float16[b] t, float16[b] y) { t = Exp(x) y = Neg(t) }"))
    assert sorted(ops(after)) == ["Cast", "Cast", "Cast", "Exp", "Neg"]


def test_constant_arithmetic_still_folds() -> None:
    graph = graph_of(
        "(float16[b, 3] x) => (float16[b, 3] y) { s = Mul(w, w) y = Add(x, s) }", w=weights(3, dtype=np.float16)
    )
    assert ops(applied([WidenHalf(), FoldConstants()], graph, tol=_HALF_BITS)) == ["Cast", "Add", "Cast"]
