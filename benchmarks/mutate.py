"""Ten thousand damaged ONNX files through load and run: each is run or refused with one of our errors.

    python -m benchmarks.mutate --count 10000 --runner benchmarks.mutate:run_engine

A runner is a function (bytes, reached) that calls reached(stage) as it passes the stages of STAGES and raises a
SkipjackError to refuse. It works in a child with an address-space limit of 2 GiB above its start; a child that crashes
or needs more than ten seconds for a file is ended, reported, and replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import select
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import parser

STAGES = ("parse", "import", "compile", "run", "ok")
LIMIT_BYTES = 2 * 2**30
LIMIT_S = 10.0
FILES_PER_CHILD = 500
DEFAULT_RUNNER = "benchmarks.mutate:run_engine"
REFERENCE_RUNNER = "benchmarks.mutate:run_references"
_MAX_FEED_ELEMENTS = 4_000_000
_MAX_SEED_BYTES = 60_000

TEXTS = (
    "agraph (float[N, 4] x) => (float[N, 3] y) <float[4, 3] w = {1,2,3,4,5,6,7,8,9,1,2,3}, float[3] b = {1,2,3}>"
    " { h = MatMul(x, w) a = Add(h, b) r = Relu(a) y = Softmax<axis=-1>(r) }",
    "agraph (float[1, 2, 6, 6] x) => (float[a, b, c, d] y) <float[2, 2, 1, 1] w = {1,2,3,4}, float[2] s = {1,2}>"
    " { c1 = Conv<pads=[0,0,0,0], strides=[1,1]>(x, w) n = BatchNormalization(c1, s, s, s, s) r = Relu(n)"
    " p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) g = GlobalAveragePool(p) y = Identity(g) }",
    "agraph (float[2, 6] x) => (float[a, b] y) <int64[2] s = {3, 4}, int64[2] p = {1, 0}, int64[1] one = {1}>"
    " { r = Reshape(x, s) t = Transpose<perm=[1,0]>(r) c = Concat<axis=0>(t, t) g = Gather<axis=0>(c, p)"
    " u = Unsqueeze(g, one) q = Squeeze(u, one) sh = Shape(q) e = Expand(q, sh) y = Tanh(e) }",
    "agraph (float[3] x, bool c) => (float[3] y) { y = If (c) <then_branch = then () => (float[3] t) { t = Neg(x) },"
    " else_branch = other () => (float[3] e) { e = Add(x, x) }> }",
    "agraph (float[2] x) => (float[2] y) <int64 n = {3}, bool go = {1}> { y = Loop (n, go, x) <body = b (int64 i,"
    " bool k, float[2] v) => (bool k2, float[2] v2) { k2 = Identity(k) v2 = Add(v, x) }> }",
    "agraph (float[2, 3, 4] x) => (float[a, b, c] y) <float[4] g = {1,1,1,1}, int64[2] k = {1, 2}, int64[1] ax = {1}>"
    " { l = LayerNormalization(x, g, g) m = ReduceMean(l, ax) d = Sub(l, m) e = Erf(d) z = Pow(e, e) w = Clip(z)"
    " y = Cast<to=1>(w) }",
    "agraph (float[1, 1, 4, 4] x) => (float[a, b, c, d] y) <float[4] s = {1, 1, 2, 2}, int64[8] p ="
    " {0,0,1,1,0,0,1,1}> { u = Resize(x, , s) q = Pad(u, p) a = AveragePool<kernel_shape=[3,3]>(q) y = Sigmoid(a) }",
    "agraph (int64[2, 3] ids) => (float[a, b, c] y) <float[5, 2] table = {1,2,3,4,5,6,7,8,9,10}, int64 lim = {4},"
    " int64 z = {0}, int64 st = {1}> { e = Gather(table, ids) r = Range(z, lim, st) f = Cast<to=1>(r)"
    " v, i = TopK(f, k) y = Mul(e, m) m = ReduceSum(v) k = Constant<value_ints=[2]>() }",
    "agraph (float[1, 2, 3, 4] q, float[1, 2, 5, 4] k, float[1, 2, 5, 4] v) => (float[a, b, c, d] y) <float s ="
    " {0.5}> { kt = Transpose<perm=[0,1,3,2]>(k) d = MatMul(q, kt) e = Mul(d, s) p = Softmax<axis=-1>(e) o ="
    " MatMul(p, v) y = Gelu(o) }",
    "agraph (float[1, 4, 5] x) => (float[a, b, c] y) <float[4, 2, 3] w ="
    " {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6}, int64[2] p = {1, 4}> { t = ConvTranspose<strides=[2],"
    " group=2, output_padding=[1]>(x, w) a, b = Split<axis=1>(t, p2) p2 = Constant<value_ints=[2, 2]>() n ="
    " InstanceNormalization(a, g, g) g = Constant<value_floats=[1.0, 2.0]>() y = MaxPool<kernel_shape=[3],"
    " dilations=[2]>(n) }",
    "agraph (float[3, 2, 4] x) => (float[a, b, c, d] y, float[e, f, g] h) <float[1, 8, 4] w ="
    " {1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8}, float[1, 8, 2] r ="
    " {1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8}> { y, h = LSTM<hidden_size=2>(x, w, r) }",
    "agraph (float[4, 3] x, int64[2, 1] i) => (float[a, b] y, int64[c, d] z) <float[2, 3] u = {1,2,3,4,5,6},"
    " int64[2] p = {1, 0}> { s = ScatterND(x, i, u) g = GatherND(s, i) c = CumSum(g, ax) ax ="
    " Constant<value_int=0>() y = Where(m, c, c) m = Greater(c, g) z = ArgMax<axis=1>(y) }",
    "agraph (float[1, 2, 5, 5] x) => (float[a, b, c, d] y) <float s = {0.1}, uint8 z = {3}, uint8[2, 2, 1, 1] w ="
    " {1,2,3,4}> { q = QuantizeLinear(x, s, z) c = QLinearConv(q, s, z, w, s, z, s, z) f = DequantizeLinear(c, s,"
    " z) d = DepthToSpace<blocksize=1>(f) y = HardSwish(d) }",
)


@dataclass
class Tally:
    """Where files ended: counts per stage reached, per error class, and every broken promise."""

    reached: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    faults: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.errors.values()) + self.reached["ok"] + len(self.faults)

    def past(self, stage: str) -> int:
        """How many files got past a stage."""
        later = STAGES[STAGES.index(stage) + 1 :]
        return sum(self.reached[s] for s in later)


def seeds(assets: str | None) -> list[bytes]:
    """Small valid models: those above, and the smallest files of the assets."""
    opsets = "<ir_version: 10, opset_import: ['' : 20]>"
    models = [parser.parse_model(opsets.replace("'", '"') + text) for text in TEXTS]
    found = [m.SerializeToString() for m in models]
    if assets:
        paths = sorted(Path(assets, "models").rglob("*.onnx"))
        found += [p.read_bytes() for p in paths if p.stat().st_size < _MAX_SEED_BYTES]
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One mutation of a file: of its bytes in one case of four, else of one to three fields of its messages."""
    if rng.random() < 0.25:
        return _mutate_bytes(data, rng)
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.randint(1, 3)):
        _mutate_field(model, rng)
    try:
        return model.SerializeToString()
    except ValueError:
        return data


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.randint(1, 8)):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del out[rng.randrange(len(out)) :]
    elif kind == 2:
        start = rng.randrange(len(out))
        del out[start : start + rng.randint(1, 16)]
    else:
        start = rng.randrange(len(out))
        out[start:start] = out[rng.randrange(len(out)) :][: rng.randint(1, 32)]
    return bytes(out)


