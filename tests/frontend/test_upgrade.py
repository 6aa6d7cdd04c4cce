"""Older operator versions: the table is complete; upgraded nodes compute what onnxruntime computes for the original."""

from collections import defaultdict

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import defs, parser

from skipjack.core.errors import UnsupportedError
from skipjack.frontend.onnx_file import import_model
from skipjack.frontend.upgrade.table import BREAKS, COMPATIBLE
from skipjack.ops.execute import run_graph

REMOVED = {"Scatter", "Upsample"}


def test_every_version_is_compatible_or_has_an_upgrader() -> None:
    versions: dict[str, list[int]] = defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions[schema.name].append(schema.since_version)
    for op, known in versions.items():
        breaks = {version for version, _ in BREAKS.get(op, ())}
        later = {v for v in known if v > max(7, min(known))}
        declared = set(COMPATIBLE.get(op, ()))
        missing = later - breaks - declared
        assert not missing or op in REMOVED, f"{op}: say for versions {sorted(missing)} what changed"
        assert declared <= later, f"{op}: versions {sorted(declared - later)} do not exist"
        assert not (declared & breaks), f"{op}: both compatible and broken"
    assert BREAKS.keys() | COMPATIBLE.keys() <= versions.keys()


CASES: dict[str, tuple[int, str]] = {
    "clip": (7, "(float[2, 3] x) => (float[2, 3] y) { y = Clip<min=-0.2, max=0.3>(x) }"),
    "clip of an intermediate": (10, "(float[2, 3] x) => (float[2, 3] y) { a = Neg(x) y = Clip<max=0.3>(a) }"),
    "pad": (9, "(float[2, 3] x) => (float[3, 4] y) { y = Pad<pads=[0, 1, 1, 0], value=2.5>(x) }"),
    "pad reflect": (2, "(float[2, 3] x) => (float[2, 5] y) { y = Pad<pads=[0, 1, 0, 1], mode='reflect'>(x) }"),
    "slice": (9, "(float[4, 5] x) => (float[2, 3] y) { y = Slice<starts=[1, -4], ends=[3, -1], axes=[0, 1]>(x) }"),
    "slice leading": (7, "(float[4, 5] x) => (float[2, 5] y) { y = Slice<starts=[1], ends=[3]>(x) }"),
    "top k": (9, "(float[2, 6] x) => (float[2, 2] y, int64[2, 2] i) { y, i = TopK<k=2>(x) }"),
    "split": (11, "(float[6, 2] x) => (float[2, 2] y, float[4, 2] z) { y, z = Split<split=[2, 4]>(x) }"),
    "split evenly": (13, "(float[6, 2] x) => (float[3, 2] y, float[3, 2] z) { y, z = Split<axis=0>(x) }"),
    "squeeze": (11, "(float[1, 3, 1] x) => (float[3, 1] y) { y = Squeeze<axes=[0]>(x) }"),
    "squeeze all": (11, "(float[1, 3, 1] x) => (float[3] y) { y = Squeeze(x) }"),
    "unsqueeze": (11, "(float[3] x) => (float[1, 3, 1] y) { y = Unsqueeze<axes=[0, 2]>(x) }"),
    "reduce mean": (17, "(float[2, 3, 4] x) => (float[2, 4] y) { y = ReduceMean<axes=[1], keepdims=0>(x) }"),
    "reduce sum all": (11, "(float[2, 3, 4] x) => (float[1, 1, 1] y) { y = ReduceSum(x) }"),
    "reduce max": (12, "(float[2, 3, 4] x) => (float[2, 3, 1] y) { y = ReduceMax<axes=[-1]>(x) }"),
    "softmax 4-D": (11, "(float[2, 3, 2, 2] x) => (float[2, 3, 2, 2] y) { y = Softmax(x) }"),
    "softmax last": (11, "(float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Softmax<axis=-1>(x) }"),
    "log softmax": (7, "(float[2, 3, 4] x) => (float[2, 3, 4] y) { y = LogSoftmax<axis=2>(x) }"),
    "hardmax": (12, "(float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Hardmax<axis=1>(x) }"),
    "batch norm": (
        7,
        "(float[2, 3, 4] x) => (float[2, 3, 4] y) <float[3] s = {1, 2, 3}>"
        " { y = BatchNormalization<epsilon=0.01>(x, s, s, s, s) }",
    ),
    "batch norm unused outputs": (
        9,
        "(float[2, 3, 4] x) => (float[2, 3, 4] y) <float[3] s = {1, 2, 3}> { y = BatchNormalization(x, s, s, s, s) }",
    ),
    "dropout": (7, "(float[2, 3] x) => (float[2, 3] y) { y = Dropout<ratio=0.3>(x) }"),
    "dropout mask": (10, "(float[2, 3] x) => (float[2, 3] y, bool[2, 3] m) { y, m = Dropout<ratio=0.3>(x) }"),
    "upsample": (
        9,
        "(float[1, 1, 2, 3] x) => (float[1, 1, 4, 9] y) <float[4] s = {1, 1, 2, 3}>"
        " { y = Upsample<mode='nearest'>(x, s) }",
    ),
    "upsample scales": (
        7,
        "(float[1, 1, 2, 3] x) => (float[1, 1, 4, 6] y)"
        " { y = Upsample<mode='linear', scales=[1.0, 1.0, 2.0, 2.0]>(x) }",
    ),
    "resize up and down": (
        10,
        "(float[1, 1, 6, 4] x) => (float[1, 1, 3, 8] y) <float[4] s = {1, 1, 0.6, 2}>"
        " { y = Resize<mode='nearest'>(x, s) }",
    ),
    "resize linear": (
        10,
        "(float[1, 1, 6, 4] x) => (float[1, 1, 3, 8] y) <float[4] s = {1, 1, 0.5, 2}>"
        " { y = Resize<mode='linear'>(x, s) }",
    ),
    "resize with empty inputs": (
        11,
        "(float[1, 1, 2, 2] x) => (float[1, 1, 3, 4] y) <float[0] e = {}, int64[4] n = {1, 1, 3, 4}>"
        " { y = Resize<mode='linear'>(x, e, e, n) }",
    ),
    "scatter": (
        9,
        "(float[3, 2] x) => (float[3, 2] y) <int64[1, 2] i = {1, 2}, float[1, 2] u = {7, 8}>"
        " { y = Scatter<axis=0>(x, i, u) }",
    ),
    "grid sample": (
        16,
        "(float[1, 1, 3, 3] x, float[1, 2, 2, 2] g) => (float[1, 1, 2, 2] y) { y = GridSample<mode='bilinear'>(x, g) }",
    ),
    "roi align": (
        10,
        "(float[1, 1, 6, 6] x) => (float[1, 1, 2, 2] y) <float[1, 4] r = {0, 0, 4, 4}, int64[1] b = {0}>"
        " { y = RoiAlign<output_height=2, output_width=2, sampling_ratio=2>(x, r, b) }",
    ),
    "group norm": (
        18,
        "(float[2, 4, 3] x) => (float[2, 4, 3] y) <float[2] s = {1, 2}, float[2] b = {3, 4}>"
        " { y = GroupNormalization<num_groups=2>(x, s, b) }",
    ),
    "dft": (17, "(float[1, 4, 1] x) => (float[1, 4, 2] y) { y = DFT<axis=1>(x) }"),
    "scan over a batch": (
        8,
        "(float[2, 3] h, float[2, 4, 3] x) => (float[2, 3] y, float[2, 4, 3] z) { y, z = Scan<num_scan_inputs=1, body ="
        " b (float[3] s, float[3] e) => (float[3] t, float[3] o) { t = Add(s, e) o = Neg(t) }>(, h, x) }",
    ),
}


