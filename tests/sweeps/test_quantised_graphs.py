"""Random quantised networks. Scales are powers of two, so floats are exact and every way to sum gives equal bits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from tests.sweeps.comparing import build, check, sweep

STEPS = st.lists(st.integers(0, 9), min_size=1, max_size=9)
SIGNED, UNSIGNED = np.int8, np.uint8


@dataclass
class Network:
    """A graph that is being drawn: real numbers of [N, C, H, W], by name."""

    rng: np.random.Generator
    shapes: dict[str, tuple[int, ...]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def constant(self, array: np.ndarray) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = array
        return name

    def node(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        if shape:
            self.shapes[name] = shape
        return name

    def pick(self) -> str:
        """A value, the last one more often than others."""
        names = list(self.shapes)
        return names[max(int(self.rng.integers(len(names))) for _ in range(2))]

    def power(self, low: int, high: int, count: int = 0) -> np.ndarray:
        return np.exp2(self.rng.integers(low, high, count or None)).astype(np.float32)

    def fake(self, x: str, shape: tuple[int, ...]) -> str:
        """x quantised and dequantised."""
        dtype = SIGNED if self.rng.integers(4) == 0 else UNSIGNED
        zero = dtype(self.rng.integers(0, 100))
        scale, point = self.constant(np.asarray(self.power(-3, 1))), self.constant(np.array(zero))
        codes = self.node("QuantizeLinear", [x, scale, point], ())
        return self.node("DequantizeLinear", [codes, scale, point], shape)

    def weight(self, shape: tuple[int, ...], axis: int) -> tuple[str, np.ndarray]:
        """A dequantised constant, and its scale."""
        dtype = UNSIGNED if self.rng.integers(4) == 0 else SIGNED
        count = shape[axis] if self.rng.integers(2) else 0
        scale = np.asarray(self.power(-6, -3, count))
        zero = self.rng.integers(-4, 4, count or None) + (128 if dtype is UNSIGNED else 0)
        limits = np.iinfo(dtype)
        codes = self.rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
        names = [self.constant(np.asarray(v)) for v in (codes, scale, np.asarray(zero, dtype))]
        return self.node("DequantizeLinear", names, (), axis=axis), scale


def grow(g: Network, kind: int) -> None:
    """One more operator, and mostly its result as codes."""
    x = g.pick()
    n, c, h, w = g.shapes[x]
    out = (n, c, h, w)
    if kind <= 3:
        group = c if g.rng.integers(3) == 0 else 1
        side = int(g.rng.choice([1, 3]))
        m = c if group > 1 else int(g.rng.integers(1, 9))
        weight, _ = g.weight((m, c // group, side, side), 0)
        inputs = [x, weight]
        if g.rng.integers(2):
            inputs.append(g.constant(g.rng.integers(-20, 20, m).astype(np.float32)))
        out = (n, m, h, w)
        y = g.node("Conv", inputs, out, group=group, pads=[side // 2] * 4, kernel_shape=[side, side])
    elif kind == 4:
        y = g.node("MaxPool", [x], out, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    elif kind == 5:
        weight, _ = g.weight((w, w), 1)
        # Products of numbers by codes round; of codes by codes they do not.
        y = g.node("MatMul", [g.fake(x, out), weight], out)
    elif kind == 6:
        same = [v for v, s in g.shapes.items() if s == out]
        y = g.node("Add", [x, str(g.rng.choice(same))], out)
    elif kind == 7:
        same = [v for v, s in g.shapes.items() if (s[0], *s[2:]) == (n, h, w)]
        other = str(g.rng.choice(same))
        out = (n, c + g.shapes[other][1], h, w)
        y = g.node("Concat", [x, other], out, axis=1)
    elif kind == 8:
        y = g.node("Relu", [x], out)
    else:
        out = (n, c, w, h)
        y = g.node("Transpose", [x], out, perm=[0, 1, 3, 2])
    # Sums of two numbers of codes still are exact, sums of many would not be.
    if kind in (4, 7, 8, 9) and g.rng.integers(2):
        return
    g.fake(y, out)


@given(STEPS, st.integers(0, 2**31))
@sweep(24)
def test_networks_of_codes(steps: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (2, int(rng.integers(1, 6)), int(rng.integers(1, 8)), int(rng.integers(1, 8)))
    g = Network(rng, {})
    g.fake("x", shape)
    for kind in steps:
        grow(g, kind)
    x = (rng.integers(-40, 40, shape) / 4).astype(np.float32)
    last = list(g.shapes)[-1]
    model = build(g.nodes, {"x": x}, [last], g.constants)
    check(model, {"x": x}, tolerance=0, peer=False)
