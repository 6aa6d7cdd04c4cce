"""Give every value of a graph its type, by the type rules of the operators and the sizes of the inputs.

Integer values that shape arithmetic computes are followed as arrays of sizes, so a Reshape whose target is computed
from a Shape still has a known (symbolic) result.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, Sym, evaluate, substitute
from skipjack.core.dtypes import DType
from skipjack.core.errors import ConfigError, ModelError, SkipjackError, nearest
from skipjack.ir.graph import ONNX, Attr, Graph, Node, frozen
from skipjack.ir.types import Shape, TensorType, ValueType, tensor
from skipjack.ops.registry import Infer, Op, Ref, lookup

Known = np.ndarray
_LARGEST_FOLLOWED = 4096
_LARGEST_EVALUATED = 256


@dataclass(frozen=True)
class Typed:
    """A graph with the type of every value, and the values that are known: constants, or integers holding sizes."""

    graph: Graph
    values: Mapping[str, Known]


@dataclass(frozen=True)
class PropagateTypes:
    """Fill Graph.types for every value, bodies of control flow included."""

    name: str = "propagate_types"

    def apply(self, graph: Graph) -> Graph:
        return typed(graph).graph


@dataclass
class _State:
    types: dict[str, ValueType]
    values: dict[str, Known]
    bodies: dict[int, Graph] = field(default_factory=dict[int, Graph])


def typed(graph: Graph) -> Typed:
    """The graph with all types, and every value that is known before it runs. Input types must be given."""
    return _typed(graph, {}, {})


def _typed(graph: Graph, outer_types: Mapping[str, ValueType], outer_values: Mapping[str, Known]) -> Typed:
    state = _State({}, {})
    for name in graph.inputs:
        state.types[name] = graph.types[name]
    for name in graph.captured:
        known = outer_types.get(name) or graph.types.get(name)
        if known is not None:
            state.types[name] = known
        if name in outer_values:
            state.values[name] = outer_values[name]
    for name, array in graph.constants.items():
        state.types[name] = graph.types.get(name) or tensor(DType.from_numpy(array.dtype), *array.shape)
        state.values[name] = array
    nodes = [_step(node, graph, state) for node in graph.nodes]
    return Typed(graph.with_nodes(nodes, types=frozen(state.types)), state.values)


def _step(node: Node, graph: Graph, state: _State) -> Node:
    """Record the types and known values of the node's outputs; the node comes back with its bodies typed."""
    node = _with_known_branch(node, state)
    op = lookup(node)
    bodies: dict[int, Graph] = {}

    def typed_body(body: Graph, types: Sequence[ValueType | None]) -> Graph:
        inner = _with_input_types(body, types)
        bodies[id(body)] = _typed(inner, state.types, state.values).graph
        return bodies[id(body)]

    facts = Infer(
        node,
        [state.types.get(i) if i else None for i in node.inputs],
        [state.values.get(i) if i else None for i in node.inputs],
        typed_body,
    )
    before = _remembered(node, facts)
    if before is None:
        _check_inputs(node, facts)
    inferred = _guarded(node, lambda: list(op.infer(facts))) if before is None else before.types
    for name, new in zip(node.outputs, inferred):
        if name:
            state.types[name] = _more_precise(new, graph.types.get(name))
    values = _known_outputs(op, facts, node, state) if before is None else before.values
    for name, value in zip(node.outputs, values):
        if name and value is not None:
            state.values[name] = value
    if before is None and not bodies:
        _remember(node, facts, inferred, values)
    return _with_bodies(node, bodies)


@dataclass(frozen=True)
class _Answer:
    """What a node's outputs were, given its input types and known values."""

    facts: Infer
    types: Sequence[ValueType]
    values: Sequence[Known | None]


class _Memory(threading.local):
    """The answers of one run of the passes, by node; None outside of one."""

    answers: dict[int, _Answer] | None = None


_memory = _Memory()


@contextlib.contextmanager
def remembering() -> Generator[None, None, None]:
    """While this lasts, a node that stays as it was, with inputs that stay as they were, is not looked at again."""
    outer, _memory.answers = _memory.answers, {}
    try:
        yield
    finally:
        _memory.answers = outer


