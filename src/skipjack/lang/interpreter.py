"""The meaning of a kernel program: numpy, one instruction at a time, over real memory.

It is slow and exact. Tests compare compiled kernels with it, and kernels for instruction sets that a machine lacks run
here instead.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from skipjack.lang.program import If, Instr, Loop, Program, Reg, Stmt, Ty
from skipjack.lang.tiles import TileFile

_DTYPES = {
    "i1": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "f16": np.float16, "bf16": np.int16, "f32": np.float32, "f64": np.float64, "ptr": np.int64,
}  # fmt: skip
_UNSIGNED = {"i8": np.uint8, "i16": np.uint16, "i32": np.uint32, "i64": np.uint64, "i1": np.bool_}
Value = Any


def dtype_of(ty: Ty) -> np.dtype:
    """The numpy type of one element."""
    return np.dtype(_DTYPES[ty.elt])


class BudgetSpent(Exception):
    """The program executed more instructions than its budget; memory is half written."""


def run(
    program: Program,
    arguments: int,
    lo: int,
    hi: int,
    scratch: int,
    intrinsics: Mapping[str, Callable[..., Value]] | None = None,
    budget: int | None = None,
) -> None:
    """Run a kernel on the units [lo, hi).

    arguments and scratch are addresses, intrinsics the meanings of a target's own instructions. BudgetSpent ends a run
    of more than budget instructions.
    """
    machine = _Machine(intrinsics or {}, budget)
    for reg, value in zip(program.params, (arguments, lo, hi, scratch), strict=True):
        machine.values[reg.id] = np.int64(value)
    with np.errstate(all="ignore"):
        machine.block(program.body)
    assert machine.tiles.tiles is None, f"{program.name} ends without releasing the tiles"


class _Machine:
    def __init__(self, intrinsics: Mapping[str, Callable[..., Value]], budget: int | None) -> None:
        self.left = -1 if budget is None else budget
        self.values: dict[int, Value] = {}
        self.locals: list[Any] = []
        self.intrinsics = intrinsics
        self.tiles = TileFile()

    def block(self, body: list[Stmt]) -> None:
        for s in body:
            if isinstance(s, Instr):
                self.step(s)
            elif isinstance(s, Loop):
                start, stop, step = (int(self.values[r.id]) for r in (s.start, s.stop, s.step))
                for index in range(start, stop, step):
                    self.values[s.index.id] = np.int64(index)
                    self.block(s.body)
            elif isinstance(s, If):
                self.block(s.then if self.values[s.condition.id] else s.orelse)
            else:
                self.block(s.test)
                while self.values[s.condition.id]:
                    self.block(s.body)
                    self.block(s.test)

    def step(self, s: Instr) -> None:
        self.left -= 1
        if self.left == 0:
            raise BudgetSpent
        args = [self.values[a.id] for a in s.args]
        if s.op == "local":
            self._local(s)
        elif s.op == "set":
            self.values[s.args[0].id] = args[1]
        elif s.op == "get":
            assert s.out is not None, "a get has a result"
            self.values[s.out.id] = args[0]
        elif s.op == "tile":
            self.tiles.step(s.attr, args)
        elif s.out is None:
            _EFFECTS[s.op](s, *args)
        elif s.op == "intrinsic":
            self.values[s.out.id] = self.intrinsics[s.attr](*args)
        else:
            self.values[s.out.id] = _cast(s.out.ty, _MEANING[s.op](s, s.out.ty, *args))

    def _local(self, s: Instr) -> None:
        size, align = s.attr
        buffer = ctypes.create_string_buffer(size + align)
        self.locals.append(buffer)
        address = ctypes.addressof(buffer)
        assert s.out is not None, "a local has an address"
        self.values[s.out.id] = np.int64(address + (-address) % align)


def _cast(ty: Ty, value: Value) -> Value:
    return np.asarray(value).astype(dtype_of(ty), copy=False)[()]


def _read(address: int, ty: Ty) -> Value:
    n = max(ty.lanes, 1)
    raw = ctypes.string_at(int(address), ty.nbytes)
    a = np.frombuffer(raw, dtype_of(ty), n)
    return a.copy() if ty.lanes else a[0]


def _write(address: int, value: Value) -> None:
    raw = np.ascontiguousarray(value).tobytes()
    ctypes.memmove(int(address), raw, len(raw))


def _unsigned(ty: Ty, value: Value) -> Value:
    return np.asarray(value).astype(_UNSIGNED[ty.elt])


_RELATIONS: dict[str, Callable[[Value, Value], Value]] = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal
}  # fmt: skip


def _compare(s: Instr, a: Value, b: Value) -> Value:
    if s.attr[0] == "u":
        ty = s.args[0].ty
        return _RELATIONS[s.attr[1:]](_unsigned(ty, a), _unsigned(ty, b))
    return _RELATIONS[s.attr](a, b)


def _divide(a: Value, b: Value) -> Value:
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    q = np.abs(a) // np.maximum(np.abs(b), 1)
    return np.where((a < 0) != (b < 0), -q, q)


def _fma(a: Value, b: Value, c: Value) -> Value:
    if np.asarray(c).dtype == np.float64:
        return np.asarray(np.longdouble(a) * np.longdouble(b) + np.longdouble(c), np.float64)
    return np.asarray(np.float64(a) * np.float64(b) + np.float64(c), np.asarray(c).dtype)


def _masked_load(s: Instr, t: Ty, address: Value, mask: Value) -> Value:
    out = np.zeros(t.lanes, dtype_of(t))
    for lane in np.flatnonzero(mask):
        out[lane] = _read(int(address) + int(lane) * t.scalar.nbytes, t.scalar)
    return out


def _gather(s: Instr, t: Ty, address: Value, offsets: Value, mask: Value) -> Value:
    out = np.zeros(t.lanes, dtype_of(t))
    for lane in np.flatnonzero(mask):
        out[lane] = _read(int(address) + int(offsets[lane]), t.scalar)
    return out


def _scatter(s: Instr, value: Value, address: Value, offsets: Value, mask: Value) -> None:
    for lane in np.flatnonzero(mask):
        _write(int(address) + int(offsets[lane]), value[lane])


def _masked_store(s: Instr, value: Value, address: Value, mask: Value) -> None:
    for lane in np.flatnonzero(mask):
        _write(int(address) + int(lane) * s.args[0].ty.scalar.nbytes, value[lane])


def _bits(s: Instr, value: Value, count: Callable[[str], int]) -> Value:
    width = s.args[0].ty.bits
    texts = [format(int(v) & ((1 << width) - 1), f"0{width}b") for v in np.atleast_1d(value)]
    counted = np.array([count(t) for t in texts])
    return counted if s.args[0].ty.lanes else counted[0]


def _leading(text: str) -> int:
    return len(text) - len(text.lstrip("0"))


def _trailing(text: str) -> int:
    return len(text) - len(text.rstrip("0"))


def _shift(s: Instr, a: Value, b: Value) -> Value:
    ty = s.args[0].ty
    amount = np.asarray(b).astype(np.uint64)
    if s.op == "ashr":
        return np.asarray(a, np.int64) >> amount.astype(np.int64)
    wide = _unsigned(ty, a).astype(np.uint64)
    return (wide << amount if s.op == "shl" else wide >> amount).astype(_UNSIGNED[ty.elt]).astype(dtype_of(ty))


def _bitcast(ty: Ty, source: Reg, value: Value) -> Value:
    if source.ty.elt == "i1" and source.ty.lanes:
        bits = np.packbits(np.asarray(value), bitorder="little").tobytes()
        return np.frombuffer(bits.ljust(8, b"\0"), np.int64)[0].astype(dtype_of(ty))
    if ty.elt == "i1" and ty.lanes:
        raw = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        return np.unpackbits(raw, count=ty.lanes, bitorder="little").astype(bool)
    a = np.frombuffer(np.ascontiguousarray(value).tobytes(), dtype_of(ty))
    return a.copy() if ty.lanes else a[0]


def _wide(op: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    return lambda s, t, a, b: op(np.asarray(a), np.asarray(b))


def _unsigned_pair(op: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    return lambda s, t, a, b: op(_unsigned(t, a), _unsigned(t, b))


_MEANING: dict[str, Callable[..., Value]] = {
    "const": lambda s, t: np.full(t.lanes, s.attr, dtype_of(t)) if t.lanes else dtype_of(t).type(s.attr),
    "constv": lambda s, t: np.array(s.attr, dtype_of(t)),
    "var": lambda s, t: np.zeros(t.lanes, dtype_of(t)) if t.lanes else dtype_of(t).type(0),
    "gep": lambda s, t, p, o: int(p) + int(o) * s.attr,
    "load": lambda s, t, p: _read(p, t),
    "mload": _masked_load,
    "gather": _gather,
    "splat": lambda s, t, a: np.full(t.lanes, a, dtype_of(t)),
    "shuffle": lambda s, t, a, b: np.concatenate([a, b])[list(s.attr)],
    "extract": lambda s, t, a: a[s.attr],
    "select": lambda s, t, c, a, b: np.where(c, a, b),
    "fma": lambda s, t, a, b, c: _fma(a, b, c),
    "add": _wide(np.add), "fadd": _wide(np.add),
    "sub": _wide(np.subtract), "fsub": _wide(np.subtract),
    "mul": _wide(np.multiply), "fmul": _wide(np.multiply),
    "fdiv": _wide(np.divide), "frem": _wide(np.fmod),
    "sdiv": _wide(_divide), "srem": _wide(lambda a, b: a - _divide(a, b) * b),
    "udiv": _unsigned_pair(lambda a, b: a // np.maximum(b, 1)),
    "urem": _unsigned_pair(lambda a, b: a % np.maximum(b, 1)),
    "and": _wide(np.bitwise_and), "or": _wide(np.bitwise_or), "xor": _wide(np.bitwise_xor),
    "shl": lambda s, t, a, b: _shift(s, a, b),
    "lshr": lambda s, t, a, b: _shift(s, a, b),
    "ashr": lambda s, t, a, b: _shift(s, a, b),
    "smin": _wide(np.minimum), "smax": _wide(np.maximum),
    "umin": _unsigned_pair(np.minimum), "umax": _unsigned_pair(np.maximum),
    "fmin": _wide(lambda a, b: np.where(a < b, a, b)),
    "fmax": _wide(lambda a, b: np.where(a > b, a, b)),
    "fneg": lambda s, t, a: np.negative(a),
    "fabs": lambda s, t, a: np.abs(a),
    "sqrt": lambda s, t, a: np.sqrt(a),
    "floor": lambda s, t, a: np.floor(a),
    "ceil": lambda s, t, a: np.ceil(a),
    "rint": lambda s, t, a: np.rint(a),
    "trunc": lambda s, t, a: np.trunc(a) if s.args[0].ty.is_float else (a if t.elt != "i1" else np.asarray(a) & 1),
    "ctpop": lambda s, t, a: _bits(s, a, lambda x: x.count("1")),
    "ctlz": lambda s, t, a: _bits(s, a, _leading),
    "cttz": lambda s, t, a: _bits(s, a, _trailing),
    "fcmp": lambda s, t, a, b: _compare(s, a, b),
    "icmp": lambda s, t, a, b: _compare(s, a, b),
    "sext": lambda s, t, a: -np.asarray(a).astype(np.int64) if s.args[0].ty.elt == "i1" else a,
    "zext": lambda s, t, a: _unsigned(s.args[0].ty, a),
    "sitofp": lambda s, t, a: a,
    "uitofp": lambda s, t, a: _unsigned(s.args[0].ty, a),
    "fptosi": lambda s, t, a: np.trunc(a),
    "fptoui": lambda s, t, a: np.trunc(a).astype(_UNSIGNED[t.elt]),
    "fpext": lambda s, t, a: a,
    "fptrunc": lambda s, t, a: a,
    "bitcast": lambda s, t, a: _bitcast(t, s.args[0], a),
}  # fmt: skip
_EFFECTS: dict[str, Callable[..., None]] = {
    "store": lambda s, v, p: _write(p, v),
    "mstore": _masked_store,
    "scatter": _scatter,
    "prefetch": lambda s, p: None,
}
