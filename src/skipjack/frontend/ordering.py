"""The order of nodes: what a node reads, and a sort that keeps the given order where it is already valid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from onnx import AttributeProto, GraphProto, NodeProto

from skipjack.core.errors import ModelError


def graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """Every graph attribute of a node."""
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        elif a.type == AttributeProto.GRAPHS:
            yield from a.graphs


def reads(node: NodeProto) -> set[str]:
    """Names a node reads, those its subgraphs take from outside included."""
    names = {i for i in node.input if i}
    for graph in graphs_of(node):
        names |= free_names(graph)
    return names


def free_names(graph: GraphProto) -> set[str]:
    """Names a graph reads and does not define."""
    defined = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    defined |= {s.values.name for s in graph.sparse_initializer}
    used = {o.name for o in graph.output}
    for node in graph.node:
        used |= reads(node)
        defined.update(node.output)
    return used - defined


def in_order(nodes: Sequence[NodeProto], node_reads: Sequence[Collection[str]], what: str) -> list[int]:
    """Indices of nodes such that every value is made before it is read; ModelError names the nodes of a cycle."""
    maker = {o: i for i, n in enumerate(nodes) for o in n.output if o}
    needs = [{maker[r] for r in names if r in maker} for names in node_reads]
    if all(all(m < i for m in made) for i, made in enumerate(needs)):
        return list(range(len(nodes)))
    followers: list[list[int]] = [[] for _ in nodes]
    for i, made in enumerate(needs):
        for m in made:
            followers[m].append(i)
    waiting = [len(made) for made in needs]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    for i in ready:
        for f in followers[i]:
            waiting[f] -= 1
            if waiting[f] == 0:
                ready.append(f)
    if len(ready) < len(nodes):
        stuck = [nodes[i].name or nodes[i].op_type for i, n in enumerate(waiting) if n > 0][:5]
        raise ModelError(f"{what}: the nodes {stuck} wait for each other (a cycle); the model is damaged")
    return ready