def _places(message: Any) -> Iterator[tuple[Any, FieldDescriptor]]:
    for descriptor, value in message.ListFields():
        yield message, descriptor
        if descriptor.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if descriptor.is_repeated else [value]:
                yield from _places(inner)


def _mutate_field(model: Any, rng: random.Random) -> None:
    places = list(_places(model))
    if not places:
        return
    message, descriptor = rng.choice(places)
    if descriptor.is_repeated:
        _mutate_list(getattr(message, descriptor.name), descriptor, model, rng)
    elif rng.random() < 0.1:
        message.ClearField(descriptor.name)
    elif descriptor.type != FieldDescriptor.TYPE_MESSAGE:
        value = _new_value(getattr(message, descriptor.name), descriptor, model, rng)
        setattr(message, descriptor.name, value)


def _mutate_list(values: Any, descriptor: FieldDescriptor, model: Any, rng: random.Random) -> None:
    kind, i, j = rng.randrange(4), rng.randrange(len(values)), rng.randrange(len(values))
    if kind == 0:
        del values[i]
    elif descriptor.type == FieldDescriptor.TYPE_MESSAGE:
        copy = type(values[i])()
        copy.CopyFrom(values[i])
        if kind == 1:
            values.append(copy)
        else:
            values[i].CopyFrom(values[j])
            values[j].CopyFrom(copy)
    elif kind == 1:
        values.append(values[i])
    elif kind == 2:
        values[i], values[j] = values[j], values[i]
    else:
        values[i] = _new_value(values[i], descriptor, model, rng)


