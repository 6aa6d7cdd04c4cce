"""Every element type in every storage, and sparse tensors."""

import ml_dtypes
import numpy as np
import pytest
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.frontend.external_data import ExternalFiles
from skipjack.frontend.tensors import Tensors

TENSORS = Tensors(ExternalFiles(None))
NUMBERS = [0, 1, 1, 0, 1]


@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.STRING], ids=lambda d: d.value)
@pytest.mark.parametrize("raw", [False, True])
def test_types_and_storages(dtype: DType, raw: bool) -> None:
    if dtype is DType.F8E8M0:
        expected = np.array([1, 2, 4, 0.5, 1], np.float32).astype(dtype.np)
    else:
        expected = np.array(NUMBERS).astype(dtype.np)
    if raw:
        proto = numpy_helper.from_array(expected, "t")
    else:
        values = expected.astype(np.float32) if dtype.np.kind == "V" or dtype.is_float else expected
        proto = helper.make_tensor("t", dtype.onnx, [5], values.tolist())
    got = TENSORS.dense(proto, "t")
    assert got.dtype == dtype.np
    assert got.tolist() == expected.tolist()
    assert not got.flags.writeable


def test_signed_packed_values() -> None:
    proto = TensorProto(name="t", data_type=TensorProto.INT4, dims=[3], raw_data=bytes([0x8F, 0x07]))
    assert TENSORS.dense(proto, "t").astype(int).tolist() == [-1, -8, 7]
    proto = TensorProto(name="t", data_type=TensorProto.INT2, dims=[5], raw_data=bytes([0b11100100, 0b10]))
    assert TENSORS.dense(proto, "t").astype(int).tolist() == [0, 1, -2, -1, -2]
    proto = TensorProto(name="t", data_type=TensorProto.FLOAT4E2M1, dims=[2], raw_data=bytes([0xF1]))
    assert TENSORS.dense(proto, "t").astype(np.float32).tolist() == [0.5, -6.0]
    assert TENSORS.dense(proto, "t").dtype == ml_dtypes.float4_e2m1fn


def test_strings_and_bools() -> None:
    assert TENSORS.dense(helper.make_tensor("t", TensorProto.STRING, [2], ["a", "é"]), "t").tolist() == ["a", "é"]
    proto = TensorProto(name="t", data_type=TensorProto.BOOL, dims=[3], raw_data=bytes([0, 2, 255]))
    assert TENSORS.dense(proto, "t").tolist() == [False, True, True]
    bad = TensorProto(name="t", data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff"])
    with pytest.raises(ModelError, match="UTF-8"):
        TENSORS.dense(bad, "t")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dims": [2, 3], "raw_data": b"1234"}, "need 24 bytes, got 4"),
        ({"dims": [2**31, 2**31], "raw_data": b"12345678"}, "too large"),
        ({"dims": [0, 2**62, 2**62]}, "too large"),
        ({"dims": [-1], "raw_data": b""}, "negative"),
        ({"dims": [1] * 40, "float_data": [1.0]}, "at most 32 dims"),
        ({"dims": [3], "float_data": [1.0]}, "need 3 values, got 1"),
        ({"dims": [1], "int32_data": [1]}, "need 1 values, got 0"),
        ({"dims": [1], "data_type": 99}, "element type from 1 to 26, got 99"),
        ({"dims": [1], "data_type": 0}, "element type from 1 to 26, got 0"),
        ({"dims": [1], "data_type": 8, "raw_data": b"x"}, "strings must be in string_data"),
        ({"dims": [2], "data_type": 8, "string_data": [b"x"]}, "need 2 strings, got 1"),
        ({"dims": [4], "segment": TensorProto.Segment(begin=0, end=1)}, "segmented"),
    ],
)
def test_disagreeing_tensors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TENSORS.dense(TensorProto(**{"name": "t", "data_type": TensorProto.FLOAT, **fields}), "t")


def sparse(values: list[float], indices: np.ndarray, dims: list[int]) -> SparseTensorProto:
    proto = SparseTensorProto(dims=dims)
    proto.values.CopyFrom(helper.make_tensor("v", TensorProto.FLOAT, [len(values)], values))
    proto.indices.CopyFrom(numpy_helper.from_array(np.asarray(indices, np.int64)))
    return proto


@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]], ids=["linear", "coordinates"])
def test_sparse(indices: list[object]) -> None:
    got = TENSORS.sparse(sparse([7, 8], np.array(indices), [2, 3]), "s")
    assert got.tolist() == [[0, 7, 0], [0, 0, 8]]
    empty = TENSORS.sparse(sparse([], np.zeros((0,) + np.array(indices).shape[1:]), [2, 3]), "s")
    assert not empty.any()


@pytest.mark.parametrize(
    "indices, dims, message",
    [
        ([1, 6], [2, 3], "outside"),
        ([-1, 2], [2, 3], "outside"),
        ([[0, 1], [0, 3]], [2, 3], "outside"),
        ([2, 1], [2, 3], "ascending"),
        ([1, 1], [2, 3], "ascending"),
        ([[1, 0], [0, 1]], [2, 3], "ascending"),
        ([1, 2, 3], [2, 3], "expected indices of shape"),
        ([1, 2], [], "needs dims"),
        ([1, 2], [2**20, 2**20], "do not justify"),
        ([1, 2], [2**40, 2**40], "too large"),
    ],
)
def test_damaged_sparse(indices: list[object], dims: list[int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TENSORS.sparse(sparse([7, 8], np.array(indices), dims), "s")
