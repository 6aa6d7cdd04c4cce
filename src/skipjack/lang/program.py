"""The kernel program that the tracer leaves and back ends read: typed registers, instructions, control flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "ptr": 8}


@dataclass(frozen=True)
class Ty:
    """A scalar (lanes 0) or a vector of lanes elements; elt is one of i1 i8 i16 i32 i64 f16 f32 f64 ptr, or bf16.

    bf16 is only a name for 16 bits that some instructions want: values become it by bitcast, nothing computes with it.
    """

    elt: str
    lanes: int = 0

    @property
    def scalar(self) -> Ty:
        return Ty(self.elt)

    @property
    def is_float(self) -> bool:
        return self.elt[0] == "f"

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return 1 if self.elt == "i1" else 8 * _BYTES[self.elt]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole value in memory."""
        return _BYTES[self.elt] * max(self.lanes, 1)

    def vec(self, lanes: int) -> Ty:
        return Ty(self.elt, lanes)

    def of(self, elt: Ty) -> Ty:
        """The type with the same lanes and another element."""
        return Ty(elt.elt, self.lanes)

    def __str__(self) -> str:
        return f"{self.elt}x{self.lanes}" if self.lanes else self.elt


I1, I8, I16, I32, I64 = Ty("i1"), Ty("i8"), Ty("i16"), Ty("i32"), Ty("i64")
F16, BF16, F32, F64, PTR = Ty("f16"), Ty("bf16"), Ty("f32"), Ty("f64"), Ty("ptr")


@dataclass(slots=True)
class Reg:
    """A value that is assigned once."""

    id: int
    ty: Ty


@dataclass(slots=True)
class Instr:
    """`out = op(args)`; attr holds what is not a register (a constant, lanes of a shuffle, a comparison)."""

    op: str
    out: Reg | None
    args: tuple[Reg, ...]
    attr: Any = None


@dataclass(slots=True)
class Loop:
    """for index in range(start, stop, step), signed 64-bit."""

    index: Reg
    start: Reg
    stop: Reg
    step: Reg
    body: list[Stmt]


@dataclass(slots=True)
class If:
    """if condition: then, else: orelse."""

    condition: Reg
    then: list[Stmt]
    orelse: list[Stmt]


@dataclass(slots=True)
class While:
    """Run test; while its last register `condition` holds, run body and test again."""

    test: list[Stmt]
    condition: Reg
    body: list[Stmt]


Stmt = Instr | Loop | If | While


@dataclass
class Program:
    """One kernel: `void name(args, lo, hi, scratch)` over the units [lo, hi) of its work.

    args points to 8-byte words described by fields, in order. scratch is private to the thread.
    """

    name: str
    fields: tuple[tuple[str, Ty], ...]
    params: tuple[Reg, Reg, Reg, Reg]
    body: list[Stmt] = field(default_factory=list["Stmt"])
    vector_bits: int = 512
    scratch_bytes: int = 0


def text(program: Program) -> str:
    """A readable, deterministic listing."""
    lines = [f"kernel {program.name}({', '.join(f'{n}: {t}' for n, t in program.fields)})"]
    _write(program.body, lines, "  ")
    return "\n".join(lines)


def _write(body: list[Stmt], lines: list[str], pad: str) -> None:
    for s in body:
        if isinstance(s, Instr):
            args = " ".join(f"%{a.id}" for a in s.args)
            out = f"%{s.out.id}:{s.out.ty} = " if s.out else ""
            attr = "" if s.attr is None else f" {s.attr}"
            lines.append(f"{pad}{out}{s.op} {args}{attr}")
        elif isinstance(s, Loop):
            lines.append(f"{pad}for %{s.index.id} in %{s.start.id}..%{s.stop.id} step %{s.step.id}")
            _write(s.body, lines, pad + "  ")
        elif isinstance(s, If):
            lines.append(f"{pad}if %{s.condition.id}")
            _write(s.then, lines, pad + "  ")
            if s.orelse:
                lines.append(f"{pad}else")
                _write(s.orelse, lines, pad + "  ")
        else:
            lines.append(f"{pad}while")
            _write(s.test, lines, pad + "  ? ")
            _write(s.body, lines, pad + "  ")