def _remembered(node: Node, facts: Infer) -> _Answer | None:
    found = _memory.answers.get(id(node)) if _memory.answers is not None else None
    if found is None or found.facts.node is not node:
        return None
    same = all(a is b or a == b for a, b in zip(facts.types, found.facts.types, strict=True))
    return found if same and all(a is b for a, b in zip(facts.values, found.facts.values, strict=True)) else None


def _remember(node: Node, facts: Infer, types: Sequence[ValueType], values: Sequence[Known | None]) -> None:
    if _memory.answers is not None:
        _memory.answers[id(node)] = _Answer(facts, types, values)


def _with_known_branch(node: Node, state: _State) -> Node:
    """An If whose condition is known has the chosen branch twice: the other may break the rules of its operators."""
    condition = state.values.get(node.input(0)) if node.key == (ONNX, "If") else None
    if condition is None or condition.size != 1:
        return node
    chosen = node.attrs["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
    return node.with_attrs(then_branch=chosen, else_branch=chosen)


def _check_inputs(node: Node, facts: Infer) -> None:
    for name, known in zip(node.inputs, facts.types):
        if name and known is None:
            raise ModelError(f"{node.origin}: expected input {name!r} to be made by an earlier node, got nothing")


def _guarded(node: Node, call: Any) -> Any:
    try:
        return call()
    except SkipjackError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, AssertionError, MemoryError) as e:
        raise ModelError(f"{node.origin}: its inputs or attributes break the operator's contract: {e!r}") from e


def _with_input_types(body: Graph, types: Sequence[ValueType | None]) -> Graph:
    given = {name: t for name, t in zip(body.inputs, types) if t is not None}
    return replace(body, types=frozen({**body.types, **given}))


def _with_bodies(node: Node, bodies: Mapping[int, Graph]) -> Node:
    changed: dict[str, Attr] = {name: bodies[id(g)] for name, g in node.subgraphs() if id(g) in bodies}
    return node.with_attrs(**changed) if changed else node


def _more_precise(inferred: ValueType, declared: ValueType | None) -> ValueType:
    """The inferred type, with the declared shape where the rule knows none."""
    if isinstance(inferred, TensorType) and inferred.shape is None and isinstance(declared, TensorType):
        return inferred.with_shape(declared.shape)
    return inferred


def _known_outputs(op: Op, facts: Infer, node: Node, state: _State) -> Sequence[Known | None]:
    if op.propagate is not None and _is_small(facts.values):
        propagate = op.propagate
        found = _guarded(node, lambda: list(propagate(facts)))
        if any(v is not None for v in found):
            return [_normalised(v, state.types.get(n)) for n, v in zip(node.outputs, found)]
    return _evaluated(op, facts, node)


def _is_small(values: Sequence[Known | None]) -> bool:
    return all(v is None or v.size <= _LARGEST_FOLLOWED for v in values)


def _normalised(value: Known | None, kind: ValueType | None) -> Known | None:
    """Arrays without symbols get the element type of the value; others stay arrays of objects."""
    if value is None or value.size > _LARGEST_FOLLOWED or not isinstance(kind, TensorType):
        return None
    array = np.asarray(value)
    if array.dtype != object:
        return array.astype(kind.dtype.np, copy=False)
    return array if holds_symbols(array) else array.astype(kind.dtype.np)


def holds_symbols(array: np.ndarray) -> bool:
    """Whether some element is a size that is not a plain integer."""
    return array.dtype == object and any(isinstance(d, Sym) for d in array.flat)


def _evaluated(op: Op, facts: Infer, node: Node) -> Sequence[Known | None]:
    """The outputs of a node whose inputs are all small and known numbers."""
    given = [v for name, v in zip(node.inputs, facts.values) if name]
    if op.random or not given or any(v is None or v.dtype == object or v.size > _LARGEST_EVALUATED for v in given):
        return ()
    if any(True for _ in node.subgraphs()):
        return ()
    elements = [t.elements for t in op.infer(facts) if isinstance(t, TensorType)]
    if len(elements) != len(node.outputs) or not all(isinstance(n, int) and n <= _LARGEST_EVALUATED for n in elements):
        return ()
    outputs = _guarded(node, lambda: list(op.reference(Ref(node, facts.values))))
    return [np.asarray(v) if isinstance(v, np.ndarray | np.generic) else None for v in outputs]


