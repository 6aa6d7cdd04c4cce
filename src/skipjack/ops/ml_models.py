"""Classical models of ai.onnx.ml: ensembles of trees, linear models and support vector machines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ML
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.ml import strings
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import outputs

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def probit(x: np.ndarray) -> np.ndarray:
    """The approximate quantile of the normal distribution that onnxruntime computes."""
    y = 2 * x - 1
    log = np.log((1 - y) * (1 + y))
    v = 2 / (math.pi * 0.147) + 0.5 * log
    return math.sqrt(2) * np.sign(y) * np.sqrt(np.sqrt(v * v - log / 0.147) - v)


def transformed(x: Infer | Ref, scores: np.ndarray, name: str) -> np.ndarray:
    """Scores [N, classes] after a post_transform."""
    if name not in TRANSFORMS:
        x.fail(f"post_transform among {TRANSFORMS}", name)
    if name == "NONE":
        return scores
    if name == "LOGISTIC":
        return logistic(scores)
    if name == "PROBIT":
        return probit(scores)
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    if name == "SOFTMAX_ZERO":
        e = np.where(np.abs(scores) > 1e-7, e, 0)
    return e / np.where(e.sum(axis=1, keepdims=True) == 0, 1, e.sum(axis=1, keepdims=True))


@dataclass
class Trees:
    """Interior nodes as parallel lists; a child below zero is leaf ~child, which adds its (target, weight) pairs."""

    feature: list[int] = field(default_factory=list[int])
    mode: list[str] = field(default_factory=list[str])
    split: list[float] = field(default_factory=list[float])
    members: list[frozenset[float]] = field(default_factory=list[frozenset[float]])
    yes: list[int] = field(default_factory=list[int])
    no: list[int] = field(default_factory=list[int])
    missing_yes: list[bool] = field(default_factory=list[bool])
    roots: list[int] = field(default_factory=list[int])
    leaves: list[list[tuple[int, float]]] = field(default_factory=list[list[tuple[int, float]]])


_TESTS: dict[str, Callable[[float, float], bool]] = {
    "BRANCH_LEQ": lambda x, s: x <= s,
    "BRANCH_LT": lambda x, s: x < s,
    "BRANCH_GTE": lambda x, s: x >= s,
    "BRANCH_GT": lambda x, s: x > s,
    "BRANCH_EQ": lambda x, s: x == s,
    "BRANCH_NEQ": lambda x, s: x != s,
}


def _leaf(t: Trees, row: Sequence[float], at: int) -> int:
    """The leaf that a row of features reaches from node `at`."""
    while at >= 0:
        x = row[t.feature[at]]
        if x != x:
            taken = t.missing_yes[at] or t.mode[at] == "BRANCH_NEQ"
        elif t.mode[at] == "BRANCH_MEMBER":
            taken = x in t.members[at]
        else:
            taken = _TESTS[t.mode[at]](x, t.split[at])
        at = t.yes[at] if taken else t.no[at]
    return ~at


def evaluate_trees(r: Ref, t: Trees, x: np.ndarray, targets: int, aggregate: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N, targets] in f64 and which of them any leaf contributed to."""
    if t.feature and max(t.feature) >= x.shape[1]:
        r.fail(f"at least {max(t.feature) + 1} features", x.shape[1])
    y, given = np.zeros((len(x), targets)), np.zeros((len(x), targets), bool)
    for n, row in enumerate(x.tolist()):
        for root in t.roots:
            for target, weight in t.leaves[_leaf(t, row, root)]:
                first = not given[n, target]
                given[n, target] = True
                if aggregate in ("SUM", "AVERAGE") or first:
                    y[n, target] += weight
                else:
                    y[n, target] = (min if aggregate == "MIN" else max)(y[n, target], weight)
    return (y / max(len(t.roots), 1) if aggregate == "AVERAGE" else y), given


def _rows(i: Infer) -> Dim:
    shape = i.shape(0)
    if shape is not None and len(shape) not in (1, 2):
        i.fail("features with one or two axes", shape)
    return i.fresh("rows") if shape is None else shape[0] if len(shape) == 2 else 1


