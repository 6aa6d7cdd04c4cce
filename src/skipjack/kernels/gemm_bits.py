"""MatMulNBits: weights of 2, 4 or 8 bits, unpacked to f32 panels once, when the node is first bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS
from skipjack.kernels.epilogue import accepts_epilogue, epilogue_of
from skipjack.kernels.gemm import Matrices, launch, pack_panels
from skipjack.kernels.gemm_block import block_shape
from skipjack.kernels.launch import Launch, Lowering, Site, Work, lowering
from skipjack.ops.microsoft import dequantized_nbits
from skipjack.ops.registry import Ref

_OPERANDS = 6
_FLOATS = (DType.F32, DType.F16, DType.BF16)


def _accepts(site: Site) -> str:
    given = list(zip(site.inputs, site.constants, strict=True))
    if given[0][0] is None or given[0][0].dtype not in _FLOATS:
        return "computes in f32"
    if any(t is not None and c is None for t, c in given[1:_OPERANDS]):
        return "its weight is not constant"
    return "a bias is added by a node of its own" if len(given) > 5 else accepts_epilogue(site, _OPERANDS)


def _lower(work: Work) -> list[Launch]:
    x, y = work.input(0), work.output()
    depth, columns = int(work.attr("K")), int(work.attr("N"))
    rows = y.elements // columns
    if not rows:
        return []
    width = block_shape(work.target).columns
    constants = [None if b is None else b.value for b in work.inputs[1:]]

    def pack(codes: np.ndarray) -> np.ndarray:
        weight = dequantized_nbits(Ref(work.node, [None, codes, *constants[1:]]))
        return pack_panels(weight.T, width)

    # Equal codes of two nodes may have other scales, and sizes or bits may differ: all of them name the panels.
    others = ",".join(b.name for b in work.inputs[2:] if b is not None)
    panels = work.memory.packed(work.input(1), f"panels{width}:{depth}x{columns}:{work.attr('bits', 4)}:{others}", pack)
    matrices = Matrices(x.place, x.dtype, panels, rows, depth, columns)
    plain = replace(work, inputs=work.inputs[:2])
    return [launch(plain, matrices, epilogue_of(plain))]


lowering(Lowering("gemm_f32 (unpacked weights)", MS, "MatMulNBits", _accepts, _lower))
