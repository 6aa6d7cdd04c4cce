"""Compare a lowering with the reference of its operator, on every target of this machine and for several threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from tests.kernels.harness import TARGETS, run_lowering

import skipjack.ops.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX, Node, Origin
from skipjack.ir.types import TensorType
from skipjack.kernels.launch import Lowering, Site, lowerings
from skipjack.ops.execute import run_node
from skipjack.targets.target import Target


def make_node(
    op: str, inputs: Sequence[Any], outputs: int = 1, attrs: Mapping[str, Any] | None = None, domain: str = ONNX
) -> Node:
    """A node whose inputs are named after their positions."""
    names = tuple("" if x is None else f"in{i}" for i, x in enumerate(inputs))
    outs = tuple(f"out{i}" for i in range(outputs))
    return Node(op, names, outs, MappingProxyType(dict(attrs or {})), domain, Origin(op, op))


def site_of(
    node: Node, inputs: Sequence[Any], results: Sequence[Any], constants: Sequence[int], target: Target
) -> Site:
    def kind(x: Any) -> TensorType | None:
        return None if x is None else TensorType(DType.from_numpy(x.dtype), x.shape)

    known = [x if i in constants else None for i, x in enumerate(inputs)]
    return Site(node, [kind(x) for x in inputs], [kind(x) for x in results], known, target)


def pick(node: Node, name: str = "", layouts: str = "plain") -> Lowering:
    """The lowering of that name, or the first one of a layout."""
    found = [e for e in lowerings(node.domain, node.op) if (e.name == name if name else e.layouts == layouts)]
    assert found, f"no {layouts} lowering {name} of {node.op}"
    return found[0]


def check(
    op: str,
    inputs: Sequence[Any],
    attrs: Mapping[str, Any] | None = None,
    *,
    domain: str = ONNX,
    outputs: int = 1,
    constants: Sequence[int] = (),
    name: str = "",
    layouts: str = "plain",
    rtol: float = 0.0,
    atol: float = 0.0,
    targets: Sequence[Target] = TARGETS,
) -> None:
    """Outputs equal the reference (exactly unless tolerances are given) and do not depend on the number of threads."""
    node = make_node(op, inputs, outputs, attrs, domain)
    want = [np.asarray(w) for w in run_node(node, list(inputs))]
    entry = pick(node, name, layouts)
    known = sorted({*constants, *(p for p in entry.parameters if p < len(inputs) and inputs[p] is not None)})
    types = [(DType.from_numpy(w.dtype), w.shape) for w in want]
    for target in targets:
        reason = entry.accepts(site_of(node, inputs, want, known, target))
        assert not reason, f"{op} refused: {reason}"
        first: list[np.ndarray] = []
        for threads in (1, 2, 3):
            got = run_lowering(entry, node, inputs, types, constants=known, target=target, threads=threads)
            for i, (g, w) in enumerate(zip(got, want, strict=True)):
                message = f"{op} output {i} on {target.name} with {threads} threads"
                close(g, w, rtol, atol, message)
                if first:
                    assert g.tobytes() == first[i].tobytes(), message
            first = first or got


def close(got: np.ndarray, want: np.ndarray, rtol: float, atol: float, message: str) -> None:
    if rtol == atol == 0:
        a, b = (x.astype(np.float64) if x.dtype.kind in "fV" else x for x in (got, want))
        np.testing.assert_array_equal(a, b, err_msg=message)
        return
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol, atol, err_msg=message)


def random(shape: Sequence[int], dtype: DType = DType.F32, seed: int = 0) -> np.ndarray:
    """Numbers of a type: normal floats, integers over their whole range but at most 1000 in size, or booleans."""
    rng = np.random.default_rng([seed, *shape])
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_int:
        info = np.iinfo(dtype.np)
        return rng.integers(max(info.min, -1000), min(info.max, 1000), shape, endpoint=True).astype(dtype.np)
    if dtype in (DType.C64, DType.C128):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.np)
    return rng.standard_normal(shape).astype(dtype.np)
