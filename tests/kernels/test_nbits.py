"""MatMulNBits: codes of every width, zeros of every kind, dense and as bitmasks, few rows and many, one result."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from harness import GuardedMemory, run_lowering
from test_gemv import EXPANDING, ON

from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, Node
from skipjack.ir.types import TensorType
from skipjack.kernels import nbits
from skipjack.kernels.launch import Bound, Launch, Site, Work, lowerings
from skipjack.kernels.nbits_many import rows_of_group
from skipjack.ops.microsoft import dequantized_nbits
from skipjack.ops.registry import Ref
from skipjack.targets.target import Target

NBITS = lowerings(MS, "MatMulNBits")[0]


@dataclass(frozen=True)
class Weight:
    """Operands 1 to 3 of a node and its attributes."""

    operands: list[np.ndarray | None]
    attrs: dict[str, int]

    @property
    def values(self) -> np.ndarray:
        """[K, N] in f32."""
        return dequantized_nbits(Ref(self.node, [None, *self.operands])).T

    @property
    def node(self) -> Node:
        return Node("MatMulNBits", ("x", "w", "s", "z"), ("y",), self.attrs, MS)


def weight(
    n: int,
    depth: int,
    group: int,
    bits: int,
    zeros: str = "",
    live: float = 1.0,
    level: int = 0,
    scale: type = np.float32,
) -> Weight:
    """zeros: "" (the middle), "codes", "numbers"; live: the share of codes that differ from their zero."""
    r = np.random.default_rng([n, depth, group, bits])
    groups = -(-depth // group)
    codes = r.integers(0, 1 << bits, (n, groups, group), dtype=np.uint8)
    zero = np.full((n, groups), 1 << (bits - 1), np.uint8)
    stored: np.ndarray | None = None
    if zeros == "codes":
        zero = r.integers(0, 1 << bits, (n, groups), dtype=np.uint8)
        padded = np.zeros((n, -(-groups * bits // 8) * 8 // bits), np.uint8)
        padded[:, :groups] = zero
        stored = packed(padded, bits)
    elif zeros == "numbers":
        stored = r.uniform(0, (1 << bits) - 1, (n, groups)).astype(np.float32)
    codes = np.where(r.random(codes.shape) < live, codes, zero[:, :, None])
    scales = (r.random(n * groups) * 0.1 + 0.01).astype(scale)
    attrs = {"K": depth, "N": n, "bits": bits, "block_size": group, "accuracy_level": level}
    return Weight([packed(codes, bits), scales, stored], attrs)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of the last axis in bytes, the first in the lowest bits."""
    per = 8 // bits
    parts = codes.reshape(*codes.shape[:-1], -1, per).astype(np.uint32) << (np.arange(per) * bits).astype(np.uint32)
    return parts.sum(axis=-1).astype(np.uint8)


def multiplied(x: np.ndarray, w: Weight, target: Target, **more: object) -> np.ndarray:
    out = [(DType.from_numpy(x.dtype), (*x.shape[:-1], w.attrs["N"]))]
    return run_lowering(NBITS, w.node, [x, *w.operands], out, constants=[1, 2, 3], target=target, **more)[0]


