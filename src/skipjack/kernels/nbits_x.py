"""Activations in fixed point, group by group: what codes of weights are multiplied with, exactly.

A number is its group's scale times an integer, which is held as planes of signed bytes, the highest first: one plane
where a model asks for 8-bit activations, else three, whose step is 2^-23 of the group's largest number: the rounding
of f32. Where a group holds an infinity or NaN its scale is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import load_as
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Memory, Place, generator
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I8, I32, I64, PTR, Program
from skipjack.targets.target import Target

FULL_PLANES = 3
_LARGEST = {1: 127.0, FULL_PLANES: 127.0 * 65536}
_SMALLEST = 1e-30
_LINE_BYTES = 64


@dataclass(frozen=True)
class Planes:
    """Where the rows of X lie: planes of bytes, a scale per group, and per group the sum of each plane.

    Row r starts at r * row_bytes, its planes are plane_bytes apart; features behind the last are zero.
    """

    values: Place
    scales: Place
    sums: Place
    row_bytes: int
    plane_bytes: int


def quantised(memory: Memory, x: Bound, rows: int, depth: int, group: int, planes: int) -> tuple[Planes, list[Launch]]:
    """X [rows, depth] in planes, and the launch that writes them."""
    groups = -(-depth // group)
    plane_bytes = groups * group
    # An odd number of lines between rows: neighbouring rows meet in no cache set.
    lines = -(-planes * plane_bytes // _LINE_BYTES) | 1
    row_bytes = lines * _LINE_BYTES
    sizes = (rows * row_bytes, 4 * rows * groups, 4 * rows * groups * planes)
    values, scales, sums = (memory.temporary(n) for n in sizes)
    p = Planes(values, scales, sums, row_bytes, plane_bytes)
    words = (rows, depth, group, groups, row_bytes, plane_bytes)
    made = (values, scales, sums)
    return p, [Launch(KernelSpec("nbits_x", (x.dtype, planes)), rows, (x.place, *made, *words), (x.place,), made)]


@generator("nbits_x")
def nbits_x(target: Target, symbol: str, x_type: DType, planes: int) -> Program:
    """A unit is one row."""
    pointers = [(n, PTR) for n in ("x", "values", "scales", "sums")]
    words = [(n, I64) for n in ("rows", "k", "group", "groups", "row_bytes", "plane_bytes")]
    k = Kernel(symbol, [*pointers, *words], target.vector_bytes * 8)
    with k.units() as row, k.loop(k.arg.groups) as group:
        _group(k, target.vl, x_type, planes, row, group)
    return k.finish()


def _group(k: Kernel, vl: int, x_type: DType, planes: int, row: V, group: V) -> None:
    a, f32 = k.arg, F32.vec(vl)
    start = group * a.group
    x = a.x.at((row * a.k + start) * x_type.itemsize)

    def loaded(i: V) -> V:
        return load_as(k, x.at(i * x_type.itemsize), x_type, vl, k.below(a.k - start - i, vl))

    largest, strange = k.var(k.zero(f32)), k.var(k.zero(f32))
    with k.loop(a.group, 0, vl) as i:
        value = loaded(i)
        largest.set(k.max(largest.get(), k.unary("fabs", value)))
        strange.set(k.fma(value, 0.0, strange))
    most = k.max(k.reduce("max", largest.get()), _SMALLEST)
    factor = (k.f32(_LARGEST[planes]) / most).splat(vl)
    sums = [k.var(k.zero(I32.vec(vl))) for _ in range(planes)]
    out = a.values.at(row * a.row_bytes + start)
    with k.loop(a.group, 0, vl) as i:
        scaled = k.unary("rint", loaded(i) * factor)
        code = k.select(scaled.eq(scaled), scaled, 0.0).to_int()
        for p, digit in enumerate(_digits(code, planes)):
            sums[p].set(sums[p].get() + digit)
            out.at(a.plane_bytes * p).at(i).store(digit.trunc(I8))
    at = row * a.groups + group
    scale = most * (1.0 / _LARGEST[planes]) + k.reduce("add", strange.get())
    a.scales.at(at, 4).store(scale)
    for p, total in enumerate(sums):
        a.sums.at(at * planes + p, 4).store(k.reduce("add", total.get()))


def _digits(code: V, planes: int) -> list[V]:
    """Signed bytes (i32 lanes), the highest first."""
    found: list[V] = []
    for _ in range(planes - 1):
        low = (code << 24).sar(24)
        found.append(low)
        code = (code - low).sar(8)
    return [code, *reversed(found)]
