"""Matrix products, attention, softmax and norms, resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from tests.sweeps.comparing import build, check, numbers, sweep

SEED = st.integers(0, 2**16)
SIZES = st.sampled_from([0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 65])
SOME = st.sampled_from([1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 65])


@st.composite
def products(draw: st.DrawFn) -> dict[str, Any]:
    m, k, n = draw(SIZES), draw(SIZES), draw(SIZES)
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    left, right = [*batch, m, k], [*batch[draw(st.integers(0, len(batch))) :], k, n]
    left = [1 if i < len(batch) and draw(st.integers(0, 4)) == 0 else d for i, d in enumerate(left)]
    vector = draw(st.sampled_from(["", "", "", "left", "right", "both"]))
    return {
        "a": [k] if vector in ("left", "both") else left,
        "b": [k] if vector in ("right", "both") else right,
        "constant": draw(st.sampled_from(["", "a", "b"])),
        "dtype": draw(st.sampled_from([np.float32] * 4 + [np.float64, np.int32])),
        "after": draw(st.sampled_from(["", "bias", "Relu", "Erf"])),
        "seed": draw(SEED),
    }


@sweep(40)
@given(products())
def test_matrix_products(case: dict[str, Any]) -> None:
    arrays = {name: numbers(case["seed"] + n, case[name], case["dtype"]) for n, name in enumerate("ab")}
    constants = {n: a for n, a in arrays.items() if n == case["constant"]}
    feeds = {n: a for n, a in arrays.items() if n not in constants}
    nodes = [helper.make_node("MatMul", ["a", "b"], ["p"])]
    after = case["after"] if case["dtype"] == np.float32 else ""
    if after == "bias":
        constants["c"] = numbers(case["seed"] + 3, np.matmul(arrays["a"], arrays["b"]).shape[-1:])
        nodes.append(helper.make_node("Add", ["p", "c"], ["y"]))
    else:
        nodes.append(helper.make_node(after or "Identity", ["p"], ["y"]))
    empty = any(0 in a.shape for a in arrays.values())
    check(build(nodes, feeds, ["y"], constants), feeds, peer=not empty)


@sweep(30)
@given(
    SIZES,
    SIZES,
    SIZES,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "row", "column", "full", "one"]),
    st.sampled_from([1.0, 0.5]),
    st.booleans(),
    SEED,
)
def test_gemm(
    m: int, k: int, n: int, flip_a: bool, flip_b: bool, bias: str, alpha: float, constant: bool, seed: int
) -> None:
    shapes = {"row": [n], "column": [m, 1], "full": [m, n], "one": [1]}
    feeds = {"a": numbers(seed, [k, m] if flip_a else [m, k])}
    rest = {"b": numbers(seed + 1, [n, k] if flip_b else [k, n])}
    if bias:
        rest["c"] = numbers(seed + 2, shapes[bias])
    node = helper.make_node("Gemm", ["a", *rest], ["y"], transA=flip_a, transB=flip_b, alpha=alpha, beta=2.0)
    given_all = feeds if constant else {**feeds, **rest}
    check(build([node], given_all, ["y"], rest if constant else {}), given_all, peer=0 not in (m, k, n))


@st.composite
def heads(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    kv_heads = draw(st.integers(1, 3))
    return {
        "batch": draw(st.integers(1, 3)),
        "heads": kv_heads * groups,
        "kv_heads": kv_heads,
        "new": draw(st.sampled_from([1, 2, 7, 16, 33])),
        "old": draw(st.sampled_from([1, 3, 16, 17, 70])),
        "size": draw(st.sampled_from([4, 8, 17, 32])),
        "value_size": draw(st.sampled_from([4, 16, 19])),
        "mask": draw(st.sampled_from(["", "bool", "float", "row"])),
        "causal": draw(st.booleans()),
        "softcap": draw(st.sampled_from([0.0, 0.0, 3.0])),
        "seed": draw(SEED),
    }


def mask_of(case: dict[str, Any], keys: int) -> dict[str, np.ndarray]:
    """The mask input, if any; every query sees at least the first key."""
    kind, seed = case["mask"], case["seed"]
    if not kind:
        return {}
    shape = [1, 1, 1, keys] if kind == "row" else [case["batch"], 1, case["new"], keys]
    if kind == "float":
        return {"m": numbers(seed, shape)}
    seen = numbers(seed, shape, np.bool_)
    seen[..., 0] = True
    return {"m": seen}


@sweep(30)
@given(heads())
def test_attention(case: dict[str, Any]) -> None:
    batch, seed = case["batch"], case["seed"]
    feeds = {
        "q": numbers(seed, [batch, case["heads"], case["new"], case["size"]]),
        "k": numbers(seed + 1, [batch, case["kv_heads"], case["old"], case["size"]]),
        "v": numbers(seed + 2, [batch, case["kv_heads"], case["old"], case["value_size"]]),
        **mask_of(case, case["old"]),
    }
    node = helper.make_node("Attention", list(feeds), ["y"], is_causal=int(case["causal"]), softcap=case["softcap"])
    check(build([node], feeds, ["y"]), feeds, peer=False)


@sweep(20)
@given(heads())
def test_attention_as_exporters_write_it(case: dict[str, Any]) -> None:
    batch, n, width, seed = case["batch"], case["heads"], case["heads"] * case["size"], case["seed"]
    feeds = {
        "x": numbers(seed, [batch, case["new"], width]),
        **mask_of({**case, "mask": case["mask"] and "float"}, case["new"]),
    }
    constants: dict[str, np.ndarray] = {"s": np.array(case["size"] ** -0.5, np.float32)}
    constants["split"] = np.array([0, 0, n, case["size"]])
    constants["join"] = np.array([0, 0, width])
    nodes = []
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        constants[f"w{name}"] = numbers(seed + ord(name), [width, width]) / np.float32(width**0.5)
        constants[f"b{name}"] = numbers(seed - ord(name) + 200, [width])
        nodes += [
            helper.make_node("MatMul", ["x", f"w{name}"], [f"{name}1"]),
            helper.make_node("Add", [f"{name}1", f"b{name}"], [f"{name}2"]),
            helper.make_node("Reshape", [f"{name}2", "split"], [f"{name}3"]),
            helper.make_node("Transpose", [f"{name}3"], [name], perm=perm),
        ]
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Mul", ["scores", "s"], ["scaled"]),
        *([helper.make_node("Add", ["scaled", "m"], ["masked"])] if "m" in feeds else []),
        helper.make_node("Softmax", ["masked" if "m" in feeds else "scaled"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["o"]),
        helper.make_node("Transpose", ["o"], ["o1"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["o1", "join"], ["y"]),
    ]
    check(build(nodes, feeds, ["y"], constants), feeds)


@st.composite
def normalised(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.lists(SOME.filter(lambda d: d < 34), min_size=1, max_size=4))
    return {
        "shape": shape,
        "axis": draw(st.integers(-len(shape), len(shape) - 1)),
        "op": draw(st.sampled_from(["Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization"])),
        "seed": draw(SEED),
    }


@sweep(40)
@given(normalised())
def test_norms_and_softmaxes(case: dict[str, Any]) -> None:
    feeds = {"x": numbers(case["seed"], case["shape"])}
    constants = {}
    if case["op"].endswith("Normalization"):
        constants["g"] = numbers(case["seed"] + 1, case["shape"][case["axis"] % len(case["shape"]) :])
    node = helper.make_node(case["op"], ["x", *constants], ["y"], axis=case["axis"])
    check(
        build([node], feeds, ["y"], constants),
        feeds,
        1e-4 if constants else 2e-5,
        peer=case["op"] != "RMSNormalization",
    )


@sweep(20)
@given(
    st.sampled_from([1, 2, 3, 5]),
    st.integers(1, 5),
    st.lists(SOME, min_size=1, max_size=2),
    st.sampled_from(["GroupNormalization", "InstanceNormalization"]),
    SEED,
)
def test_norms_over_channels(groups: int, width: int, spatial: list[int], op: str, seed: int) -> None:
    channels = groups * width
    feeds = {"x": numbers(seed, [2, channels, *spatial])}
    constants = {"g": numbers(seed + 1, [channels]), "b": numbers(seed + 2, [channels])}
    attributes = {"num_groups": groups} if op == "GroupNormalization" else {}
    model = build([helper.make_node(op, ["x", "g", "b"], ["y"], **attributes)], feeds, ["y"], constants, opset=21)
    check(model, feeds, 1e-3, peer=op == "InstanceNormalization")


@st.composite
def resized(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 2))
    kind = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    attributes: dict[str, Any] = {
        "mode": kind,
        "coordinate_transformation_mode": draw(
            st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
        ),
    }
    if kind == "nearest":
        attributes["nearest_mode"] = draw(st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]))
    spatial = [draw(st.integers(1, 9)) for _ in range(rank)]
    return {
        "x": [draw(st.integers(1, 2)), draw(st.integers(1, 20)), *spatial],
        "attributes": attributes,
        "sizes": [draw(st.integers(1, 20)) for _ in range(rank)],
        "scales": [draw(st.sampled_from([0.5, 1.0, 2.0, 3.0])) for _ in range(rank)],
        "by_scale": draw(st.booleans()),
        "blocked": draw(st.booleans()),
        "seed": draw(SEED),
    }


@sweep(30)
@given(resized())
def test_resizing(case: dict[str, Any]) -> None:
    feeds = {"x": numbers(case["seed"], case["x"])}
    channels, rank = case["x"][1], len(case["x"]) - 2
    constants: dict[str, np.ndarray] = {"sizes": np.array([*case["x"][:2], *case["sizes"]])}
    inputs = ["c", "", "", "sizes"]
    if case["by_scale"] and all(round(d * s) > 0 for d, s in zip(case["x"][2:], case["scales"])):
        constants = {"scales": np.array([1, 1, *case["scales"]], np.float32)}
        inputs = ["c", "", "scales"]
    nodes = [helper.make_node("Identity", ["x"], ["c"])]
    if case["blocked"]:
        constants["w"] = numbers(case["seed"] + 1, [channels, channels, *[1] * rank])
        nodes = [helper.make_node("Conv", ["x", "w"], ["c"])]
    nodes.append(helper.make_node("Resize", inputs, ["y"], **case["attributes"]))
    check(build(nodes, feeds, ["y"], constants, opset=19), feeds, 1e-4, peer=False)
