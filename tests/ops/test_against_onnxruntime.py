"""References against onnxruntime without its optimiser, on shapes, types and values that ONNX's own cases leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from tests.ops.conformance import runners

OPSET = 21
SEED = 7


@dataclass(frozen=True)
class Sample:
    """One node and its inputs; names of absent inputs are empty."""

    op: str
    inputs: tuple[Any, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    tolerance: float = 1e-5

    def __str__(self) -> str:
        shapes = "-".join("x".join(map(str, np.shape(v))) or "scalar" for v in self.inputs if v is not None)
        attrs = "-".join(f"{k}={v}" for k, v in self.attrs.items())
        return f"{self.op}-{np.asarray(self.inputs[0]).dtype}-{shapes}-{attrs}".replace(" ", "")


_random = np.random.default_rng(SEED)


def _f32(*shape: int) -> np.ndarray:
    return _random.standard_normal(shape).astype(np.float32)


def _ints(dtype: Any, *shape: int, low: int = -100, high: int = 100) -> np.ndarray:
    return _random.integers(low, high, shape).astype(dtype)


def _u8(*shape: int) -> np.ndarray:
    return _ints(np.uint8, *shape, low=0, high=256)


def _i8(*shape: int) -> np.ndarray:
    return _ints(np.int8, *shape, low=-128, high=128)


EDGES = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 88.8, -104.0, 1e30, -1e30, 0.5, 1.5, 2.5], np.float32)
UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"]
REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


def _elementwise() -> list[Sample]:
    found = [Sample(op, (np.abs(_f32(3, 5)) + 0.1,)) for op in UNARY if op not in ("Acos", "Asin", "Atanh", "Acosh")]
    found += [Sample(op, (EDGES,)) for op in UNARY]
    found += [Sample(op, (_f32(4, 1, 3), _f32(2, 1))) for op in BINARY]
    found += [Sample(op, (_ints(np.int32, 4, 5), _ints(np.int32, 5, low=1))) for op in BINARY]
    found += [Sample(op, (_ints(np.int64, 0, 5), _ints(np.int64, 5, low=1))) for op in BINARY]
    found += [Sample("Max", (EDGES, EDGES[::-1].copy())), Sample("Min", (EDGES, EDGES[::-1].copy()))]
    found += [
        Sample("Mod", (_ints(np.int32, 40), _ints(np.int32, 40, low=1))),
        Sample("Pow", (_f32(3, 4), np.float32(2))),
    ]
    found += [
        Sample("Mod", (_ints(t, 40), _ints(t, 40, low=-9, high=-1)), {"fmod": m}) for t in (np.int64,) for m in (0, 1)
    ]
    found += [Sample("Mod", (_f32(40) * 9, _f32(40)), {"fmod": 1})]
    found += [
        Sample("Pow", (_ints(np.int32, 9, low=0, high=5), _ints(t, 9, low=0, high=5))) for t in (np.int32, np.float32)
    ]
    found += [Sample("Pow", (np.abs(_f32(9)), _ints(np.int64, 9, low=-3, high=5)))]
    found += [Sample("Clip", (EDGES, np.float32(-1), np.float32(2))), Sample("Clip", (_i8(9), None, np.int8(5)))]
    found += [Sample("PRelu", (_f32(2, 3, 4), _f32(3, 1))), Sample("Where", (_f32(3, 1) > 0, _f32(3, 4), _f32(4)))]
    found += [Sample(op, (_f32(2, 3), _f32(3), _f32(2, 1))) for op in ("Sum", "Mean", "Max", "Min")]
    shifts = np.array([0, 1, 5, 7], np.uint8)
    found += [Sample("BitShift", (_u8(4), shifts), {"direction": d}) for d in ("LEFT", "RIGHT")]
    return found


def _reducing() -> list[Sample]:
    axes = [np.array([1]), np.array([-1, 0]), None]
    x = np.abs(_f32(2, 3, 4)) + 0.1
    found = [Sample(f"Reduce{r}", (x, a), {"keepdims": k}) for r in REDUCTIONS for a in axes for k in (0, 1)]
    found += [
        Sample(f"Reduce{r}", (_ints(np.int32, 3, 4, low=1, high=5), axes[0])) for r in ("Max", "Mean", "Min", "Sum")
    ]
    tied = _ints(np.float32, 4, 9, low=0, high=3)
    last = [{"axis": a, "select_last_index": s} for a in (0, -1) for s in (0, 1)]
    found += [Sample(op, (tied,), attrs) for op in ("ArgMax", "ArgMin") for attrs in last]
    found += [Sample("TopK", (tied, np.array([4])), {"largest": n, "axis": a}, 2) for n in (0, 1) for a in (0, 1)]
    flags = [{"exclusive": e, "reverse": r} for e in (0, 1) for r in (0, 1)]
    found += [Sample("CumSum", (_f32(3, 4), np.int64(1)), attrs) for attrs in flags]
    found += [Sample(op, (_f32(2, 3, 4) * 50,), {"axis": 1}) for op in ("Softmax", "LogSoftmax", "Hardmax")]
    found += [Sample("LpNormalization", (_f32(3, 4),), {"p": p, "axis": 0}) for p in (1, 2)]
    return [*found, Sample("MeanVarianceNormalization", (_f32(2, 3, 4, 5),))]


def _products() -> list[Sample]:
    shapes = [
        ((3,), (3,)),
        ((3,), (2, 3, 4)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((2, 4), (4,)),
        ((0, 4), (4, 3)),
        ((2, 0), (0, 3)),
    ]
    found = [Sample("MatMul", (_f32(*a), _f32(*b))) for a, b in shapes]
    found += [Sample("MatMul", (_ints(np.int32, 3, 4), _ints(np.int32, 4, 2)))]
    found += [Sample("Gemm", (_f32(4, 3), _f32(5, 4), _f32(5)), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0})]
    found += [Sample("Gemm", (_f32(3, 4), _f32(4, 5), c)) for c in (None, _f32(3, 1), np.float32(2))]
    equations = [("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("ij,jk", (3, 4), (4, 2)), ("...i,i->...", (2, 3, 4), (4,))]
    found += [Sample("Einsum", (_f32(*a), _f32(*b)), {"equation": e}) for e, a, b in equations]
    found += [Sample("Einsum", (_f32(3, 3),), {"equation": "ii->i"}), Sample("Det", (_f32(2, 3, 3),))]
    return found


def _quantized() -> list[Sample]:
    x, scales = _f32(4, 6) * 40, np.abs(_f32(6)) + 0.1
    found = [Sample("QuantizeLinear", (x, np.float32(0.3), z)) for z in (np.uint8(9), np.int8(-3))]
    found += [Sample("QuantizeLinear", (x, scales, _i8(6)), {"axis": -1}), Sample("DynamicQuantizeLinear", (x,), {}, 3)]
    found += [
        Sample("DynamicQuantizeLinear", (np.abs(x),), {}, 3),
        Sample("DynamicQuantizeLinear", (-np.abs(x),), {}, 3),
    ]
    found += [Sample("DequantizeLinear", (_u8(4, 6), scales, _u8(6)), {"axis": 1})]
    found += [Sample("DequantizeLinear", (_ints(np.int32, 4, 6), scales), {"axis": 1})]
    found += [Sample("DequantizeLinear", (_i8(4, 6), _f32(4, 2), _i8(4, 2)), {"axis": 1, "block_size": 3})]
    found += [
        Sample("MatMulInteger", (_u8(3, 7), b, np.uint8(9), z))
        for b, z in ((_i8(7, 4), np.int8(-3)), (_u8(7, 4), None))
    ]
    found += [Sample("MatMulInteger", (_u8(3, 7), _i8(7, 4), np.uint8(9), _i8(4)))]
    out = (np.float32(9.0), np.uint8(120))
    left, right = (_u8(3, 7), np.float32(0.2), np.uint8(9)), (_i8(7, 4), np.abs(_f32(4)), _i8(4))
    found += [Sample("QLinearMatMul", (*left, *right, *out))]
    image, kernel = (
        (_u8(1, 4, 6, 5), np.float32(0.2), np.uint8(100)),
        (_i8(6, 2, 3, 3), np.abs(_f32(6)), np.zeros(6, np.int8)),
    )
    attrs = {"group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1]}
    found += [Sample("QLinearConv", (*image, *kernel, *out, _ints(np.int32, 6)), attrs)]
    found += [Sample("ConvInteger", (image[0], _u8(6, 2, 3, 3), np.uint8(100), np.uint8(3)), attrs)]
    return found


SAMPLES = [*_elementwise(), *_reducing(), *_products(), *_quantized()]


def _model(sample: Sample) -> tuple[Any, dict[str, np.ndarray]]:
    names = [f"x{n}" if v is not None else "" for n, v in enumerate(sample.inputs)]
    outputs = [f"y{n}" for n in range(sample.outputs)]
    node = helper.make_node(sample.op, names, outputs, "node", **sample.attrs)
    given = [(n, np.asarray(v)) for n, v in zip(names, sample.inputs) if n]
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in given]
    graph = helper.make_graph([node], "one", inputs, [helper.make_empty_tensor_value_info(n) for n in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return model, dict(given)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_reference_agrees_with_onnxruntime(sample: Sample) -> None:
    model, feeds = _model(sample)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    outputs = runners.typed_reference(model, feeds)
    for got, wanted in zip(outputs, expected):
        assert got.dtype == wanted.dtype, f"seed {SEED}"
        assert got.shape == wanted.shape, f"seed {SEED}"
        np.testing.assert_allclose(got, wanted, rtol=sample.tolerance, atol=sample.tolerance, err_msg=f"seed {SEED}")
