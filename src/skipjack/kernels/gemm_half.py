"""Linear layers of bf16 operands summed in f32 by an instruction that multiplies pairs.

The gemm of f32 runs with a pair of neighbouring bf16 in the place of every f32: W is packed [panel][K / 2][columns][2].
The instruction takes denormal numbers for zeros.
"""

from __future__ import annotations

import numpy as np

from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK
from skipjack.kernels.epilogue import accepts_epilogue, epilogue_of
from skipjack.kernels.gemm import Matrices, launch
from skipjack.kernels.gemm_block import block_shape
from skipjack.kernels.launch import Launch, Lowering, Site, Work, lowering
from skipjack.targets.instructions import DOT_BF16_512

_PRODUCTS_PER_US = 85_000.0


def pack_pairs(w: np.ndarray, columns: int) -> np.ndarray:
    """bf16 [K, M], K even, as [panel][K / 2][columns][2], zeros behind the last column."""
    depth, m = w.shape
    panels = -(-m // columns)
    full = np.zeros((depth, panels * columns), w.dtype)
    full[:, :m] = w
    return np.ascontiguousarray(full.reshape(depth // 2, 2, panels, columns).transpose(2, 0, 3, 1))


def _accepts(site: Site) -> str:
    x, w = site.inputs[0], site.constants[1]
    assert x is not None, "a Linear node lacks its input"
    if not site.target.has(DOT_BF16_512.feature):
        return "this CPU has no products of bf16"
    if w is None:
        return "its weight is not constant"
    if x.dtype is not DType.BF16 or DType.from_numpy(w.dtype) is not DType.BF16:
        return "the operands are not bf16"
    return "an odd number of features makes no pairs" if w.shape[0] % 2 else accepts_epilogue(site)


def _lower(work: Work) -> list[Launch]:
    x, w, y = work.input(0), work.input(1), work.output()
    width = block_shape(work.target).columns
    depth, columns = w.shape
    rows = y.elements // columns if columns else 0
    if not rows:
        return []
    panels = work.memory.packed(w, f"pairs{width}", lambda a: pack_pairs(a, width))
    return [launch(work, Matrices(x.place, DType.I32, panels, rows, depth // 2, columns), epilogue_of(work))]


def _us(work: Work) -> float:
    depth, columns = work.input(1).shape
    return work.output().elements * depth / _PRODUCTS_PER_US if columns else 0.0


GEMM_HALF = lowering(Lowering("gemm_bf16", SKIPJACK, "Linear", _accepts, _lower, rank=20, cost=_us))
