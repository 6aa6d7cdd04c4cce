"""Convolutions, transposed convolutions and pools of all ranks, groups, strides, dilations and paddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from tests.sweeps.comparing import build, check, numbers, sweep

SEED = st.integers(0, 2**16)


@st.composite
def windows(draw: st.DrawFn, rank: int) -> dict[str, Any]:
    """Attributes of a window over `rank` spatial axes: kernel_shape, strides, dilations and padding."""
    sizes = st.lists(st.integers(1, 4), min_size=rank, max_size=rank)
    small = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    found: dict[str, Any] = {"kernel_shape": draw(sizes), "strides": draw(small), "dilations": draw(small)}
    padding = draw(st.sampled_from(["none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if padding == "pads":
        limit = min(found["kernel_shape"]) - 1
        found["pads"] = draw(st.lists(st.integers(0, limit), min_size=2 * rank, max_size=2 * rank))
    elif padding != "none":
        found["auto_pad"] = padding
        found["dilations"] = [1] * rank
    return found


def extents(draw: st.DrawFn, attributes: dict[str, Any]) -> list[int]:
    """Spatial sizes that hold the window at least once."""
    spans = [d * (k - 1) + 1 for d, k in zip(attributes["dilations"], attributes["kernel_shape"])]
    return [span + draw(st.integers(0, 9)) for span in spans]


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    attributes = draw(windows(rank))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8, 16, 17]))
    inner, outer = (1, draw(st.integers(1, 2))) if groups > 3 else (draw(st.integers(1, 33)), draw(st.integers(1, 33)))
    return {
        "attributes": {**attributes, "group": groups},
        "x": [draw(st.integers(0, 3)), groups * inner, *extents(draw, attributes)],
        "w": [groups * outer, inner, *attributes["kernel_shape"]],
        "bias": draw(st.booleans()),
        "computed": draw(st.booleans()),
        "after": draw(st.sampled_from(["", "Relu", "HardSwish", "Add", "Clip", "Sigmoid"])),
        "seed": draw(SEED),
    }


def after(op: str, source: str, result: str) -> list[Any]:
    """The nodes that follow a convolution."""
    if op == "Add":
        return [helper.make_node("Add", [source, source], [result])]
    return [helper.make_node(op, [source], [result])] if op else [helper.make_node("Identity", [source], [result])]


@sweep(40)
@given(convolutions())
def test_convolutions(case: dict[str, Any]) -> None:
    feeds = {"x": numbers(case["seed"], case["x"])}
    weights = {"w": numbers(case["seed"] + 1, case["w"])}
    if case["bias"]:
        weights["b"] = numbers(case["seed"] + 2, case["w"][:1])
    conv = helper.make_node("Conv", ["x", *weights], ["c"], **case["attributes"])
    nodes = [conv, *after(case["after"], "c", "y")]
    model = build(
        nodes, {**feeds, **weights} if case["computed"] else feeds, ["y"], {} if case["computed"] else weights, opset=20
    )
    check(model, {**feeds, **weights} if case["computed"] else feeds, peer=case["x"][0] > 0)


@st.composite
def transposed(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    attributes = draw(windows(rank))
    attributes.pop("auto_pad", None)
    strides, dilations = attributes["strides"], attributes["dilations"]
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations)]
    attributes["output_padding"] = [min(e, s - 1) for e, s in zip(extra, strides)]
    groups, inner, outer = draw(st.sampled_from([1, 1, 2, 4])), draw(st.integers(1, 18)), draw(st.integers(1, 18))
    spatial = [draw(st.integers(4, 7)) for _ in range(rank)]
    return {
        "attributes": {**attributes, "group": groups},
        "x": [draw(st.integers(1, 2)), groups * inner, *spatial],
        "w": [groups * inner, outer, *attributes["kernel_shape"]],
        "bias": draw(st.booleans()),
        "seed": draw(SEED),
    }


@sweep(20)
@given(transposed())
def test_transposed_convolutions(case: dict[str, Any]) -> None:
    feeds = {"x": numbers(case["seed"], case["x"])}
    weights = {"w": numbers(case["seed"] + 1, case["w"])}
    if case["bias"]:
        weights["b"] = numbers(case["seed"] + 2, [case["w"][1] * case["attributes"]["group"]])
    node = helper.make_node("ConvTranspose", ["x", *weights], ["y"], **case["attributes"])
    check(build([node], feeds, ["y"], weights, opset=20), feeds)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    attributes = draw(windows(rank))
    op = draw(st.sampled_from(["MaxPool", "AveragePool", "LpPool"]))
    if op == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    if "auto_pad" not in attributes:
        attributes["ceil_mode"] = draw(st.integers(0, 1))
    return {
        "op": op,
        "attributes": attributes,
        "x": [draw(st.integers(1, 2)), draw(st.integers(1, 35)), *extents(draw, attributes)],
        "blocked": draw(st.booleans()),
        "seed": draw(SEED),
    }


@sweep(40)
@given(pools())
def test_pools(case: dict[str, Any]) -> None:
    feeds = {"x": numbers(case["seed"], case["x"])}
    channels, rank = case["x"][1], len(case["x"]) - 2
    nodes, constants = [], {}
    if case["blocked"]:
        constants["w"] = numbers(case["seed"] + 1, [channels, channels, *[1] * rank])
        nodes.append(helper.make_node("Conv", ["x", "w"], ["c"]))
    nodes.append(helper.make_node(case["op"], ["c" if case["blocked"] else "x"], ["y"], **case["attributes"]))
    check(build(nodes, feeds, ["y"], constants, opset=22), feeds, peer=_peer_agrees(case))


def _peer_agrees(case: dict[str, Any]) -> bool:
    """onnxruntime counts padding and pads Lp pools by rules of its own, and refuses some automatic paddings."""
    attributes = case["attributes"]
    return case["op"] == "MaxPool" and not attributes.get("ceil_mode") and "auto_pad" not in attributes


@sweep(12)
@given(st.sampled_from(["GlobalMaxPool", "GlobalAveragePool"]), st.integers(1, 3), st.integers(1, 40), SEED)
def test_global_pools(op: str, rank: int, channels: int, seed: int) -> None:
    feeds = {"x": numbers(seed, [2, channels, *[3 + n for n in range(rank)]])}
    check(build([helper.make_node(op, ["x"], ["y"])], feeds, ["y"]), feeds)


@sweep(12)
@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=2, max_size=2), st.booleans(), SEED)
def test_chains_of_convolutions_share_layouts(channels: int, size: list[int], residual: bool, seed: int) -> None:
    feeds = {"x": numbers(seed, [2, channels, *size])}
    constants = {f"w{n}": numbers(seed + n, [channels, channels, 3, 3]) / np.float32(channels) for n in range(3)}
    nodes = [
        helper.make_node("Conv", ["x" if n == 0 else f"r{n - 1}", f"w{n}"], [f"c{n}"], pads=[1] * 4) for n in range(3)
    ]
    nodes += [helper.make_node("Relu", [f"c{n}"], [f"r{n}"]) for n in range(3)]
    nodes.append(helper.make_node("Concat", ["r0", "r2", "x"], ["k"], axis=1))
    nodes.append(helper.make_node("Add", ["r1", "r2" if residual else "x"], ["y"]))
    order = [nodes[0], nodes[3], nodes[1], nodes[4], nodes[2], nodes[5], *nodes[6:]]
    check(build(order, feeds, ["y", "k", "r1"], constants), feeds)