def specialize(
    graph: Graph,
    sizes: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    batch_size: int | None = None,
) -> Graph:
    """The graph for given sizes: symbols by name, whole shapes of inputs, or the first dimension of inputs.

    A shape may replace a fixed size too; nodes that cannot follow raise ModelError. ConfigError names what is refused.
    """
    known = _symbol_names(graph)
    bound: dict[str, int] = {}
    for name, size in (sizes or {}).items():
        if name not in known:
            raise ConfigError(f"the model has no size {name!r}; its sizes are {sorted(known)}{nearest(name, known)}")
        _bind(bound, Sym.named(name), size, f"size {name!r}")
    wanted: dict[str, tuple[Dim, ...]] = {}
    for name, shape in _shapes_asked_for(graph, input_shapes or {}, batch_size).items():
        wanted[name] = shape
        for old, new in zip(_input_shape(graph, name), shape):
            _bind(bound, old, new, f"input {name!r}")
    types = {name: _specialized(graph.types[name], wanted.get(name), bound) for name in graph.inputs}
    types |= {name: graph.types[name] for name in graph.constants if name in graph.types}
    return typed(replace(graph, types=frozen(types))).graph


def _symbol_names(graph: Graph) -> set[str]:
    found: set[str] = set()
    for name in graph.inputs:
        for d in _input_shape(graph, name):
            found |= {str(a) for m, _ in d.terms for a in m} if isinstance(d, Sym) else set()
    return found


def _input_shape(graph: Graph, name: str) -> Shape:
    t = graph.types[name]
    return t.shape or () if isinstance(t, TensorType) else ()


def _shapes_asked_for(
    graph: Graph, input_shapes: Mapping[str, Sequence[int]], batch_size: int | None
) -> dict[str, tuple[Dim, ...]]:
    asked: dict[str, tuple[Dim, ...]] = {}
    shapes = {name: shape for name in graph.inputs if (shape := _input_shape(graph, name))}
    free = any(isinstance(shape[0], Sym) for shape in shapes.values())
    for name, shape in shapes.items():
        # Where some inputs leave their first size free, it is the batch, and what others fix is not.
        if batch_size is not None and (isinstance(shape[0], Sym) or not free):
            asked[name] = (batch_size, *shape[1:])
    for name, shape in input_shapes.items():
        if name not in graph.inputs:
            inputs = f"its inputs are {list(graph.inputs)}{nearest(name, graph.inputs)}"
            raise ConfigError(f"the model has no input {name!r}; {inputs}")
        old = graph.types[name]
        rank = old.rank if isinstance(old, TensorType) else None
        if rank is not None and rank != len(shape):
            raise ConfigError(f"input {name!r}: expected a shape of {rank} sizes, got {list(shape)}")
        asked[name] = tuple(int(d) for d in shape)
    return asked


def _bind(bound: dict[str, int], old: Dim, new: Dim, what: str) -> None:
    if not isinstance(new, int):
        return
    if new < 0:
        raise ConfigError(f"{what}: expected a size that is not negative, got {new}")
    if not isinstance(old, Sym):
        return
    name = str(old)
    if Sym.named(name) == old:
        if bound.setdefault(name, new) != new:
            raise ConfigError(f"{what}: size {name!r} is asked to be both {bound[name]} and {new}")
    elif (value := substitute(old, bound)) != new and isinstance(value, int):
        raise ConfigError(f"{what}: expected {old} = {evaluate(old, bound)}, got {new}")


def _specialized(old: ValueType, wanted: tuple[Dim, ...] | None, bound: Mapping[str, int]) -> ValueType:
    if not isinstance(old, TensorType):
        return old
    shape = wanted if wanted is not None else old.shape
    return old.with_shape(None if shape is None else tuple(substitute(d, bound) for d in shape))
