"""Control flow: the types that bodies give, and what its references do at the edges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx.parser
import pytest

import skipjack.ops.all  # noqa: F401
from skipjack.core.dims import Sym, symbols
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError, ResourceError
from skipjack.frontend.onnx_file import import_model
from skipjack.ir.graph import Graph
from skipjack.ir.types import SequenceType, TensorType
from skipjack.ops.execute import run_graph
from skipjack.passes.propagate_types import typed

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def _graph(text: str) -> Graph:
    return typed(import_model(onnx.parser.parse_model(HEAD + text)).graph).graph


def _run(graph: Graph, **feeds: Any) -> list[Any]:
    return run_graph(graph, feeds)


BRANCHES = """
g (bool c, float[b, s, 4] x, float[b, 7, 4] z) => (float[p, q, r] y) {
  y = If (c) <
    then_branch = t () => (a) { a = Relu (x) },
    else_branch = e () => (a) { a = Neg (z) }>
}"""


def test_branches_that_differ_in_a_size_give_a_new_symbol() -> None:
    graph = _graph(BRANCHES)
    shape = graph.tensor("y").shape
    assert shape is not None
    assert shape[0] == Sym.named("b")
    assert shape[2] == 4
    assert shape[1] not in (Sym.named("s"), 7)
    x, z = np.ones((2, 3, 4), np.float32), np.ones((2, 7, 4), np.float32)
    assert _run(graph, c=np.array(True), x=x, z=z)[0].shape == (2, 3, 4)
    assert _run(graph, c=np.array(False), x=x, z=z)[0].shape == (2, 7, 4)


def test_a_known_condition_gives_the_type_of_its_branch() -> None:
    graph = _graph(
        """
        g (float[b, 1] x) => (float[p] y) {
          axis = Constant<value_ints = [1]> ()
          c = Constant<value = bool {1}> ()
          y = If (c) <
            then_branch = t () => (a) { a = Squeeze (x, axis) },
            else_branch = e () => (a) { a = Squeeze (x) }>
        }"""
    )
    assert graph.tensor("y").shape == (Sym.named("b"),)


GROWING = """
g (int64 n, float[b, 1] x) => (float[b, k] y, float[t, b] rows) {
  go = Constant<value = bool {1}> ()
  y, rows = Loop (n, go, x) <
    body = body (int64 i, bool c, float[b, m] v) => (bool again, float[b, m2] w, float[b] row) {
      again = Identity (c)
      one = Constant<value_ints = [1]> ()
      w = Concat<axis = 1> (v, x)
      row = ReduceSum<keepdims = 0> (v, one)
    }>
}"""


def test_a_value_that_grows_in_a_loop_has_symbols_of_its_own() -> None:
    graph = _graph(GROWING)
    shape = graph.tensor("y").shape
    assert shape is not None
    assert shape[0] == Sym.named("b")
    assert symbols(shape[1])
    body = graph.nodes[-1].attrs["body"]
    assert isinstance(body, Graph)
    carried = body.tensor(body.inputs[2]).shape
    made = body.tensor(body.outputs[1]).shape
    assert carried is not None
    assert made is not None
    assert made[1] == carried[1] + 1
    assert made[1] != shape[1]
    y, rows = _run(graph, n=np.array(3), x=np.ones((2, 1), np.float32))
    assert y.shape == (2, 4)
    assert rows.tolist() == [[1, 1], [2, 2], [3, 3]]


def test_a_loop_of_no_rounds_gives_back_what_it_got() -> None:
    y, rows = _run(_graph(GROWING), n=np.array(0), x=np.ones((2, 1), np.float32))
    assert y.shape == (2, 1)
    assert rows.shape[0] == 0
    assert rows.dtype == np.float32


def test_a_loop_with_a_huge_limit_stops_with_its_condition() -> None:
    graph = _graph(
        """
        g (int64 n, int64 x) => (int64 y) {
          go = Constant<value = bool {1}> ()
          y = Loop (n, go, x) <
            body = body (int64 i, bool c, int64 v) => (bool again, int64 w) {
              one = Constant<value_int = 1> ()
              ten = Constant<value_int = 10> ()
              w = Add (v, one)
              again = Less (w, ten)
            }>
        }"""
    )
    assert _run(graph, n=np.array(1 << 60), x=np.array(0))[0] == 10


SUMS = """
g (float[b, 4] s, float[t, b, 4] x) => (float[b, 4] y, float[b, t, 4] rows) {
  y, rows = Scan (s, x) <
    num_scan_inputs = 1, scan_output_axes = [1], scan_input_directions = [1],
    body = body (float[b, 4] v, float[b, 4] e) => (float[b, 4] w, float[b, 4] row) {
      w = Add (v, e)
      row = Identity (w)
    }>
}"""


def test_scan_stacks_along_its_axis_and_reads_backwards() -> None:
    graph = _graph(SUMS)
    b, t = Sym.named("b"), Sym.named("t")
    assert graph.tensor("y").shape == (b, 4)
    assert graph.tensor("rows").shape == (b, t, 4)
    x = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    y, rows = _run(graph, s=np.zeros((2, 4), np.float32), x=x)
    np.testing.assert_array_equal(y, x.sum(0))
    np.testing.assert_array_equal(rows, np.stack([x[2], x[2] + x[1], x.sum(0)], 1))


def test_elements_of_a_sequence_do_not_share_a_size() -> None:
    graph = _graph(
        """
        g (float[b, s] x, int64[2] parts) => (float[p, q] y, float[k, l] z) {
          zero = Constant<value_int = 0> ()
          one = Constant<value_int = 1> ()
          all = SplitToSequence<axis = 1> (x, parts)
          y = SequenceAt (all, zero)
          z = SequenceAt (all, one)
        }"""
    )
    assert isinstance(graph.types["all"], SequenceType)
    first, second = graph.tensor("y").shape, graph.tensor("z").shape
    assert first is not None
    assert second is not None
    assert first[1] != second[1]
    y, z = _run(graph, x=np.zeros((2, 5), np.float32), parts=np.array([2, 3]))
    assert (y.shape, z.shape) == ((2, 2), (2, 3))


def test_bodies_that_break_the_contract_are_named() -> None:
    graph = import_model(onnx.parser.parse_model(HEAD + BRANCHES)).graph
    node = graph.nodes[0]
    branch = node.attrs["then_branch"]
    assert isinstance(branch, Graph)
    with pytest.raises(ModelError, match="a graph in attribute else_branch"):
        typed(graph.with_nodes([replace(node, attrs={"then_branch": branch})]))
    with pytest.raises(ModelError, match="branches with 1 outputs"):
        typed(graph.with_nodes([node.with_attrs(then_branch=replace(branch, outputs=()))]))
    with pytest.raises(ModelError, match="a body with 0 inputs"):
        typed(graph.with_nodes([node.with_attrs(then_branch=replace(branch, inputs=("q",)))]))
    other = replace(graph, types={**graph.types, "z": TensorType(DType.F64, (1, 7, 4))})
    with pytest.raises(ModelError, match="values of one type"):
        typed(other)
    with pytest.raises(ModelError, match="one truth value"):
        run_graph(graph, {"c": np.zeros(2, bool), "x": np.zeros(1), "z": np.zeros(1)})


def test_a_loop_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_MAX_ROUNDS", "10")
    text = """
    g (int64 n, float[2] x) => (float[2] y) <bool go = {1}> {
      y = Loop (n, go, x) <body = b (int64 i, bool k, float[2] v) => (bool k2, float[2] v2) {
        k2 = Identity (k) v2 = Add (v, x) }>
    }"""
    graph, x = _graph(text), np.ones(2, np.float32)
    np.testing.assert_array_equal(_run(graph, n=np.array(10), x=x)[0], [11, 11])
    with pytest.raises(ResourceError, match=r"within 10 rounds.*SKIPJACK_MAX_ROUNDS"):
        _run(graph, n=np.array(2**40), x=x)
