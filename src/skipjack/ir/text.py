"""A graph as text that a person can read and that parses back to an equal graph.

One line per input, constant, node and output; bodies and long attributes are indented below their node. Names are JSON
strings, large arrays are base64.
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, Opaque, Sym, parse_dim
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.ir.graph import Attr, Graph, Node
from skipjack.ir.types import MapType, OptionalType, SequenceType, ValueType
from skipjack.lang.expr import Expr

INLINE_ELEMENTS = 16
"""Arrays with at most this many elements are written as numbers."""
_DATA = re.compile(r'(array \w+\([\d, ]*\)) "[A-Za-z0-9+/=]*"')


def print_graph(graph: Graph, indent: str = "") -> str:
    """The text of a graph; ir.parse reads it back."""
    inner = indent + "  "
    lines = [f"graph {_quoted(graph.name)} {{"]
    lines += [f"{inner}input {_typed(graph, name)}" for name in graph.inputs]
    lines += [f"{inner}captured {_typed(graph, name)}" for name in graph.captured]
    lines += [f"{inner}constant {_typed(graph, name)} = {_array(value)}" for name, value in graph.constants.items()]
    lines += [inner + _node(graph, node, inner) for node in graph.nodes]
    lines += [f"{inner}output {_quoted(name)}" for name in graph.outputs]
    written = {*graph.inputs, *graph.captured, *graph.constants, *(o for n in graph.nodes for o in n.outputs)}
    lines += [f"{inner}type {_typed(graph, name)}" for name in graph.types if name not in written]
    return "\n".join([*lines, indent + "}"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _typed(graph: Graph, name: str) -> str:
    kind = graph.types.get(name)
    return _quoted(name) if kind is None else f"{_quoted(name)}: {print_type(kind)}"


def _node(graph: Graph, node: Node, indent: str) -> str:
    outputs = ", ".join(_typed(graph, o) for o in node.outputs)
    inputs = ", ".join(_quoted(i) for i in node.inputs)
    domain = f" domain {_quoted(node.domain)}" if node.domain else ""
    text = f"node {outputs} = {_quoted(node.op)}{domain}({inputs})"
    attrs = [f"{_quoted(k)} = {_attr(v, indent + '  ')}" for k, v in node.attrs.items()]
    if attrs:
        text += " {" + "".join(f"\n{indent}  {a}" for a in attrs) + f"\n{indent}}}"
    o = node.origin
    return f"{text} from({_quoted(o.name)}, {_quoted(o.op)}, {_quoted(o.domain)}, {o.opset})"


def _attr(value: Attr, indent: str) -> str:
    if isinstance(value, Graph):
        return print_graph(value, indent)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bytes):
        return f"bytes {_base64(value)}"
    if isinstance(value, tuple):
        return "(" + ", ".join(_attr(v, indent) for v in value) + ")"
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, Expr):
        return _expr(value)
    if isinstance(value, bool | int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return f"type {print_type(value)}"


def _base64(data: bytes) -> str:
    return _quoted(base64.b64encode(data).decode())


def _array(value: np.ndarray) -> str:
    dtype = DType.from_numpy(value.dtype)
    head = f"array {dtype.value}({', '.join(str(d) for d in value.shape)})"
    if dtype is DType.STRING:
        return f"{head} ({', '.join(_quoted(str(s)) for s in value.reshape(-1))})"
    if value.size > INLINE_ELEMENTS or not _is_plain(value, dtype):
        return f"{head} {_base64(np.ascontiguousarray(value).tobytes())}"
    number = float if dtype.is_float else int
    return f"{head} ({', '.join(repr(number(v)) for v in value.reshape(-1))})"


def _is_plain(value: np.ndarray, dtype: DType) -> bool:
    """Whether numbers say all: NaN has payloads, complex numbers have two parts."""
    if dtype in (DType.C64, DType.C128):
        return False
    return not dtype.is_float or all(math.isfinite(float(v)) for v in value.reshape(-1))


def _expr(root: Expr) -> str:
    """Steps in order, shared ones once; `%n` is the result of step n and the last step is the whole."""
    numbers: dict[int, int] = {}
    steps: list[str] = []

    def visit(e: Expr) -> int:
        if id(e) not in numbers:
            args = "".join(f" %{visit(a)}" for a in e.args)
            value = f" {_scalar(e.value)}" if e.op in ("input", "const") else ""
            steps.append(f"{e.op} {e.dtype.value}{value}{args}")
            numbers[id(e)] = len(steps) - 1
        return numbers[id(e)]

    visit(root)
    return "expr {" + "; ".join(steps) + "}"


def _scalar(value: int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def print_type(kind: ValueType) -> str:
    """The text of a type; ir.parse reads it back."""
    if isinstance(kind, SequenceType):
        return f"seq({print_type(kind.element)})"
    if isinstance(kind, OptionalType):
        return f"opt({print_type(kind.element)})"
    if isinstance(kind, MapType):
        return f"map({kind.key.value}, {print_type(kind.value)})"
    shape = "?" if kind.shape is None else ",".join(_dim(d) for d in kind.shape)
    text = f"{kind.dtype.value}[{shape}]"
    if kind.layout.kind != "plain":
        text += f" layout {_quoted(str(kind.layout))}"
    if kind.encoding != "dense":
        text += f" encoding {_quoted(kind.encoding)}"
    if kind.quant is not None:
        q = kind.quant
        axis = "none" if q.axis is None else q.axis
        text += f" quant({_quoted(q.scale)}, {_quoted(q.zero_point)}, {axis}, {q.block})"
    return text


def _dim(d: Dim) -> str:
    """The size as it is usually written; names that would be ambiguous make it a list of terms in quotes."""
    text = str(d)
    try:
        if parse_dim(text) == d:
            return text
    except (ModelError, IndexError):
        pass
    return _quoted(json.dumps(_terms(d)))


def _terms(d: Dim) -> Any:
    if not isinstance(d, Sym):
        return d
    return [[c, [a if isinstance(a, str) else [a.function, _terms(a.a), _terms(a.b)] for a in m]] for m, c in d.terms]


def from_terms(data: Any) -> Dim:
    """The size that a list of terms stands for."""
    if isinstance(data, int):
        return data
    total: Dim = 0
    for coefficient, atoms in data:
        term: Dim = coefficient
        for atom in atoms:
            term = term * _atom(atom)
        total = total + term
    return total


def _atom(data: Any) -> Sym:
    if isinstance(data, str):
        return Sym.named(data)
    function, a, b = data
    return Sym((((Opaque(function, from_terms(a), from_terms(b)),), 1),))


def without_data(text: str) -> str:
    """A graph's text for reading: `...` stands for the elements of large arrays, so it does not parse back."""
    return _DATA.sub(r"\1 ...", text)


def same_structure(a: Graph, b: Graph) -> bool:
    """Whether two graphs are equal in everything their text shows."""
    return print_graph(a) == print_graph(b)
