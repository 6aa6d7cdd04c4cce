"""Kernel program to LLVM IR text."""

from __future__ import annotations

import math
import struct

from skipjack.lang.program import If, Instr, Loop, Program, Reg, Stmt, Ty, While

_LLVM = {"f16": "half", "bf16": "bfloat", "f32": "float", "f64": "double", "ptr": "ptr"}
_BINARY = frozenset(
    [
        "add",
        "sub",
        "mul",
        "sdiv",
        "udiv",
        "srem",
        "urem",
        "and",
        "or",
        "xor",
        "shl",
        "lshr",
        "ashr",
        "fadd",
        "fsub",
        "fmul",
        "fdiv",
        "frem",
    ]
)
_CAST = frozenset(["sext", "zext", "trunc", "sitofp", "uitofp", "fptosi", "fptoui", "fpext", "fptrunc", "bitcast"])
_INTRINSIC = {
    "fabs": "fabs", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "rint": "rint", "trunc_f": "trunc",
    "ctpop": "ctpop", "fma": "fma",
}  # fmt: skip
_COUNT_ZEROS = {"ctlz", "cttz"}
_FCMP = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_ICMP = {"lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge", "eq": "eq", "ne": "ne"} | {
    r: r for r in ("ult", "ule", "ugt", "uge")
}


def llvm_type(ty: Ty) -> str:
    """The LLVM spelling of a type."""
    e = _LLVM.get(ty.elt, ty.elt)
    return f"<{ty.lanes} x {e}>" if ty.lanes else e


def _suffix(ty: Ty) -> str:
    e = "p0" if ty.elt == "ptr" else ty.elt
    return f"v{ty.lanes}{e}" if ty.lanes else e


def _number(ty: Ty, x: int | float) -> str:
    if ty.elt == "f32":
        return "0x" + struct.pack(">d", struct.unpack("<f", struct.pack("<f", _clip_f32(x)))[0]).hex().upper()
    if ty.elt == "f64":
        return "0x" + struct.pack(">d", float(x)).hex().upper()
    if ty.elt == "f16":
        return "0xH" + struct.pack(">e", x).hex().upper()
    if ty.elt == "ptr":
        return "null"
    return str(int(x))


def _clip_f32(x: int | float) -> float:
    largest = 3.4028234663852886e38
    return float(x) if math.isinf(x) else max(min(float(x), largest), -largest)


