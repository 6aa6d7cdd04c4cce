"""The tracer: a Python function that runs once and leaves a kernel program behind.

Values overload operators; `range` unrolls now, `k.loop` runs later; mutable state is `k.var`. Pointers are byte
addresses: `p.at(offset_bytes)`. A kernel works on the units [k.lo, k.hi) of its work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from types import SimpleNamespace

from skipjack.lang.program import F32, I1, I32, I64, PTR, If, Instr, Loop, Program, Reg, Stmt, Ty, While

Operand = "V | Var | int | float"

_FLOAT_BINARY = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "rem": "frem"}
_INT_BINARY = {"div": "sdiv", "rem": "srem"}


class V:
    """A value of a kernel being traced."""

    __slots__ = ("k", "reg")

    def __init__(self, k: Kernel, reg: Reg) -> None:
        self.k = k
        self.reg = reg

    @property
    def ty(self) -> Ty:
        return self.reg.ty

    def _binary(self, op: str, other: V | Var | int | float, swap: bool = False) -> V:
        a, b = self.k.unify(self, other)
        if swap:
            a, b = b, a
        table = _FLOAT_BINARY if a.ty.is_float else _INT_BINARY
        return self.k.emit(table.get(op, op), a.ty, (a, b))

    def __add__(self, o: V | Var | int | float) -> V:
        return self._binary("add", o)

    def __radd__(self, o: int | float) -> V:
        return self._binary("add", o, swap=True)

    def __sub__(self, o: V | Var | int | float) -> V:
        return self._binary("sub", o)

    def __rsub__(self, o: int | float) -> V:
        return self._binary("sub", o, swap=True)

    def __mul__(self, o: V | Var | int | float) -> V:
        return self._binary("mul", o)

    def __rmul__(self, o: int | float) -> V:
        return self._binary("mul", o, swap=True)

    def __truediv__(self, o: V | Var | int | float) -> V:
        return self._binary("div", o)

    def __rtruediv__(self, o: int | float) -> V:
        return self._binary("div", o, swap=True)

    def __floordiv__(self, o: V | Var | int | float) -> V:
        """Signed division of integers, truncated towards zero."""
        return self._binary("div", o)

    def __mod__(self, o: V | Var | int | float) -> V:
        return self._binary("rem", o)

    def __and__(self, o: V | Var | int) -> V:
        return self._binary("and", o)

    def __or__(self, o: V | Var | int) -> V:
        return self._binary("or", o)

    def __xor__(self, o: V | Var | int) -> V:
        return self._binary("xor", o)

    def __lshift__(self, o: V | Var | int) -> V:
        return self._binary("shl", o)

    def __rshift__(self, o: V | Var | int) -> V:
        """Logical shift right; `sar` is the arithmetic one."""
        return self._binary("lshr", o)

    def __neg__(self) -> V:
        return self.k.emit("fneg", self.ty, (self,)) if self.ty.is_float else 0 - self

    def sar(self, o: V | Var | int) -> V:
        return self._binary("ashr", o)

    def udiv(self, o: V | Var | int) -> V:
        return self._binary("udiv", o)

    def urem(self, o: V | Var | int) -> V:
        return self._binary("urem", o)

    def _compare(self, relation: str, o: V | Var | int | float) -> V:
        a, b = self.k.unify(self, o)
        return self.k.emit("fcmp" if a.ty.is_float else "icmp", a.ty.of(I1), (a, b), relation)

    def __lt__(self, o: V | Var | int | float) -> V:
        return self._compare("lt", o)

    def __le__(self, o: V | Var | int | float) -> V:
        return self._compare("le", o)

    def __gt__(self, o: V | Var | int | float) -> V:
        return self._compare("gt", o)

    def __ge__(self, o: V | Var | int | float) -> V:
        return self._compare("ge", o)

    def eq(self, o: V | Var | int | float) -> V:
        return self._compare("eq", o)

    def ne(self, o: V | Var | int | float) -> V:
        """Not equal; true when an operand is NaN."""
        return self._compare("ne", o)

    def ult(self, o: V | Var | int) -> V:
        return self._compare("ult", o)

    def convert(self, op: str, elt: Ty) -> V:
        """sext zext trunc sitofp uitofp fptosi fptoui fpext fptrunc, lanes kept."""
        return self.k.emit(op, self.ty.of(elt), (self,))

    def sext(self, elt: Ty) -> V:
        return self.convert("sext", elt)

    def zext(self, elt: Ty) -> V:
        return self.convert("zext", elt)

    def trunc(self, elt: Ty) -> V:
        return self.convert("trunc", elt)

    def to_float(self, elt: Ty = F32) -> V:
        return self.convert("sitofp", elt)

    def to_int(self, elt: Ty = I32) -> V:
        return self.convert("fptosi", elt)

    def bitcast(self, ty: Ty) -> V:
        return self.k.emit("bitcast", ty, (self,))

    def splat(self, lanes: int) -> V:
        """Every lane this scalar; lanes 0 leaves it a scalar."""
        return self if not lanes else self.k.emit("splat", self.ty.vec(lanes), (self,))

    def at(self, offset: V | Var | int, scale: int = 1) -> V:
        """This pointer plus offset * scale bytes."""
        k = self.k
        if isinstance(offset, int):
            return self if offset == 0 else k.emit("gep", PTR, (self, k.i64(offset * scale)), 1)
        o = k.value(offset)
        if o.ty != I64:
            o = o.sext(I64)
        if scale not in (1, 2, 4, 8):
            o, scale = o * scale, 1
        return k.emit("gep", PTR, (self, o), scale)

    def load(self, ty: Ty, align: int = 1) -> V:
        return self.k.emit("load", ty, (self,), align)

    def store(self, value: V | Var, align: int = 1) -> None:
        self.k.effect("store", (self.k.value(value), self), align)

    def load_masked(self, ty: Ty, mask: V) -> V:
        """Lanes where mask holds; the others are zero and their memory is not touched."""
        return self.k.emit("mload", ty, (self, mask))

    def store_masked(self, value: V | Var, mask: V) -> None:
        self.k.effect("mstore", (self.k.value(value), self, mask))

    def gather(self, ty: Ty, offsets: V, mask: V | None = None) -> V:
        """Lane i from this pointer + offsets[i] bytes (i64 lanes); masked-off lanes are zero."""
        m = mask or self.k.constant(ty.of(I1), 1)
        return self.k.emit("gather", ty, (self, offsets, m))

    def scatter(self, value: V, offsets: V, mask: V | None = None) -> None:
        m = mask or self.k.constant(value.ty.of(I1), 1)
        self.k.effect("scatter", (value, self, offsets, m))

    def shuffle(self, lanes: Sequence[int], other: V | None = None) -> V:
        """Lane i of the result is lane lanes[i] of (self, other) concatenated."""
        return self.k.emit("shuffle", self.ty.scalar.vec(len(lanes)), (self, other or self), tuple(lanes))

    def extract(self, lane: int) -> V:
        return self.k.emit("extract", self.ty.scalar, (self,), lane)


class Var:
    """A mutable variable; becomes a register when compiled."""

    __slots__ = ("cell", "k", "ty")

    def __init__(self, k: Kernel, init: V) -> None:
        self.k = k
        self.ty = init.ty
        self.cell = k.alloca(init.ty)
        self.set(init)

    def get(self) -> V:
        return self.k.emit("get", self.ty, (self.cell.reg,))

    def set(self, value: V | Var | int | float) -> None:
        v = self.k.constant(self.ty, value) if isinstance(value, int | float) else self.k.value(value)
        assert v.ty == self.ty, f"variable of type {self.ty} set to {v.ty}"
        self.k.effect("set", (self.cell.reg, v))

    def __iadd__(self, o: V | Var | int | float) -> Var:
        self.set(self.get() + o)
        return self

    def __isub__(self, o: V | Var | int | float) -> Var:
        self.set(self.get() - o)
        return self


class Kernel:
    """A kernel being traced. fields name the words of its argument block: (name, PTR | I64 | F32 | F64 | I32)."""

    def __init__(self, name: str, fields: Sequence[tuple[str, Ty]], vector_bits: int = 512) -> None:
        self._count = 0
        params = (self._reg(PTR), self._reg(I64), self._reg(I64), self._reg(PTR))
        self.program = Program(name, tuple(fields), params, vector_bits=vector_bits)
        self._head: list[Stmt] = []
        self._body: list[Stmt] = []
        self._constants: dict[tuple[Ty, str], V] = {}
        self.lo, self.hi, self.scratch = V(self, params[1]), V(self, params[2]), V(self, params[3])
        block = V(self, params[0])
        self.arg = SimpleNamespace(**{n: block.at(8 * i).load(t, 8) for i, (n, t) in enumerate(fields)})

    def finish(self, scratch_bytes: int = 0) -> Program:
        """The program; scratch_bytes is what one thread needs at `scratch`."""
        self.program.body = self._head + self._body
        self.program.scratch_bytes = scratch_bytes
        return self.program

    def _reg(self, ty: Ty) -> Reg:
        self._count += 1
        return Reg(self._count, ty)

    def emit(self, op: str, ty: Ty, args: Sequence[V | Reg], attr: object = None) -> V:
        """Append an instruction with a result."""
        out = self._reg(ty)
        self._body.append(Instr(op, out, tuple(a.reg if isinstance(a, V) else a for a in args), attr))
        return V(self, out)

    def effect(self, op: str, args: Sequence[V | Reg], attr: object = None) -> None:
        """Append an instruction without a result."""
        self._body.append(Instr(op, None, tuple(a.reg if isinstance(a, V) else a for a in args), attr))

    def alloca(self, ty: Ty) -> V:
        out = self._reg(ty)
        self._head.append(Instr("var", out, ()))
        return V(self, out)

    def local(self, nbytes: int, align: int = 64) -> V:
        """A stack buffer of fixed size; small ones only, bigger ones belong in scratch."""
        out = self._reg(PTR)
        self._head.append(Instr("local", out, (), (nbytes, align)))
        return V(self, out)

    def var(self, init: V | Var) -> Var:
        return Var(self, self.value(init))

    def value(self, x: V | Var) -> V:
        return x.get() if isinstance(x, Var) else x

    def constant(self, ty: Ty, number: int | float) -> V:
        """A constant of any type, every lane the same."""
        n = float(number) if ty.is_float else int(number)
        key = (ty, repr(n))
        if key not in self._constants:
            out = self._reg(ty)
            self._head.append(Instr("const", out, (), n))
            self._constants[key] = V(self, out)
        return self._constants[key]

    def lanes(self, ty: Ty, numbers: Sequence[int | float]) -> V:
        """A constant vector."""
        return self.emit("constv", ty, (), tuple(numbers))

    def i64(self, x: int) -> V:
        return self.constant(I64, x)

    def i32(self, x: int) -> V:
        return self.constant(I32, x)

    def f32(self, x: float) -> V:
        return self.constant(F32, x)

    def zero(self, ty: Ty) -> V:
        return self.constant(ty, 0)

    def unify(self, a: V, b: V | Var | int | float) -> tuple[V, V]:
        """Both as values of one type: numbers become constants, scalars are spread over lanes."""
        if isinstance(b, int | float):
            return a, self.constant(a.ty, b)
        v = self.value(b)
        if a.ty.lanes and not v.ty.lanes:
            v = v.splat(a.ty.lanes)
        elif v.ty.lanes and not a.ty.lanes:
            a = a.splat(v.ty.lanes)
        assert a.ty == v.ty, f"operands of types {a.ty} and {v.ty}"
        return a, v

    def unary(self, op: str, x: V) -> V:
        """fabs sqrt floor ceil rint trunc ctpop ctlz cttz bitreverse."""
        return self.emit(op, x.ty, (x,))

    def min(self, a: V, b: V | Var | int | float) -> V:
        """a if a < b else b (the second operand when one is NaN)."""
        x, y = self.unify(a, b)
        return self.emit("fmin" if x.ty.is_float else "smin", x.ty, (x, y))

    def max(self, a: V, b: V | Var | int | float) -> V:
        """a if a > b else b (the second operand when one is NaN)."""
        x, y = self.unify(a, b)
        return self.emit("fmax" if x.ty.is_float else "smax", x.ty, (x, y))

    def fma(self, a: V | Var | float, b: V | Var | float, c: V | Var) -> V:
        """a * b + c, rounded once."""
        acc = self.value(c)
        x, y = (self._as(acc.ty, v) for v in (a, b))
        return self.emit("fma", acc.ty, (x, y, acc))

    def _as(self, ty: Ty, v: V | Var | float) -> V:
        if isinstance(v, int | float):
            return self.constant(ty, v)
        x = self.value(v)
        return x.splat(ty.lanes) if ty.lanes and not x.ty.lanes else x

    def select(self, condition: V, a: V | Var | int | float, b: V | Var | int | float) -> V:
        """a in lanes where condition holds, else b; one of both must be a value."""
        if isinstance(a, int | float):
            assert not isinstance(b, int | float), "select needs at least one value"
            y = self.value(b)
            x = self.constant(y.ty, a)
        else:
            x, y = self.unify(self.value(a), b)
        if condition.ty.lanes != x.ty.lanes and not condition.ty.lanes:
            condition = condition.splat(x.ty.lanes)
        return self.emit("select", x.ty, (condition, x, y))

    def reduce(self, op: str, v: V) -> V:
        """add mul min max over the lanes: halves are combined until one is left, the same tree on every target."""
        while v.ty.lanes > 1:
            half = v.ty.lanes // 2
            a, b = v.shuffle(range(half)), v.shuffle(range(half, 2 * half))
            if op in ("min", "max"):
                v = self.min(a, b) if op == "min" else self.max(a, b)
            else:
                v = a + b if op == "add" else a * b
        return v.extract(0)

    def iota(self, ty: Ty) -> V:
        """0, 1, 2, ... in the lanes."""
        return self.lanes(ty, range(ty.lanes))

    def below(self, count: V, lanes: int) -> V:
        """The mask of the first `count` lanes (count is i64)."""
        return self.iota(I32.vec(lanes)) < self.min(self.max(count, 0), lanes).trunc(I32).splat(lanes)

    def prefetch(self, p: V, locality: int = 3) -> None:
        self.effect("prefetch", (p,), locality)

    def intrinsic(self, name: str, ty: Ty, *args: V) -> V:
        """An instruction of the target by its registered name (targets/); it has a numpy meaning there."""
        return self.emit("intrinsic", ty, args, name)

    @contextlib.contextmanager
    def loop(self, stop: V | Var | int, start: V | Var | int = 0, step: V | Var | int = 1) -> Generator[V, None, None]:
        """Run the body for index in range(start, stop, step); step is positive."""
        bounds = [self.i64(x) if isinstance(x, int) else self.value(x) for x in (start, stop, step)]
        index = self._reg(I64)
        outer, self._body = self._body, []
        yield V(self, index)
        body, self._body = self._body, outer
        self._body.append(Loop(index, bounds[0].reg, bounds[1].reg, bounds[2].reg, body))

    def units(self) -> contextlib.AbstractContextManager[V]:
        """The loop over this call's share of the work."""
        return self.loop(self.hi, self.lo)

    @contextlib.contextmanager
    def when(self, condition: V) -> Generator[None, None, None]:
        outer, self._body = self._body, []
        yield
        body, self._body = self._body, outer
        self._body.append(If(condition.reg, body, []))

    def branch(self, condition: V, then: Callable[[], None], orelse: Callable[[], None]) -> None:
        """Run one of both."""
        outer, self._body = self._body, []
        then()
        a, self._body = self._body, []
        orelse()
        b, self._body = self._body, outer
        self._body.append(If(condition.reg, a, b))

    @contextlib.contextmanager
    def while_(self, test: Callable[[], V]) -> Generator[None, None, None]:
        """Run the body as long as test(), evaluated before each round, holds."""
        outer, self._body = self._body, []
        condition = test()
        head, self._body = self._body, []
        yield
        body, self._body = self._body, outer
        self._body.append(While(head, condition.reg, body))
