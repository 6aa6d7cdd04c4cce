"""MatMulNBits: weights of 2, 4 or 8 bits stay codes in memory; those that are zero are left out where that is quicker.

Activations are brought to fixed point first (kernels/nbits_x.py): to 8 bits where the model's accuracy_level is 4, else
to 24. Sums within a group are exact, so neither the number of rows nor that of threads changes a bit of the result.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, Node
from skipjack.kernels.bitmask import can_expand, expansion_cycles
from skipjack.kernels.epilogue import accepts_epilogue, epilogue_of
from skipjack.kernels.gemv import heights, panel_vectors
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Place, Site, Work, lowering
from skipjack.kernels.nbits_codes import Codes, in_panels, masked_parts, pack_codes, pack_masked
from skipjack.kernels.nbits_few import FewSpec, block_rows
from skipjack.kernels.nbits_many import PART, ManySpec, rows_of_group
from skipjack.kernels.nbits_x import FULL_PLANES, Planes, quantised
from skipjack.ops.microsoft import unpack
from skipjack.targets.target import Target

_OPERANDS = 6
_FEW_ROWS = 8
_SAMPLE_OUTPUTS = 256
_MOST_GROUP = 1 << 15
_CYCLES_PER_US = 3500.0
_BYTES_PER_US = 20_000.0
_FLOATS = (DType.F32, DType.F16, DType.BF16)


@dataclass(frozen=True)
class _Weight:
    """The weight of a node: its sizes, how many planes of X it is multiplied with, its packed codes and its zeros."""

    outputs: int
    depth: int
    group: int
    bits: int
    planes: int
    codes: np.ndarray
    zeros: np.ndarray | None

    @property
    def groups(self) -> int:
        return -(-self.depth // self.group)

    def unpacked(self, packed: np.ndarray) -> np.ndarray:
        """Codes [outputs, groups * group] of some outputs."""
        n = packed.size * 8 // self.bits // (self.groups * self.group)
        return unpack(np.asarray(packed).reshape(n, -1), self.bits).reshape(n, -1)

    def zero_codes(self, zeros: np.ndarray | None) -> np.ndarray | None:
        """The zeros [outputs, groups] as codes; None when they are numbers."""
        if zeros is None:
            return np.full((self.outputs, self.groups), 1 << (self.bits - 1), np.uint8)
        if zeros.dtype != np.uint8:
            return None
        return unpack(zeros.reshape(self.outputs, -1), self.bits)[:, : self.groups]

    def live(self, codes: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """Which codes [outputs, groups * group] count: not those of weight zero, nor those behind K."""
        live = codes != np.repeat(zero, self.group, axis=1)
        live[:, self.depth :] = False
        return live


def _weight(node: Node, constants: Sequence[np.ndarray | None]) -> _Weight:
    """The weight among a node's constants."""
    attrs = {"bits": 4, "accuracy_level": 0} | dict(node.attrs)
    outputs, depth, group, bits, level = (
        int(str(attrs[name])) for name in ("N", "K", "block_size", "bits", "accuracy_level")
    )
    codes = constants[1]
    assert codes is not None, "weights are constant"
    zeros = constants[3] if len(constants) > 3 else None
    return _Weight(outputs, depth, group, bits, 1 if level == 4 else FULL_PLANES, codes, zeros)


def _weight_in(work: Work) -> _Weight:
    return _weight(work.node, [None if b is None else b.value for b in work.inputs])


_densities: dict[int, tuple[weakref.ref[np.ndarray], float]] = {}


