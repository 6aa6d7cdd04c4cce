"""Drop nodes that hand their input on unchanged, and join chains of transposes and of reshapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dims import Sym
from skipjack.ir.graph import ONNX, Graph, Node
from skipjack.passes.propagate_types import typed
from skipjack.passes.rewrite import Edit, node, renamed

_SAME_SHAPE_IS_SAME = frozenset({"Reshape", "Expand", "Squeeze", "Unsqueeze", "Flatten", "Tile"})
_NEUTRAL_RIGHT = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0}


@dataclass(frozen=True)
class RemoveNoOps:
    """Identity, Dropout, casts to the same type, reshapes to the same shape, empty pads and slices, x + 0, x * 1."""

    name: str = "remove_no_ops"

    def apply(self, graph: Graph) -> Graph:
        graph = _outputs_made_directly(graph)
        for _ in range(8):
            edit = Edit(graph)
            for n in graph.nodes:
                if n.domain == ONNX and n.outputs[0]:
                    _simplify(edit, n)
            if not edit.changed:
                break
            graph = _outputs_made_directly(edit.finish())
        return graph


def _simplify(edit: Edit, n: Node) -> None:
    same = _unchanged(edit, n)
    if same and not (n.op == "Identity" and n.outputs[0] in edit.graph.outputs):
        edit.forward(n, same)
    elif n.op == "Transpose":
        _join_transposes(edit, n)
    elif n.op == "Reshape":
        _join_reshapes(edit, n)


def _unchanged(edit: Edit, n: Node) -> str:
    """The input that the node hands on unchanged, or an empty string."""
    if n.op == "Identity":
        return n.input(0)
    if len([o for o in n.outputs if o]) != 1:
        return ""
    if n.op in _NEUTRAL_RIGHT:
        return _neutral_operand(edit, n)
    if n.op in ("Concat", "Sum", "Max", "Min", "Mean") and len(n.inputs) == 1:
        return n.input(0)
    if n.op == "Dropout":
        return n.input(0) if not n.input(2) or edit.scalar(n.input(2)) == 0 else ""
    if not _same_type(edit, n.input(0), n.outputs[0]):
        return ""
    claim = _CLAIMS.get(n.op)
    return n.input(0) if n.op in _SAME_SHAPE_IS_SAME or (claim is not None and claim(edit, n)) else ""


def _same_type(edit: Edit, a: str, b: str) -> bool:
    x, y = edit.tensor(a), edit.tensor(b)
    return x is not None and y is not None and x.shape is not None and (x.dtype, x.shape) == (y.dtype, y.shape)


def _all_constant(edit: Edit, name: str, number: int) -> bool:
    array = edit.array(name)
    return array is not None and bool(np.all(array == number))


def _is_trivial_slice(edit: Edit, n: Node) -> bool:
    return not n.input(4) or _all_constant(edit, n.input(4), 1)


def _is_trivial_transpose(edit: Edit, n: Node) -> bool:
    perm = _perm(edit, n)
    return perm is not None and list(perm) == sorted(perm)


_CLAIMS: dict[str, Callable[[Edit, Node], bool]] = {
    "Cast": lambda edit, n: True,
    "CastLike": lambda edit, n: True,
    "Pad": lambda edit, n: _all_constant(edit, n.input(1), 0),
    "Slice": _is_trivial_slice,
    "Transpose": _is_trivial_transpose,
}


def _neutral_operand(edit: Edit, n: Node) -> str:
    number = _NEUTRAL_RIGHT[n.op]
    pairs = [(n.input(0), n.input(1))]
    if n.op in ("Add", "Mul"):
        pairs.append((n.input(1), n.input(0)))
    for kept, other in pairs:
        array = edit.array(other)
        if array is None or array.size > 1 << 12 or array.dtype.kind not in "fiu" or not bool(np.all(array == number)):
            continue
        if _same_type(edit, kept, n.outputs[0]):
            return kept
    return ""


def _perm(edit: Edit, n: Node) -> tuple[int, ...] | None:
    given = n.attrs.get("perm")
    if isinstance(given, tuple):
        return tuple(int(p) for p in given)  # pyright: ignore[reportArgumentType]
    rank = edit.rank(n.input(0))
    return None if rank is None else tuple(reversed(range(rank)))


def _join_transposes(edit: Edit, n: Node) -> None:
    inner = edit.made_by(n.input(0), "Transpose")
    if inner is None or inner.domain != ONNX:
        return
    first, second = _perm(edit, inner), _perm(edit, n)
    if first is None or second is None:
        return
    joined = tuple(first[p] for p in second)
    edit.replace(n, [node("Transpose", inner.inputs, n.outputs[0], perm=joined)])


def _join_reshapes(edit: Edit, n: Node) -> None:
    """Reshape of a reshape: the inner one is not needed when the outer target names every size."""
    inner = edit.made_by(n.input(0), "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    target = edit.array(n.input(1))
    if (
        inner is None
        or inner.domain != ONNX
        or target is None
        or (bool(np.any(target == 0)) and not n.attrs.get("allowzero"))
    ):
        return
    t = edit.tensor(n.outputs[0])
    if t is None or t.shape is None or sum(isinstance(d, Sym) for d in t.shape) > 1:
        return
    edit.replace(n, [n.with_inputs((inner.input(0), n.input(1)))])


def _outputs_made_directly(graph: Graph) -> Graph:
    """Identity nodes that only rename a value for an output of the graph go: the value is made under that name."""
    outputs = set(graph.outputs)
    producers = graph.producers()
    renames: dict[str, str] = {}
    dropped: set[int] = set()
    for n in graph.nodes:
        source = n.input(0)
        if n.op != "Identity" or n.domain != ONNX or n.outputs[0] not in outputs:
            continue
        if source in producers and source not in outputs and source not in renames:
            renames[source] = n.outputs[0]
            dropped.add(id(n))
    if not renames:
        return graph
    nodes = [_makes(renamed(n, renames), renames) for n in graph.nodes if id(n) not in dropped]
    return typed(graph.with_nodes(nodes)).graph


def _makes(n: Node, renames: dict[str, str]) -> Node:
    return replace(n, outputs=tuple(renames.get(o, o) for o in n.outputs))
