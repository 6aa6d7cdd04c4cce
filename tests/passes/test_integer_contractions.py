"""Products of quantised tensors become integer contractions that mean the same, bit for bit where floats are exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from skipjack.core.dtypes import DType
from skipjack.ir.graph import Graph
from skipjack.ir.types import TensorType
from skipjack.lang.expr import Expr
from skipjack.passes.form_integer_contractions import FormIntegerContractions
from skipjack.passes.pipeline import run
from tests.passes.building import applied, assert_same, graph_of, ops

CODES = {"uint8": np.uint8, "int8": np.int8}


def scale(*values: float) -> np.ndarray:
    return np.array(values if len(values) > 1 else values[0], np.float32)


def zero(dtype: str, *values: int) -> np.ndarray:
    return np.array(values if len(values) > 1 else values[0], CODES[dtype])


def codes(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    limits = np.iinfo(CODES[dtype])
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(CODES[dtype])


def finished(graph: Graph) -> Graph:
    """The graph after all passes, checked to give the very same bits."""
    after = run(graph)
    assert_same(graph, after, feeds(graph), tol=0)
    assert_same(graph, applied(FormIntegerContractions(), graph, tol=0), feeds(graph), tol=0)
    return after


def feeds(graph: Graph) -> dict[str, np.ndarray]:
    """Quarters as floats, and all codes."""
    rng = np.random.default_rng(1)
    made: dict[str, np.ndarray] = {}
    for name in graph.inputs:
        t = graph.types[name]
        assert isinstance(t, TensorType)
        shape = tuple(d if isinstance(d, int) else 2 for d in t.shape or ())
        low, high = (-9, 9) if t.dtype.is_float else (np.iinfo(t.dtype.np).min, np.iinfo(t.dtype.np).max + 1)
        values = rng.integers(low, high, shape)
        made[name] = (values / 4 if t.dtype.is_float else values).astype(t.dtype.np)
    return made


def float_weights(graph: Graph) -> list[str]:
    """Contractions with constant weights that are not integers."""
    found = [n for n in graph.nodes if n.domain == "skipjack" and n.op in ("Linear", "Conv")]
    return [str(n.origin) for n in found if graph.constants[n.inputs[1]].dtype not in (np.int8, np.int16)]


def only(graph: Graph, op: str) -> dict[str, object]:
    """The attributes of the one node of an operator."""
    (node,) = [n for n in graph.nodes if n.op == op]
    return dict(node.attrs)


SIGNS = itertools.product(("uint8", "int8"), ("uint8", "int8"), (False, True))
LAYERS = [("MatMul", ""), *itertools.product(("Gemm", "Conv"), ("", "float", "int"))]
FORMS = [(*layer, *signs) for signs in SIGNS for layer in LAYERS]


@pytest.mark.parametrize(("op", "bias", "x", "w", "per_channel"), FORMS)
def test_every_way_to_write_a_layer(op: str, bias: str, x: str, w: str, per_channel: bool) -> None:
    features = 6
    scales = scale(*(2.0 ** -(n % 3 + 1) for n in range(features))) if per_channel else scale(0.25)
    points = zero(w, *range(3, 3 + features)) if per_channel else zero(w, 3)
    shape, axis = ((features, 4, 3, 3), 0) if op == "Conv" else ((4, features), 1)
    constants = {
        "s": scale(0.5), "z": zero(x, 11), "k": codes(w, *shape), "ks": scales, "kz": points,
        "c": np.arange(features, dtype=np.float32), "ci": np.arange(features, dtype=np.int32) - 2,
        "cs": scales * scale(0.5),
        "c0": np.zeros(features if per_channel else (), np.int32),
    }  # fmt: skip
    third = {"": "", "float": ", c", "int": ", cr"}[bias]
    attrs = "<pads = [1, 1, 1, 1]>" if op == "Conv" else ""
    size = "2, 4, 5, 5" if op == "Conv" else "5, 4"
    graph = graph_of(
        f"""({x}[{size}] x) => (float[] y) {{
            xr = DequantizeLinear(x, s, z)
            kr = DequantizeLinear<axis = {axis}>(k, ks, kz)
            cr = DequantizeLinear<axis = 0>(ci, cs, c0)
            y = {op}{attrs}(xr, kr{third})
        }}""".replace("float[] y", "float[m, n, h, w] y" if op == "Conv" else "float[m, n] y"),
        **constants,
    )
    after = finished(graph)
    form = "Conv" if op == "Conv" else "Linear"
    assert ops(after) == [*(["*Pointwise"] if x == "int8" else []), f"*{form}"]
    assert not float_weights(after)
    assert after.types[after.nodes[-1].inputs[0]] == TensorType(DType.U8, after.types["x"].shape)  # type: ignore[union-attr]


def quantised_layer(dtype: str = "uint8", tail: str = "y = QuantizeLinear(p, s, z)", out: str = "") -> Graph:
    out = out or dtype
    return graph_of(
        f"""(float[b, 3, 4] x, float[b, 3, 4] e) => ({out}[b, 3, 4] y) {{
            q = QuantizeLinear(x, s, z)
            r = DequantizeLinear(q, s, z)
            w = DequantizeLinear<axis = 1>(k, ks, kz)
            p = MatMul(r, w)
            {tail}
        }}""",
        s=scale(0.5), z=zero(dtype, 9), k=codes("int8", 4, 4), ks=scale(0.5, 0.25, 1, 2), kz=zero("int8", 0, 1, 2, 3),
        v=np.array([1, 2, 3, 4], np.float32), t=scale(2.0), half=scale(0.5),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(
    "tail",
    [
        "y = QuantizeLinear(p, s, z)",
        "a = Add(p, v) y = QuantizeLinear(a, s, z)",
        "a = Add(p, v) b = Relu(a) y = QuantizeLinear(b, t, z)",
        "a = Add(p, r) b = Clip(a, half, t) y = QuantizeLinear(b, s, z)",
        "a = Add(e, p) y = QuantizeLinear(a, s, z)",
        "q1 = QuantizeLinear(p, t, z) r1 = DequantizeLinear(q1, t, z) a = Add(r1, v) y = QuantizeLinear(a, s, z)",
    ],
)
def test_what_follows_is_the_epilogue(dtype: str, tail: str) -> None:
    after = finished(quantised_layer(dtype, tail))
    extra = ["*Pointwise"] if dtype == "int8" else []
    assert ops(after)[:2] == ["*Pointwise", "*Linear"]
    assert ops(after)[2:] in ([], extra)
    assert not float_weights(after)


def test_signed_codes_between_layers_are_unsigned() -> None:
    tail = """q1 = QuantizeLinear(p, s, z) r1 = DequantizeLinear(q1, s, z)
              n = MatMul(r1, w) y = Relu(n)"""
    after = finished(quantised_layer("int8", tail, "float"))
    assert ops(after) == ["*Pointwise", "*Linear", "*Linear"]
    assert [after.types[n.outputs[0]].dtype for n in after.nodes] == [DType.U8, DType.U8, DType.F32]  # type: ignore[union-attr]


def test_padding_is_the_zero_point() -> None:
    graph = graph_of(
        """(uint8[1, 4, 5, 5] x) => (float[1, 4, h, w] y) {
            r = DequantizeLinear(x, s, z)
            p = Pad(r, pads)
            w = DequantizeLinear<axis = 0>(k, s, kz)
            y = Conv<group = 4>(p, w)
        }""",
        s=scale(0.5), z=zero("uint8", 200), k=codes("int8", 4, 1, 3, 3), kz=zero("int8", 0),
        pads=np.array([0, 0, 1, 0, 0, 0, 2, 1], np.int64),
    )  # fmt: skip
    after = finished(graph)
    assert ops(after) == ["*Conv"]
    assert only(after, "Conv")["pads"] == (1, 0, 2, 1)
    assert only(after, "Conv")["pad_code"] == 200


def test_weights_beyond_a_byte_are_wide() -> None:
    graph = graph_of(
        "(uint8[b, 4] x) => (int32[b, 2] y) { y = MatMulInteger(x, k, z, kz) }",
        k=np.array([[0, 255], [255, 1], [3, 4], [5, 6]], np.uint8), z=zero("uint8", 7), kz=zero("uint8", 128, 200),
    )  # fmt: skip
    after = finished(graph)
    assert ops(after) == ["*Linear"]
    assert after.constants[after.nodes[0].inputs[1]].dtype == np.int16


DYNAMIC = {
    "MatMulInteger": """q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, k, z, kz) f = Cast<to = 1>(i)
                        m = Mul(s, ks) p = Mul(f, m) y = Add(p, c)""",
    "MatMulIntegerToFloat": """q, s, z = DynamicQuantizeLinear(x)
                               y = com.microsoft.MatMulIntegerToFloat(q, k, s, ks, z, kz, c)""",
    "DynamicQuantizeMatMul": "y = com.microsoft.DynamicQuantizeMatMul(x, k, ks, kz, c)",
    "no zero point": """q, s, z = DynamicQuantizeLinear(x)
                        y = com.microsoft.MatMulIntegerToFloat(q, k, s, ks, z)""",
}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_quantisation_keeps_its_scale_in_the_epilogue(name: str, per_channel: bool) -> None:
    graph = graph_of(
        f"(float[b, 3, 4] x) => (float[b, 3, 6] y) {{ {DYNAMIC[name]} }}",
        k=codes("uint8", 4, 6), c=np.arange(6, dtype=np.float32),
        ks=scale(*(np.arange(6) / 7 + 0.1)) if per_channel else scale(0.013),
        kz=zero("uint8", 128),
    )  # fmt: skip
    after = finished(graph)
    assert [o for o in ops(after) if o != "*Pointwise"] == ["DynamicQuantizeLinear", "*Linear"]
    assert ops(after)[-1] == "*Linear"
    assert not float_weights(after)


def test_integer_convolutions_of_dynamic_codes() -> None:
    graph = graph_of(
        """(uint8[b, 3, 5, 5] x) => (float[b, 4, 5, 5] y) {
            i = ConvInteger<pads = [1, 1, 1, 1]>(x, k, z, kz) f = Cast<to = 1>(i) m = Mul(f, s) y = Add(m, c)
        }""",
        k=codes("uint8", 4, 3, 3, 3), z=zero("uint8", 131), kz=zero("uint8", 128), s=scale(0.3),
        c=np.arange(4, dtype=np.float32).reshape(4, 1, 1),
    )  # fmt: skip
    after = finished(graph)
    assert ops(after) == ["*Conv"]
    assert only(after, "Conv")["pad_code"] == 131
    assert isinstance(only(after, "Conv")["epilogue"], Expr)
