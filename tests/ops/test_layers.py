"""Convolutions, pools, norms, recurrent networks and images against onnxruntime, on what ONNX's own cases leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from onnx import helper

import skipjack.ops.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.ir.types import tensor
from skipjack.ops.registry import Infer, Ref, lookup
from tests.ops.conformance import runners

ort = pytest.importorskip("onnxruntime")
SEED = 11
_random = np.random.default_rng(SEED)


@dataclass(frozen=True)
class Layer:
    """One node and its inputs, None where one is absent."""

    op: str
    inputs: tuple[Any, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def __str__(self) -> str:
        return f"{self.op}-{self.attrs}".replace(" ", "")


def _f32(*shape: int) -> np.ndarray:
    return _random.standard_normal(shape).astype(np.float32)


def _convolutions() -> list[Layer]:
    x, w, b = _f32(2, 4, 7, 6), _f32(6, 2, 3, 3), _f32(6)
    kinds: list[dict[str, Any]] = [
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
        {"auto_pad": "VALID"},
        {"dilations": [2, 1], "pads": [2, 1, 0, 3]},
    ]
    found = [Layer("Conv", (x, w, b), {"group": 2, **k}) for k in kinds]
    found += [Layer("Conv", (_f32(1, 2, 9), _f32(4, 2, 3))), Layer("Conv", (_f32(1, 2, 4, 5, 4), _f32(3, 2, 2, 3, 2)))]
    y = _f32(6, 2, 3, 3)
    spread: list[dict[str, Any]] = [
        {"strides": [2, 3], "output_padding": [1, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"output_shape": [10, 9], "strides": [2, 2]},
        {"pads": [1, 0, 2, 1], "dilations": [2, 2]},
    ]
    return found + [Layer("ConvTranspose", (_f32(1, 6, 5, 4), y, _f32(4)), {"group": 2, **k}) for k in spread]


def _pools() -> list[Layer]:
    x = _f32(2, 3, 8, 7)
    kinds: list[dict[str, Any]] = [
        {"pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1},
        {"strides": [3, 2], "ceil_mode": 1},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"dilations": [2, 2], "pads": [1, 0, 0, 1]},
    ]
    found: list[Layer] = []
    for k in kinds:
        a = {"kernel_shape": [3, 2], **k}
        found.append(Layer("MaxPool", (x,), a, 2))
        found.append(Layer("LpPool", (x,), {**a, "p": 3}))
        found += [Layer("AveragePool", (x,), {**a, "count_include_pad": c}) for c in (0, 1)]
    found.append(Layer("MaxPool", (x,), {"kernel_shape": [2, 2], "strides": [2, 2], "storage_order": 1}, 2))
    found.append(Layer("GlobalLpPool", (x,), {"p": 1}))
    rois = np.array([[0, 1, 1, 6, 7], [1, 0, 2, 3, 3]], np.float32)
    found.append(Layer("MaxRoiPool", (x, rois), {"pooled_shape": [2, 3], "spatial_scale": 0.9}))
    at = (x, np.array([[1, 1, 6, 7], [0.4, 2, 3, 2.5]], np.float32), np.array([0, 1]))
    for mode in ("half_pixel", "output_half_pixel"):
        a = {"output_height": 2, "output_width": 3, "coordinate_transformation_mode": mode}
        found += [Layer("RoiAlign", at, {**a, "sampling_ratio": n}) for n in (0, 2)]
    return found


def _norms() -> list[Layer]:
    x, c = _f32(2, 6, 4, 3), [_f32(6), _f32(6), _f32(6), np.abs(_f32(6))]
    return [
        Layer("BatchNormalization", (x, *c), {"epsilon": 1e-3}),
        Layer("InstanceNormalization", (x, *c[:2])),
        Layer("LRN", (x,), {"size": 5, "alpha": 0.1, "bias": 2.0}),
        Layer("LayerNormalization", (x, _f32(4, 3), _f32(4, 3)), {"axis": 2}, 3),
        Layer("LayerNormalization", (x, _f32(3))),
    ]


def _recurrent() -> list[Layer]:
    found: list[Layer] = []
    x, lengths = _f32(5, 3, 4), np.array([5, 2, 3], np.int32)
    for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        for direction, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            weights = (_f32(d, gates * 6, 4), _f32(d, gates * 6, 6), _f32(d, gates * 12))
            states = [_f32(d, 3, 6)] + ([_f32(d, 3, 6), _f32(d, 18)] if op == "LSTM" else [])
            a = {"hidden_size": 6, "direction": direction}
            outputs = 3 if op == "LSTM" else 2
            found.append(Layer(op, (x, *weights), a, outputs))
            found.append(Layer(op, (x, *weights, lengths, *states), {**a, "clip": 0.8}, outputs))
            if op == "GRU":
                found.append(Layer(op, (x, *weights, lengths, *states), {**a, "linear_before_reset": 1}, outputs))
            if op == "LSTM":
                found.append(Layer(op, (x, *weights, lengths, *states), {**a, "input_forget": 1}, outputs))
    names = ["LeakyRelu", "HardSigmoid", "Affine"]
    a = {"hidden_size": 6, "activations": names, "activation_alpha": [0.1, 0.3, 0.9], "activation_beta": [0.4, 0.1]}
    return found + [Layer("LSTM", (x, _f32(1, 24, 4), _f32(1, 24, 6)), a, 3)]


def _images() -> list[Layer]:
    x, grow, shrink = _f32(1, 2, 5, 6), np.array([1, 1, 2.3, 1.7], np.float32), np.array([1, 1, 0.6, 0.5], np.float32)
    found: list[Layer] = []
    for mode in ("nearest", "linear", "cubic"):
        for where in ("half_pixel", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"):
            a = {"mode": mode, "coordinate_transformation_mode": where}
            found += [Layer("Resize", (x, None, s), a) for s in (grow, shrink)]
        a = {"mode": mode, "coordinate_transformation_mode": "align_corners"}
        found.append(Layer("Resize", (x, None, None, np.array([1, 2, 9, 4])), a))
    for mode in ("linear", "nearest", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            a = {"mode": mode, "padding_mode": padding}
            found += [Layer("GridSample", (x, _f32(1, 4, 3, 2)), {**a, "align_corners": c}) for c in (0, 1)]
    return found


LAYERS = [*_convolutions(), *_pools(), *_norms(), *_recurrent(), *_images()]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_reference_agrees_with_onnxruntime(layer: Layer) -> None:
    names = [f"x{n}" if v is not None else "" for n, v in enumerate(layer.inputs)]
    outs = [f"y{n}" for n in range(layer.outputs)]
    node = helper.make_node(layer.op, names, outs, "node", **layer.attrs)
    feeds = {n: np.asarray(v) for n, v in zip(names, layer.inputs) if n}
    given = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in feeds.items()
    ]
    graph = helper.make_graph([node], "one", given, [helper.make_empty_tensor_value_info(n) for n in outs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for got, wanted in zip(runners.typed_reference(model, feeds), session.run(None, feeds), strict=True):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), f"{layer} seed {SEED}"
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5, err_msg=f"{layer} seed {SEED}")


@pytest.mark.parametrize("causal_offset", ["start", "end"])
def test_the_normal_form_of_attention_is_attention(causal_offset: str) -> None:
    q, k, v, mask = _f32(2, 3, 8), _f32(2, 2, 5, 4), _f32(2, 5, 8), _f32(3, 5)
    attrs = {"q_heads": 2, "kv_heads": 2, "scale": 0.5, "layout_k": "bhsd", "layout_out": "bhsd", "causal": 1}
    attrs["causal_offset"] = causal_offset
    node = Node("Attention", ("q", "k", "v", "m"), ("y",), MappingProxyType(attrs), SKIPJACK)
    y = lookup(node).reference(Ref(node, [q, k, v, mask]))[0]
    for b, h, s in np.ndindex(2, 2, 3):
        keys = s + 1 + (2 if causal_offset == "end" else 0)
        scores = k[b, h, :keys] @ q[b, s, 4 * h : 4 * h + 4] * 0.5 + mask[s, :keys]
        p = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(y[b, h, s], p @ v[b, :keys, 4 * h : 4 * h + 4], rtol=1e-5, err_msg=f"seed {SEED}")
    kinds = [tensor(DType.F32, *a.shape) for a in (q, k, v, mask)]
    assert lookup(node).infer(Infer(node, kinds, [None] * 4)) == [tensor(DType.F32, 2, 2, 3, 4)]


@pytest.mark.parametrize(
    ("op", "shapes", "attrs"),
    [
        ("Conv", [(1, 3, 4, 4), (2, 2, 3, 3)], {}),
        ("Conv", [(1, 2, 2, 2), (2, 2, 3, 3)], {}),
        ("Conv", [(1, 2, 4, 4), (2, 2, 3, 3)], {"strides": (0, 1)}),
        ("ConvTranspose", [(1, 3, 4, 4), (2, 2, 3, 3)], {}),
        ("MaxPool", [(1, 2, 4, 4)], {"kernel_shape": (5, 5)}),
        ("AveragePool", [(1, 2, 4, 4)], {"kernel_shape": (2,)}),
        ("GroupNormalization", [(1, 5, 4), (5,), (5,)], {"num_groups": 2}),
        ("LayerNormalization", [(2, 3), (4,)], {}),
        ("Attention", [(1, 3, 2, 4), (1, 2, 2, 4), (1, 2, 2, 4)], {}),
        ("LSTM", [(5, 1, 4), (1, 8, 3), (1, 8, 2)], {"hidden_size": 2}),
        ("Resize", [(1, 1, 4, 4)], {}),
        ("GridSample", [(1, 1, 4, 4), (1, 2, 2, 3)], {}),
        ("DFT", [(3, 4)], {}),
    ],
    ids=str,
)
def test_bad_shapes_are_refused(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    node = Node(op, tuple("abcdefg"[: len(shapes)]), ("y",), MappingProxyType(attrs))
    kinds = [tensor(DType.F32, *s) for s in shapes]
    with pytest.raises(ModelError, match="expected"):
        lookup(node).infer(Infer(node, kinds, [None] * len(kinds)))