def made(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def close(got: np.ndarray, x: np.ndarray, w: Weight, rtol: float = 1e-6) -> None:
    """Within rtol of the sum of what is added."""
    exact = x.astype(np.float64) @ w.values
    largest = np.abs(x).max(axis=-1, keepdims=True) * np.abs(w.values).sum(axis=0)
    assert np.all(np.abs(got - exact) <= rtol * largest + 1e-6)


@ON
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize(
    ("n", "depth", "group", "bits", "zeros", "live"),
    [
        (1, 16, 16, 4, "", 1.0),
        (70, 130, 32, 4, "codes", 0.5),
        (65, 96, 64, 4, "", 0.3),
        (17, 200, 128, 4, "numbers", 0.5),
        (33, 75, 32, 8, "codes", 0.1),
        (20, 64, 16, 8, "", 1.0),
        (40, 70, 32, 2, "codes", 0.2),
        (5, 33, 16, 2, "", 0.0),
    ],
)
def test_products(
    rows: int, n: int, depth: int, group: int, bits: int, zeros: str, live: float, target: Target
) -> None:
    w, x = weight(n, depth, group, bits, zeros, live), made(rows, depth)
    close(multiplied(x, w, target), x, w)


@ON
def test_groups_larger_than_a_part(target: Target) -> None:
    w = weight(20, 700, 512, 4, "codes", 0.6)
    x = made(20, 700)
    got = multiplied(x, w, target)
    close(got, x, w)
    np.testing.assert_array_equal(multiplied(x[:3], w, target), got[:3])


@ON
@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize(("zeros", "live"), [("", 1.0), ("codes", 0.4), ("numbers", 1.0)])
def test_rows_and_threads_do_not_change_bits(level: int, zeros: str, live: float, target: Target) -> None:
    w, x = weight(200, 96, 32, 4, zeros, live, level), made(rows_of_group(target) + 3, 96)
    whole = multiplied(x, w, target)
    for rows, threads in ((1, 1), (2, 3), (5, 2), (8, 1), (9, 2), (len(x), 3)):
        np.testing.assert_array_equal(multiplied(x[:rows], w, target, threads=threads), whole[:rows])


@ON
def test_eight_bit_activations_are_those_of_the_rule(target: Target) -> None:
    w, x = weight(40, 100, 32, 4, "codes", 0.7, level=4), made(3, 100)
    padded = np.zeros((3, 128), np.float32)
    padded[:, :100] = x
    grouped = padded.reshape(3, 4, 32)
    scale = np.abs(grouped).max(axis=-1, keepdims=True) / 127
    rounded = (np.rint(grouped / scale) * scale).reshape(3, 128)[:, :100]
    close(multiplied(x, w, target), rounded, w, rtol=2e-6)


@ON
@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_half_precision(kind: type, target: Target) -> None:
    w, x = weight(30, 64, 32, 4, "", 0.5, scale=kind), made(2, 64).astype(kind)
    got = multiplied(x, w, target).astype(np.float64)
    np.testing.assert_allclose(got, x.astype(np.float64) @ w.values, rtol=2.0**-7, atol=2e-2)


@ON
def test_extreme_activations(target: Target) -> None:
    w = weight(20, 64, 32, 4)
    x = np.zeros((6, 64), np.float32)
    x[0, 3] = np.inf
    x[1, 40] = np.nan
    x[2, :] = 1e-38
    x[3, :] = 1e35
    x[4, 7] = -np.float32(1) - 2**-23
    got = multiplied(x, w, target)
    assert np.all(np.isnan(got[:2]))
    assert np.all(np.abs(got[2]) < 1e-34)
    np.testing.assert_allclose(got[3:], x[3:].astype(np.float64) @ w.values, rtol=1e-5, atol=0)
    np.testing.assert_array_equal(got[5], 0)


@pytest.mark.parametrize("target", EXPANDING, ids=lambda t: t.name)
@pytest.mark.parametrize("live", [0.3, 1.0])
def test_the_interpreter_says_the_same(live: float, target: Target) -> None:
    w, x = weight(10, 40, 16, 4, "codes", live), made(10, 40)
    for rows in (1, 10):
        got = multiplied(x[:rows], w, target, interpret=True)
        np.testing.assert_array_equal(got, multiplied(x[:rows], w, target))


def launches(w: Weight, rows: int) -> list[Launch]:
    memory = GuardedMemory()
    bound = [
        None if a is None else Bound(f"i{i}", DType.from_numpy(a.dtype), a.shape, memory.put(a), value=a)
        for i, a in enumerate([made(rows, w.attrs["K"]), *w.operands])
    ]
    y = Bound("y", DType.F32, (rows, w.attrs["N"]), memory.reserve(4 * rows * w.attrs["N"]))
    return nbits._lower(Work(w.node, bound, [y], memory, EXPANDING[-1]))


def test_sparse_codes_become_bitmasks_and_take_less_memory() -> None:
    for live, masked in ((1.0, False), (0.9, False), (0.4, True), (0.05, True)):
        spec = launches(weight(256, 1024, 128, 4, "", live, level=4), 1)[-1].spec
        assert spec.params[0].codes.masked == masked, f"{live} live"
        reasons = [
            way.accepts(_site(weight(256, 1024, 128, 4, "", live, level=4))) for way in lowerings(MS, "MatMulNBits")
        ]
        assert [bool(r) for r in reasons] == [masked, not masked], f"{live} live: {reasons}"
    w = weight(256, 1024, 128, 4, "", 0.3)
    sizes = [a.nbytes for a in w.operands if a is not None]
    array = nbits.pack_masked(*_codes(w), 4, 64, 4)
    assert array.nbytes < 0.8 * sizes[0]


def _site(w: Weight) -> Site:
    operands = [made(1, w.attrs["K"]), *(a for a in w.operands if a is not None)]
    types = [TensorType(DType.from_numpy(a.dtype), a.shape) for a in operands]
    out = TensorType(DType.F32, (1, w.attrs["N"]))
    return Site(w.node, types, [out], [None, *operands[1:]], EXPANDING[-1])


def _codes(w: Weight) -> tuple[np.ndarray, np.ndarray]:
    found = nbits._weight(w.node, [None, *w.operands])
    codes = found.unpacked(found.codes)
    return codes, found.live(codes, found.zero_codes(None))