def _infer_ensemble(i: Infer) -> list[ValueType]:
    return [TensorType(i.tensor(0).dtype, (_rows(i), int(i.attr("n_targets", 1))))]


def _member_sets(values: Any, modes: Sequence[str]) -> list[frozenset[float]]:
    """The set of every node; those of BRANCH_MEMBER nodes come one after the other, ended by NaN."""
    sets: list[list[float]] = [[]]
    for v in [] if values is None else np.asarray(values).reshape(-1).tolist():
        if v != v:
            sets.append([])
        else:
            sets[-1].append(v)
    rest = iter(sets)
    return [frozenset(next(rest, [])) if m == "BRANCH_MEMBER" else frozenset() for m in modes]


def _ensemble(r: Ref) -> Trees:
    """The trees of a TreeEnsemble node."""
    modes = [MODES[int(m)] for m in np.asarray(r.attr("nodes_modes")).reshape(-1)]
    count = len(modes)

    def children(which: str) -> list[int]:
        ids, leafs = r.attr(f"nodes_{which}nodeids"), r.attr(f"nodes_{which}leafs")
        return [~int(c) if leaf else int(c) for c, leaf in zip(ids, leafs)]

    weights = np.asarray(r.attr("leaf_weights")).reshape(-1).tolist()
    t = Trees(
        feature=[int(f) for f in r.attr("nodes_featureids")],
        mode=modes,
        split=np.asarray(r.attr("nodes_splits")).reshape(-1).tolist(),
        members=_member_sets(r.attr("membership_values"), modes),
        yes=children("true"),
        no=children("false"),
        missing_yes=[bool(m) for m in r.attr("nodes_missing_value_tracks_true") or [0] * count],
        roots=[int(n) for n in r.attr("tree_roots")],
        leaves=[[(int(n), w)] for n, w in zip(r.attr("leaf_targetids"), weights)],
    )
    if any(not -len(t.leaves) <= c < count for c in [*t.yes, *t.no, *t.roots]):
        r.fail(f"children below {count} nodes and {len(t.leaves)} leaves", "others")
    return t


def _ref_ensemble(r: Ref) -> list[Any]:
    x = np.atleast_2d(r.inputs[0])
    aggregate = AGGREGATES[int(r.attr("aggregate_function", 1))]
    y, _ = evaluate_trees(r, _ensemble(r), x, int(r.attr("n_targets", 1)), aggregate)
    return [transformed(r, y, TRANSFORMS[int(r.attr("post_transform", 0))]).astype(r.inputs[0].dtype)]


register(Op("TreeEnsemble", _infer_ensemble, _ref_ensemble, domain=ML))


def _numbers(r: Ref, name: str) -> list[float]:
    """A list of numbers given as floats or as a tensor."""
    tensor = r.attr(f"{name}_as_tensor")
    return list(r.attr(name) or ()) if tensor is None else np.asarray(tensor).reshape(-1).tolist()


def _older_trees(r: Ref, prefix: str) -> Trees:
    """The trees of a TreeEnsembleRegressor (prefix target) or TreeEnsembleClassifier (prefix class)."""
    owners: list[tuple[int, int]] = list(zip(r.attr("nodes_treeids", ()), r.attr("nodes_nodeids", ())))
    number: dict[tuple[int, int], int] = {o: n for n, o in enumerate(owners)}
    modes = [str(m) for m in r.attr("nodes_modes") or ()]
    leaf = {n: len([m for m in modes[:n] if m == "LEAF"]) for n, m in enumerate(modes) if m == "LEAF"}

    def child(n: int, node: int) -> int:
        at = number.get((owners[n][0], node))
        if at is None:
            r.fail("children that are nodes of their tree", node)
        return ~leaf[at] if at in leaf else at

    def children(which: str) -> list[int]:
        ids = r.attr(f"nodes_{which}nodeids")
        return [0 if n in leaf else child(n, int(c)) for n, c in enumerate(ids)]

    t = Trees(
        feature=[0 if n in leaf else int(f) for n, f in enumerate(r.attr("nodes_featureids"))],
        mode=modes,
        split=_numbers(r, "nodes_values"),
        yes=children("true"),
        no=children("false"),
        missing_yes=[bool(m) for m in r.attr("nodes_missing_value_tracks_true") or [0] * len(modes)],
        leaves=[[] for _ in leaf],
    )
    firsts = {tree: n for n, (tree, _) in reversed(list(enumerate(owners)))}
    t.roots = [~leaf[n] if n in leaf else n for n in sorted(firsts.values())]
    ids = zip(*(r.attr(f"{prefix}_{n}") or () for n in ("treeids", "nodeids", "ids")), _numbers(r, f"{prefix}_weights"))
    for tree, node, target, weight in ids:
        at = number.get((tree, node))
        if at is None or at not in leaf:
            r.fail("weights on leaves", (tree, node))
        t.leaves[leaf[at]].append((int(target), float(weight)))
    return t


