"""TensorProto and SparseTensorProto to numpy: sizes are checked against the bytes present before anything is made."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
from onnx import SparseTensorProto, TensorProto

from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError
from skipjack.frontend.external_data import ExternalFiles

_BITS = {DType.I4: 4, DType.U4: 4, DType.F4E2M1: 4, DType.I2: 2, DType.U2: 2}
_MAX_ELEMENTS = 2**48
_MAX_RANK = 32
_SPARSE_FREE_BYTES = 256 * 2**20
_SPARSE_BYTES_PER_VALUE_BYTE = 4096


class Tensors:
    """Reads the tensors of one model. Arrays are read-only; large ones are views of mapped files."""

    def __init__(self, files: ExternalFiles) -> None:
        self._files = files

    def dense(self, proto: TensorProto, what: str, raw: np.ndarray | None = None) -> np.ndarray:
        """The array of a TensorProto, its raw data perhaps elsewhere; ModelError when dims, type and data disagree."""
        dtype = element_type(proto.data_type, what)
        dims = checked_dims(proto.dims, what)
        count = _count(dims)
        if proto.HasField("segment"):
            raise ModelError(f"{what}: segmented tensors are not supported; save it whole")
        if dtype is DType.STRING:
            return _strings(proto, dims, count, what)
        if proto.data_location == TensorProto.EXTERNAL:
            data = self._files.read(proto, _byte_count(dtype, count), what)
        elif raw is not None or proto.HasField("raw_data"):
            data = np.frombuffer(proto.raw_data, np.uint8) if raw is None else raw
            _expect_size(_byte_count(dtype, count), data.size, "bytes", dims, dtype, what)
        else:
            data = _typed_bytes(proto, dtype, count, dims, what)
        return _read_only(_from_bytes(data, dtype, count).reshape(dims))

    def sparse(self, proto: SparseTensorProto, what: str) -> np.ndarray:
        """The dense array of a sparse tensor: exact zeros where no value is stored."""
        dims = checked_dims(proto.dims, what)
        if not dims:
            raise ModelError(f"{what}: a sparse tensor needs dims")
        values = self.dense(proto.values, f"{what} values")
        indices = self.dense(proto.indices, f"{what} indices")
        if values.ndim != 1 or indices.dtype != np.int64 or values.dtype == object:
            raise ModelError(f"{what}: expected 1-D numbers and int64 indices, got {values.shape}, {indices.dtype}")
        dense_bytes = _count(dims) * values.dtype.itemsize
        if dense_bytes > max(_SPARSE_FREE_BYTES, _SPARSE_BYTES_PER_VALUE_BYTE * values.nbytes):
            raise ModelError(f"{what}: {values.size} values do not justify a dense tensor of {dense_bytes} bytes")
        positions = _positions(indices, values.size, dims, what)
        out = np.zeros(_count(dims), values.dtype)
        out[positions] = values
        return _read_only(out.reshape(dims))


def element_type(number: int, what: str) -> DType:
    """The DType of an ONNX type number; ModelError when there is none."""
    try:
        return DType.from_onnx(number)
    except KeyError:
        raise ModelError(f"{what}: expected an ONNX element type from 1 to 26, got {number}") from None


def checked_dims(dims: Sequence[int], what: str) -> tuple[int, ...]:
    """Dims as a tuple whose product of non-zero members is small enough to address."""
    if len(dims) > _MAX_RANK:
        raise ModelError(f"{what}: expected at most {_MAX_RANK} dims, got {len(dims)}")
    total = 1
    for d in dims:
        total *= max(1, d)
        if d < 0 or total > _MAX_ELEMENTS:
            raise ModelError(f"{what}: dims {list(dims)} are negative or too large")
    return tuple(dims)


def _count(dims: tuple[int, ...]) -> int:
    total = 1
    for d in dims:
        total *= d
    return total


def _byte_count(dtype: DType, count: int) -> int:
    bits = _BITS.get(dtype)
    return count * dtype.itemsize if bits is None else (count * bits + 7) // 8


def _expect_size(expected: int, got: int, unit: str, dims: tuple[int, ...], dtype: DType, what: str) -> None:
    if expected != got:
        raise ModelError(
            f"{what}: dims {list(dims)} of {dtype.value} need {expected} {unit}, got {got}; the file is damaged"
        )


def _strings(proto: TensorProto, dims: tuple[int, ...], count: int, what: str) -> np.ndarray:
    if proto.data_location == TensorProto.EXTERNAL or proto.HasField("raw_data"):
        raise ModelError(f"{what}: strings must be in string_data")
    _expect_size(count, len(proto.string_data), "strings", dims, DType.STRING, what)
    out = np.empty(count, object)
    for i, text in enumerate(proto.string_data):
        try:
            out[i] = text.decode("utf-8")
        except UnicodeDecodeError as e:
            raise ModelError(f"{what}: string {i} is not UTF-8") from e
    return _read_only(out.reshape(dims))


def _typed_bytes(proto: TensorProto, dtype: DType, count: int, dims: tuple[int, ...], what: str) -> np.ndarray:
    """The little-endian bytes of a tensor stored in one of the typed fields."""
    if dtype in (DType.F32, DType.C64):
        values, entries = proto.float_data, count * (2 if dtype is DType.C64 else 1)
        storage = np.dtype(np.float32)
    elif dtype in (DType.F64, DType.C128):
        values, entries = proto.double_data, count * (2 if dtype is DType.C128 else 1)
        storage = np.dtype(np.float64)
    elif dtype is DType.I64:
        values, entries, storage = proto.int64_data, count, np.dtype(np.int64)
    elif dtype in (DType.U32, DType.U64):
        values, entries, storage = proto.uint64_data, count, np.dtype(np.uint64)
    else:
        values, storage = proto.int32_data, np.dtype(np.int32)
        entries = _byte_count(dtype, count) if dtype in _BITS else count
    _expect_size(entries, len(values), "values", dims, dtype, what)
    array = np.array(values, storage)
    if storage.kind == "f" or dtype in (DType.I64, DType.U64):
        return array.view(np.uint8)
    width = 1 if dtype in _BITS else dtype.itemsize
    unsigned = np.dtype(f"u{width}")
    return array.astype(unsigned).view(np.uint8)


# Large data stays in the mapped file wherever it lies there: numpy and the kernels read unaligned elements.
_COPIED_BYTES = 64 * 1024


def _from_bytes(data: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    if dtype in _BITS:
        return _unpack(data, dtype, count)
    if dtype is DType.BOOL:
        return data != 0
    small = data.nbytes < _COPIED_BYTES
    if small and data.ctypes.data % dtype.itemsize:
        data = data.copy()
    return data.view(dtype.np)


def _unpack(data: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """One element per value of 4 or 2 bits; the first value lies in the lowest bits."""
    bits = _BITS[dtype]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = ((data[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count]
    if dtype is DType.F4E2M1:
        return codes.view(ml_dtypes.float4_e2m1fn)
    if dtype.is_signed:
        half = 1 << (bits - 1)
        codes = (codes ^ half).astype(np.int8) - np.int8(half)
    return codes.astype(dtype.np)


def _positions(indices: np.ndarray, n_values: int, dims: tuple[int, ...], what: str) -> np.ndarray:
    """Flat positions from linear ([n]) or coordinate ([n, rank]) indices; in range, ascending, unique."""
    if indices.shape not in ((n_values,), (n_values, len(dims))):
        raise ModelError(
            f"{what}: expected indices of shape [{n_values}] or [{n_values}, {len(dims)}], got {list(indices.shape)}"
        )
    limits = np.array(dims if indices.ndim == 2 else [_count(dims)], np.int64)
    if n_values and bool(((indices < 0) | (indices >= limits)).any()):
        raise ModelError(f"{what}: an index lies outside dims {list(dims)}")
    flat = indices.reshape(-1)
    if indices.ndim == 2:
        strides = [_count(dims[i + 1 :]) for i in range(len(dims))]
        flat = (indices * np.array(strides, np.int64)).sum(axis=1)
    if bool((np.diff(flat) <= 0).any()):
        raise ModelError(f"{what}: indices must be in ascending order without repeats")
    return flat


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
