"""Operators on strings, and the n-gram counter that reads strings or numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.types import TensorType, ValueType, tensor
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import broadcast_shapes, outputs


def _strings(i: Infer, index: int = 0) -> TensorType:
    t = i.tensor(index)
    if t.dtype is not DType.STRING:
        i.fail(f"strings in input {index}", t.dtype.value)
    return t


def _each(function: Callable[[str], Any], x: Any, dtype: Any) -> np.ndarray:
    """function applied to every string."""
    array = np.asarray(x, object)
    out = np.empty(array.shape, dtype)
    for at in np.ndindex(*array.shape):
        out[at] = function(str(array[at]))
    return out


def _concat_rule(i: Infer) -> list[ValueType]:
    return [TensorType(DType.STRING, broadcast_shapes(i, [_strings(i, 0).shape, _strings(i, 1).shape]))]


def _concat(r: Ref) -> list[Any]:
    a, b = np.broadcast_arrays(np.asarray(r.get(0), object), np.asarray(r.get(1), object))
    out = np.empty(a.shape, object)
    for at in np.ndindex(*a.shape):
        out[at] = str(a[at]) + str(b[at])
    return [out]


def _split_rule(i: Infer) -> list[ValueType]:
    x = _strings(i)
    shape = None if x.shape is None else (*x.shape, i.fresh("parts"))
    return outputs(i, TensorType(DType.STRING, shape), TensorType(DType.I64, x.shape))


def _split(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0), object)
    delimiter, most = r.attr("delimiter") or None, r.attr("maxsplit", -1)
    parts = [str(s).split(delimiter, -1 if most is None else most) for s in x.reshape(-1)]
    parts = [[p.rstrip() if delimiter is None else p for p in line] for line in parts]
    width = max((len(p) for p in parts), default=0)
    padded = np.array([p + [""] * (width - len(p)) for p in parts], object)
    counts = np.array([len(p) for p in parts], np.int64)
    return [padded.reshape(*x.shape, width), counts.reshape(x.shape)][: r.n_outputs]


_CASES: dict[str, Callable[[str], str]] = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}


def _normalizer_rule(i: Infer) -> list[ValueType]:
    x = _strings(i)
    if i.attr("case_change_action", "NONE") not in _CASES:
        i.fail(f"case_change_action among {list(_CASES)}", i.attr("case_change_action"))
    if x.shape is None:
        return [x]
    if len(x.shape) not in (1, 2):
        i.fail("strings of shape [C] or [1, C]", f"rank {len(x.shape)}")
    return [TensorType(DType.STRING, (*x.shape[:-1], i.fresh("words")))]


def _normalizer(r: Ref) -> list[Any]:
    """Case changes follow Unicode and not the locale attribute, so that every machine gives the same answer."""
    x = np.asarray(r.get(0), object)
    if x.ndim == 2 and x.shape[0] != 1:
        r.fail("strings of shape [C] or [1, C]", list(x.shape))
    exact = bool(r.attr("is_case_sensitive", 0))
    fold = str if exact else str.lower
    stop = {fold(w) for w in r.attr("stopwords", ())}
    change = _CASES[r.attr("case_change_action", "NONE")]
    words = [change(str(w)) for w in x.reshape(-1) if fold(str(w)) not in stop]
    return [np.array(words or [""], object).reshape(*x.shape[:-1], -1)]


def _match_rule(i: Infer) -> list[ValueType]:
    return [TensorType(DType.BOOL, _strings(i).shape)]


def _match(r: Ref) -> list[Any]:
    try:
        pattern = re.compile(r.attr("pattern", ""))
    except re.error as e:
        r.fail("a regular expression in pattern", f"{r.attr('pattern')!r} ({e})")
    return [_each(lambda s: pattern.fullmatch(s) is not None, r.get(0), bool)]


def _tfidf_rule(i: Infer) -> list[ValueType]:
    x = i.tensor(0)
    indexes = i.attr("ngram_indexes", ())
    if i.attr("mode") not in ("TF", "IDF", "TFIDF") or not indexes or min(indexes) < 0:
        i.fail("mode TF, IDF or TFIDF and ngram_indexes that are not negative", i.attr("mode"))
    if x.shape is not None and len(x.shape) > 2:
        i.fail("an input of shape [C] or [N, C]", f"rank {len(x.shape)}")
    width: Dim = max(indexes) + 1
    return [TensorType(DType.F32, None) if x.shape is None else tensor(DType.F32, *x.shape[:-1], width)]


def _ngrams(r: Ref) -> dict[tuple[Any, ...], int]:
    """Every n-gram of the pool that counts, with its place in the pool."""
    pool = list(r.attr("pool_int64s") or r.attr("pool_strings") or ())
    starts = [*r.attr("ngram_counts", ()), len(pool)]
    found: dict[tuple[Any, ...], int] = {}
    number = 0
    for length, (start, end) in enumerate(pairwise(starts), 1):
        if not 0 <= start <= end <= len(pool) or (end - start) % length:
            r.fail(f"ngram_counts that cut the pool of {len(pool)} into n-grams", starts[:-1])
        for at in range(start, end, length):
            if r.attr("min_gram_length", 1) <= length <= r.attr("max_gram_length", len(starts)):
                found[tuple(pool[at : at + length])] = number
            number += 1
    return found


def _count_row(r: Ref, row: Sequence[Any], ngrams: dict[tuple[Any, ...], int], total: int) -> np.ndarray:
    """How often each n-gram of the pool occurs, its items at equal distances of up to max_skip_count + 1."""
    counts = np.zeros(total, np.float32)
    lengths = sorted({len(g) for g in ngrams})
    for length in lengths:
        for step in range(1, r.attr("max_skip_count", 0) + 2 if length > 1 else 2):
            for at in range(len(row) - (length - 1) * step):
                place = ngrams.get(tuple(row[at + n * step] for n in range(length)))
                if place is not None:
                    counts[place] += 1
    return counts


def _tfidf(r: Ref) -> list[Any]:
    x = np.asarray(r.get(0))
    ngrams, indexes = _ngrams(r), np.array(r.attr("ngram_indexes"), np.int64)
    if ngrams and max(ngrams.values()) >= len(indexes):
        r.fail(f"one of the {len(indexes)} ngram_indexes for every n-gram", max(ngrams.values()) + 1)
    rows = x.reshape(-1, x.shape[-1]) if x.ndim == 2 else x.reshape(1, -1)
    weights = np.array(r.attr("weights") or [1.0] * len(indexes), np.float32)
    out = np.zeros((len(rows), int(indexes.max()) + 1), np.float32)
    for n, row in enumerate(rows.tolist()):
        counts = _count_row(r, row, ngrams, len(indexes))
        if r.attr("mode") == "IDF":
            counts = np.minimum(counts, 1)
        np.add.at(out[n], indexes, counts if r.attr("mode") == "TF" else counts * weights)
    return [out if x.ndim == 2 else out[0]]


register(Op("StringConcat", _concat_rule, _concat))
register(Op("StringSplit", _split_rule, _split))
register(Op("StringNormalizer", _normalizer_rule, _normalizer))
register(Op("RegexFullMatch", _match_rule, _match))
register(Op("TfIdfVectorizer", _tfidf_rule, _tfidf))
