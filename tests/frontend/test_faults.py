"""Models that are damaged, hostile or beyond what skipjack runs: one clear error each, quickly."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skipjack.core.errors import ModelError, UnsupportedError
from skipjack.frontend.checks import MAX_NODES
from skipjack.frontend.onnx_file import import_model

FLOAT = TensorProto.FLOAT


def value(name: str, shape: list[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape if shape is not None else [2])


def model(
    nodes: list[onnx.NodeProto], inputs: tuple[str, ...] = ("x",), outputs: tuple[str, ...] = ("y",), opset: int = 20
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [value(i) for i in inputs], [value(o) for o in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def relu(a: str, b: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node("Relu", [a], [b], name=f"{a}_{b}", **attrs)


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    m = model([relu("x", "y")])
    change(m)
    return m


def nested(depth: int) -> onnx.ModelProto:
    graph = helper.make_graph([relu("x", "y0")], "b", [], [value("y0")])
    for i in range(depth):
        node = helper.make_node("If", ["c"], [f"y{i + 1}"], then_branch=graph, else_branch=graph if i < 2 else None)
        graph = helper.make_graph([node], "b", [], [value(f"y{i + 1}")])
    m = model([], outputs=(f"y{depth}",))
    m.graph.node.extend(graph.node)
    m.graph.initializer.append(helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return m


def calls(name: str, target: str) -> onnx.FunctionProto:
    node = helper.make_node(target, ["a"], ["b"], domain="f")
    return helper.make_function("f", name, ["a"], ["b"], [node], [helper.make_opsetid("f", 1)])


def recursive() -> onnx.ModelProto:
    m = model([helper.make_node("F", ["x"], ["y"], domain="f", name="call")])
    m.opset_import.append(helper.make_opsetid("f", 1))
    m.functions.extend([calls("F", "G"), calls("G", "F")])
    return m


def function_bomb() -> onnx.ModelProto:
    m = model([helper.make_node("F0", ["x"], ["y"], domain="f")])
    m.opset_import.append(helper.make_opsetid("f", 1))
    for i in range(20):
        nodes = [
            helper.make_node(f"F{i + 1}" if i < 19 else "Relu", [f"v{k}"], [f"v{k + 1}"], domain="f" if i < 19 else "")
            for k in range(4)
        ]
        opsets = [helper.make_opsetid("f", 1), helper.make_opsetid("", 20)]
        m.functions.append(helper.make_function("f", f"F{i}", ["v0"], ["v4"], nodes, opsets))
    return m


INVALID: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "cycle": (lambda: model([relu("b", "a"), relu("a", "b"), relu("b", "y")]), r"wait for each other"),
    "missing value": (
        lambda: model([relu("xx", "y")]),
        r"node 'xx_y' \(Relu.* opset 20\).*'xx'.*did you mean 'x'",
    ),
    "missing output": (lambda: model([relu("x", "z")]), r"output 'y': no node"),
    "duplicate output": (lambda: model([relu("x", "y"), relu("x", "y")]), r"'y': the name is already taken"),
    "output is input": (lambda: model([relu("x", "x"), relu("x", "y")]), r"'x': the name is already taken"),
    "duplicate input": (lambda: model([relu("x", "y")], ("x", "x")), r"'x': the name is already taken"),
    "output twice": (lambda: model([relu("x", "y")], outputs=("y", "y")), r"listed twice"),
    "no ir_version": (lambda: changed(lambda m: m.ClearField("ir_version")), r"without ir_version"),
    "no graph": (lambda: changed(lambda m: m.ClearField("graph")), r"without a graph"),
    "no outputs": (lambda: changed(lambda m: m.graph.ClearField("output")), r"no outputs"),
    "no opsets": (lambda: changed(lambda m: m.ClearField("opset_import")), r"opset_import is empty"),
    "opset too new": (lambda: model([relu("x", "y")], opset=999), r"opset 999 .* expected 7 to \d+; export"),
    "opset 0": (lambda: model([relu("x", "y")], opset=0), r"opset 0 of ai.onnx is not known"),
    "opset -1": (lambda: model([relu("x", "y")], opset=-1), r"opset -1"),
    "opset twice": (lambda: changed(lambda m: m.opset_import.add(domain="", version=9)), r"twice"),
    "attribute name": (lambda: model([relu("x", "y", foo=1)]), r"node 'x_y'.*attribute 'foo' is not known"),
    "attribute type": (
        lambda: model([helper.make_node("Flatten", ["x"], ["y"], axis=1.5)]),
        r"attribute 'axis' of type INT, got FLOAT",
    ),
    "attribute missing": (lambda: model([helper.make_node("Concat", ["x"], ["y"])]), r"attributes \['axis'\]"),
    "input count": (lambda: model([helper.make_node("Relu", ["x", "x"], ["y"])]), r"expected 1 inputs, got 2"),
    "output count": (lambda: model([helper.make_node("Relu", ["x"], ["y", "z"])]), r"expected 1 outputs, got 2"),
    "required input absent": (
        lambda: model([helper.make_node("Add", ["", "x"], ["y"])]),
        r"input 0 \(A\), got nothing",
    ),
    "untyped input": (lambda: changed(lambda m: m.graph.input[0].ClearField("type")), r"value 'x'.*got none"),
    "element type": (
        lambda: changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77)),
        r"element type from 1 to 26, got 77",
    ),
    "shape bomb": (
        lambda: changed(lambda m: m.graph.input[0].CopyFrom(value("x", [2**40, 2**40]))),
        r"too large",
    ),
    "long name": (lambda: model([relu("x", "z" * 5000), relu("z" * 5000, "y")]), r"5000 characters"),
    "subgraphs 30 deep": (lambda: nested(30), r"nested more than 24"),
    "function recursion": (recursive, r"call each other without end"),
    "function bomb": (function_bomb, rf"more than {MAX_NODES} nodes"),
    "too many nodes": (lambda: changed(lambda m: m.graph.node.extend([relu("x", "z")] * MAX_NODES)), r"more than"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_models(name: str) -> None:
    build, message = INVALID[name]
    proto = build()
    start = time.perf_counter()
    with pytest.raises(ModelError, match=message):
        import_model(proto)
    assert time.perf_counter() - start < 10, "refusing took too long"


def test_sixty_and_a_thousand_levels() -> None:
    """Nesting that protobuf itself refuses is our error too, whether parsed or not."""
    for depth in (60, 1000):
        inner = b"\x12\x00"
        for _ in range(depth):  # GraphProto.node > NodeProto.attribute > AttributeProto.g
            for tag in (b"\x32", b"\x2a", b"\x0a"):
                inner = tag + _varint(len(inner)) + inner
        data = b"\x08\x0a\x3a" + _varint(len(inner)) + inner
        with pytest.raises(ModelError):
            import_model(data)


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out) + bytes([n])


def test_damaged_files(tmp_path: Path) -> None:
    whole = model([relu("x", "y")]).SerializeToString()
    rng = random.Random(1)
    cases = [b"", b"\0" * 100, b"not a model", whole[: len(whole) // 2], bytes(rng.randbytes(1000))]
    for i, data in enumerate(cases):
        path = tmp_path / f"m{i}.onnx"
        path.write_bytes(data)
        with pytest.raises(ModelError, match=rf"m{i}\.onnx: \w"):
            import_model(path)
    with pytest.raises(ModelError, match="cannot be opened"):
        import_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match=r"holds no model\.onnx"):
        import_model(tmp_path)


def test_all_unsupported_nodes_are_listed_at_once() -> None:
    nodes = [
        helper.make_node("Rellu", ["x"], ["a"], name="first"),
        helper.make_node("Conv", ["a"], ["b"], name="second", domain="com.microsoft.nchwc"),
        helper.make_node("Magic", ["b"], ["c"], name="third", domain="my.domain"),
        helper.make_node("Gelu", ["c"], ["y"], name="fourth"),
    ]
    m = model(nodes, opset=12)
    with pytest.raises(UnsupportedError) as caught:
        import_model(m)
    text = str(caught.value)
    for part in ("4 nodes", "'first' (Rellu, ai.onnx opset 12)", "did you mean 'Relu'?", "ORT_ENABLE_EXTENDED"):
        assert part in text
    for part in ("'third' (Magic, my.domain opset 0)", "its domain is not known", "'fourth' (Gelu", "newer one"):
        assert part in text


def test_unsorted_nodes_are_sorted() -> None:
    graph = import_model(model([relu("b", "y"), relu("a", "b"), relu("x", "a")])).graph
    assert [n.outputs[0] for n in graph.nodes] == ["a", "b", "y"]


def test_unused_unknown_domains_are_ignored() -> None:
    m = changed(lambda m: m.opset_import.add(domain="com.ms.internal.nhwc", version=17))
    assert len(import_model(m).graph.nodes) == 1


def test_initialisers_listed_as_inputs_are_constants() -> None:
    m = model([helper.make_node("Add", ["x", "w"], ["y"])], ("x", "w"), opset=7)
    m.ir_version = 3
    m.graph.initializer.append(helper.make_tensor("w", FLOAT, [2], [1, 2]))
    graph = import_model(m).graph
    assert graph.inputs == ("x",)
    np.testing.assert_array_equal(graph.constants["w"], [1, 2])


def test_a_graph_without_nodes_passes_inputs_through() -> None:
    graph = import_model(model([], outputs=("x",))).graph
    assert (graph.inputs, graph.outputs, graph.nodes) == (("x",), ("x",), ())


def test_symbolic_sizes_are_kept_apart() -> None:
    m = model([relu("x", "y")])
    m.graph.input[0].CopyFrom(value("x", ["batch size", "batch-size", "batch size", -1, None]))
    assert [str(d) for d in import_model(m).graph.tensor("x").shape or ()] == [
        "batch_size",
        "batch_size_2",
        "batch_size",
        "x.dim3",
        "x.dim4",
    ]


def test_captured_values_and_shadowing() -> None:
    then = helper.make_graph([relu("x", "t")], "then", [], [value("t")])
    other = helper.make_graph([helper.make_node("Add", ["w", "x"], ["t"])], "else", [], [value("t")])
    m = model([helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)])
    m.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    m.graph.initializer.append(helper.make_tensor("w", FLOAT, [2], [1, 2]))
    graph = import_model(m).graph
    bodies = dict(graph.nodes[0].subgraphs())
    assert bodies["then_branch"].captured == ("x",)
    assert set(bodies["else_branch"].captured) == {"w", "x"}
    assert bodies["then_branch"].outputs != bodies["else_branch"].outputs, "names are unique in the whole model"
