"""Turn every elementwise operator into a Pointwise node, and chains of them into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Graph, Node
from skipjack.ir.types import TensorType
from skipjack.lang.expr import Expr, arg, const
from skipjack.ops.registry import find
from skipjack.passes.expressions import arguments, count_operations, substitute
from skipjack.passes.rewrite import Edit

_NUMBERS = frozenset(
    {DType.F32, DType.F64, DType.F16, DType.BF16, DType.BOOL}
    | {DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64}
)


@dataclass
class _Group:
    """Elementwise nodes that become one: the root, what it reads, and its expression over those values."""

    root: Node
    inputs: list[str]
    expr: Expr
    members: set[int] = field(default_factory=set[int])


@dataclass(frozen=True)
class FusePointwise:
    """An operator joins the one that reads it when all its readers are in the group and its shape is the group's.

    So nothing is computed twice and nothing is computed at a larger size than before. Only turning bytes into numbers
    is done wherever they are read, for that costs less than to load them as numbers. One-element constants become
    numbers inside the expression. A group holds at most max_operations and reads at most max_inputs values.
    """

    name: str = "fuse_pointwise"
    max_operations: int = 48
    max_inputs: int = 8
    cheap_operations: int = 4

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        taken: set[int] = set()
        for n in reversed(graph.nodes):
            group = None if id(n) in taken else _single(edit, n)
            if group is None:
                continue
            while self._grow(edit, group):
                pass
            taken |= group.members
            if len(group.members) > 1 or n.domain != SKIPJACK:
                edit.replace(n, [_pointwise(group)])
        return edit.finish()

    def _grow(self, edit: Edit, group: _Group) -> bool:
        """Take one more producer into the group; False when none fits."""
        for name in group.inputs:
            producer = edit.producers.get(name)
            if producer is None or not _same_shape(edit, name, group.root.outputs[0]):
                continue
            alone = _feeds_only(edit, name, group)
            inner = _single(edit, producer) if alone or producer.op == "Pointwise" else None
            if inner is None or not (alone or self._unpacks_bytes(edit, inner)):
                continue
            merged = _merged(group, name, inner if alone else replace(inner, members=set[int]()))
            fits = count_operations(merged.expr) <= self.max_operations and len(merged.inputs) <= self.max_inputs
            if fits and _shape_survives(edit, merged):
                group.inputs, group.expr, group.members = merged.inputs, merged.expr, merged.members
                return True
        return False

    def _unpacks_bytes(self, edit: Edit, group: _Group) -> bool:
        t = edit.tensor(group.inputs[0]) if len(group.inputs) == 1 else None
        few = count_operations(group.expr) <= self.cheap_operations
        return few and t is not None and t.dtype in (DType.U8, DType.I8) and group.expr.dtype is DType.F32


def _single(edit: Edit, n: Node) -> _Group | None:
    """The node as a group of its own, None when it is not elementwise on numbers."""
    op = find(n.domain, n.op)
    if op is None or op.expression is None or len(n.outputs) != 1 or edit.is_replaced(n):
        return None
    present = [i for i in n.inputs if i]
    types = [edit.tensor(i) for i in present] + [edit.tensor(n.outputs[0])]
    if any(t is None or t.dtype not in _NUMBERS or t.shape is None for t in types):
        return None
    dtypes = [edit.tensor(i) or TensorType(DType.F32, ()) for i in n.inputs]
    return _with_numbers(edit, _Group(n, list(n.inputs), op.expression(n, dtypes), {id(n)}))


def _with_numbers(edit: Edit, group: _Group) -> _Group:
    """One-element constants as numbers, duplicates and absent inputs dropped."""
    used = arguments(group.expr)
    shaped = [i for i, name in enumerate(group.inputs) if i in used and edit.scalar(name) is None]
    keep = _Group(group.root, [group.inputs[i] for i in shaped], group.expr, group.members)
    numbers = bool(shaped) and _shape_survives(edit, keep)
    inputs: list[str] = []
    replacements: dict[int, Expr] = {}
    for i in sorted(used):
        name = group.inputs[i]
        t, array = edit.tensor(name), edit.array(name)
        assert t is not None, "the caller checked that every input is a tensor"
        if numbers and array is not None and array.size == 1:
            replacements[i] = const(
                array.reshape(-1)[0].item() if t.dtype.np.kind in "fiub" else float(array.reshape(-1)[0]), t.dtype
            )
            continue
        if name not in inputs:
            inputs.append(name)
        replacements[i] = arg(inputs.index(name), t.dtype)
    return _Group(group.root, inputs, substitute(group.expr, replacements), group.members)


def _shape_survives(edit: Edit, group: _Group) -> bool:
    """Whether some input alone has the shape of the result, so that dropping others cannot change it."""
    return any(_same_shape(edit, name, group.root.outputs[0]) for name in group.inputs)


def _same_shape(edit: Edit, a: str, b: str) -> bool:
    x, y = edit.tensor(a), edit.tensor(b)
    return x is not None and y is not None and x.shape is not None and x.shape == y.shape


def _feeds_only(edit: Edit, name: str, group: _Group) -> bool:
    readers: Sequence[Node] = edit.consumers.get(name, [])
    return name not in edit.graph.outputs and all(id(r) in group.members for r in readers)


def _merged(group: _Group, name: str, inner: _Group) -> _Group:
    inputs = [i for i in group.inputs if i != name]
    inputs += [i for i in inner.inputs if i not in inputs]
    moved = substitute(inner.expr, _positions(inner, inputs))
    places = _positions(group, inputs)
    places[group.inputs.index(name)] = moved
    return _Group(group.root, inputs, substitute(group.expr, places), group.members | inner.members)


def _positions(group: _Group, inputs: Sequence[str]) -> dict[int, Expr]:
    """Where the arguments of a group stand among other inputs."""
    dtypes = _argument_dtypes(group.expr)
    return {i: arg(inputs.index(n), dtypes[i]) for i, n in enumerate(group.inputs) if n in inputs and i in dtypes}


def _argument_dtypes(e: Expr) -> dict[int, DType]:
    found: dict[int, DType] = {}
    seen: set[int] = set()
    stack = [e]
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if part.op == "input":
            found[int(part.value)] = part.dtype
        stack.extend(part.args)
    return found


def _pointwise(group: _Group) -> Node:
    return Node("Pointwise", tuple(group.inputs), group.root.outputs, {"expr": group.expr}, SKIPJACK, group.root.origin)
