"""Operators of ai.onnx.ml against onnxruntime, on one-node models with random inputs."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from onnx import helper

import skipjack.ops.ml
import skipjack.ops.ml_models  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.ir.graph import ML, Node, Origin
from skipjack.ir.types import TensorType
from skipjack.ops.registry import Infer, Ref, lookup

ort = pytest.importorskip("onnxruntime")


def node_of(op: str, inputs: int, attrs: dict[str, Any], outputs: int) -> Node:
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in attrs.items()}
    names = tuple(f"i{n}" for n in range(inputs))
    return Node(op, names, tuple(f"o{n}" for n in range(outputs)), MappingProxyType(frozen), ML, Origin("n", op, ML))


def expected(op: str, inputs: list[np.ndarray], attrs: dict[str, Any], types: list[TensorType]) -> list[np.ndarray]:
    feeds = {f"i{n}": v for n, v in enumerate(inputs)}
    outs = [f"o{n}" for n in range(len(types))]
    node = helper.make_node(op, list(feeds), outs, domain=ML, **attrs)
    given = [helper.make_tensor_value_info(n, DType.from_numpy(v.dtype).onnx, v.shape) for n, v in feeds.items()]
    made = [helper.make_tensor_value_info(o, t.dtype.onnx, None) for o, t in zip(outs, types)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    model = helper.make_model(helper.make_graph([node], "g", given, made), opset_imports=opsets)
    model.ir_version = 8
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def check(op: str, inputs: list[np.ndarray], attrs: dict[str, Any], outputs: int = 1, note: str = "") -> None:
    node = node_of(op, len(inputs), attrs, outputs)
    types = lookup(node).infer(
        Infer(node, [TensorType(DType.from_numpy(v.dtype), v.shape) for v in inputs], [None] * len(inputs))
    )
    got = lookup(node).reference(Ref(node, inputs))
    wanted = expected(op, inputs, attrs, [t for t in types if isinstance(t, TensorType)])
    for n, (t, y, e) in enumerate(zip(types, got, wanted, strict=True)):
        where = f"{op} {attrs} output {n} {note}"
        assert isinstance(t, TensorType), where
        assert y.shape == e.shape == t.shape, f"{where}: {y.shape}, {e.shape}, {t.shape}"
        assert t.dtype.np == y.dtype, where
        if t.dtype is DType.STRING:
            assert y.tolist() == e.tolist(), where
        else:
            assert y.dtype == e.dtype, where
            np.testing.assert_allclose(y, e, rtol=1e-4, atol=1e-5, err_msg=where)


def normal(r: np.random.Generator, *shape: int) -> np.ndarray:
    return r.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1])
def test_feature_operators(seed: int) -> None:
    r = np.random.default_rng(seed)
    x, note = normal(r, 5, 3), f"seed {seed}"
    words = np.array([["b", "a"], ["z", "b"]], object)
    check("Scaler", [x], {"offset": [0.5, 1.0, -1.0], "scale": [2.0, 0.1, 1.0]}, note=note)
    check("Scaler", [x], {"offset": [0.5], "scale": [2.0]}, note=note)
    for norm in ("MAX", "L1", "L2"):
        check("Normalizer", [np.abs(x)], {"norm": norm}, note=note)
    holes = x.copy()
    holes[0, 1] = np.nan
    check(
        "Imputer", [holes], {"replaced_value_float": float("nan"), "imputed_value_floats": [1.0, 2.0, 3.0]}, note=note
    )
    check("Imputer", [np.array([[1, -1]])], {"replaced_value_int64": -1, "imputed_value_int64s": [7]}, note=note)
    check("OneHotEncoder", [words], {"cats_strings": ["a", "b", "c"]}, note=note)
    check("OneHotEncoder", [np.array([3, 9, 1])], {"cats_int64s": [1, 2, 3]}, note=note)
    check("CategoryMapper", [words], {"cats_strings": ["a", "b"], "cats_int64s": [5, 6]}, note=note)
    check("CategoryMapper", [np.array([5, 1])], {"cats_strings": ["a", "b"], "cats_int64s": [5, 6]}, note=note)
    check("FeatureVectorizer", [x, normal(r, 5, 2)], {"inputdimensions": [3, 2]}, note=note)
    check("Binarizer", [x], {"threshold": 0.2}, note=note)
    check("ArrayFeatureExtractor", [x, np.array([2, 0])], {}, note=note)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_linear_models(transform: str) -> None:
    r = np.random.default_rng(3)
    x = normal(r, 6, 4)
    a = {"post_transform": transform}
    weights, bias = normal(r, 12).tolist(), normal(r, 3).tolist()
    check("LinearRegressor", [x], {**a, "targets": 3, "coefficients": weights, "intercepts": bias})
    many = {**a, "coefficients": weights, "intercepts": bias}
    check("LinearClassifier", [x], {**many, "classlabels_ints": [4, 5, 6]}, 2)
    check("LinearClassifier", [x], {**many, "classlabels_strings": ["p", "q", "r"]}, 2)
    two = {**a, "coefficients": weights[:8], "intercepts": bias[:2], "classlabels_ints": [0, 1], "multi_class": 1}
    check("LinearClassifier", [x], two, 2)
    if transform in ("NONE", "LOGISTIC"):
        one = {**a, "coefficients": weights[:4], "intercepts": bias[:1], "classlabels_ints": [0, 1]}
        check("LinearClassifier", [x], one, 2)


@pytest.mark.parametrize("kernel", ["LINEAR", "RBF", "POLY", "SIGMOID"])
def test_support_vector_regression(kernel: str) -> None:
    r = np.random.default_rng(4)
    attrs = {
        "kernel_type": kernel,
        "kernel_params": [0.3, 0.5, 3.0],
        "n_supports": 5,
        "support_vectors": normal(r, 20).tolist(),
        "coefficients": normal(r, 5).tolist(),
        "rho": [0.25],
    }
    check("SVMRegressor", [normal(r, 6, 4)], attrs)
    check("SVMRegressor", [normal(r, 6, 4)], {**attrs, "one_class": 1})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 3])
def test_support_vector_classification(classes: int, seed: int) -> None:
    r = np.random.default_rng(seed)
    counts, pairs = [3, 2, 4][:classes], classes * (classes - 1) // 2
    attrs = {
        "kernel_type": "RBF",
        "kernel_params": [0.3, 0.0, 3.0],
        "vectors_per_class": counts,
        "support_vectors": normal(r, sum(counts) * 4).tolist(),
        "coefficients": normal(r, sum(counts) * (classes - 1)).tolist(),
        "rho": normal(r, pairs).tolist(),
        "classlabels_ints": [3, 5, 7][:classes],
    }
    x = normal(r, 8, 4)
    check("SVMClassifier", [x], attrs, 2, f"seed {seed}")
    known = {"prob_a": (-np.abs(normal(r, pairs))).tolist(), "prob_b": normal(r, pairs).tolist()}
    check("SVMClassifier", [x], {**attrs, **known}, 2, f"seed {seed}")


def forest(r: np.random.Generator, trees: int, prefix: str, targets: list[int], positive: bool) -> dict[str, Any]:
    """Complete trees of depth two over four features; every leaf weighs on each target."""
    out: dict[str, Any] = {
        "nodes_treeids": [t for t in range(trees) for _ in range(7)],
        "nodes_nodeids": list(range(7)) * trees,
        "nodes_featureids": [int(f) for f in r.integers(0, 4, 7 * trees)],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "LEAF", "LEAF", "LEAF", "LEAF"] * trees,
        "nodes_values": [float(v) for v in normal(r, 7 * trees)],
        "nodes_truenodeids": [1, 3, 5, 0, 0, 0, 0] * trees,
        "nodes_falsenodeids": [2, 4, 6, 0, 0, 0, 0] * trees,
    }
    where = [(t, n, k) for t in range(trees) for n in range(3, 7) for k in targets]
    weights = normal(r, len(where))
    for name, column in zip(("treeids", "nodeids", "ids"), zip(*where)):
        out[f"{prefix}_{name}"] = list(column)
    out[f"{prefix}_weights"] = (np.abs(weights) / trees if positive else weights).tolist()
    return out


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tree_ensembles(seed: int) -> None:
    r = np.random.default_rng(seed)
    x, note = normal(r, 20, 4), f"seed {seed}"
    for aggregate in ("SUM", "AVERAGE", "MIN", "MAX"):
        a = {**forest(r, 3, "target", [0, 1], False), "n_targets": 2, "aggregate_function": aggregate}
        check("TreeEnsembleRegressor", [x], a, note=note)
    a = {**forest(r, 3, "target", [0], False), "n_targets": 1, "base_values": [0.7]}
    check("TreeEnsembleRegressor", [x], a, note=note)
    for transform in ("NONE", "LOGISTIC", "SOFTMAX"):
        p = {"post_transform": transform}
        three = {**forest(r, 3, "class", [0, 1, 2], False), **p, "classlabels_int64s": [3, 5, 7]}
        check("TreeEnsembleClassifier", [x], three, 2, note)
        three = {**forest(r, 3, "class", [0, 1, 2], False), **p, "classlabels_strings": ["a", "b", "c"]}
        check("TreeEnsembleClassifier", [x], {**three, "base_values": [0.1, 0.2, -0.3]}, 2, note)
    for positive in (False, True):
        for transform in ("NONE", "LOGISTIC"):
            one = forest(r, 3, "class", [0], positive)
            a = {**one, "post_transform": transform, "classlabels_int64s": [0, 1]}
            check("TreeEnsembleClassifier", [x], a, 2, note)


def test_two_weighted_classes_name_the_larger_score() -> None:
    """onnxruntime asks only whether the second score is positive, which is wrong for probabilities."""
    r = np.random.default_rng(5)
    attrs = {**forest(r, 3, "class", [0, 1], True), "classlabels_int64s": [4, 9]}
    node = node_of("TreeEnsembleClassifier", 1, attrs, 2)
    labels, scores = lookup(node).reference(Ref(node, [normal(r, 20, 4)]))
    assert set(labels.tolist()) == {4, 9}
    assert labels.tolist() == np.where(scores[:, 1] > scores[:, 0], 9, 4).tolist()


def test_maps() -> None:
    node = node_of("ZipMap", 1, {"classlabels_strings": ["a", "b"]}, 1)
    assert lookup(node).reference(Ref(node, [np.array([[1.0, 2.0]], np.float32)])) == [[{"a": 1.0, "b": 2.0}]]
    node = node_of("DictVectorizer", 1, {"string_vocabulary": ["a", "c", "b", "z"]}, 1)
    assert lookup(node).reference(Ref(node, [{"a": 4, "c": 8}]))[0].tolist() == [[4, 8, 0, 0]]
    node = node_of("CastMap", 1, {"map_form": "SPARSE", "max_map": 4}, 1)
    assert lookup(node).reference(Ref(node, [{1: 0.5, 3: 2.0}]))[0].tolist() == [[0, 0.5, 0, 2]]
    with pytest.raises(ModelError, match="max_map"):
        lookup(node).reference(Ref(node, [{9: 0.5}]))


def test_features_that_are_missing_are_refused() -> None:
    attrs = {**forest(np.random.default_rng(0), 2, "target", [0], False), "n_targets": 1}
    node = node_of("TreeEnsembleRegressor", 1, attrs, 1)
    with pytest.raises(ModelError, match="features"):
        lookup(node).reference(Ref(node, [np.zeros((2, 1), np.float32)]))
