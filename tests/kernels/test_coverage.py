"""Every operator that matters for models runs in kernels: a typical node of it leaves no host step in its plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tests.ops.test_microsoft as microsoft
from onnx import helper, numpy_helper
from tests.ops.conformance import harness

from skipjack import compile_model
from skipjack.core.dtypes import DType
from skipjack.engine import compile_graph

MUST = """
MatMul Gemm Add Mul Sub Div Conv Reshape Transpose Concat Slice Split Squeeze Unsqueeze Flatten
Identity Constant Expand Shape Gather Cast ConstantOfShape Range Where Equal Softmax
LayerNormalization Erf Tanh Sigmoid Relu Clip Sqrt Pow Neg Exp ReduceMean Reciprocal Attention
RMSNormalization Gelu RotaryEmbedding MaxPool AveragePool GlobalAveragePool BatchNormalization Pad
Resize LeakyRelu HardSigmoid HardSwish Cos Sin And Or Not Less LessOrEqual Greater GreaterOrEqual
IsNaN Trilu ScatterND GatherND CumSum Tile Min Max Abs Log QuantizeLinear DequantizeLinear
MatMulInteger DynamicQuantizeLinear
""".split()  # noqa: SIM905
SHOULD = """
QLinearConv QLinearMatMul ConvInteger ConvTranspose InstanceNormalization GroupNormalization
DepthToSpace GlobalMaxPool ReduceSum ReduceMax ReduceMin ReduceProd ReduceL2 ReduceSumSquare ArgMax
OneHot GatherElements Sign Ceil Floor Round Mod Sum Mean Dropout Size TopK NonZero Elu PRelu
Softplus Swish Mish CastLike ScatterElements
""".split()  # noqa: SIM905
# Upsample is a Resize after import; LSTM and GRU have constant weights in models, and a test of their own below.
FUSED = """
MatMulNBits SkipLayerNormalization BiasGelu FastGelu QuickGelu Gelu Attention
SimplifiedLayerNormalization SkipSimplifiedLayerNormalization EmbedLayerNormalization FusedMatMul
FusedConv GroupQueryAttention RotaryEmbedding MultiHeadAttention
""".split()  # noqa: SIM905

_NAMES = ("f32", "f64", "f16", "bf16", "bool", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
_NUMBERS = frozenset(DType(name) for name in _NAMES)
_ASKED_FOR_RARELY = {
    "BatchNormalization": ("training_mode",),
    "Dropout": ("training",),
    "Attention": ("qk_matmul_bias", "qk_matmul_soft", "qk_matmul_output_mode", "precision", "rank4_mask"),
}
_CONSTANTS = {
    "Attention": (1, 2),
    "MatMulNBits": (1, 2, 3, 5),
    "MultiHeadAttention": (3,),
    "GroupQueryAttention": (6,),
}


def host_steps(model: onnx.ModelProto) -> list[str]:
    """Operators of the plan that run on the host, with the reason."""
    plan = compile_graph(model).program.plan
    pairs = zip(plan.graph.nodes, plan.choices, strict=True)
    return [f"{node.op}: {choice.reason}" for node, choice in pairs if choice.on_host]


def _cases(op: str) -> list[Any]:
    """ONNX's node cases of one operator whose tensors hold plain numbers."""
    return [
        c
        for c in harness.cases()
        if c.model is not None
        and [n.op_type for n in c.model.graph.node] == [op]
        and _plain(c.model)
        and not any(word in c.name for word in _ASKED_FOR_RARELY.get(op, ()))
    ]


def _plain(model: onnx.ModelProto) -> bool:
    kinds = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    return all(k and DType.from_onnx(k) in _NUMBERS for k in kinds)


@pytest.mark.parametrize("op", [*MUST, *SHOULD])
def test_typical_nodes_run_in_kernels(op: str) -> None:
    cases = _cases(op)
    assert cases, f"ONNX has no plain case of {op}"
    on_host = {c.name: found for c in cases if (found := host_steps(c.model))}
    assert not on_host


def _fused_cases() -> list[microsoft.Case]:
    r = np.random.default_rng(0)
    families = (
        microsoft.norms, microsoft.packed_weights, microsoft.attentions, microsoft.multi_head, microsoft.grouped,
    )  # fmt: skip
    return [c for family in families for c in family(r) if c.op in FUSED]


def _one_node(case: microsoft.Case) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    constants = _CONSTANTS.get(case.op, ())
    given = {f"i{n}": np.asarray(v) for n, v in enumerate(case.inputs) if v is not None}
    names = [f"i{n}" if v is not None else "" for n, v in enumerate(case.inputs)]
    outs = ["" if n in case.skip_outputs else f"o{n}" for n in range(case.outputs)]
    node = helper.make_node(case.op, names, outs, domain=case.domain, **case.attrs)
    feeds = {n: a for n, a in given.items() if int(n[1:]) not in constants}
    inputs = [helper.make_tensor_value_info(n, DType.from_numpy(a.dtype).onnx, a.shape) for n, a in feeds.items()]
    kinds = [DType.from_numpy(case.dtypes[min(n, len(case.dtypes) - 1)]).onnx for n in range(case.outputs)]
    results = [helper.make_tensor_value_info(o, k, None) for o, k in zip(outs, kinds, strict=True) if o]
    held = [numpy_helper.from_array(a, n) for n, a in given.items() if n not in feeds]
    graph = helper.make_graph([node], "g", inputs, results, held)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), list(feeds.values())


