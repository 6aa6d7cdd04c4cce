"""SizeVector: integers that follow from the sizes of the inputs, evaluated when the sizes are bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, Sym, evaluate, parse_dim, product
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Attr, Graph, Node
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.registry import Infer, Op, Ref, register

SIZE_VECTOR = "SizeVector"


def size_vector(value: np.ndarray, dtype: DType, output: str) -> Node:
    """The node that gives value, an array of sizes: attributes `dims` (texts, C order), `shape`, `dtype`."""
    attrs: dict[str, Attr] = {
        "dims": tuple(str(d) for d in value.flat),
        "shape": tuple(int(n) for n in value.shape),
        "dtype": dtype.value,
    }
    return Node(SIZE_VECTOR, (), (output,), attrs, SKIPJACK)


def bind_sizes(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The graph with every SizeVector, bodies included, holding integers. ModelError names a size that is not given."""
    return graph.with_nodes(_bound(node, sizes) for node in graph.nodes)


def sizes_of(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, int]:
    """What each plain symbol in the input types is for these arrays."""
    found: dict[str, int] = {}
    for name, array in inputs.items():
        t = graph.types.get(name)
        if not isinstance(t, TensorType) or t.shape is None:
            continue
        for d, size in zip(t.shape, np.shape(array)):
            if isinstance(d, Sym) and d == Sym.named(str(d)):
                found.setdefault(str(d), int(size))
    return found


def _bound(node: Node, sizes: Mapping[str, int]) -> Node:
    if node.key == (SKIPJACK, SIZE_VECTOR):
        return node.with_attrs(dims=tuple(str(evaluate(d, sizes)) for d in _dims(node)))
    bodies: dict[str, Attr] = {name: bind_sizes(body, sizes) for name, body in node.subgraphs()}
    return node.with_attrs(**bodies) if bodies else node


def _dims(node: Node) -> list[Dim]:
    texts = node.attrs["dims"]
    assert isinstance(texts, tuple), "dims of a SizeVector is a tuple of texts"
    return [parse_dim(str(t)) for t in texts]


def _type(i: Infer) -> Sequence[ValueType]:
    shape = tuple(int(n) for n in i.attr("shape"))
    if product(shape) != len(i.attr("dims")):
        i.fail(f"{product(shape)} sizes", len(i.attr("dims")))
    return [TensorType(DType(i.attr("dtype")), shape)]


def _known(i: Infer) -> Sequence[np.ndarray | None]:
    values = np.empty(len(i.attr("dims")), object)
    values[:] = _dims(i.node)
    return [values.reshape(i.attr("shape"))]


def _values(r: Ref) -> list[Any]:
    numbers = [evaluate(d, {}) for d in _dims(r.node)]
    return [np.array(numbers, DType(r.attr("dtype")).np).reshape(r.attr("shape"))]


register(Op(SIZE_VECTOR, _type, _values, SKIPJACK, propagate=_known))