def _new_value(old: Any, descriptor: FieldDescriptor, model: Any, rng: random.Random) -> Any:
    if isinstance(old, str):
        names = [n for node in model.graph.node for n in (*node.input, *node.output, node.op_type)]
        return rng.choice([*names, "", "nobody", "N"])
    if isinstance(old, bytes):
        return _mutate_bytes(old, rng) if old else b"x"
    if isinstance(old, bool):
        return not old
    if isinstance(old, float):
        return rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e38, old * 2])
    if descriptor.enum_type is not None:
        return rng.choice([v.number for v in descriptor.enum_type.values])
    if descriptor.cpp_type == FieldDescriptor.CPPTYPE_INT32:
        return rng.choice([0, 1, 2, -1, 7, 16, 2**31 - 1, min(old + 1, 99)])
    if descriptor.cpp_type in (FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_UINT32):
        return rng.choice([0, 1, 2**31])
    return rng.choice(
        [0, 1, 2, 3, -1, -2, 2**31, 2**40, 2**62, -(2**63), min(old + 1, 2**62), max(-(2**62), min(old * 2, 2**62))]
    )


def run_references(data: bytes, reached: Callable[[str], None]) -> None:
    """Parse, import, and run by the numpy references: no compilation."""
    frontend = importlib.import_module("skipjack.frontend.onnx_file")
    execute = importlib.import_module("skipjack.ops.execute")
    _parse(data, reached)
    graph = frontend.import_model(data).graph
    reached("import")
    feeds = {name: feed(graph.types[name]) for name in graph.inputs}
    reached("compile")
    execute.run_graph(graph, feeds)
    reached("run")


def run_engine(data: bytes, reached: Callable[[str], None]) -> None:
    """Parse, import, compile to kernels, and run."""
    frontend = importlib.import_module("skipjack.frontend.onnx_file")
    engines = importlib.import_module("skipjack.engine")
    _parse(data, reached)
    frontend.import_model(data)
    reached("import")
    engine = engines.compile_model(data, batch_size=None, num_cores=1)
    reached("compile")
    graph = engine.compiled.graph
    engine.run([feed(graph.types[name]) for name in graph.inputs])
    reached("run")


def _parse(data: bytes, reached: Callable[[str], None]) -> None:
    try:
        onnx.ModelProto.FromString(data)
        reached("parse")
    except Exception:  # whatever the parser says, import_model must say it as one of our errors
        return


def feed(value_type: Any) -> Any:
    """Zeros and ones of a declared input type; every unknown size is 2."""
    errors = importlib.import_module("skipjack.core.errors")
    if not hasattr(value_type, "dtype") or value_type.shape is None:
        raise errors.InputError("this harness feeds tensors of known rank only")
    shape = tuple(d if isinstance(d, int) else 2 for d in value_type.shape)
    if int(np.prod(shape, dtype=object)) > _MAX_FEED_ELEMENTS:
        raise errors.InputError(f"an input of {shape} is more than this harness feeds")
    if value_type.dtype.value == "string":
        return np.full(shape, "a", object)
    return (np.arange(int(np.prod(shape))) % 2).reshape(shape).astype(value_type.dtype.np)