def _density(w: _Weight) -> float:
    """The share of codes that are not zero, in a sample of the outputs; 1 where zeros are no codes."""
    found = _densities.get(id(w.codes))
    if found is not None and found[0]() is w.codes:
        return found[1]
    zero = w.zero_codes(w.zeros)
    share = 1.0
    if zero is not None:
        every = max(w.outputs // _SAMPLE_OUTPUTS, 1)
        codes = w.unpacked(w.codes.reshape(w.outputs, -1)[::every])
        share = float(np.count_nonzero(w.live(codes, zero[::every]))) / max(len(codes) * w.depth, 1)
    _densities[id(w.codes)] = (weakref.ref(w.codes), share)
    return share


def _is_masked(w: _Weight, target: Target) -> bool:
    """Whether codes that are zero are left out: where that is quicker for one row."""
    return can_expand(target, 1) and _chunk_us(w, target, 1, True) < _chunk_us(w, target, 1, False)


def _chunk_us(w: _Weight, target: Target, rows: int, masked: bool) -> float:
    """What a vector of stored codes takes: from memory, or to multiply with few rows."""
    fields, width = 8 // w.bits, target.vector_bytes
    size = float(width)
    if masked:
        live = _density(w)
        # The longest of several fields exceeds the mean by about a standard deviation.
        size = fields * width / 8 + min(live * width + (fields > 1) * (live * (1 - live) * width) ** 0.5, width)
    product = 1.0 if target.has("avx512vnni") else 3.0
    blocks = -(-rows // block_rows(target, w.planes))
    shared = fields + fields * expansion_cycles(target, 1) * masked
    cycles = blocks * shared + rows * w.planes * fields * product
    return max(size / _BYTES_PER_US, cycles / _CYCLES_PER_US)


def _us(work: Work) -> float:
    w, target = _weight_in(work), work.target
    rows = work.output().elements // w.outputs
    codes = w.outputs * w.groups * w.group
    chunks = codes * w.bits / 8 / target.vector_bytes
    per_group = 6.0 * w.planes * rows * w.outputs * w.groups / target.vl / _CYCLES_PER_US
    if rows <= _FEW_ROWS:
        return chunks * _chunk_us(w, target, rows, _is_masked(w, target)) + per_group
    product = 1.15 if target.has("avx512vnni") else 3.0
    return rows * codes * w.planes * product / target.vector_bytes / _CYCLES_PER_US + per_group


def _accepts(site: Site, masked: bool) -> str:
    given = list(zip(site.inputs, site.constants, strict=True))
    if given[0][0] is None or given[0][0].dtype not in _FLOATS:
        return "activations are floats"
    if any(t is not None and c is None for t, c in given[1:_OPERANDS]):
        return "its weight is not constant"
    if int(str(site.node.attrs.get("block_size", 0))) > _MOST_GROUP:
        return f"sums of more than {_MOST_GROUP} products do not fit 32 bits"
    if len(given) > 5:
        return "a bias is added by a node of its own"
    if _is_masked(_weight(site.node, site.constants), site.target) != masked:
        return "codes of zero are quicker left out" if not masked else "too few codes are zero"
    return accepts_epilogue(site, _OPERANDS)


def _lower(work: Work) -> list[Launch]:
    w, y = _weight_in(work), work.output()
    rows = y.elements // w.outputs
    if not rows:
        return []
    codes, places = _stored(work, w)
    planes = w.planes
    x, launches = quantised(work.memory, work.input(0), rows, w.depth, w.group, planes)
    target, epilogue = work.target, epilogue_of(replace(work, inputs=work.inputs[:2]))
    panels = -(-w.outputs // (panel_vectors(target) * target.vl))
    if rows <= _FEW_ROWS:
        spec = KernelSpec("nbits_few", (FewSpec(codes, planes, heights(rows, block_rows(target, planes)), epilogue),))
        words = (rows, w.outputs, w.groups, w.group * w.bits // 32, x.row_bytes, x.plane_bytes)
        units = panels
    else:
        spec = KernelSpec("nbits_many", (ManySpec(codes, planes, epilogue),))
        row_groups = -(-rows // rows_of_group(target))
        words = (rows, w.outputs, w.groups, w.group, min(w.group, PART), x.row_bytes, x.plane_bytes, row_groups)
        units = panels * row_groups
    return [*launches, _launch(spec, units, x, places, y, words)]


def _launch(spec: KernelSpec, units: int, x: Planes, places: list[Place], y: Bound, words: tuple[int, ...]) -> Launch:
    read = (x.values, x.scales, x.sums, *places)
    return Launch(spec, units, (*read, y.place, *words), read, (y.place,))


def _stored(work: Work, w: _Weight) -> tuple[Codes, list[Place]]:
    """How the weight lies in memory, and the places that a Decoder reads."""
    target, memory = work.target, work.memory
    vectors = panel_vectors(target)
    columns = vectors * target.vl
    numbers = w.zero_codes(w.zeros)
    middle = numbers is not None and bool(np.all(numbers == 1 << (w.bits - 1)))
    kind = None if middle else DType.F32 if numbers is None else DType.U8
    codes = Codes(w.bits, work.input(2).dtype, kind, _is_masked(w, target))
    size = f"{w.outputs}x{w.groups}x{w.group}:{columns}"
    by_group = f"groups:{w.outputs}x{w.groups}:{columns}"
    shape = (w.outputs, w.groups)
    places = [memory.packed(work.input(2), by_group, lambda a: in_panels(a.reshape(shape), columns))]
    if not middle:

        def pack_zeros(a: np.ndarray) -> np.ndarray:
            given = w.zero_codes(a)
            return in_panels(a.astype(np.float32).reshape(shape) if given is None else given, columns)

        places.append(memory.packed(work.input(3), f"zeros{w.bits}:{by_group}", pack_zeros))
    if not codes.masked:
        panels = memory.packed(
            work.input(1), f"codes{w.bits}:{size}", lambda a: pack_codes(w.unpacked(a), w.bits, columns, vectors)
        )
        return codes, [panels, *places]

    def pack(a: np.ndarray) -> np.ndarray:
        assert numbers is not None, "only codes are left out"
        found = w.unpacked(a)
        return pack_masked(found, w.live(found, numbers), w.bits, columns, vectors)

    zero_name = "" if w.zeros is None else work.input(3).name
    blob = memory.packed(work.input(1), f"masked codes{w.bits}:{size}:{zero_name}", pack)
    chunks = w.groups * w.group * w.bits // 32 * vectors
    parts = masked_parts(-(-w.outputs // columns), chunks, w.bits, target.vector_bytes)
    return codes, [blob.at(parts.values), *places, blob, blob.at(parts.masks)]


for _masked, _name in ((False, "gemm_nbits"), (True, "gemm_nbits (bitmask)")):
    lowering(
        Lowering(
            _name, MS, "MatMulNBits", lambda site, masked=_masked: _accepts(site, masked), _lower,
            cost=_us, encoding="bitmask" if _masked else "dense",
        )
    )  # fmt: skip