def model_of(name: str) -> onnx.ModelProto:
    opset, text = CASES[name]
    header = f'<ir_version: 8, opset_import: ["" : {opset}]> agraph '
    return parser.parse_model(header + text.replace("'", '"'))


@pytest.mark.parametrize("name", CASES)
def test_upgraded_nodes_compute_the_same(name: str) -> None:
    model = model_of(name)
    rng = np.random.default_rng(3)
    feeds = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32) * 0.6
        for i in model.graph.input
    }
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    got = run_graph(import_model(model).graph, feeds)
    for e, g in zip(expected, got):
        assert g.dtype == e.dtype
        np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-6)


def test_batch_norm_per_element() -> None:
    text = (
        "(float[2, 2, 2] x) => (float[2, 2, 2] y) <float[2, 2] s = {1, 2, 3, 4}>"
        " { y = BatchNormalization<spatial=0>(x, s, s, s, s) }"
    )
    model = parser.parse_model('<ir_version: 4, opset_import: ["" : 7]> agraph ' + text)
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    s = np.array([[1, 2], [3, 4]], np.float32)
    got = run_graph(import_model(model).graph, {"x": x})[0]
    np.testing.assert_allclose(got, (x - s) / np.sqrt(s + 1e-5) * s + s, rtol=1e-5)


def test_training_outputs_are_refused() -> None:
    text = (
        "(float[2, 3] x) => (float[2, 3] y, float[3] m) <float[3] s = {1, 2, 3}>"
        " { y, m = BatchNormalization(x, s, s, s, s) }"
    )
    model = parser.parse_model('<ir_version: 4, opset_import: ["" : 9]> agraph ' + text)
    with pytest.raises(UnsupportedError, match="export the model for inference"):
        import_model(model)


def test_broadcasting_before_opset_7() -> None:
    text = "(float[2, 3, 4] x, float[3] b) => (float[2, 3, 4] y) { y = Add<broadcast=1, axis=1>(x, b) }"
    model = parser.parse_model('<ir_version: 3, opset_import: ["" : 6]> agraph ' + text)
    x, b = np.ones((2, 3, 4), np.float32), np.arange(3, dtype=np.float32)
    np.testing.assert_array_equal(run_graph(import_model(model).graph, {"x": x, "b": b})[0], x + b[:, None])
