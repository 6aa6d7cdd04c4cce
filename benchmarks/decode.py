"""Products of one row with a weight of 4096 x 11008 that comes from memory, in every encoding, on one thread.

Run pinned: `taskset -c 1 python -m benchmarks.decode [rows]`. Every result is checked first. Then the encodings take
turns, each over copies of its own, so that all of them together read some 2.5 GB between two uses of a copy. The ratio
is to the dense int8 weight, by the 25th percentile of the times.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

import skipjack.kernels.all  # noqa: F401  # pyright: ignore[reportUnusedImport]
from skipjack.codegen.jit import compile_here
from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, SKIPJACK, Node
from skipjack.kernels.launch import Bound, Lowering, Place, Plainly, Work, lowerings, trace
from skipjack.lang.expr import arg
from skipjack.targets.target import host

OUTPUTS, DEPTH, GROUP = 4096, 11008, 128
_COPIES_BYTES = 200 << 20
_ROUNDS = 60
_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


@dataclass
class Case:
    """One encoding: its node, the constants, what the result must be, and the ratio that is aimed at."""

    title: str
    entry: Lowering
    node: Node
    inputs: list[np.ndarray]
    output: DType
    expected: np.ndarray
    tolerance: float = 0.0
    bar: float | None = None


@dataclass
class Runs:
    """A case bound to `copies` copies of its packed weight."""

    case: Case
    nbytes: int
    calls: list[Callable[[], None]]
    y: np.ndarray
    keep: list[object]
    seconds: list[float] = field(default_factory=list)
    turn: int = 0

    def run(self) -> None:
        self.turn = (self.turn + 1) % len(self.calls)
        start = time.perf_counter()
        self.calls[self.turn]()
        self.seconds.append(time.perf_counter() - start)


def bound_runs(case: Case) -> Runs:
    """The case compiled, its largest packed constant copied."""
    memory, target = Plainly(), host()
    inputs = [
        Bound(f"i{i}", DType.from_numpy(x.dtype), x.shape, memory.hold(x), value=x if i else None)
        for i, x in enumerate(case.inputs)
    ]
    y = np.zeros(case.expected.shape, case.output.np)
    work = Work(case.node, inputs, [Bound("y", case.output, y.shape, memory.hold(y))], memory, target)
    launches = case.entry.lower(work)
    used = {w.buffer for launch in launches for w in launch.words if isinstance(w, Place)}
    stream = max((memory.arrays[b] for b in used), key=lambda a: a.nbytes)
    libraries = [compile_here([trace(x.spec, target, "kernel")], target) for x in launches]
    rooms = [np.zeros(trace(x.spec, target, "kernel").scratch_bytes + 128, np.uint8) for x in launches]
    copies = _copies(stream)

    def call_of(copy: np.ndarray) -> Callable[[], None]:
        moved = copy.ctypes.data - stream.ctypes.data
        blocks = [_block(memory, x.words, stream, moved) for x in launches]
        prepared = [
            (_CALL(library.address("kernel")), block, x.units, -(-room.ctypes.data // 64) * 64)
            for library, block, x, room in zip(libraries, blocks, launches, rooms, strict=True)
        ]

        def call() -> None:
            for f, block, units, scratch in prepared:
                f(block.ctypes.data, 0, units, scratch)

        return call

    held: list[object] = [memory, rooms, copies, libraries]
    return Runs(case, stream.nbytes, [call_of(c) for c in copies], y, held)


def _copies(stream: np.ndarray) -> list[np.ndarray]:
    """Copies of the bytes, each on a cache line of its own and followed by a page that may be read."""
    count = max(-(-_COPIES_BYTES // stream.nbytes), 2)
    pitch = -(-(stream.nbytes + 4096) // 64) * 64
    room = np.zeros(count * pitch + 64, np.uint8)
    start = -room.ctypes.data % 64
    found = [room[start + i * pitch :][: stream.nbytes] for i in range(count)]
    for copy in found:
        copy[:] = stream.reshape(-1).view(np.uint8)
    return found


def _block(memory: Plainly, words: tuple[object, ...], stream: np.ndarray, moved: int) -> np.ndarray:
    """An argument block whose pointers into the stream point into a copy of it."""
    first, end = stream.ctypes.data, stream.ctypes.data + stream.nbytes
    found: list[int] = []
    for word in words:
        assert isinstance(word, int | Place), "these kernels take integers and pointers"
        value = memory.address(word) if isinstance(word, Place) else word
        found.append(value + moved if isinstance(word, Place) and first <= value < end else value)
    return np.array(found, np.int64)


def _linear(title: str, way: str, x: np.ndarray, w: np.ndarray, bar: float | None = None) -> Case:
    entry = next(e for e in lowerings(SKIPJACK, "Linear") if e.name == way)
    integer = x.dtype == np.uint8
    kind = DType.I32 if integer else DType.F32
    node = Node("Linear", ("x", "w"), ("y",), {"epilogue": arg(0, kind)}, SKIPJACK)
    return Case(title, entry, node, [x, w], kind, _product(x, w), 0.0 if integer else 1e-5, bar)


def _product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """In f64, by bands of the summed axis."""
    total = np.zeros((len(x), w.shape[1]))
    for k in range(0, len(w), 1024):
        total += x[:, k : k + 1024].astype(np.float64) @ w[k : k + 1024].astype(np.float64)
    return total


def _four_bits(title: str, x: np.ndarray, codes: np.ndarray, level: int, bar: float | None = None) -> Case:
    """codes [outputs, K], zero point 8."""
    scales = (np.random.default_rng(5).random((OUTPUTS, DEPTH // GROUP)) * 0.1 + 0.01).astype(np.float32)
    weight = (codes.astype(np.float32) - 8) * np.repeat(scales, GROUP, axis=1)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).reshape(OUTPUTS, DEPTH // GROUP, -1)
    attrs = {"K": DEPTH, "N": OUTPUTS, "bits": 4, "block_size": GROUP, "accuracy_level": level}
    node = Node("MatMulNBits", ("x", "w", "s"), ("y",), attrs, MS)
    tolerance = 2e-2 if level else 1e-6
    entry = lowerings(MS, "MatMulNBits")[0]
    return Case(title, entry, node, [x, packed, scales], DType.F32, _product(x, weight.T), tolerance, bar)


def cases(rows: int) -> list[Case]:
    """The dense int8 weight first: the others are compared with it."""
    r = np.random.default_rng(0)
    chance = r.random((DEPTH, OUTPUTS), np.float32)
    bytes_x = r.integers(0, 256, (rows, DEPTH), dtype=np.uint8)
    x = r.standard_normal((rows, DEPTH)).astype(np.float32)
    w8 = r.integers(1, 128, (DEPTH, OUTPUTS), dtype=np.int8) * r.choice(np.array([-1, 1], np.int8), OUTPUTS)
    half = (chance - np.float32(0.5)).astype(ml_dtypes.bfloat16)
    found = [_linear("int8", "gemv", bytes_x, w8)]
    for zeros, bar in ((0.5, 1.5), (0.7, 1.9), (0.9, 2.5)):
        pruned = np.where(chance < zeros, np.int8(0), w8)
        found.append(_linear(f"int8 {zeros:.0%} zeros", "gemv (bitmask)", bytes_x, pruned, bar))
    found.append(_linear("bf16", "gemv", x, half))
    for zeros in (0.5, 0.7):
        pruned = np.where(chance < zeros, half.dtype.type(0), half)
        found.append(_linear(f"bf16 {zeros:.0%} zeros", "gemv (bitmask)", x, pruned))
    codes = r.integers(0, 16, (OUTPUTS, DEPTH), dtype=np.uint8)
    codes[codes == 8] = 9
    for level, of in ((0, ""), (4, ", 8-bit x")):
        for zeros, bar in ((0.0, 1.6), (0.5, 2.1), (0.7, None)):
            kept = np.where(np.less(chance.T, zeros), np.uint8(8), codes)
            share = f" {zeros:.0%} zeros" if zeros else ""
            found.append(_four_bits(f"int4 g{GROUP}{share}{of}", x, kept, level, bar))
    return found


def check(runs: Runs) -> None:
    """Every copy gives the right result."""
    expected = runs.case.expected
    for call in runs.calls:
        runs.y.fill(0)
        call()
        error = np.abs(runs.y - expected).max() / np.abs(expected).max()
        assert error <= runs.case.tolerance, f"{runs.case.title}: relative error {error:.2g}"


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    bound: list[Runs] = []
    for case in cases(rows):
        bound.append(bound_runs(case))
        check(bound[-1])
        case.inputs.clear()
    for _ in range(_ROUNDS):
        for runs in bound:
            runs.run()
    base = float(np.percentile(bound[0].seconds, 25))
    print(f"{OUTPUTS} x {DEPTH}, {rows} row(s), one thread, {host().name}: times in ms, results checked")
    print(f"{'encoding':28s}{'MB':>7s}{'min':>7s}{'p25':>7s}{'p50':>7s}{'GB/s':>7s}{'ratio':>7s}{'bar':>6s}")
    for runs in bound:
        least, quarter, half = np.percentile(runs.seconds, [0, 25, 50])
        bar = "" if runs.case.bar is None else f"{runs.case.bar:.1f}"
        print(
            f"{runs.case.title:28s}{runs.nbytes / 1e6:7.1f}{1e3 * least:7.2f}{1e3 * quarter:7.2f}{1e3 * half:7.2f}"
            f"{1e-9 * runs.nbytes / quarter:7.1f}{base / quarter:7.2f}{bar:>6s}"
        )


if __name__ == "__main__":
    main()
