"""Scan 8, whose first axis is the batch: one Scan over the batch around one over the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from skipjack.frontend.upgrade.rewrite import Rewrite, attribute, derived, refuse
from skipjack.ir.graph import Graph, Node


def scan_batch(node: Node, rewrite: Rewrite) -> Sequence[Node]:
    """Scan below 9: inputs are [batch, ...] states and [batch, sequence, ...] scanned tensors."""
    if node.input(0):
        refuse(node, "no sequence_lens", node.input(0), "export with opset 9 or newer")
    body, n_scanned = attribute(node, "body"), attribute(node, "num_scan_inputs")
    inputs = node.inputs[1:]
    if len(inputs) != len(body.inputs) or not 0 < n_scanned <= len(inputs):
        refuse(node, f"{len(body.inputs)} states and scanned inputs", len(inputs), "the model is damaged")
    directions = attribute(node, "directions", (0,) * n_scanned)
    one = tuple(rewrite.fresh(node, f"sample_{i}") for i in range(len(inputs)))
    made = tuple(rewrite.fresh(node, f"result_{i}") for i in range(len(body.outputs)))
    inner = derived(
        node,
        "Scan",
        one,
        made,
        {"body": body, "num_scan_inputs": n_scanned, "scan_input_directions": directions},
    )
    types = {name: body.types[name] for name in body.captured if name in body.types}
    sample = Graph(f"{body.name}.sample", one, made, (inner,), MappingProxyType(types), captured=body.captured)
    return [derived(node, "Scan", inputs, node.outputs, {"body": sample, "num_scan_inputs": len(inputs)})]
