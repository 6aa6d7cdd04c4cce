"""Functions of the model, and of operator schemas, inlined."""

import numpy as np
import onnx
import pytest
from onnx import defs, parser

import skipjack.frontend.graphs as graphs
from skipjack.core.errors import ModelError
from skipjack.frontend.onnx_file import import_model
from skipjack.ops.execute import run_graph
from skipjack.ops.registry import Op, find

HEADER = '<ir_version: 10, opset_import: ["" : 20, "f" : 1]> '
FUNCTION_HEADER = '<domain: "f", opset_import: ["" : {}, "f" : 1]> '


def test_attributes_defaults_and_nested_calls() -> None:
    model = parser.parse_model(
        HEADER
        + "agraph (float[3] x) => (float[3] y, float[3] z) { y = f.Outer<a = 0.5>(x) z = f.Outer(y) }"
        + FUNCTION_HEADER.format(20)
        + "Outer <a: float = 0.1> (v) => (r) { t = f.Inner<b: float = @a>(v) r = Neg(t) }"
        + FUNCTION_HEADER.format(20)
        + "Inner <b> (v) => (r) { t = LeakyRelu<alpha: float = @b>(v) r = Add(t, v) }"
    )
    x = np.array([-2, 0, 3], np.float32)
    graph = import_model(model).graph
    assert [n.op for n in graph.nodes] == ["LeakyRelu", "Add", "Neg"] * 2
    y, z = run_graph(graph, {"x": x})
    np.testing.assert_allclose(y, -(np.where(x < 0, 0.5 * x, x) + x), rtol=1e-6)
    np.testing.assert_allclose(z, -(np.where(y < 0, np.float32(0.1) * y, y) + y), rtol=1e-6)


def test_a_function_has_its_own_opset() -> None:
    model = parser.parse_model(
        HEADER
        + "agraph (float[3] x) => (float[3] y) { y = f.F(x) }"
        + FUNCTION_HEADER.format(10)
        + "F (v) => (r) { r = Clip<max = 1.0>(v) }"
    )
    y = run_graph(import_model(model).graph, {"x": np.array([-2, 0, 3], np.float32)})[0]
    np.testing.assert_array_equal(y, [-2, 0, 1])


def test_an_input_returned_and_an_absent_output() -> None:
    model = parser.parse_model(
        HEADER
        + "agraph (float[3] x) => (float[3] y) { y = f.F(x) }"
        + FUNCTION_HEADER.format(20)
        + "F (v) => (v, s) { s = Neg(v) }"
    )
    x = np.array([-2, 0, 3], np.float32)
    np.testing.assert_array_equal(run_graph(import_model(model).graph, {"x": x})[0], x)


def test_a_missing_attribute_is_an_error() -> None:
    model = parser.parse_model(
        HEADER
        + "agraph (float[3] x) => (float[3] y) { y = f.F(x) }"
        + FUNCTION_HEADER.format(20)
        + "F <b> (v) => (r) { r = LeakyRelu<alpha: float = @b>(v) }"
    )
    with pytest.raises(ModelError, match=r"attributes \['b'\] of function 'F'"):
        import_model(model)


@pytest.mark.parametrize("op, call", [("HardSwish", "HardSwish(x)"), ("Gelu", 'Gelu<approximate="tanh">(x)')])
def test_schema_functions_stand_in_for_missing_operators(op: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(domain: str, name: str) -> Op | None:
        return None if name == op else find(domain, name)

    text = f"agraph (float[3] x) => (float[3] y) {{ y = {call} }}"
    model: onnx.ModelProto = parser.parse_model(HEADER + text)
    x = np.array([-2, 0.5, 3], np.float32)
    expected = run_graph(import_model(model).graph, {"x": x})[0]
    monkeypatch.setattr(graphs, "find", without)
    graph = import_model(model).graph
    assert op not in {n.op for n in graph.nodes}
    assert defs.has(op)
    np.testing.assert_allclose(run_graph(graph, {"x": x})[0], expected, rtol=1e-5)
