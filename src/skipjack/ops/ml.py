"""Operators of ai.onnx.ml that prepare features and labels: maps, encoders, scalers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.graph import ML
from skipjack.ir.types import MapType, SequenceType, TensorType, ValueType
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import same_as_first


def strings(values: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
    """An object array of strings."""
    out = np.empty(len(values), object)
    out[:] = list(values)
    return out.reshape(shape)


def _as_float(i: Infer) -> list[ValueType]:
    return [TensorType(DType.F32, i.shape(0))]


def _infer_extract(i: Infer) -> list[ValueType]:
    t, picked = i.tensor(0), i.tensor(1).elements
    if t.shape is None or picked is None:
        return [TensorType(t.dtype, None)]
    if not t.shape:
        i.fail("an input with at least one axis", t.shape)
    rows = t.shape[:-1] if len(t.shape) > 1 else (1,)
    return [TensorType(t.dtype, (*rows, picked))]


def _ref_extract(r: Ref) -> list[Any]:
    x, at = r.inputs[0], np.asarray(r.inputs[1]).reshape(-1)
    if at.size and (at.min() < 0 or at.max() >= x.shape[-1]):
        r.fail(f"indices below {x.shape[-1]}", at.tolist())
    return [np.atleast_2d(x)[..., at]]


register(Op("ArrayFeatureExtractor", _infer_extract, _ref_extract, domain=ML))


def _ref_binarizer(r: Ref) -> list[Any]:
    x = r.inputs[0]
    return [(x > x.dtype.type(r.attr("threshold", 0.0))).astype(x.dtype)]


register(Op("Binarizer", same_as_first, _ref_binarizer, domain=ML))


def _label_table(x: Infer | Ref, what: str) -> np.ndarray:
    """The keys or values of a LabelEncoder."""
    kinds = [k for k in ("tensor", "strings", "int64s", "floats") if x.attr(f"{what}_{k}") is not None]
    if not kinds:
        x.fail(f"{what}_tensor, {what}_strings, {what}_int64s or {what}_floats", "none")
    given = x.attr(f"{what}_{kinds[0]}")
    if kinds[0] == "strings" or np.asarray(given).dtype.kind in "OUS":
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in given]
        return strings(texts, (len(texts),))
    return np.asarray(given, {"int64s": np.int64, "floats": np.float32}.get(kinds[0]))


def _infer_label(i: Infer) -> list[ValueType]:
    keys, values = _label_table(i, "keys"), _label_table(i, "values")
    if keys.size != values.size:
        i.fail("as many values as keys", f"{values.size} and {keys.size}")
    return [TensorType(DType.from_numpy(values.dtype), i.shape(0))]


def _label_default(r: Ref, dtype: np.dtype) -> Any:
    given = r.attr("default_tensor")
    if given is not None:
        v = np.asarray(given).reshape(-1)[0]
        return v.decode() if isinstance(v, bytes) else v
    if dtype.kind == "O":
        return r.attr("default_string", "_Unused")
    return r.attr("default_int64", -1) if dtype.kind in "iu" else r.attr("default_float", -0.0)


def _ref_label(r: Ref) -> list[Any]:
    x = np.asarray(r.inputs[0])
    keys, values = _label_table(r, "keys"), _label_table(r, "values")
    table = {_key(k): v for k, v in zip(keys.reshape(-1).tolist(), values.reshape(-1).tolist())}
    default = _label_default(r, values.dtype)
    found = [table.get(_key(k), default) for k in x.reshape(-1).tolist()]
    if values.dtype.kind == "O":
        return [strings(found, x.shape)]
    return [np.array(found, values.dtype).reshape(x.shape)]


def _key(k: Any) -> Any:
    """A lookup key under which every NaN is the same."""
    return "nan of any bits" if isinstance(k, float) and k != k else k


register(Op("LabelEncoder", _infer_label, _ref_label, domain=ML))


def _infer_category(i: Infer) -> list[ValueType]:
    return [TensorType(DType.I64 if i.tensor(0).dtype is DType.STRING else DType.STRING, i.shape(0))]


def _ref_category(r: Ref) -> list[Any]:
    x = np.asarray(r.inputs[0])
    names, numbers = r.attr("cats_strings") or (), r.attr("cats_int64s") or ()
    if len(names) != len(numbers):
        r.fail("as many cats_strings as cats_int64s", f"{len(names)} and {len(numbers)}")
    if x.dtype.kind == "O":
        table, default = dict(zip(names, numbers)), r.attr("default_int64", -1)
        return [np.array([table.get(k, default) for k in x.reshape(-1)], np.int64).reshape(x.shape)]
    back, text = dict(zip(numbers, names)), r.attr("default_string", "_Unused")
    return [strings([back.get(k, text) for k in x.reshape(-1).tolist()], x.shape)]


register(Op("CategoryMapper", _infer_category, _ref_category, domain=ML))


def _ref_scaler(r: Ref) -> list[Any]:
    x = r.inputs[0].astype(np.float32)
    offset, scale = (np.asarray(r.attr(n) or d, np.float32) for n, d in (("offset", [0]), ("scale", [1])))
    if any(v.size not in (1, x.shape[-1]) for v in (offset, scale)):
        r.fail(f"1 or {x.shape[-1]} offsets and scales", (offset.size, scale.size))
    return [(x - offset) * scale]


register(Op("Scaler", _as_float, _ref_scaler, domain=ML))


def _ref_normalizer(r: Ref) -> list[Any]:
    x = r.inputs[0].astype(np.float32)
    norm = str(r.attr("norm", "MAX"))
    axis = 0 if x.ndim == 1 else 1
    sizes = {
        "MAX": lambda: x.max(axis=axis, keepdims=True),
        "L1": lambda: np.abs(x).sum(axis=axis, keepdims=True),
        "L2": lambda: np.sqrt((x * x).sum(axis=axis, keepdims=True)),
    }
    if norm not in sizes:
        r.fail(f"norm among {sorted(sizes)}", norm)
    size = sizes[norm]()
    return [x / np.where(size == 0, np.float32(1), size)]


register(Op("Normalizer", _as_float, _ref_normalizer, domain=ML))


def _ref_imputer(r: Ref) -> list[Any]:
    x = r.inputs[0]
    whole = x.dtype.kind in "iu"
    values = np.asarray(r.attr("imputed_value_int64s" if whole else "imputed_value_floats") or (), x.dtype)
    old = r.attr("replaced_value_int64" if whole else "replaced_value_float", 0)
    if values.size not in (1, x.shape[-1]):
        r.fail(f"1 or {x.shape[-1]} imputed values", values.size)
    missing = np.isnan(x) if old != old else x == x.dtype.type(old)
    return [np.where(missing, values, x)]


register(Op("Imputer", same_as_first, _ref_imputer, domain=ML))


def _categories(x: Infer | Ref, text: bool) -> Sequence[Any]:
    names = x.attr("cats_strings" if text else "cats_int64s")
    if not names:
        x.fail("cats_strings for strings, cats_int64s for numbers", "none")
    return names


def _infer_one_hot(i: Infer) -> list[ValueType]:
    t = i.tensor(0)
    count = len(_categories(i, t.dtype is DType.STRING))
    return [TensorType(DType.F32, None if t.shape is None else (*t.shape, count))]


def _ref_one_hot(r: Ref) -> list[Any]:
    x = np.asarray(r.inputs[0])
    text = x.dtype.kind == "O"
    table = {c: n for n, c in enumerate(_categories(r, text))}
    y = np.zeros((x.size, len(table)), np.float32)
    for row, k in enumerate((x if text else x.astype(np.int64)).reshape(-1).tolist()):
        if k in table:
            y[row, table[k]] = 1
        elif not r.attr("zeros", 1):
            r.fail("known categories", k)
    return [y.reshape(*x.shape, len(table))]


register(Op("OneHotEncoder", _infer_one_hot, _ref_one_hot, domain=ML))


def _infer_vectorizer(i: Infer) -> list[ValueType]:
    sizes = i.attr("inputdimensions") or ()
    if len(sizes) != len(i.types):
        i.fail(f"{len(i.types)} inputdimensions", len(sizes))
    first = i.shape(0)
    rows: Dim = i.fresh("rows") if first is None else first[0] if len(first) > 1 else 1
    return [TensorType(DType.F32, (rows, sum(int(s) for s in sizes)))]


def _ref_vectorizer(r: Ref) -> list[Any]:
    parts = [np.atleast_2d(x) for x in r.inputs]
    parts = [p.reshape(len(p), -1).astype(np.float32) for p in parts]
    out = [np.zeros((len(p), int(n)), np.float32) for p, n in zip(parts, r.attr("inputdimensions"))]
    for o, p in zip(out, parts):
        count = min(o.shape[1], p.shape[1])
        o[:, :count] = p[:, :count]
    return [np.concatenate(out, axis=1)]


register(Op("FeatureVectorizer", _infer_vectorizer, _ref_vectorizer, domain=ML))


def _infer_zip(i: Infer) -> list[ValueType]:
    key = DType.STRING if i.attr("classlabels_strings") else DType.I64
    return [SequenceType(MapType(key, TensorType(DType.F32, ())))]


def _ref_zip(r: Ref) -> list[Any]:
    labels = r.attr("classlabels_strings") or r.attr("classlabels_int64s") or ()
    x = np.atleast_2d(r.inputs[0])
    if len(labels) != x.shape[1]:
        r.fail(f"{x.shape[1]} class labels", len(labels))
    return [[dict(zip(labels, row)) for row in x.tolist()]]


register(Op("ZipMap", _infer_zip, _ref_zip, domain=ML))


def _map_type(i: Infer) -> MapType:
    t = i.types[0]
    if not isinstance(t, MapType):
        i.fail("input 0 to be a map", type(t).__name__)
    return t


def _infer_dict(i: Infer) -> list[ValueType]:
    value = _map_type(i).value
    words = i.attr("string_vocabulary") or i.attr("int64_vocabulary") or ()
    return [TensorType(value.dtype if isinstance(value, TensorType) else DType.F32, (1, len(words)))]


def _ref_dict(r: Ref) -> list[Any]:
    given: dict[Any, Any] = r.inputs[0]
    words = r.attr("string_vocabulary") or r.attr("int64_vocabulary") or ()
    unknown = set(given) - set(words)
    if unknown:
        r.fail("keys of the vocabulary", sorted(unknown))
    sample = next(iter(given.values()), 0.0)
    if isinstance(sample, str):
        return [strings([given.get(w, "") for w in words], (1, len(words)))]
    kind = np.asarray(sample).dtype if isinstance(sample, np.generic | np.ndarray | int) else np.dtype(np.float32)
    return [np.array([[given.get(w, 0) for w in words]], kind)]


register(Op("DictVectorizer", _infer_dict, _ref_dict, domain=ML))

_CASTS: dict[str, DType] = {"TO_FLOAT": DType.F32, "TO_INT64": DType.I64, "TO_STRING": DType.STRING}


def _cast_to(x: Infer | Ref) -> DType:
    name = str(x.attr("cast_to", "TO_FLOAT"))
    if name not in _CASTS:
        x.fail(f"cast_to among {sorted(_CASTS)}", name)
    return _CASTS[name]


def _infer_cast(i: Infer) -> list[ValueType]:
    _map_type(i)
    sparse = str(i.attr("map_form", "DENSE")) == "SPARSE"
    return [TensorType(_cast_to(i), (1, int(i.attr("max_map", 1)) if sparse else i.fresh("entries")))]


def _ref_cast(r: Ref) -> list[Any]:
    given: dict[Any, Any] = r.inputs[0]
    dtype = _cast_to(r)
    convert: Callable[[Any], Any] = str if dtype is DType.STRING else dtype.np.type
    if str(r.attr("map_form", "DENSE")) == "DENSE":
        values = [convert(given[k]) for k in sorted(given)]
    else:
        size = int(r.attr("max_map", 1))
        if given and not 0 <= min(given) <= max(given) < size:
            r.fail(f"keys below max_map {size}", sorted(given))
        values = [convert(given[k]) if k in given else convert("" if dtype is DType.STRING else 0) for k in range(size)]
    return [strings(values, (1, len(values))) if dtype is DType.STRING else np.array([values], dtype.np)]


register(Op("CastMap", _infer_cast, _ref_cast, domain=ML))