def _infer_regressor(name: str) -> Callable[[Infer], list[ValueType]]:
    def rule(i: Infer) -> list[ValueType]:
        return [TensorType(DType.F32, (_rows(i), int(i.attr(name, 1)) if name else 1))]

    return rule


def _ref_tree_regressor(r: Ref) -> list[Any]:
    targets = int(r.attr("n_targets", 1))
    aggregate = str(r.attr("aggregate_function", "SUM"))
    y, _ = evaluate_trees(r, _older_trees(r, "target"), np.atleast_2d(r.inputs[0]), targets, aggregate)
    base = _numbers(r, "base_values")
    y = y + np.asarray(base) if base else y
    return [transformed(r, y, str(r.attr("post_transform", "NONE"))).astype(np.float32)]


register(Op("TreeEnsembleRegressor", _infer_regressor("n_targets"), _ref_tree_regressor, domain=ML))


def _labels(x: Infer | Ref, ints: str) -> tuple[Sequence[Any], bool]:
    """The class labels of a classifier and whether they are strings."""
    texts, numbers = x.attr("classlabels_strings"), x.attr(ints)
    if not texts and not numbers:
        x.fail(f"classlabels_strings or {ints}", "none")
    return (texts, True) if texts else (numbers, False)


def _infer_classifier(ints: str) -> Callable[[Infer], list[ValueType]]:
    def rule(i: Infer) -> list[ValueType]:
        labels, text = _labels(i, ints)
        rows = _rows(i)
        label = TensorType(DType.STRING if text else DType.I64, (rows,))
        return outputs(i, label, TensorType(DType.F32, (rows, max(len(labels), 2) if ints else len(labels))))

    return rule


def _named(picked: np.ndarray, labels: Sequence[Any], text: bool) -> np.ndarray:
    found = [labels[n] for n in picked.tolist()]
    return strings(found, (len(found),)) if text else np.array(found, np.int64)


def _ref_tree_classifier(r: Ref) -> list[Any]:
    labels, text = _labels(r, "classlabels_int64s")
    trees, base = _older_trees(r, "class"), _numbers(r, "base_values")
    y, _ = evaluate_trees(r, trees, np.atleast_2d(r.inputs[0]), len(labels), "SUM")
    name = str(r.attr("post_transform", "NONE"))
    used = {target for leaf in trees.leaves for target, _ in leaf}
    if len(labels) == 2 and len(used) == 1:
        score = y[:, used.pop()] + (base[-1] if base else 0)
        positive = all(w >= 0 for leaf in trees.leaves for _, w in leaf)
        picked = (score > (0.5 if positive else 0)).astype(np.int64)
        if name == "LOGISTIC":
            both = logistic(np.stack([-score, score], axis=1))
        elif positive:
            both = np.stack([1 - score, score], axis=1)
        else:
            both = np.stack([-score, score], axis=1)
        return [_named(picked, labels, text), both.astype(np.float32)][: r.n_outputs]
    y = y + np.asarray(base) if base else y
    return [_named(y.argmax(axis=1), labels, text), transformed(r, y, name).astype(np.float32)][: r.n_outputs]


