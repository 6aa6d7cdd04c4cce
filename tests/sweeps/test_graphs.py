"""Graphs of views, pointwise operators and concatenations: who lies in whose memory, and which sizes are known when."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from tests.sweeps.comparing import build, check, numbers, sweep

UNARY = ("Relu", "Neg", "Tanh", "Abs", "Identity")
VIEWS = ("Reshape", "Transpose", "Slice", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Expand", "Cast")
STEPS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2**31)), min_size=1, max_size=14)


@dataclass
class Growing:
    """A graph that is being drawn: nodes, constants, and the value that every name has."""

    values: dict[str, np.ndarray]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def pick(self, rng: np.random.Generator) -> str:
        """A value, recent ones more often."""
        names = list(self.values)
        return names[max(int(rng.integers(len(names))), int(rng.integers(len(names))))]

    def integers(self, values: list[int]) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.array(values, np.int64)
        return name

    def add(self, op: str, inputs: list[str], made: list[np.ndarray], **attributes: object) -> None:
        """A node whose outputs have the values made."""
        names = [f"v{len(self.values) + n}" for n in range(len(made))]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        self.values.update(zip(names, made))


def grow(g: Growing, kind: int, rng: np.random.Generator) -> None:
    """One more node."""
    name = g.pick(rng)
    x = g.values[name]
    if kind <= 1:
        op = str(rng.choice(["Relu", "Neg", "Abs"]))
        g.add(op, [name], [{"Relu": np.maximum(x, 0), "Neg": -x, "Abs": np.abs(x)}[op]])
    elif kind == 2:
        other = g.pick(rng)
        same = [n for n, v in g.values.items() if v.shape == x.shape] if g.values[other].shape != x.shape else [other]
        other = same[int(rng.integers(len(same)))]
        g.add("Add", [name, other], [x + g.values[other]])
    elif kind == 3:
        same = [n for n, v in g.values.items() if v.ndim == x.ndim and v.shape[1:] == x.shape[1:]] if x.ndim else []
        if x.ndim and x.size < 4096:
            parts = [name, *rng.choice(same, int(rng.integers(1, 3)))]
            g.add("Concat", [str(p) for p in parts], [np.concatenate([g.values[str(p)] for p in parts])], axis=0)
    elif kind == 4 and x.ndim:
        axis = int(rng.integers(x.ndim))
        cut = int(rng.integers(0, x.shape[axis] + 1))
        sizes = g.integers([cut, x.shape[axis] - cut])
        g.add("Split", [name, sizes], np.split(x, [cut], axis), axis=axis)
    else:
        grow_view(g, kind, name, rng)


def grow_view(g: Growing, kind: int, name: str, rng: np.random.Generator) -> None:
    """A node that may only rename memory."""
    x = g.values[name]
    if kind == 5:
        g.add("Reshape", [name, g.integers([x.size])], [x.reshape(-1)], allowzero=1)
    elif kind == 6 and x.ndim:
        perm = [int(a) for a in rng.permutation(x.ndim)]
        g.add("Transpose", [name], [x.transpose(perm)], perm=perm)
    elif kind == 7 and x.ndim:
        axis = int(rng.integers(x.ndim))
        start, end = sorted(int(v) for v in rng.integers(0, x.shape[axis] + 1, 2))
        bounds = [g.integers([v]) for v in (start, end, axis)]
        g.add("Slice", [name, *bounds], [np.take(x, range(start, end), axis)])
    elif kind == 8 and x.ndim < 5:
        axis = int(rng.integers(x.ndim + 1))
        g.add("Unsqueeze", [name, g.integers([axis])], [np.expand_dims(x, axis)])
    elif kind == 9:
        g.add("Identity", [name], [x])
    elif kind == 10 and x.ndim and x.size < 2048:
        shape = [int(rng.integers(1, 3)), *x.shape]
        g.add("Expand", [name, g.integers(shape)], [np.broadcast_to(x, shape)])
    elif x.ndim:
        axis = int(rng.integers(x.ndim + 1))
        rows = int(np.prod(x.shape[:axis]))
        g.add(
            "Flatten",
            [name],
            [x.reshape(rows, -1) if x.size else x.reshape(rows, int(np.prod(x.shape[axis:])))],
            axis=axis,
        )


def outputs_of(g: Growing, rng: np.random.Generator) -> list[str]:
    """Several values, inputs among them, in random order."""
    names = list(g.values)
    count = int(rng.integers(1, min(len(names), 5) + 1))
    picked = [str(n) for n in rng.choice(names, count, replace=False)]
    return [*dict.fromkeys([names[-1], *picked])]


@sweep(60)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), STEPS, st.integers(0, 2**16))
def test_graphs_of_views(shape: list[int], steps: list[tuple[int, int]], seed: int) -> None:
    feeds = {"x": numbers(seed, shape), "z": numbers(seed + 1, shape)}
    g = Growing(dict(feeds))
    for kind, step_seed in steps:
        grow(g, kind, np.random.default_rng(step_seed))
    chosen = outputs_of(g, np.random.default_rng(seed))
    model = build(g.nodes, feeds, chosen, g.constants)
    check(model, feeds, 1e-5)


BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu")


@st.composite
def broadcast_shapes(draw: st.DrawFn) -> list[list[int]]:
    """Shapes that broadcast to one."""
    whole = draw(st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 33]), min_size=1, max_size=4))
    found = [whole]
    for _ in range(2):
        part = whole[draw(st.integers(0, len(whole))) :]
        found.append([1 if draw(st.booleans()) else d for d in part])
    return found


@sweep(40)
@given(
    broadcast_shapes(),
    st.lists(st.sampled_from(BINARY + UNARY), min_size=1, max_size=6),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_pointwise_chains(shapes: list[list[int]], ops: list[str], constant: bool, seed: int) -> None:
    arrays = {f"x{n}": np.asarray(np.abs(numbers(seed + n, s)) + np.float32(0.5)) for n, s in enumerate(shapes)}
    constants = {n: a for n, a in arrays.items() if constant and n == "x2"}
    feeds = {n: a for n, a in arrays.items() if n not in constants}
    nodes, last = [], "x0"
    for n, op in enumerate(ops):
        inputs = [last] if op in UNARY else [last, f"x{1 + n % 2}"]
        if op == "Pow":
            nodes.append(helper.make_node("Abs", [last], [f"a{n}"]))
            nodes.append(helper.make_node("Min", [f"a{n}", "x0"], [f"b{n}"]))
            inputs = [f"b{n}", inputs[1]]
        nodes.append(helper.make_node(op, inputs, [f"y{n}"]))
        last = f"y{n}"
    chosen = [last, *(["y0"] if last != "y0" and seed % 2 else [])]
    check(build(nodes, feeds, chosen, constants), feeds, 1e-4)


REDUCTIONS = (
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL2",
    "ReduceL1",
    "ReduceLogSumExp",
    "ReduceSumSquare",
)


@sweep(40)
@given(
    st.lists(st.sampled_from([1, 2, 3, 4, 17, 40]), min_size=1, max_size=4),
    st.sampled_from(REDUCTIONS),
    st.booleans(),
    st.sampled_from([np.float32, np.float32, np.float64, np.int32]),
    st.integers(0, 2**16),
)
def test_reductions(shape: list[int], op: str, keep: bool, dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = dtype != np.int32 or op in ("ReduceSum", "ReduceMax", "ReduceMin")
    feeds = {"x": numbers(seed, shape, dtype if whole else np.float32)}
    axes = [int(a) for a in rng.choice(len(shape), int(rng.integers(0, len(shape) + 1)), replace=False)]
    node = helper.make_node(op, ["x", "axes"], ["y"], keepdims=int(keep))
    check(build([node], feeds, ["y"], {"axes": np.array(axes, np.int64)}), feeds, 1e-4)
