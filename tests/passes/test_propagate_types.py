from __future__ import annotations

import numpy as np
import pytest

from skipjack.core.dims import Sym
from skipjack.core.errors import ConfigError, ModelError
from skipjack.ir.graph import Graph, Node, Origin
from skipjack.passes.propagate_types import specialize, typed
from tests.passes.building import graph_of, ints, weights

B, S = Sym.named("b"), Sym.named("s")
HEADS = """(float[b, s, 8] x) => (float[b, s2, h, d] y) {
    shape = Shape(x)
    zero = Constant<value_int = 0>()
    rows = Gather(shape, zero)
    axes = Constant<value_ints = [0]>()
    rows1 = Unsqueeze(rows, axes)
    rest = Constant<value_ints = [-1, 2, 4]>()
    target = Concat<axis = 0>(rows1, rest)
    y = Reshape(x, target)
}"""


def test_a_reshape_target_computed_from_a_shape_is_followed() -> None:
    known = typed(graph_of(HEADS))
    assert known.graph.tensor("y").shape == (B, S, 2, 4)
    assert list(known.values["target"]) == [B, -1, 2, 4]


def test_bodies_see_the_types_around_them() -> None:
    graph = graph_of("""(bool c, float[b, 3] x) => (float[m, 3] y) {
        y = If (c) <then_branch = g1 () => (float[m, 3] t) { t = Relu(x) },
                    else_branch = g2 () => (float[m, 3] e) { e = Add(x, x) }>
    }""")
    assert graph.tensor("y").shape == (B, 3)
    body = graph.nodes[0].attrs["then_branch"]
    assert isinstance(body, Graph)
    assert body.tensor("t").shape == (B, 3)


def test_specialize_replaces_symbols_everywhere() -> None:
    graph = specialize(graph_of(HEADS), sizes={"s": 7}, batch_size=1)
    assert graph.tensor("x").shape == (1, 7, 8)
    assert graph.tensor("y").shape == (1, 7, 2, 4)


def test_specialize_by_input_shape() -> None:
    assert specialize(graph_of(HEADS), input_shapes={"x": (2, 3, 8)}).tensor("y").shape == (2, 3, 2, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": {"bb": 1}}, "no size 'bb'.*did you mean 'b'"),
        ({"input_shapes": {"z": (1,)}}, "no input 'z'"),
        ({"input_shapes": {"x": (1,)}}, "a shape of 3 sizes"),
        ({"sizes": {"b": 2}, "batch_size": 3}, "both 2 and 3"),
        ({"batch_size": -1}, "not negative"),
    ],
)
def test_specialize_says_what_does_not_fit(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        specialize(graph_of(HEADS), **options)


def test_a_fixed_size_that_nodes_need_cannot_be_replaced() -> None:
    graph = graph_of("(float[2, 3] x) => (float[2, 4] y) { y = MatMul(x, w) }", w=weights(3, 4))
    assert specialize(graph, batch_size=5).tensor("y").shape == (5, 4)
    with pytest.raises(ModelError, match="MatMul"):
        specialize(graph, input_shapes={"x": (2, 7)})


def test_an_error_inside_a_rule_names_the_node() -> None:
    good = graph_of("(float[2, 3] x) => (float[3, 2] y) { y = Transpose<perm = [1, 0]>(x) }")
    bad = Node("Transpose", ("x",), ("y",), {"perm": "ab"}, origin=Origin("turn", "Transpose", "", 13))
    with pytest.raises(ModelError, match="node 'turn'"):
        typed(good.with_nodes([bad]))


def test_small_known_numbers_are_computed() -> None:
    graph = graph_of("(float[4] x) => (float[n] y) { t = ReduceProd<keepdims = 1>(d) y = Reshape(x, t) }", d=ints(2, 2))
    assert graph.tensor("y").shape == (4,)
    assert np.array_equal(typed(graph).values["t"], [4])


def test_a_branch_that_is_never_taken_may_be_wrong() -> None:
    graph = graph_of(
        """(float[b, 3] x) => (float[b, 3] y) {
        r = Size(x)
        n = Mod(r, three)
        c = Equal(n, n)
        y = If (c) <then_branch = g1 () => (float[m, 3] t) { t = Relu(x) },
                    else_branch = g2 () => (float[m, 3] e) { e = Squeeze(x, one) }>
    }""",
        three=np.array(3, np.int64),
        one=ints(1),
    )
    assert graph.tensor("y").shape == (B, 3)