def _is_strange(case: microsoft.Case) -> bool:
    """Forms that exporters do not emit: an extra logit, ends and beginnings of keys."""
    ends = case.op == "Attention" and len(case.inputs) > 3 and np.shape(case.inputs[3]) == (4,)
    sink = case.op == "GroupQueryAttention" and len(case.inputs) > 11 and case.inputs[11] is not None
    return ends or sink or bool(case.attrs.get("smooth_softmax"))


@pytest.mark.parametrize("case", [c for c in _fused_cases() if not _is_strange(c)], ids=lambda c: c.op)
def test_fused_nodes_run_in_kernels_as_onnxruntime_runs_them(case: microsoft.Case) -> None:
    model, arrays = _one_node(case)
    assert not host_steps(model)
    results = compile_model(model, batch_size=None, num_cores=1).run(arrays)
    wanted = microsoft.expected(case)
    for got, expected in zip(results, wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=max(case.atol, 1e-5))


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_networks_run_in_kernels(op: str, gates: int) -> None:
    r = np.random.default_rng(0)
    held = [
        numpy_helper.from_array(r.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (2, gates * 5, 3)), ("r", (2, gates * 5, 5)), ("b", (2, gates * 10)))
    ]
    node = helper.make_node(op, ["x", "w", "r", "b"], ["y"], hidden_size=5, direction="bidirectional")
    values = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["s", "n", 3]), ("y", None))]
    graph = helper.make_graph([node], "g", values[:1], values[1:], held)
    assert not host_steps(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(1,), (17,), (3, 0), (5, 7), (2, 3, 11)])
def test_indices_of_elements_that_are_set(dtype: type, shape: tuple[int, ...]) -> None:
    r = np.random.default_rng(0)
    kind = DType.from_numpy(np.dtype(dtype)).onnx
    x, free = helper.make_tensor_value_info("x", kind, [f"d{i}" for i in range(len(shape))]), ["rank", "count"]
    nodes = [
        helper.make_node("NonZero", ["x"], ["at"]),
        helper.make_node("Transpose", ["at"], ["rows"]),
        helper.make_node("GatherND", ["x", "rows"], ["kept"]),
        helper.make_node("Size", ["kept"], ["count"]),
    ]
    outputs = [helper.make_tensor_value_info("at", 7, free), helper.make_tensor_value_info("kept", kind, ["count"])]
    outputs.append(helper.make_tensor_value_info("count", 7, []))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    assert not host_steps(model)
    engine = compile_model(model, batch_size=None, num_cores=1)
    for share in (0.5, 0.0, 1.0, 0.5):
        given = ((r.random(shape) < share) * r.integers(1, 100, shape)).astype(dtype)
        at, kept, count = engine.run([given])
        np.testing.assert_array_equal(at, np.array(np.nonzero(given)))
        np.testing.assert_array_equal(kept, given[np.nonzero(given)])
        assert count == np.count_nonzero(given)


_DOUBLES = {
    "Softmax": ((), {"axis": -1}),
    "LogSoftmax": ((), {"axis": 1}),
    "LayerNormalization": ((11,), {"axis": -1}),
    "RMSNormalization": ((11,), {"axis": -1}),
    "InstanceNormalization": ((7, 7), {}),
    "GroupNormalization": ((7, 7), {"num_groups": 7}),
}


@pytest.mark.parametrize("op", _DOUBLES)
def test_doubles_are_normalised_as_doubles(op: str) -> None:
    sizes, attrs = _DOUBLES[op]
    r = np.random.default_rng(0)
    arrays = [r.standard_normal((3, 7, 11)), *(r.uniform(0.5, 2, size) for size in sizes)]
    names = ["x", "scale", "bias"][: len(arrays)]
    node = helper.make_node(op, names, ["y"], **attrs)
    inputs = [helper.make_tensor_value_info(n, 11, a.shape) for n, a in zip(names, arrays, strict=True)]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 11, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    assert not host_steps(model)
    (got,) = compile_model(model, batch_size=None, num_cores=1).run(arrays)
    x, axis = arrays[0], attrs.get("axis", -1)
    if op.endswith("Softmax"):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        wanted = e / e.sum(axis=axis, keepdims=True)
        wanted = np.log(wanted) if op == "LogSoftmax" else wanted
    else:
        mean = 0 if op == "RMSNormalization" else x.mean(axis=-1, keepdims=True)
        wanted = (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + 1e-5)
        shaped = [a if len(a) == 11 else a[:, None] for a in arrays[1:]]
        wanted = wanted * shaped[0] + (shaped[1] if len(shaped) > 1 else 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-7 if "Norm" in op else 1e-12, atol=1e-9)
