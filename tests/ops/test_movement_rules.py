"""What the type rules of movement, index, sequence and text operators refuse before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import skipjack.ops.all  # noqa: F401
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.ir.graph import Node, Origin, frozen
from skipjack.ir.types import SequenceType, TensorType, ValueType, tensor
from skipjack.ops.registry import Infer, lookup

F, I, T = DType.F32, DType.I64, DType.STRING
X = tensor(F, 2, 3)
Given = ValueType | list[int] | None
RULES: list[tuple[str, list[Given], Mapping[str, Any], str]] = [
    ("Reshape", [X, [-1, -1]], {}, "at most one -1"),
    ("Reshape", [X, [-2]], {}, "sizes of at least -1"),
    ("Reshape", [X, [2, 3, 0]], {}, "a 0 in shape only below axis 2"),
    ("Reshape", [X, [7]], {}, "a shape of 6 elements"),
    ("Reshape", [X, [4, -1]], {}, "divides the 6 elements"),
    ("Reshape", [X, [0, -1]], {"allowzero": 1}, "divides the 6 elements"),
    ("Transpose", [X], {"perm": (0, 0)}, "an order of 2 axes"),
    ("Concat", [X, tensor(F, 2)], {"axis": 0}, "inputs of rank 2"),
    ("Concat", [X, tensor(F, 2, 4)], {"axis": 0}, "equal sizes of axis 1"),
    ("Split", [X, [1, 1]], {}, "1 sizes that sum to 2"),
    ("Split", [X], {"num_outputs": 3}, "num_outputs to be the number of outputs"),
    ("Squeeze", [X, [0]], {}, "size 1 on axis 0"),
    ("Unsqueeze", [X, [0, 0]], {}, "distinct axes"),
    ("Flatten", [X], {"axis": 3}, "an axis from -2 to 2"),
    ("Identity", [None], {}, "an input"),
    ("Expand", [X, [-1, 3]], {}, "not negative"),
    ("Expand", [X, [4, 3]], {}, "sizes that broadcast"),
    ("Tile", [X, [1]], {}, "2 repeats"),
    ("Slice", [X, [0], [1, 2], [0]], {}, "as many ends as axes"),
    ("Slice", [X, [0], [1], [0], [0]], {}, "steps other than 0"),
    ("Slice", [X, [0, 0, 0], [1, 1, 1]], {}, "at most 2 starts"),
    ("Pad", [X, [0, 1]], {}, "4 pads"),
    ("Pad", [X, [-3, 0, 0, 0]], {}, "pads that cut at most"),
    ("Pad", [X, [0, 0, 0, 0]], {"mode": "mirror"}, "mode among"),
    ("CenterCropPad", [X, [1]], {}, "2 sizes in shape"),
    ("Compress", [X, tensor(DType.BOOL, 2)], {"axis": 2}, "an axis from"),
    ("DepthToSpace", [tensor(F, 1, 3, 2, 2)], {"blocksize": 2}, "a multiple of 4"),
    ("DepthToSpace", [X], {"blocksize": 2}, "rank 4"),
    ("DepthToSpace", [tensor(F, 1, 4, 2, 2)], {}, "blocksize of at least 1"),
    ("DepthToSpace", [tensor(F, 1, 4, 2, 2)], {"blocksize": 2, "mode": "X"}, "mode DCR or CRD"),
    ("Trilu", [tensor(F, 2)], {}, "rank 2 or more"),
    ("EyeLike", [tensor(F, 2)], {}, "rank 2"),
    ("Constant", [], {}, "a tensor in one of the value attributes"),
    ("ConstantOfShape", [[-1]], {}, "not negative"),
    ("ConstantOfShape", [[1]], {"value": np.zeros(2)}, "one element in value"),
    ("Range", [[0], [3], [0]], {}, "delta other than 0"),
    ("Gather", [X, X], {}, "integer indices in input 1"),
    ("GatherElements", [X, tensor(I, 2)], {}, "indices of rank 2"),
    ("GatherND", [X, tensor(I, 3)], {}, "index tuples that fit rank 2"),
    ("GatherND", [X, tensor(I)], {}, "rank 1 or more"),
    ("ScatterND", [X, tensor(I, 1, 1), tensor(F, 1, 3)], {"reduction": "avg"}, "reduction none or one of"),
    ("ScatterND", [X, tensor(I, 1, 1), tensor(I, 1, 3)], {}, "updates of type f32"),
    ("ScatterElements", [X, tensor(I, 1), tensor(F, 1)], {}, "indices of rank 2"),
    ("TensorScatter", [X, X], {"axis": 0}, "other than the batch axis"),
    ("TensorScatter", [X, X], {"axis": 1, "mode": "ring"}, "mode linear or circular"),
    ("OneHot", [tensor(I, 2), [-1], tensor(F, 2)], {}, "a depth that is not negative"),
    ("OneHot", [tensor(I, 2), [1, 2], tensor(F, 2)], {}, "one number as depth"),
    ("NonMaxSuppression", [X, X], {}, "boxes of rank 3"),
    ("SequenceConstruct", [X, tensor(I, 2, 3)], {}, "elements of one type"),
    ("SequenceAt", [X, [0]], {}, "input 0 to be a sequence"),
    ("ConcatFromSequence", [SequenceType(X)], {"axis": 2}, "an axis from"),
    ("ConcatFromSequence", [SequenceType(SequenceType(X))], {"axis": 0}, "a sequence of tensors"),
    ("SequenceMap", [SequenceType(X)], {}, "a graph in attribute body"),
    ("Optional", [], {}, "an input or a type attribute"),
    ("OptionalGetElement", [], {}, "an input"),
    ("StringSplit", [X], {}, "strings in input 0"),
    ("StringNormalizer", [tensor(T, 1, 1, 2)], {}, "strings of shape"),
    ("StringNormalizer", [tensor(T, 2)], {"case_change_action": "TITLE"}, "case_change_action among"),
    ("TfIdfVectorizer", [tensor(I, 2)], {"mode": "BM25", "ngram_indexes": (0,)}, "mode TF, IDF or TFIDF"),
    ("TfIdfVectorizer", [tensor(I, 1, 1, 2)], {"mode": "TF", "ngram_indexes": (0,)}, "an input of shape"),
    ("Scan", [X], {"num_scan_inputs": 2}, "num_scan_inputs from 1 to 1"),
    ("Loop", [tensor(I), tensor(DType.BOOL), None], {}, "a value for every carried input"),
]


@pytest.mark.parametrize("op, given, attrs, text", RULES)
def test_a_rule_refuses_and_names_the_node(op: str, given: list[Given], attrs: Mapping[str, Any], text: str) -> None:
    names = tuple("" if g is None else f"x{n}" for n, g in enumerate(given))
    node = Node(op, names, ("y",), frozen(attrs), origin=Origin("mine", op, "", 25))
    values = [np.array(g, np.int64) if isinstance(g, list) else None for g in given]
    types = [tensor(I, len(g)) if isinstance(g, list) else g for g in given]
    with pytest.raises(ModelError, match=f"node 'mine' .*expected .*{text}"):
        lookup(node).infer(Infer(node, types, values))


def test_an_input_of_unknown_rank_is_no_reason_to_refuse() -> None:
    node = Node("Slice", ("x", "s", "e"), ("y",))
    types = [TensorType(F, None), tensor(I, 1), tensor(I, 1)]
    assert lookup(node).infer(Infer(node, types, [None, None, None])) == [TensorType(F, None)]
