from __future__ import annotations

import numpy as np
import pytest

from skipjack.core.dims import Dim, Sym, dim_min, floordiv
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.ir.graph import SKIPJACK, Graph, Node, Origin, frozen
from skipjack.ir.parse import parse_graph, parse_type
from skipjack.ir.text import print_graph, print_type, same_structure, without_data
from skipjack.ir.types import Layout, MapType, OptionalType, Quant, SequenceType, TensorType, ValueType, tensor
from skipjack.lang.expr import arg, const, maximum, select, unary

B, S = Sym.named("b"), Sym.named("s")
X = arg(0, DType.F32)


def _graph(**attrs: object) -> Graph:
    node = Node("Op", ("x", "", "w"), ("y", ""), frozen(attrs), SKIPJACK, Origin('a node "of" mine', "Old", "", 9))
    types = frozen({"x": tensor(DType.F32, B, S), "w": tensor(DType.F32, 2), "y": tensor(DType.F32, B)})
    return Graph("main", ("x",), ("y",), (node,), types, frozen({"w": np.array([1.5, -0.0], np.float32)}), ("k",))


BODY = Graph(
    "body", ("i",), ("o",), (Node("Add", ("i", "x"), ("o",)),), frozen({"free": tensor(DType.I64)}), captured=("x",)
)
SHARED = unary("exp", X) * 2.0
ATTRS: list[object] = [
    7,
    -7,
    0.1,
    1e-20,
    float("inf"),
    'text with "quotes", commas\nand ünicode',
    b"\x00\xff",
    (),
    (1, 2),
    (1.0, 2.5),
    ("a", "b"),
    np.array(3, np.int64),
    np.arange(6, dtype=np.int8).reshape(2, 3),
    np.arange(100, dtype=np.float64),
    np.array([np.nan, 1], np.float32),
    np.array([1 + 2j], np.complex64),
    np.array(["a", 'b"', ""], object),
    np.zeros((0, 3), np.float16),
    np.array([1.5, -2], DType.BF16.np),
    np.array([7, -8], DType.I4.np),
    (np.zeros(2, np.float32), np.ones(1, np.int64)),
    BODY,
    (BODY, BODY),
    tensor(DType.U8, 3),
    select(SHARED.eq(SHARED), maximum(SHARED + SHARED, const(-1.5, DType.F32)), X),
    const(True, DType.BOOL),
]


@pytest.mark.parametrize("value", ATTRS, ids=lambda v: type(v).__name__)
def test_an_attribute_survives_the_round_trip(value: object) -> None:
    graph = _graph(value=value)
    back = parse_graph(print_graph(graph))
    assert same_structure(graph, back)
    found = back.nodes[0].attrs["value"]
    assert type(found) is type(value)
    if isinstance(value, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes()) or (
            found.tolist() == value.tolist()
        )
    elif not isinstance(value, tuple | Graph):
        assert found == value


def test_everything_else_of_a_graph_survives() -> None:
    graph = _graph()
    back = parse_graph(print_graph(graph))
    assert (back.name, back.inputs, back.outputs, back.captured) == ("main", ("x",), ("y",), ("k",))
    assert dict(back.types) == dict(graph.types)
    node, old = back.nodes[0], graph.nodes[0]
    assert (node.op, node.domain, node.inputs, node.outputs, node.origin) == (
        old.op,
        old.domain,
        old.inputs,
        old.outputs,
        old.origin,
    )
    assert str(back.constants["w"][1]) == "-0.0"


@pytest.mark.parametrize(
    "kind",
    [
        tensor(DType.F32),
        TensorType(DType.F32, None),
        tensor(DType.F32, B * S + 3, dim_min(S, 512), floordiv(S - 1, 2)),
        tensor(DType.I64, Sym.named('a name, with ] and "quotes"-1') * 2 + 1),
        tensor(DType.I64, Sym.named("size0:/model/Shape_output_0")),
        tensor(DType.I64, dim_min(Sym.named("odd name"), 3)),
        TensorType(DType.F32, (B, 64, 7, 7), Layout("blocked", 16)),
        TensorType(DType.I8, (4, 4), encoding="csr", quant=Quant("s", "z", 1, 32)),
        TensorType(DType.I8, (4, 4), quant=Quant("s", "", None)),
        SequenceType(OptionalType(tensor(DType.STRING, 1))),
        MapType(DType.STRING, tensor(DType.F32)),
    ],
    ids=str,
)
def test_a_type_survives_the_round_trip(kind: ValueType) -> None:
    assert parse_type(print_type(kind)) == kind


def test_a_symbol_of_any_name_stays_one_symbol() -> None:
    d: Dim = Sym.named("min(a,b)")
    assert parse_type(print_type(tensor(DType.F32, d))) == tensor(DType.F32, d)


def test_a_mistake_names_its_line() -> None:
    text = print_graph(_graph(axis=1)).replace('"axis" = 1', '"axis" = ?')
    with pytest.raises(ModelError, match="line 6: expected a number"):
        parse_graph(text)
    with pytest.raises(ModelError, match="the end of the text"):
        parse_graph(print_graph(_graph()) + " x")


def test_a_text_for_reading_leaves_out_large_arrays() -> None:
    text = without_data(print_graph(_graph(table=np.zeros((10, 10), np.float32))))
    assert '"table" = array f32(10, 10) ...\n' in text
    assert "array f32(2) (1.5, -0.0)" in text