def child(runner: str) -> None:
    """Serve files from stdin: a length and the bytes; a JSON line per file on the real stdout."""
    module, _, name = runner.partition(":")
    function = getattr(importlib.import_module(module), name)
    ours = importlib.import_module("skipjack.core.errors").SkipjackError
    importlib.import_module("skipjack.engine")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + LIMIT_BYTES,) * 2)
    while header := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(struct.unpack("<q", header)[0])
        answers.write(json.dumps(_answer(function, data, ours)) + "\n")
        answers.flush()


def _answer(function: Callable[..., None], data: bytes, ours: type[Exception]) -> dict[str, str]:
    stages: list[str] = []
    try:
        function(data, stages.append)
    except ours as e:
        return {"passed": stages[-1] if stages else "", "error": type(e).__name__, "text": str(e)[:300]}
    except BaseException as e:  # the promise is that nothing else gets out
        return {"passed": stages[-1] if stages else "", "fault": type(e).__name__, "text": str(e)[:300]}
    return {"passed": "run"}


class Pool:
    """One child at a time, replaced after a crash, a hang, or FILES_PER_CHILD files."""

    def __init__(self, runner: str) -> None:
        self._runner = runner
        self._process: subprocess.Popen[bytes] | None = None
        self._served = 0

    def ask(self, data: bytes) -> dict[str, str]:
        """The child's answer, or a fault when it crashed or hung."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(struct.pack("<q", len(data)) + data)
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
            line = process.stdout.readline() if ready else b""
        except BrokenPipeError:
            ready, line = True, b""
        if line:
            return json.loads(line)
        self.close(kill=True)
        return {"fault": "crash" if ready else "hang", "text": f"child exit code {process.returncode}"}

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._served >= FILES_PER_CHILD:
            self.close()
            command = [sys.executable, "-m", "benchmarks.mutate", "--child", self._runner]
            single = {"OPENBLAS_NUM_THREADS": "1", "SKIPJACK_COMPILE_JOBS": "1"}
            environment = {**os.environ, "PYTHONWARNINGS": "ignore", **single}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
            self._served = 0
        self._served += 1
        return self._process

    def close(self, kill: bool = False) -> None:
        """End the child."""
        if self._process is not None:
            if kill:
                self._process.kill()
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


def fuzz(count: int, seed: int, runner: str, assets: str | None, keep: Path | None = None) -> Tally:
    """Mutate and run count files; faulty files are kept in a directory when one is given."""
    rng, originals, tally, pool = random.Random(seed), seeds(assets), Tally(), Pool(runner)
    start = time.perf_counter()
    for i in range(count):
        data = mutated(rng.choice(originals), rng)
        answer = pool.ask(data)
        passed = answer.get("passed", "")
        stage = STAGES[STAGES.index(passed) + 1] if passed else STAGES[0]
        tally.reached[stage] += 1
        if "fault" in answer:
            tally.reached[stage] -= 1
            tally.faults.append(f"file {i} of seed {seed}, stage {stage}: {answer['fault']}: {answer['text']}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"fault_{i}.onnx").write_bytes(data)
        elif "error" in answer:
            tally.errors[answer["error"]] += 1
    pool.close()
    tally.seconds = time.perf_counter() - start
    return tally


def report(tally: Tally) -> str:
    """Counts per stage, per error, and the broken promises."""
    lines = [f"{tally.count} files in {tally.seconds:.0f} s"]
    lines += [f"  ended at {s:8} {tally.reached[s]:6}" for s in STAGES]
    lines += [f"  {name:20} {n:6}" for name, n in tally.errors.most_common()]
    lines += [f"past the parser: {tally.past('parse') / max(1, tally.count):.0%}", f"faults: {len(tally.faults)}"]
    return "\n".join([*lines, *tally.faults[:40]])


def main() -> int:
    """The command: 0 when no promise was broken and half of the files got past the parser."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--runner", default=DEFAULT_RUNNER)
    arguments.add_argument("--keep", type=Path)
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        child(options.child)
        return 0
    tally = fuzz(options.count, options.seed, options.runner, os.environ.get("SKIPJACK_TEST_ASSETS"), options.keep)
    print(report(tally))
    return 0 if not tally.faults and tally.past("parse") * 2 >= tally.count else 1


if __name__ == "__main__":
    sys.exit(main())
