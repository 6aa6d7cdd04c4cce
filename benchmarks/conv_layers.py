"""Every distinct convolution of a network by each lowering: GFLOP/s, share of the FMA peak, onnxruntime.

    taskset -c 1 python benchmarks/conv_layers.py --network resnet50

Times are the best of many calls on one thread with warm weights; GFLOP/s count the multiplications of the definition,
whatever algorithm ran, so a lowering that needs fewer can pass the peak.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import skipjack.kernels.conv_depthwise
import skipjack.kernels.conv_direct
import skipjack.kernels.conv_winograd  # noqa: F401
from skipjack.codegen.jit import Library, compile_here
from skipjack.core.dtypes import DType
from skipjack.ir.graph import SKIPJACK, Node
from skipjack.ir.types import PLAIN, Layout, TensorType
from skipjack.kernels.launch import Bound, KernelSpec, Launch, Place, Plainly, Site, Work, float_word, lowerings, trace
from skipjack.lang.expr import arg, maximum
from skipjack.lang.kernel import Kernel
from skipjack.lang.program import F32, I64, PTR
from skipjack.targets.target import host


@dataclass(frozen=True)
class Layer:
    """A square convolution and how often the network has it."""

    channels: int
    size: int
    maps: int
    kernel: int
    stride: int
    count: int
    group: int = 1

    @property
    def pad(self) -> int:
        return (self.kernel - 1) // 2

    @property
    def out(self) -> int:
        return (self.size + 2 * self.pad - self.kernel) // self.stride + 1

    @property
    def flops(self) -> int:
        return 2 * self.maps * self.out**2 * self.channels // self.group * self.kernel**2


def _resnet50() -> list[Layer]:
    found = [Layer(3, 224, 64, 7, 2, 1), Layer(64, 56, 64, 1, 1, 1)]
    for width, size, before, blocks in ((64, 56, 64, 3), (128, 28, 256, 4), (256, 14, 512, 6), (512, 7, 1024, 3)):
        step = 1 if before == 64 else 2
        if step == 2:
            found += [Layer(before, 2 * size, width, 1, 1, 1), Layer(width, 2 * size, width, 3, 2, 1)]
        found.append(Layer(before, step * size, 4 * width, 1, step, 1))
        found.append(Layer(width, size, width, 3, 1, blocks - step + 1))
        found += [Layer(width, size, 4 * width, 1, 1, blocks), Layer(4 * width, size, width, 1, 1, blocks - 1)]
    return found


def _mobilenet() -> list[Layer]:
    found = [Layer(3, 224, 32, 3, 2, 1), Layer(32, 112, 32, 3, 1, 1, 32), Layer(32, 112, 16, 1, 1, 1)]
    channels, size = 16, 112
    for maps, repeats, stride in ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)):
        for n in range(repeats):
            wide, step = 6 * channels, stride if n == 0 else 1
            found += [Layer(channels, size, wide, 1, 1, 1), Layer(wide, size, wide, 3, step, 1, wide)]
            size //= step
            found.append(Layer(wide, size, maps, 1, 1, 1))
            channels = maps
    return [*found, Layer(320, 7, 1280, 1, 1, 1)]


def _yolo() -> list[Layer]:
    sizes = ((32, 64, 160, 1), (64, 128, 80, 2), (128, 256, 40, 3), (256, 512, 20, 1))
    found = [Layer(3, 640, 32, 6, 2, 1)]
    for before, width, size, repeats in sizes:
        found += [Layer(before, 2 * size, width, 3, 2, 1), Layer(width, size, width // 2, 1, 1, 2)]
        found += [
            Layer(width // 2, size, width // 2, 1, 1, repeats),
            Layer(width // 2, size, width // 2, 3, 1, repeats),
        ]
        found.append(Layer(width, size, width, 1, 1, 1))
    return found


NETWORKS: dict[str, Callable[[], list[Layer]]] = {"resnet50": _resnet50, "mobilenet": _mobilenet, "yolov5s": _yolo}


class Aligned(Plainly):
    """Memory of whole cache lines, as the run time gives it."""

    def hold(self, array: np.ndarray) -> Place:
        room = np.zeros(array.nbytes + 64, np.uint8)
        start = -room.ctypes.data % 64
        view = room[start : start + array.nbytes]
        view[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return super().hold(view)


_libraries: dict[KernelSpec, tuple[Library, int]] = {}
_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def prepared(launches: list[Launch], memory: Plainly) -> tuple[Callable[[], None], float]:
    """(a call that runs everything once, milliseconds of compiling the slowest kernel now)."""
    calls, keep, slowest = [], list[np.ndarray](), 0.0
    for launch in launches:
        if launch.spec not in _libraries:
            start = time.perf_counter()
            program = trace(launch.spec, host(), "kernel")
            _libraries[launch.spec] = compile_here([program], host()), program.scratch_bytes
            slowest = max(slowest, time.perf_counter() - start)
        library, scratch = _libraries[launch.spec]
        words = [
            memory.address(w) if isinstance(w, Place) else float_word(w) if isinstance(w, float) else w
            for w in launch.words
        ]
        block, room = np.array(words, np.int64), np.zeros(max(scratch, launch.scratch_bytes) + 64, np.uint8)
        keep += [block, room]
        address = room.ctypes.data + -room.ctypes.data % 64
        calls.append((_CALL(library.address("kernel")), block.ctypes.data, launch.units, address))

    def run(keep: list[np.ndarray] = keep) -> None:
        for call, words, units, address in calls:
            call(words, 0, units, address)

    return run, slowest * 1e3


def best_seconds(run: Callable[[], object], seconds: float) -> float:
    """The shortest of the calls that fit in `seconds`, five at least."""
    best, end, calls = float("inf"), time.perf_counter() + seconds, 0
    while calls < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


def fma_peak(seconds: float = 0.2) -> float:
    """GFLOP/s of independent multiply-adds on one core."""
    target = host()
    k = Kernel("kernel", [("n", I64), ("y", PTR)], target.vector_bytes * 8)
    vector = F32.vec(target.vl)
    acc, factor = [k.var(k.constant(vector, 1.0)) for _ in range(12)], k.arg.y.load(vector)
    with k.loop(k.arg.n):
        for a in acc:
            a.set(k.fma(a.get(), factor, a))
    total = k.constant(vector, 0.0)
    for a in acc:
        total = total + a.get()
    k.arg.y.store(total)
    library, y = compile_here([k.finish()], target), np.zeros(64, np.float32)
    block, call = np.array([20000, y.ctypes.data], np.int64), _CALL(library.address("kernel"))

    def run() -> None:
        y[:] = 0
        call(block.ctypes.data, 0, 1, None)

    return 24 * target.vl * 20000 / best_seconds(run, seconds) / 1e9


def work_of(layer: Layer) -> tuple[Work, Plainly, np.ndarray, np.ndarray]:
    """The node with bias and ReLU over random data; a first layer reads a plain image."""
    rng, memory, target = np.random.default_rng(0), Aligned(), host()
    vl, blocked = target.vl, Layout("blocked", target.vl)
    x = rng.standard_normal((1, layer.channels, layer.size, layer.size), np.float32)
    w = rng.standard_normal((layer.maps, layer.channels // layer.group, layer.kernel, layer.kernel), np.float32)
    stem = layer.channels < vl
    full = np.pad(x, [(0, 0), (0, -layer.channels % vl), (0, 0), (0, 0)]).reshape(1, -1, vl, *x.shape[2:])
    held = x if stem else np.ascontiguousarray(np.moveaxis(full, 2, -1))
    f32, bias = DType.F32, rng.standard_normal(layer.maps, np.float32)
    shape = (1, layer.maps, layer.out, layer.out)
    room = np.zeros((-(-layer.maps // vl) * vl, layer.out, layer.out), np.float32)
    inputs = [
        Bound("x", f32, x.shape, memory.hold(held), PLAIN if stem else blocked),
        Bound("w", f32, w.shape, Place(0), PLAIN, w),
        Bound("b", f32, bias.shape, memory.hold(bias), PLAIN, bias),
    ]
    attrs = {
        "strides": (layer.stride,) * 2, "pads": (layer.pad,) * 4, "dilations": (1, 1), "group": layer.group,
        "epilogue": maximum(arg(0, f32) + arg(1, f32), 0.0),
    }  # fmt: skip
    node = Node("Conv", ("x", "w", "b"), ("y",), attrs, SKIPJACK)
    out = Bound("y", f32, shape, memory.hold(room), blocked)
    return Work(node, inputs, [out], memory, target), memory, x, w


def onnxruntime_call(layer: Layer, x: np.ndarray, w: np.ndarray) -> Callable[[], object]:
    """The same convolution with bias and ReLU in onnxruntime, one thread."""
    bias = np.zeros(layer.maps, np.float32)
    steps = {"strides": [layer.stride] * 2, "pads": [layer.pad] * 4, "group": layer.group}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], **steps), helper.make_node("Relu", ["c"], ["y"])]
    constants = [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(bias, "b")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x.shape), ("y", None))]
    graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def measure(layer: Layer, peak: float, seconds: float) -> tuple[float, float]:
    """Print one line; (best milliseconds of ours, milliseconds of onnxruntime), each times the layer's count."""
    work, memory, x, w = work_of(layer)
    types = [TensorType(b.dtype, b.shape) for b in work.inputs if b is not None]
    site = Site(work.node, types, types[:1], [None, w, None], work.target)
    theirs = best_seconds(onnxruntime_call(layer, x, w), seconds)
    cells, times = list[str](), dict[str, float]()
    stem = work.input(0).layout == PLAIN
    for entry in lowerings(SKIPJACK, "Conv"):
        if entry.accepts(site) or (entry.layouts == "stem") != stem or entry.layouts == "plain":
            continue
        run, compiled = prepared(entry.lower(work), memory)
        t = best_seconds(run, seconds)
        times[entry.name] = t
        rate = layer.flops / t / 1e9
        predicted = entry.cost(work) if entry.cost else 0.0
        share = f"{rate:4.0f} GF/s {100 * rate / peak:3.0f}%"
        making = f" compiled {compiled:.0f} ms" if compiled else ""
        cells.append(f"{entry.name[5:]:>9} {t * 1e3:7.3f} ms {share} predicted {predicted / 1e3:.3f}{making}")
    name = f"{layer.channels}-{layer.maps} {layer.kernel}x{layer.kernel}/{layer.stride} @{layer.size}"
    print(f"{name:22} x{layer.count} ort {theirs * 1e3:7.3f} | " + " | ".join(cells), flush=True)
    return min(times.values()) * layer.count * 1e3, theirs * layer.count * 1e3


def main() -> None:
    """Measure every distinct layer of the network named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="resnet50")
    parser.add_argument("--seconds", type=float, default=0.1, help="time for each lowering of each layer")
    options = parser.parse_args()
    peak = fma_peak()
    print(f"{host().name}, FMA peak of one core {peak:.1f} GFLOP/s")
    merged: dict[tuple[int, ...], Layer] = {}
    for layer in NETWORKS[options.network]():
        key = (layer.channels, layer.size, layer.maps, layer.kernel, layer.stride, layer.group)
        count = merged[key].count + layer.count if key in merged else layer.count
        merged[key] = Layer(layer.channels, layer.size, layer.maps, layer.kernel, layer.stride, count, layer.group)
    totals = [measure(layer, peak, options.seconds) for layer in merged.values()]
    ours, theirs = (sum(t[i] for t in totals) for i in (0, 1))
    print(f"sum of {sum(m.count for m in merged.values())} layers: {ours:.2f} ms, onnxruntime {theirs:.2f} ms")


if __name__ == "__main__":
    main()