register(Op("TreeEnsembleClassifier", _infer_classifier("classlabels_int64s"), _ref_tree_classifier, domain=ML))


def _linear(r: Ref, targets: int) -> np.ndarray:
    x = np.atleast_2d(r.inputs[0]).astype(np.float32)
    weights = np.asarray(r.attr("coefficients"), np.float32)
    if weights.size != targets * x.shape[1]:
        r.fail(f"{targets * x.shape[1]} coefficients", weights.size)
    bias = np.asarray(r.attr("intercepts") or [0.0], np.float32)
    return x @ weights.reshape(targets, -1).T + bias


def _ref_linear_regressor(r: Ref) -> list[Any]:
    y = _linear(r, int(r.attr("targets", 1)))
    return [transformed(r, y, str(r.attr("post_transform", "NONE"))).astype(np.float32)]


register(Op("LinearRegressor", _infer_regressor("targets"), _ref_linear_regressor, domain=ML))


def _ref_linear_classifier(r: Ref) -> list[Any]:
    labels, text = _labels(r, "classlabels_ints")
    name = str(r.attr("post_transform", "NONE"))
    features = np.atleast_2d(r.inputs[0]).shape[1]
    y = _linear(r, max(len(r.attr("coefficients")) // max(features, 1), 1))
    if y.shape[1] == 1 and len(labels) == 2:
        picked = (y[:, 0] > 0).astype(np.int64)
        both = np.concatenate([-y, y], axis=1) if name == "LOGISTIC" else np.concatenate([1 - y, y], axis=1)
        scores = logistic(both) if name == "LOGISTIC" else both
    else:
        picked, scores = y.argmax(axis=1), transformed(r, y, name)
    return [_named(picked, labels, text), scores.astype(np.float32)][: r.n_outputs]


register(Op("LinearClassifier", _infer_classifier("classlabels_ints"), _ref_linear_classifier, domain=ML))


def kernel_values(r: Ref, x: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[N, vectors]: the kernel of every row with every support vector."""
    gamma, shift, degree = [*(r.attr("kernel_params") or ()), 0.0, 0.0, 0.0][:3]
    name = str(r.attr("kernel_type", "LINEAR"))
    dot = x @ vectors.T
    kernels: dict[str, Callable[[], np.ndarray]] = {
        "LINEAR": lambda: dot,
        "POLY": lambda: (gamma * dot + shift) ** degree,
        "SIGMOID": lambda: np.tanh(gamma * dot + shift),
        "RBF": lambda: np.exp(-gamma * ((x[:, None, :] - vectors[None]) ** 2).sum(axis=2)),
    }
    if name not in kernels:
        r.fail(f"kernel_type among {sorted(kernels)}", name)
    return kernels[name]()


def _ref_svm_regressor(r: Ref) -> list[Any]:
    x = np.atleast_2d(r.inputs[0]).astype(np.float64)
    weights, rho = np.asarray(r.attr("coefficients"), np.float64), float((r.attr("rho") or [0.0])[0])
    count = int(r.attr("n_supports", 0))
    if count:
        y = kernel_values(r, x, np.asarray(r.attr("support_vectors"), np.float64).reshape(count, -1)) @ weights + rho
    else:
        y = kernel_values(r, x, weights[None])[:, 0] + rho
    if r.attr("one_class", 0):
        y = np.where(y > 0, 1.0, -1.0)
    return [transformed(r, y[:, None], str(r.attr("post_transform", "NONE"))).astype(np.float32)]


register(Op("SVMRegressor", _infer_regressor(""), _ref_svm_regressor, domain=ML))


def _pairwise_probabilities(pair: np.ndarray) -> np.ndarray:
    """Class probabilities from those of pairs [classes, classes], by the iteration that libsvm uses."""
    k = len(pair)
    q = -pair.T * pair
    np.fill_diagonal(q, 0)
    np.fill_diagonal(q, [sum(pair[j, t] ** 2 for j in range(k) if j != t) for t in range(k)])
    p = np.full(k, 1.0 / k)
    for _ in range(max(100, k)):
        qp = q @ p
        total = float(p @ qp)
        if np.abs(qp - total).max() < 0.005 / k:
            break
        for t in range(k):
            step = (total - qp[t]) / q[t, t]
            p[t] += step
            total = (total + step * (step * q[t, t] + 2 * qp[t])) / (1 + step) ** 2
            qp = (qp + step * q[t]) / (1 + step)
            p /= 1 + step
    return p


def _pair_scores(r: Ref, x: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """[N, pairs]: the decision of every pair of classes, in the order (0,1), (0,2), ..."""
    k = len(counts)
    vectors = np.asarray(r.attr("support_vectors"), np.float64).reshape(sum(counts), -1)
    weights = np.asarray(r.attr("coefficients"), np.float64).reshape(k - 1, sum(counts))
    if vectors.shape[1] != x.shape[1]:
        r.fail(f"{vectors.shape[1]} features", x.shape[1])
    rho = np.asarray(r.attr("rho"), np.float64)
    kernel, starts = kernel_values(r, x, vectors), np.cumsum([0, *counts])
    out: list[np.ndarray] = []
    for i in range(k):
        for j in range(i + 1, k):
            first, second = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
            score = kernel[:, first] @ weights[j - 1, first] + kernel[:, second] @ weights[i, second]
            out.append(score + rho[len(out)])
    return np.stack(out, axis=1)


def _votes(pairs: np.ndarray, k: int) -> np.ndarray:
    """[N, k]: how many pairs each class wins."""
    votes = np.zeros((len(pairs), k))
    at = 0
    for i in range(k):
        for j in range(i + 1, k):
            votes[:, i] += pairs[:, at] > 0
            votes[:, j] += pairs[:, at] <= 0
            at += 1
    return votes


def _probabilities(r: Ref, pairs: np.ndarray, k: int) -> np.ndarray:
    a, b = np.asarray(r.attr("prob_a"), np.float64), np.asarray(r.attr("prob_b"), np.float64)
    if len(a) != pairs.shape[1] or len(b) != pairs.shape[1]:
        r.fail(f"{pairs.shape[1]} values in prob_a and prob_b", (len(a), len(b)))
    won = np.clip(logistic(-(pairs * a + b)), 1e-7, 1 - 1e-7)
    out = np.zeros((len(pairs), k))
    for n, row in enumerate(won):
        pair = np.zeros((k, k))
        pair[np.triu_indices(k, 1)] = row
        pair += np.tril(1 - pair.T, -1)
        out[n] = _pairwise_probabilities(pair)
    return out


def _infer_svm_classifier(i: Infer) -> list[ValueType]:
    labels, text = _labels(i, "classlabels_ints")
    counts, rows, k = i.attr("vectors_per_class"), _rows(i), len(labels)
    if not counts or len(counts) != k or k < 2:
        i.fail("vectors_per_class for each of at least two classes", counts)
    columns = k if i.attr("prob_a") or k == 2 else k * (k - 1) // 2
    label = TensorType(DType.STRING if text else DType.I64, (rows,))
    return outputs(i, label, TensorType(DType.F32, (rows, columns)))


def _ref_svm_classifier(r: Ref) -> list[Any]:
    labels, text = _labels(r, "classlabels_ints")
    k = len(labels)
    pairs = _pair_scores(
        r, np.atleast_2d(r.inputs[0]).astype(np.float64), [int(c) for c in r.attr("vectors_per_class")]
    )
    name = str(r.attr("post_transform", "NONE"))
    if r.attr("prob_a"):
        scores = _probabilities(r, pairs, k)
    else:
        scores = np.concatenate([-pairs, pairs], axis=1) if k == 2 else pairs
    picked = _votes(pairs, k).argmax(axis=1)
    return [_named(picked, labels, text), transformed(r, scores, name).astype(np.float32)][: r.n_outputs]


register(Op("SVMClassifier", _infer_svm_classifier, _ref_svm_classifier, domain=ML))