class _Writer:
    """Writes one function; constants are spelled where they are used."""

    def __init__(self, declarations: set[str]) -> None:
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.literal: dict[int, str] = {}
        self.declarations = declarations
        self.blocks = 0
        self.temps = 0
        self.block = "entry"

    def ref(self, r: Reg) -> str:
        return self.literal.get(r.id) or f"%r{r.id}"

    def typed(self, r: Reg) -> str:
        return f"{llvm_type(r.ty)} {self.ref(r)}"

    def add(self, line: str) -> None:
        self.lines.append("  " + line)

    def temp(self) -> str:
        self.temps += 1
        return f"%t{self.temps}"

    def label(self, name: str) -> str:
        self.blocks += 1
        return f"{name}{self.blocks}"

    def open(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def call(self, out: str, result: str, name: str, args: str, types: str) -> None:
        self.declarations.add(f"declare {result} @{name}({types})")
        self.add(f"{out}call {result} @{name}({args})")

    def body(self, stmts: list[Stmt]) -> None:
        for s in stmts:
            if isinstance(s, Instr):
                self.instr(s)
            elif isinstance(s, Loop):
                self.loop(s)
            elif isinstance(s, If):
                self.branch(s)
            else:
                self.repeat(s)

    def loop(self, s: Loop) -> None:
        body, done, before = self.label("loop"), self.label("done"), self.block
        start, stop, step = self.ref(s.start), self.ref(s.stop), self.ref(s.step)
        guard, again, following = self.temp(), self.temp(), self.temp()
        self.add(f"{guard} = icmp slt i64 {start}, {stop}")
        self.add(f"br i1 {guard}, label %{body}, label %{done}")
        self.open(body)
        phi_at = len(self.lines)
        self.body(s.body)
        self.lines.insert(phi_at, f"  %r{s.index.id} = phi i64 [ {start}, %{before} ], [ {following}, %{self.block} ]")
        self.add(f"{following} = add nsw i64 %r{s.index.id}, {step}")
        self.add(f"{again} = icmp slt i64 {following}, {stop}")
        self.add(f"br i1 {again}, label %{body}, label %{done}")
        self.open(done)

    def branch(self, s: If) -> None:
        then, orelse, done = self.label("then"), self.label("else"), self.label("end")
        self.add(f"br i1 {self.ref(s.condition)}, label %{then}, label %{orelse}")
        self.open(then)
        self.body(s.then)
        self.add(f"br label %{done}")
        self.open(orelse)
        self.body(s.orelse)
        self.add(f"br label %{done}")
        self.open(done)

    def repeat(self, s: While) -> None:
        test, body, done = self.label("test"), self.label("body"), self.label("end")
        self.add(f"br label %{test}")
        self.open(test)
        self.body(s.test)
        self.add(f"br i1 {self.ref(s.condition)}, label %{body}, label %{done}")
        self.open(body)
        self.body(s.body)
        self.add(f"br label %{test}")
        self.open(done)

    def instr(self, s: Instr) -> None:
        method = getattr(self, "do_" + s.op, None)
        if method is not None:
            method(s)
        elif s.op in _BINARY:
            self.add(f"%r{self.out(s)} = {s.op} {self.typed(s.args[0])}, {self.ref(s.args[1])}")
        elif s.op in _CAST:
            self.add(f"%r{self.out(s)} = {s.op} {self.typed(s.args[0])} to {llvm_type(self.ty(s))}")
        elif s.op in _INTRINSIC or s.op in _COUNT_ZEROS:
            self._named(s)
        elif s.op in ("smin", "smax", "umin", "umax"):
            self._simple_call(s, f"llvm.{s.op}.{_suffix(self.ty(s))}")
        else:
            raise AssertionError(f"lowering met the unknown instruction {s.op!r}")

    @staticmethod
    def out(s: Instr) -> int:
        assert s.out is not None, f"instruction {s.op} has no result"
        return s.out.id

    @staticmethod
    def ty(s: Instr) -> Ty:
        assert s.out is not None, f"instruction {s.op} has no result"
        return s.out.ty

    def _simple_call(self, s: Instr, name: str) -> None:
        args, types = ", ".join(map(self.typed, s.args)), ", ".join(llvm_type(a.ty) for a in s.args)
        self.call(f"%r{self.out(s)} = ", llvm_type(self.ty(s)), name, args, types)

    def _named(self, s: Instr) -> None:
        suffix, t = _suffix(self.ty(s)), llvm_type(self.ty(s))
        if s.op in _COUNT_ZEROS:
            args = f"{self.typed(s.args[0])}, i1 false"
            self.call(f"%r{self.out(s)} = ", t, f"llvm.{s.op}.{suffix}", args, f"{t}, i1")
        else:
            self._simple_call(s, f"llvm.{_INTRINSIC[s.op]}.{suffix}")

    def do_const(self, s: Instr) -> None:
        ty = self.ty(s)
        one = _number(ty.scalar, s.attr)
        if not ty.lanes:
            self.literal[self.out(s)] = one
        elif s.attr == 0 and str(s.attr) != "-0.0":
            self.literal[self.out(s)] = "zeroinitializer"
        else:
            self.literal[self.out(s)] = "<" + ", ".join([f"{llvm_type(ty.scalar)} {one}"] * ty.lanes) + ">"

    def do_constv(self, s: Instr) -> None:
        e = self.ty(s).scalar
        self.literal[self.out(s)] = "<" + ", ".join(f"{llvm_type(e)} {_number(e, x)}" for x in s.attr) + ">"

    def do_var(self, s: Instr) -> None:
        self.entry.append(f"  %r{self.out(s)} = alloca {llvm_type(self.ty(s))}")

    def do_local(self, s: Instr) -> None:
        self.entry.append(f"  %r{self.out(s)} = alloca [{s.attr[0]} x i8], align {s.attr[1]}")

    def do_get(self, s: Instr) -> None:
        self.add(f"%r{self.out(s)} = load {llvm_type(self.ty(s))}, ptr %r{s.args[0].id}")

    def do_set(self, s: Instr) -> None:
        self.add(f"store {self.typed(s.args[1])}, ptr %r{s.args[0].id}")

    def do_gep(self, s: Instr) -> None:
        pointer, offset = map(self.ref, s.args)
        self.add(f"%r{self.out(s)} = getelementptr inbounds i{8 * s.attr}, ptr {pointer}, i64 {offset}")

    def do_load(self, s: Instr) -> None:
        self.add(f"%r{self.out(s)} = load {llvm_type(self.ty(s))}, ptr {self.ref(s.args[0])}, align {s.attr}")

    def do_store(self, s: Instr) -> None:
        self.add(f"store {self.typed(s.args[0])}, ptr {self.ref(s.args[1])}, align {s.attr}")

    def do_mload(self, s: Instr) -> None:
        ty, mask = llvm_type(self.ty(s)), llvm_type(s.args[1].ty)
        args = f"ptr align 1 {self.ref(s.args[0])}, {self.typed(s.args[1])}, {ty} zeroinitializer"
        self.call(f"%r{self.out(s)} = ", ty, f"llvm.masked.load.{_suffix(self.ty(s))}.p0", args, f"ptr, {mask}, {ty}")

    def do_mstore(self, s: Instr) -> None:
        value, pointer, mask = s.args
        args = f"{self.typed(value)}, ptr align 1 {self.ref(pointer)}, {self.typed(mask)}"
        types = f"{llvm_type(value.ty)}, ptr, {llvm_type(mask.ty)}"
        self.call("", "void", f"llvm.masked.store.{_suffix(value.ty)}.p0", args, types)

    def _addresses(self, pointer: Reg, offsets: Reg) -> str:
        t = self.temp()
        self.add(f"{t} = getelementptr i8, ptr {self.ref(pointer)}, {self.typed(offsets)}")
        return f"<{offsets.ty.lanes} x ptr> align 1 {t}"

    def do_gather(self, s: Instr) -> None:
        ty, n = self.ty(s), self.ty(s).lanes
        p = self._addresses(s.args[0], s.args[1])
        args = f"{p}, {self.typed(s.args[2])}, {llvm_type(ty)} zeroinitializer"
        types = f"<{n} x ptr>, <{n} x i1>, {llvm_type(ty)}"
        self.call(f"%r{self.out(s)} = ", llvm_type(ty), f"llvm.masked.gather.{_suffix(ty)}.v{n}p0", args, types)

    def do_scatter(self, s: Instr) -> None:
        value, pointer, offsets, mask = s.args
        p, n = self._addresses(pointer, offsets), value.ty.lanes
        types = f"{llvm_type(value.ty)}, <{n} x ptr>, <{n} x i1>"
        name = f"llvm.masked.scatter.{_suffix(value.ty)}.v{n}p0"
        self.call("", "void", name, f"{self.typed(value)}, {p}, {self.typed(mask)}", types)

    def do_splat(self, s: Instr) -> None:
        ty, t = self.ty(s), self.temp()
        self.add(f"{t} = insertelement {llvm_type(ty)} poison, {self.typed(s.args[0])}, i32 0")
        zeros = f"<{ty.lanes} x i32> zeroinitializer"
        self.add(f"%r{self.out(s)} = shufflevector {llvm_type(ty)} {t}, {llvm_type(ty)} poison, {zeros}")

    def do_shuffle(self, s: Instr) -> None:
        mask = ", ".join(f"i32 {i}" for i in s.attr)
        pair = ", ".join(map(self.typed, s.args))
        self.add(f"%r{self.out(s)} = shufflevector {pair}, <{len(s.attr)} x i32> <{mask}>")

    def do_extract(self, s: Instr) -> None:
        self.add(f"%r{self.out(s)} = extractelement {self.typed(s.args[0])}, i32 {s.attr}")

    def do_fneg(self, s: Instr) -> None:
        self.add(f"%r{self.out(s)} = fneg {self.typed(s.args[0])}")

    def do_trunc(self, s: Instr) -> None:
        if s.args[0].ty.is_float:
            self._simple_call(s, f"llvm.trunc.{_suffix(self.ty(s))}")
        else:
            self.add(f"%r{self.out(s)} = trunc {self.typed(s.args[0])} to {llvm_type(self.ty(s))}")

    def do_fcmp(self, s: Instr) -> None:
        self.add(f"%r{self.out(s)} = fcmp {_FCMP[s.attr]} {self.typed(s.args[0])}, {self.ref(s.args[1])}")

    def do_icmp(self, s: Instr) -> None:
        self.add(f"%r{self.out(s)} = icmp {_ICMP[s.attr]} {self.typed(s.args[0])}, {self.ref(s.args[1])}")

    def do_select(self, s: Instr) -> None:
        self.add(f"%r{self.out(s)} = select " + ", ".join(map(self.typed, s.args)))

    def _min_max(self, s: Instr, relation: str) -> None:
        t = self.temp()
        self.add(f"{t} = fcmp {relation} {self.typed(s.args[0])}, {self.ref(s.args[1])}")
        n = self.ty(s).lanes
        mask = f"<{n} x i1>" if n else "i1"
        self.add(f"%r{self.out(s)} = select {mask} {t}, {self.typed(s.args[0])}, {self.typed(s.args[1])}")

    def do_fmin(self, s: Instr) -> None:
        self._min_max(s, "olt")

    def do_fmax(self, s: Instr) -> None:
        self._min_max(s, "ogt")

    def do_prefetch(self, s: Instr) -> None:
        args = f"ptr {self.ref(s.args[0])}, i32 0, i32 {s.attr}, i32 1"
        self.call("", "void", "llvm.prefetch.p0", args, "ptr, i32, i32, i32")

    def do_tile(self, s: Instr) -> None:
        name, *tiles = s.attr
        args = ", ".join([*(f"i8 {t}" for t in tiles), *map(self.typed, s.args)])
        types = ", ".join([*["i8"] * len(tiles), *(llvm_type(a.ty) for a in s.args)])
        self.call("", "void", f"llvm.x86.{name}", args, types)

    def do_intrinsic(self, s: Instr) -> None:
        args, types = ", ".join(map(self.typed, s.args)), ", ".join(llvm_type(a.ty) for a in s.args)
        self.call(f"%r{self.out(s)} = ", llvm_type(self.ty(s)), s.attr, args, types)


def lower(programs: list[Program]) -> str:
    """One LLVM module holding every program as an exported function."""
    declarations: set[str] = set()
    functions = [_function(p, declarations) for p in programs]
    return "\n".join(functions + sorted(declarations)) + "\n"


def _function(p: Program, declarations: set[str]) -> str:
    w = _Writer(declarations)
    w.body(p.body)
    w.add("ret void")
    params = ", ".join(f"{llvm_type(r.ty)} %r{r.id}" for r in p.params)
    attributes = f'nounwind "prefer-vector-width"="{p.vector_bits}" "min-legal-vector-width"="{p.vector_bits}"'
    head = f"define void @{p.name}({params}) {attributes} {{\nentry:"
    return "\n".join([head, *w.entry, *w.lines, "}"])
