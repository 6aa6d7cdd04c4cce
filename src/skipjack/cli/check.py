"""`skipjack check MODEL`: read a model and say what is in it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click

from skipjack.cli.output import console, in_bytes
from skipjack.frontend.onnx_file import ImportedModel, import_model
from skipjack.ir.graph import Graph, Node
from skipjack.ir.types import TensorType, ValueType
from skipjack.passes.propagate_types import typed


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(model: str, as_json: bool) -> None:
    """Read a model and say what is in it, without compiling.

    A model that is damaged, or that asks for an operator skipjack does not have, ends with exit code 1 and the list
    of everything that is wrong.
    """
    imported = import_model(model)
    facts = _facts(imported, typed(imported.graph).graph)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _print(facts)


def _facts(imported: ImportedModel, graph: Graph) -> dict[str, Any]:
    counts = Counter(_operator(n) for n in _all_nodes(graph))
    return {
        "path": str(imported.path or ""),
        "producer": imported.producer,
        "opsets": {domain or "ai.onnx": version for domain, version in imported.opsets.items()},
        "inputs": {name: describe(graph.types.get(name)) for name in graph.inputs},
        "outputs": {name: describe(graph.types.get(name)) for name in graph.outputs},
        "nodes": sum(counts.values()),
        "operators": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        "constants": len(graph.constants),
        "constant_bytes": sum(a.nbytes for a in graph.constants.values()),
        "unsupported": [],
    }


def _print(facts: dict[str, Any]) -> None:
    out = console()
    opsets = ", ".join(f"{domain} {version}" for domain, version in facts["opsets"].items())
    out.print(f"model      {facts['path']}", markup=False)
    out.print(f"producer   {facts['producer'] or 'not named'}", markup=False)
    out.print(f"opsets     {opsets}")
    for kind in ("inputs", "outputs"):
        for name, text in facts[kind].items():
            out.print(f"{kind[:-1]:10} {name}: {text}", markup=False)
    out.print(f"constants  {facts['constants']} ({in_bytes(facts['constant_bytes'])})")
    out.print(f"nodes      {facts['nodes']}")
    for name, count in facts["operators"].items():
        out.print(f"  {count:6}  {name}", markup=False)
    out.print("every operator is supported")


def describe(t: ValueType | None) -> str:
    """A type in one line: float32[batch, 3, 224, 224]."""
    if not isinstance(t, TensorType):
        return "unknown" if t is None else type(t).__name__.removesuffix("Type").lower()
    if t.shape is None:
        return f"{t.dtype.value}[...]"
    return f"{t.dtype.value}[{', '.join(str(d) for d in t.shape)}]"


def _operator(node: Node) -> str:
    return node.op if not node.domain else f"{node.domain}.{node.op}"


def _all_nodes(graph: Graph) -> list[Node]:
    found: list[Node] = []
    for node in graph.nodes:
        found.append(node)
        for _, body in node.subgraphs():
            found += _all_nodes(body)
    return found
