"""GFLOP/s of the contraction kernels on one core, beside the multiply-add peak measured in the same run.

Run pinned: `taskset -c 1 python -m benchmarks.kernels [target name]`.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skipjack.codegen.jit import Library, compile_here
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.kernels.attention import ATTENTION
from skipjack.kernels.gemm import GEMM
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Lowering, Place, Plainly, Work, trace
from skipjack.kernels.matmul import MATMUL
from skipjack.lang.expr import arg, unary
from skipjack.lang.kernel import Kernel
from skipjack.lang.program import F32, I64
from skipjack.targets.target import Target, host, runnable

F = DType.F32
_SECONDS = 1.0
_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_compiled: dict[KernelSpec, tuple[Library, int]] = {}


def best_seconds(run: Callable[[], object]) -> float:
    """The shortest of many runs within about a second."""
    best, end, runs = 1e9, time.perf_counter() + _SECONDS, 0
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best


def peak_gflops(target: Target) -> float:
    """Independent multiply-adds in registers."""
    k = Kernel("peak", [("n", I64)], target.vector_bytes * 8)
    ty = F32.vec(target.vl)
    accumulators = [k.var(k.constant(ty, float(i))) for i in range(12)]
    factor = k.scratch.load(ty)
    with k.loop(k.arg.n):
        for a in accumulators:
            a.set(k.fma(factor, factor, a))
    total = accumulators[0].get()
    for a in accumulators[1:]:
        total = total + a.get()
    k.scratch.store(total)
    library = compile_here([k.finish()], target)
    n, room = 200_000, np.zeros(64, np.uint8)
    block = np.array([n], np.int64)
    call = _CALL(library.address("peak"))
    seconds = best_seconds(lambda: call(block.ctypes.data, 0, 1, room.ctypes.data))
    return 2e-9 * 12 * target.vl * n / seconds


@dataclass(frozen=True)
class Case:
    """One node and its floating-point operations."""

    title: str
    entry: Lowering
    node: Node
    inputs: list[np.ndarray]
    constants: tuple[int, ...]
    out_shape: tuple[int, ...]
    operations: float


def _launches(case: Case, target: Target, memory: Plainly) -> list[Launch]:
    bound = [
        Bound(f"in{i}", F, x.shape, memory.hold(x), value=x if i in case.constants else None)
        for i, x in enumerate(case.inputs)
    ]
    y = Bound("y", F, case.out_shape, memory.hold(np.zeros(case.out_shape, np.float32)))
    return case.entry.lower(Work(case.node, bound, [y], memory, target))


def _run(case: Case, target: Target, peak: float) -> None:
    memory = Plainly()
    calls: list[tuple[Callable[..., None], np.ndarray, int, np.ndarray]] = []
    compile_ms = 0.0
    for launch in _launches(case, target, memory):
        if launch.spec not in _compiled:
            start = time.perf_counter()
            program = trace(launch.spec, target, "kernel")
            _compiled[launch.spec] = (compile_here([program], target), program.scratch_bytes)
            compile_ms += 1e3 * (time.perf_counter() - start)
        library, scratch = _compiled[launch.spec]
        words = [memory.address(w) if isinstance(w, Place) else int(w) for w in launch.words]
        room = np.zeros(max(scratch, launch.scratch_bytes) + 64, np.uint8)
        calls.append((_CALL(library.address("kernel")), np.array(words, np.int64), launch.units, room))

    def run() -> None:
        for call, block, units, room in calls:
            call(block.ctypes.data, 0, units, -(-room.ctypes.data // 64) * 64)

    seconds = best_seconds(run)
    rate = 1e-9 * case.operations / seconds
    compiled = f"  compiled in {compile_ms:.0f} ms" if compile_ms else ""
    print(
        f"{case.title:42s} {1e6 * seconds:9.0f} us {rate:7.1f} GFLOP/s {100 * rate / peak:5.0f} %{compiled}", flush=True
    )


def _made(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def linear(rows: int, depth: int, columns: int, gelu: bool = False) -> Case:
    biased = arg(0, F) + arg(1, F)
    finish = biased * 0.5 * (unary("erf", biased * 0.70710678) + 1.0) if gelu else biased
    node = Node("Linear", ("x", "w", "b"), ("y",), {"epilogue": finish}, SKIPJACK)
    inputs = [_made(rows, depth), _made(depth, columns), _made(columns)]
    title = f"linear {rows} x {depth} x {columns}{' gelu' if gelu else ''}"
    return Case(title, GEMM, node, inputs, (1,), (rows, columns), 2.0 * rows * depth * columns)


def matmul(batch: int, m: int, depth: int, n: int) -> Case:
    node = Node("MatMul", ("a", "b"), ("y",), {"trans_b": 1}, SKIPJACK)
    inputs = [_made(batch, m, depth), _made(batch, n, depth)]
    title = f"matmul {batch} x {m} x {depth} x {n}, B transposed"
    return Case(title, MATMUL, node, inputs, (), (batch, m, n), 2.0 * batch * m * depth * n)


def attention(positions: int, keys: int, heads: int, depth: int, causal: int = 0) -> Case:
    attrs = {"q_heads": heads, "kv_heads": heads, "scale": depth**-0.5, "causal": causal}
    node = Node("Attention", ("q", "k", "v"), ("y",), attrs, SKIPJACK)
    inputs = [_made(1, n, heads * depth) for n in (positions, keys, keys)]
    title = f"attention {positions} x {keys}, {heads} heads of {depth}{' causal' if causal else ''}"
    return Case(title, ATTENTION, node, inputs, (), inputs[0].shape, 4.0 * positions * keys * heads * depth)


def cases() -> list[Case]:
    shapes = [(768, 768), (768, 3072), (3072, 768)]
    found = [linear(p, k, m) for p in (1, 8, 128, 2048) for k, m in shapes]
    found += [
        linear(128, 768, 3072, gelu=True),
        linear(1, 4096, 4096),
        matmul(12, 128, 64, 128),
        matmul(1, 512, 512, 512),
    ]
    found += [attention(128, 128, 12, 64), attention(384, 384, 12, 64), attention(512, 512, 12, 64, 1)]
    return [*found, attention(1, 512, 12, 64)]


def main() -> None:
    named = {t.name: t for t in runnable()}
    target = named[sys.argv[1]] if len(sys.argv) > 1 else host()
    peak = peak_gflops(target)
    print(f"{target.name}: {peak:.1f} GFLOP/s peak of multiply-adds")
    for case in cases():
        _run(case, target, peak)


if __name__ == "__main__":
    main()
