"""Element types: one enum that maps to ONNX numbers, numpy types and sizes."""

from __future__ import annotations

from enum import Enum

import ml_dtypes
import numpy as np


class DType(Enum):
    """Element type of a tensor; the value is its text form."""

    F32 = "f32"
    F64 = "f64"
    F16 = "f16"
    BF16 = "bf16"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    BOOL = "bool"
    STRING = "string"
    C64 = "c64"
    C128 = "c128"
    I4 = "i4"
    U4 = "u4"
    I2 = "i2"
    U2 = "u2"
    F4E2M1 = "f4e2m1"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E8M0 = "f8e8m0"

    @property
    def np(self) -> np.dtype:
        """The numpy type that holds it (one element per 4-bit or 2-bit value; objects for strings)."""
        return _NUMPY[self]

    @property
    def onnx(self) -> int:
        """Its number in onnx.TensorProto.DataType."""
        return _ONNX[self]

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory, as numpy holds it."""
        return _NUMPY[self].itemsize

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def is_int(self) -> bool:
        return self in _INTS

    @property
    def is_signed(self) -> bool:
        return self in _FLOATS or self.value.startswith("i")

    @staticmethod
    def from_numpy(dtype: np.dtype | type) -> DType:
        """The DType of a numpy type; any kind of string is STRING. KeyError when there is none."""
        d = np.dtype(dtype)
        if d.kind in "OUS":
            return DType.STRING
        return _FROM_NUMPY[d]

    @staticmethod
    def from_onnx(number: int) -> DType:
        """The DType of an onnx.TensorProto.DataType number. KeyError when there is none."""
        return _FROM_ONNX[number]


_NUMPY: dict[DType, np.dtype] = {
    DType.F32: np.dtype(np.float32),
    DType.F64: np.dtype(np.float64),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.I8: np.dtype(np.int8),
    DType.I16: np.dtype(np.int16),
    DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64),
    DType.U8: np.dtype(np.uint8),
    DType.U16: np.dtype(np.uint16),
    DType.U32: np.dtype(np.uint32),
    DType.U64: np.dtype(np.uint64),
    DType.BOOL: np.dtype(np.bool_),
    DType.STRING: np.dtype(object),
    DType.C64: np.dtype(np.complex64),
    DType.C128: np.dtype(np.complex128),
    DType.I4: np.dtype(ml_dtypes.int4),
    DType.U4: np.dtype(ml_dtypes.uint4),
    DType.I2: np.dtype(ml_dtypes.int2),
    DType.U2: np.dtype(ml_dtypes.uint2),
    DType.F4E2M1: np.dtype(ml_dtypes.float4_e2m1fn),
    DType.F8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.F8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DType.F8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DType.F8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DType.F8E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
}
_ONNX: dict[DType, int] = {
    DType.F32: 1,
    DType.U8: 2,
    DType.I8: 3,
    DType.U16: 4,
    DType.I16: 5,
    DType.I32: 6,
    DType.I64: 7,
    DType.STRING: 8,
    DType.BOOL: 9,
    DType.F16: 10,
    DType.F64: 11,
    DType.U32: 12,
    DType.U64: 13,
    DType.C64: 14,
    DType.C128: 15,
    DType.BF16: 16,
    DType.F8E4M3FN: 17,
    DType.F8E4M3FNUZ: 18,
    DType.F8E5M2: 19,
    DType.F8E5M2FNUZ: 20,
    DType.U4: 21,
    DType.I4: 22,
    DType.F4E2M1: 23,
    DType.F8E8M0: 24,
    DType.U2: 25,
    DType.I2: 26,
}
_FROM_NUMPY = {v: k for k, v in _NUMPY.items() if k is not DType.STRING}
_FROM_ONNX = {v: k for k, v in _ONNX.items()}
_FLOATS = frozenset(d for d in DType if d.value.startswith(("f", "bf")))
_INTS = frozenset(d for d in DType if d.value[0] in "iu")
