"""Every com.microsoft operator against onnxruntime, on one-node models with random inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from onnx import helper

import skipjack.ops.microsoft
import skipjack.ops.microsoft_attention
import skipjack.ops.microsoft_quant  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.ir.graph import MS, Node, Origin
from skipjack.ir.types import TensorType
from skipjack.ops.registry import Infer, Ref, lookup

ort = pytest.importorskip("onnxruntime")
RNG = np.random.default_rng


@dataclass
class Case:
    """One node: what it is given, how many outputs are asked for, how far results may differ."""

    op: str
    inputs: list[np.ndarray | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    domain: str = MS
    atol: float = 2e-5
    dtypes: tuple[type, ...] = (np.float32,)
    skip_outputs: tuple[int, ...] = ()


def expected(case: Case) -> list[np.ndarray]:
    names = [f"i{n}" if v is not None else "" for n, v in enumerate(case.inputs)]
    outs = ["" if n in case.skip_outputs else f"o{n}" for n in range(case.outputs)]
    node = helper.make_node(case.op, names, outs, domain=case.domain, **case.attrs)
    feeds = {n: v for n, v in zip(names, case.inputs) if v is not None}
    given = [helper.make_tensor_value_info(n, DType.from_numpy(v.dtype).onnx, v.shape) for n, v in feeds.items()]
    kinds = [DType.from_numpy(case.dtypes[min(n, len(case.dtypes) - 1)]).onnx for n in range(case.outputs)]
    made = [helper.make_tensor_value_info(o, k, None) for o, k in zip(outs, kinds) if o]
    graph = helper.make_graph([node], "g", given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def check(case: Case, note: str = "") -> None:
    outs = tuple("" if n in case.skip_outputs else f"o{n}" for n in range(case.outputs))
    attrs = {k: tuple(v) if isinstance(v, list) else v for k, v in case.attrs.items()}
    names = tuple(f"i{n}" if v is not None else "" for n, v in enumerate(case.inputs))
    node = Node(case.op, names, outs, MappingProxyType(attrs), case.domain, Origin("n", case.op, case.domain))
    op = lookup(node)
    types = [None if v is None else TensorType(DType.from_numpy(v.dtype), v.shape) for v in case.inputs]
    values = [v if v is not None and v.dtype.kind in "iu" and v.size < 9 else None for v in case.inputs]
    inferred = [t for t, o in zip(op.infer(Infer(node, types, values)), outs) if o]
    got = [v for v, o in zip(op.reference(Ref(node, case.inputs)), outs) if o]
    for n, (t, y, e) in enumerate(zip(inferred, got, expected(case), strict=True)):
        where = f"{case.op} {case.attrs} output {n} {note}"
        assert isinstance(t, TensorType), where
        assert (y.dtype, y.shape) == (e.dtype, e.shape), where
        assert t.dtype is DType.from_numpy(e.dtype), where
        assert t.shape is None or all(a == b or not isinstance(a, int) for a, b in zip(t.shape, e.shape)), where
        np.testing.assert_allclose(y.astype(np.float64), e.astype(np.float64), rtol=1e-4, atol=case.atol, err_msg=where)


def normal(r: np.random.Generator, *shape: int) -> np.ndarray:
    return r.standard_normal(shape).astype(np.float32)


def pointwise(r: np.random.Generator) -> list[Case]:
    x, b = normal(r, 2, 3, 8), normal(r, 8)
    return [
        Case("Gelu", [x]),
        Case("BiasGelu", [x, b]),
        Case("FastGelu", [x]),
        Case("FastGelu", [x, b]),
        Case("QuickGelu", [x]),
        Case("QuickGelu", [x], {"alpha": 1.0}),
    ]


def products(r: np.random.Generator) -> list[Case]:
    a, b = normal(r, 2, 3, 4, 5), normal(r, 2, 3, 5, 6)
    image, weight = normal(r, 2, 4, 7, 6), normal(r, 6, 2, 3, 3)
    conv = {"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 1], "kernel_shape": [3, 3]}
    return [
        Case("FusedMatMul", [a, b], {"alpha": 0.5}),
        Case("FusedMatMul", [a.swapaxes(2, 3).copy(), b], {"transA": 1}),
        Case("FusedMatMul", [a, b.swapaxes(2, 3).copy()], {"transB": 1, "alpha": 2.0}),
        Case("FusedMatMul", [normal(r, 4, 2, 5), normal(r, 2, 5, 3)], {"transBatchA": 1}),
        Case("FusedConv", [image, weight, normal(r, 6)], {**conv, "activation": "Relu"}),
        Case("FusedConv", [image, weight, normal(r, 6), normal(r, 2, 6, 4, 6)], {**conv, "activation": "Relu"}),
        Case("FusedConv", [image, weight, None], {**conv, "activation": "LeakyRelu", "activation_params": [0.3]}),
        Case("FusedConv", [image, weight, None], {**conv, "activation": "Clip", "activation_params": [-0.5, 1.0]}),
        Case("FusedConv", [image, weight], {**conv, "activation": "HardSigmoid", "activation_params": [0.3, 0.4]}),
    ]


def norms(r: np.random.Generator) -> list[Case]:
    x, s, g, b, c = normal(r, 2, 3, 8), normal(r, 2, 3, 8), normal(r, 8), normal(r, 8), normal(r, 8)
    ids, segments = r.integers(0, 9, (2, 3)).astype(np.int32), r.integers(0, 2, (2, 3)).astype(np.int32)
    tables = [normal(r, 9, 8), normal(r, 5, 8), normal(r, 2, 8)]
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    return [
        Case("SkipLayerNormalization", [x, s, g, b, c], {"epsilon": 1e-5}, 4, skip_outputs=(1, 2)),
        Case("SkipLayerNormalization", [x, s, g]),
        Case("SkipLayerNormalization", [x, normal(r, 3, 8), g, b]),
        Case("SkipSimplifiedLayerNormalization", [x, s, g], {"epsilon": 1e-5}, 4, skip_outputs=(1, 2)),
        Case("SkipSimplifiedLayerNormalization", [x, s, g, c]),
        Case("SimplifiedLayerNormalization", [x, g], {"epsilon": 1e-5}, domain=""),
        Case("SimplifiedLayerNormalization", [x, normal(r, 3, 8)], {"axis": 1}, domain=""),
        Case("EmbedLayerNormalization", [ids, segments, *tables, g, b], outputs=2, dtypes=(np.float32, np.int32)),
        Case(
            "EmbedLayerNormalization",
            [ids, None, *tables[:2], None, g, b, mask],
            outputs=3,
            dtypes=(np.float32, np.int32, np.float32),
        ),
    ]


def packed_weights(r: np.random.Generator) -> list[Case]:
    out: list[Case] = []
    for bits, block, k in [(4, 32, 64), (4, 16, 40), (8, 32, 64), (2, 32, 64), (4, 32, 80)]:
        n, blocks = 6, -(-k // block)
        weight = r.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8)
        scales = (normal(r, n, blocks) * 0.1).astype(np.float32)
        zeros = r.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
        attrs = {"K": k, "N": n, "bits": bits, "block_size": block}
        x = normal(r, 2, 3, k)
        out.append(Case("MatMulNBits", [x, weight, scales], attrs, atol=1e-3))
        out.append(Case("MatMulNBits", [x, weight, scales, zeros], attrs, atol=1e-3))
        if bits == 4:
            real_zeros = r.uniform(0, 15, (n, blocks)).astype(np.float32)
            out.append(Case("MatMulNBits", [x, weight, scales, None, None, normal(r, n)], attrs, atol=1e-3))
            out.append(Case("MatMulNBits", [x, weight, scales, real_zeros], attrs, atol=1e-3))
    table, ids = r.integers(0, 256, (5, 16)).astype(np.uint8), r.integers(0, 5, (2, 3)).astype(np.int64)
    attrs = {"bits": 4, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
    zeros = r.integers(0, 256, (5, 1)).astype(np.uint8)
    out.append(Case("GatherBlockQuantized", [table, ids, normal(r, 5, 2)], attrs))
    out.append(Case("GatherBlockQuantized", [table, ids, normal(r, 5, 2), zeros], attrs))
    wide = r.integers(0, 256, (5, 32)).astype(np.uint8)
    out.append(Case("GatherBlockQuantized", [wide, ids, normal(r, 5, 2)], {**attrs, "bits": 8}))
    return out


def attentions(r: np.random.Generator) -> list[Case]:
    x, w, b = normal(r, 2, 5, 8), normal(r, 8, 24), normal(r, 24)
    a = {"num_heads": 2}
    mask2 = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    past = normal(r, 2, 2, 2, 3, 4)
    mask3 = (r.uniform(size=(2, 5, 5)) < 0.7).astype(np.int32)
    return [
        Case("Attention", [x, w, b], a),
        Case("Attention", [x, w, b, mask2], a),
        Case("Attention", [x, w, b, mask3], a),
        Case("Attention", [x, w, b, np.array([3, 5], np.int32)], a),
        Case("Attention", [x, w, b, np.array([4, 5, 1, 0], np.int32)], a),
        Case("Attention", [x, w, b, mask2], {**a, "unidirectional": 1, "scale": 0.3}),
        Case("Attention", [x, w, b, None, past], {**a, "unidirectional": 1}, 2),
        Case("Attention", [x, w, b, None, None, normal(r, 1, 2, 5, 5)], a),
        Case("Attention", [x, normal(r, 8, 20), normal(r, 20)], {**a, "qkv_hidden_sizes": [8, 8, 4]}),
    ]


def multi_head(r: np.random.Generator) -> list[Case]:
    q, k, v, b = normal(r, 2, 3, 8), normal(r, 2, 5, 8), normal(r, 2, 5, 8), normal(r, 24)
    a = {"num_heads": 2}
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    past = [normal(r, 2, 2, 4, 4), normal(r, 2, 2, 4, 4)]
    return [
        Case("MultiHeadAttention", [q, k, v], a),
        Case("MultiHeadAttention", [q, k, v, b, mask], a),
        Case("MultiHeadAttention", [q, k, v, None, np.array([3, 5], np.int32)], a),
        Case("MultiHeadAttention", [q, k, v, b, None, normal(r, 2, 2, 3, 5)], {**a, "scale": 0.2}),
        Case("MultiHeadAttention", [q, q + 1, q * 2, b, None, None, *past], {**a, "unidirectional": 1}, 3),
        Case("MultiHeadAttention", [q, normal(r, 2, 2, 5, 4), normal(r, 2, 2, 5, 4)], a),
        Case("MultiHeadAttention", [q, k, normal(r, 2, 5, 12)], a),
    ]


def grouped(r: np.random.Generator) -> list[Case]:
    def case(steps: int, past: int, room: int, **attrs: Any) -> Case:
        d, total, batch = 16, past + steps, 1 if steps > 1 and past else 2
        extra = attrs.pop("extra", {})
        ends = attrs.pop("ends", [total] * batch)
        batch = len(ends)
        cache = [normal(r, batch, 2, room, d), normal(r, batch, 2, room, d)] if room else [None, None]
        inputs = [normal(r, batch, steps, n * d) for n in (4, 2, 2)] + cache
        if attrs.get("packed"):
            inputs[:3] = [np.concatenate(inputs[:3], axis=2), None, None]
        attrs.pop("packed", None)
        inputs += [np.array(ends, np.int32) - 1, np.array(total, np.int32)]
        angle = np.arange(32)[:, None] / 10.0 ** np.linspace(0, 2, d // 2)[None]
        rotary = [np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)]
        inputs += rotary if attrs.get("do_rotary") else [None, None]
        inputs += [None, extra.get("bias"), extra.get("sink")]
        return Case("GroupQueryAttention", inputs, {"num_heads": 4, "kv_num_heads": 2, **attrs}, 3)

    return [
        case(5, 0, 0),
        case(5, 0, 0, do_rotary=1, packed=True),
        case(1, 6, 6, do_rotary=1),
        case(1, 6, 6, do_rotary=1, rotary_interleaved=1, softcap=2.0),
        case(3, 4, 4, scale=0.5),
        case(7, 0, 0, local_window_size=3),
        case(1, 8, 8, local_window_size=3),
        case(4, 0, 0, smooth_softmax=1),
        case(1, 5, 5, ends=[6, 4]),
        case(1, 5, 9, ends=[6, 4], do_rotary=1),
        case(5, 0, 0, ends=[5, 3], do_rotary=1),
        case(4, 0, 9, do_rotary=1),
        case(3, 4, 9, do_rotary=1),
        case(4, 0, 0, causal=0),
        case(4, 0, 0, extra={"sink": normal(r, 4)}),
        case(4, 0, 0, extra={"bias": normal(r, 1, 1, 4, 4)}),
    ]


def positions(r: np.random.Generator) -> list[Case]:
    angle = normal(r, 12, 4)
    caches = [np.cos(angle), np.sin(angle)]
    at = r.integers(0, 12, (2, 3)).astype(np.int64)
    return [
        Case("RotaryEmbedding", [normal(r, 2, 3, 16), at, *caches]),
        Case("RotaryEmbedding", [normal(r, 2, 3, 16), np.array([4], np.int64), *caches], {"interleaved": 1}),
        Case("RotaryEmbedding", [normal(r, 2, 2, 3, 8), at, *caches]),
        Case(
            "RotaryEmbedding",
            [normal(r, 2, 3, 24), at, *caches],
            {"num_heads": 2, "rotary_embedding_dim": 8},
        ),
    ]


def _code(r: np.random.Generator, kind: type, *shape: int) -> np.ndarray:
    bounds = np.iinfo(kind)
    return r.integers(bounds.min, bounds.max + 1, shape).astype(kind)


def _affine(kind: type, scale: float, zero: int) -> list[np.ndarray]:
    return [np.array(scale, np.float32), np.array(zero, kind)]


def quantised(r: np.random.Generator) -> list[Case]:
    out: list[Case] = []
    for kind, z in ((np.uint8, 120), (np.int8, -3)):
        x, w = _code(r, kind, 2, 3, 6, 6), _code(r, kind, 2, 3, 6, 6)
        one, two, three = _affine(kind, 0.05, z), _affine(kind, 0.03, z + 2), _affine(kind, 0.06, z - 1)
        unit = _affine(kind, 1 / 256, np.iinfo(kind).min)
        pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
        flat, nhwc = _code(r, kind, 2, 3, 6, 6), {"channels_last": 1}
        cases = [
            ("QLinearAdd", [x, *one, w, *two, *three], {}),
            ("QLinearAdd", [x, *one, w[:, :, :1], *two, *three], {}),
            ("QLinearMul", [x, *one, w, *two, *three], {}),
            ("QLinearSigmoid", [x, *one, *unit], {}),
            ("QLinearLeakyRelu", [x, *one, *three], {"alpha": 0.2}),
            ("QLinearSoftmax", [x, *one, *unit], {"axis": 1, "opset": 13}),
            ("QLinearSoftmax", [x, *one, *unit], {"axis": 2, "opset": 12}),
            ("QLinearGlobalAveragePool", [x, *one, *two], {}),
            ("QLinearGlobalAveragePool", [flat, *one, *two], nhwc),
            ("QLinearAveragePool", [x, *one, *two], pool),
            ("QLinearAveragePool", [x, *one, *two], {**pool, "count_include_pad": 1}),
            ("QLinearAveragePool", [x, *one, *two], {**pool, "ceil_mode": 1}),
            ("QLinearConcat", [*three, x, *one, w, *two], {"axis": 1}),
        ]
        out += [Case(op, ins, attrs, atol=1.0, dtypes=(kind,)) for op, ins, attrs in cases]
        for op, ins, attrs in [
            ("QuantizeLinear", [normal(r, 4, 5), *one], {}),
            ("DequantizeLinear", [x, *one], {}),
        ]:
            out.append(Case(op, ins, attrs, dtypes=(kind if op == "QuantizeLinear" else np.float32,)))
    return out


def integer_products(r: np.random.Generator) -> list[Case]:
    a, b = _code(r, np.uint8, 4, 16), _code(r, np.int8, 16, 6)
    sa, sb = _affine(np.uint8, 0.02, 130), [np.full(6, 0.01, np.float32), np.zeros(6, np.int8)]
    c = r.integers(-999, 999, 6).astype(np.int32)
    return [
        Case("QGemm", [a, *sa, b, *sb, c, *_affine(np.uint8, 0.3, 128)], atol=1.0, dtypes=(np.uint8,)),
        Case("QGemm", [a, *sa, b, *sb, c], atol=1e-4),
        Case("QGemm", [a, *sa, b.T.copy(), *sb, c], {"transB": 1, "alpha": 0.5}, atol=1e-4),
        Case("MatMulIntegerToFloat", [a, b, sa[0].reshape(1), sb[0], sa[1].reshape(1), sb[1], normal(r, 6)], atol=1e-4),
        Case("DynamicQuantizeMatMul", [normal(r, 3, 16), b, sb[0], sb[1], normal(r, 6)], atol=1e-3),
        Case("DynamicQuantizeMatMul", [normal(r, 2, 3, 16), b, sb[0][:1], None], atol=1e-3),
    ]


FAMILIES = [
    pointwise,
    products,
    norms,
    packed_weights,
    attentions,
    multi_head,
    grouped,
    positions,
    quantised,
    integer_products,
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_onnxruntime(family: Any, seed: int) -> None:
    for n, case in enumerate(family(RNG(seed))):
        check(case, f"case {n}, seed {seed}")


def reference(case: Case) -> list[np.ndarray]:
    names = tuple(f"i{n}" if v is not None else "" for n, v in enumerate(case.inputs))
    node = Node(case.op, names, ("y",), MappingProxyType(case.attrs), MS)
    return list(lookup(node).reference(Ref(node, case.inputs)))


def test_packed_heads_are_the_heads_side_by_side() -> None:
    """onnxruntime packs them on GPUs only."""
    packed = normal(RNG(0), 2, 5, 2, 3, 4)
    q, k, v = (packed[:, :, :, n].reshape(2, 5, 8) for n in range(3))
    a = {"num_heads": 2}
    wanted = reference(Case("MultiHeadAttention", [q, k, v], a))[0]
    np.testing.assert_array_equal(reference(Case("MultiHeadAttention", [packed], a))[0], wanted)
    np.testing.assert_array_equal(reference(Case("MultiHeadAttention", [q, packed[:, :, :, 1:]], a))[0], wanted)


def test_group_query_attention_refuses_lengths_beyond_the_total() -> None:
    x = np.zeros((1, 2, 16), np.float32)
    inputs = [x, x, x, None, None, np.array([5], np.int32), np.array(2, np.int32)]
    with pytest.raises(ModelError, match="lengths between 2 and 2"):
        reference(Case("GroupQueryAttention", inputs, {"num_heads": 2, "kv_num_heads": 2}))


def test_relative_position_buckets() -> None:
    table = np.arange(32, dtype=np.float32)[:, None]
    lengths = [np.array([9], np.int64), np.array([200], np.int64)]
    node = Node("RelativePositionBias", ("t", "q", "k"), ("y",), MappingProxyType({"is_bidirectional": 1}), MS)
    y = lookup(node).reference(Ref(node, [table, *lengths]))[0]
    assert y.shape == (1, 1, 9, 200)
    assert y[0, 0, 8, [8, 7, 1, 0, 9, 15, 16, 24, 199]].tolist() == [0, 1, 7, 8, 17, 23, 24, 26, 31]


@pytest.mark.parametrize(
    "case",
    [
        Case("MatMulNBits", [np.zeros((1, 8), np.float32)], {"K": 8, "N": 2, "bits": 3, "block_size": 16}),
        Case("MultiHeadAttention", [np.zeros((1, 2, 8), np.float32)], {"num_heads": 2}),
        Case("FusedConv", [np.zeros((1, 1, 2, 2), np.float32), np.zeros((1, 1, 3, 3), np.float32)]),
        Case("QLinearConcat", [np.float32(1), np.uint8(0), np.zeros(2, np.uint8)]),
    ],
    ids=lambda c: c.op,
)
def test_bad_nodes_are_refused(case: Case) -> None:
    node = Node(case.op, tuple("abcdefgh"[: len(case.inputs)]), ("y",), MappingProxyType(case.attrs), MS)
    arrays = [np.asarray(v) for v in case.inputs]
    types = [TensorType(DType.from_numpy(v.dtype), v.shape) for v in arrays]
    with pytest.raises(ModelError, match="expected"):
        lookup(node).infer(Infer(node, types, [None] * len(types)))
