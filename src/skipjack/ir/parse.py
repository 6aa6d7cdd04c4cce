"""Reading the text that ir.text prints."""

from __future__ import annotations

import base64
import json
import re
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from skipjack.core.dims import Dim, parse_dim
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.ir.graph import EMPTY, Attr, Graph, Node, Origin
from skipjack.ir.text import from_terms
from skipjack.ir.types import PLAIN, Layout, MapType, OptionalType, Quant, SequenceType, TensorType, ValueType
from skipjack.lang.expr import Expr

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[A-Za-z_][\w]*")
_NUMBER = re.compile(r"[-+]?(?:inf|nan|\d+(?:\.\d+)?(?:e[-+]?\d+)?)")
_JSON = json.JSONDecoder(strict=False)


def parse_graph(text: str) -> Graph:
    """The graph that print_graph printed; ModelError names the line that is not understood."""
    reader = _Reader(text)
    graph = reader.graph()
    if not reader.at_end():
        reader.fail("the end of the text")
    return graph


def parse_type(text: str) -> ValueType:
    """The type that print_type printed."""
    return _Reader(text).type()


class _Reader:
    """A position in a text; every method reads one thing and moves on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, expected: str) -> NoReturn:
        line = self.text.count("\n", 0, self.at) + 1
        raise ModelError(f"graph text, line {line}: expected {expected}, got {self.text[self.at : self.at + 30]!r}")

    def skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def at_end(self) -> bool:
        self.skip()
        return self.at == len(self.text)

    def peek(self, mark: str) -> bool:
        self.skip()
        return self.text.startswith(mark, self.at)

    def take(self, mark: str) -> bool:
        """Whether mark comes next; it is read if so."""
        if not self.peek(mark):
            return False
        self.at += len(mark)
        return True

    def expect(self, mark: str) -> None:
        if not self.take(mark):
            self.fail(repr(mark))

    def match(self, pattern: re.Pattern[str], what: str) -> str:
        self.skip()
        found = pattern.match(self.text, self.at)
        if found is None:
            self.fail(what)
        self.at = found.end()
        return found.group()

    def word(self) -> str:
        return self.match(_WORD, "a word")

    def string(self) -> str:
        if not self.peek('"'):
            self.fail("a name in quotes")
        try:
            value, self.at = _JSON.raw_decode(self.text, self.at)
        except json.JSONDecodeError:
            self.fail("a closed string")
        return str(value)

    def number(self) -> int | float:
        text = self.match(_NUMBER, "a number")
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)

    def integer(self) -> int:
        value = self.number()
        return value if isinstance(value, int) else self.fail("an integer")

    def list_of(self, item: Any, close: str = ")") -> list[Any]:
        """Items between commas up to close, which is read too."""
        items: list[Any] = []
        while not self.take(close):
            if items:
                self.expect(",")
            items.append(item())
        return items

    def dtype(self) -> DType:
        name = self.word()
        try:
            return DType(name)
        except ValueError:
            self.fail(f"an element type instead of {name}")

    def type(self) -> ValueType:
        for name, build in (("seq(", SequenceType), ("opt(", OptionalType)):
            if self.take(name):
                element = self.type()
                self.expect(")")
                return build(element)
        if self.take("map("):
            key = self.dtype()
            self.expect(",")
            value = self.type()
            self.expect(")")
            return MapType(key, value)
        return self._tensor_type()

    def _tensor_type(self) -> TensorType:
        dtype = self.dtype()
        self.expect("[")
        unknown = self.take("?")
        dims = self.list_of(self.dim, "]")
        layout = self._layout() if self.take("layout ") else PLAIN
        encoding = self.string() if self.take("encoding ") else "dense"
        quant = self._quant() if self.take("quant(") else None
        return TensorType(dtype, None if unknown else tuple(dims), layout, encoding, quant)

    def _layout(self) -> Layout:
        text = self.string()
        try:
            return Layout.parse(text)
        except ValueError:
            self.fail("a layout such as blocked16 or columns64x4")

    def _quant(self) -> Quant:
        scale = self.string()
        self.expect(",")
        zero_point = self.string()
        self.expect(",")
        axis = None if self.take("none") else self.integer()
        self.expect(",")
        block = self.integer()
        self.expect(")")
        return Quant(scale, zero_point, axis, block)

    def dim(self) -> Dim:
        if self.peek('"'):
            return from_terms(json.loads(self.string()))
        self.skip()
        start, depth = self.at, 0
        while self.at < len(self.text) and (depth or self.text[self.at] not in ",]"):
            depth += {"(": 1, ")": -1}.get(self.text[self.at], 0)
            self.at += 1
        return parse_dim(self.text[start : self.at])

    def array(self) -> np.ndarray:
        dtype = self.dtype()
        self.expect("(")
        shape = self.list_of(self.integer)
        if self.peek('"'):
            data = base64.b64decode(self.string())
            return np.frombuffer(data, dtype.np).reshape(shape).copy()
        self.expect("(")
        values = self.list_of(self.string if dtype is DType.STRING else self.number)
        return np.array(values, dtype.np).reshape(shape)

    def expr(self) -> Expr:
        self.expect("{")
        steps: list[Expr] = []
        while not steps or self.take(";"):
            op, dtype = self.word(), self.dtype()
            value = self._scalar() if op in ("input", "const") else 0
            args: list[Expr] = []
            while self.take("%"):
                args.append(steps[self.integer()])
            steps.append(Expr(op, tuple(args), dtype, value))
        self.expect("}")
        return steps[-1]

    def _scalar(self) -> int | float | bool:
        if self.take("true"):
            return True
        return False if self.take("false") else self.number()

    def attr(self) -> Attr:
        if self.peek('"'):
            return self.string()
        if self.take("("):
            return tuple(self.list_of(self.attr))
        if self.peek("graph "):
            return self.graph()
        if self.take("array "):
            return self.array()
        if self.take("bytes "):
            return base64.b64decode(self.string())
        if self.take("type "):
            return self.type()
        return self.expr() if self.take("expr ") else self.number()

    def graph(self) -> Graph:
        self.expect("graph ")
        name = self.string()
        self.expect("{")
        parts = _Parts()
        while not self.take("}"):
            self._line(parts)
        return parts.graph(name)

    def _line(self, parts: _Parts) -> None:
        kind = self.word()
        if kind == "node":
            parts.nodes.append(self._node(parts))
        elif kind == "output":
            parts.outputs.append(self.string())
        elif kind in ("input", "captured", "constant", "type"):
            name = self._typed(parts)
            if kind == "constant":
                self.expect("=")
                self.expect("array ")
                parts.constants[name] = self.array()
            elif kind != "type":
                (parts.inputs if kind == "input" else parts.captured).append(name)
        else:
            self.fail("input, captured, constant, node, output or type")

    def _typed(self, parts: _Parts) -> str:
        name = self.string()
        if self.take(":"):
            parts.types[name] = self.type()
        return name

    def _node(self, parts: _Parts) -> Node:
        outputs: list[str] = []
        while not self.take("="):
            if outputs:
                self.expect(",")
            outputs.append(self._typed(parts))
        op = self.string()
        domain = self.string() if self.take("domain ") else ""
        self.expect("(")
        inputs = self.list_of(self.string)
        attrs: dict[str, Attr] = {}
        if self.take("{"):
            while not self.take("}"):
                name = self.string()
                self.expect("=")
                attrs[name] = self.attr()
        frozen_attrs = MappingProxyType(attrs) if attrs else EMPTY
        return Node(op, tuple(inputs), tuple(outputs), frozen_attrs, domain, self._origin())

    def _origin(self) -> Origin:
        self.expect("from(")
        name = self.string()
        self.expect(",")
        op = self.string()
        self.expect(",")
        domain = self.string()
        self.expect(",")
        opset = self.integer()
        self.expect(")")
        return Origin(name, op, domain, opset)


class _Parts:
    """What has been read of a graph so far."""

    def __init__(self) -> None:
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.captured: list[str] = []
        self.nodes: list[Node] = []
        self.types: dict[str, ValueType] = {}
        self.constants: dict[str, np.ndarray] = {}

    def graph(self, name: str) -> Graph:
        return Graph(
            name,
            tuple(self.inputs),
            tuple(self.outputs),
            tuple(self.nodes),
            MappingProxyType(self.types),
            MappingProxyType(self.constants),
            tuple(self.captured),
        )
