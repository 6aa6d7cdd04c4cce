"""What `skipjack doctor` looks at: facts of the machine, and checks that must hold for skipjack to work."""

from __future__ import annotations

import ctypes
import os
import platform as python_platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from skipjack.cli.output import in_bytes
from skipjack.codegen.cache_files import cache_files
from skipjack.codegen.children import CompileJob, compile_in_children
from skipjack.codegen.jit import Library
from skipjack.codegen.object_files import cache_directory
from skipjack.core import knobs
from skipjack.cpu import cpu_architecture
from skipjack.engine import Engine
from skipjack.runtime.cores import cgroup_quota
from skipjack.runtime.platform import platform
from skipjack.targets.target import host, host_features, runnable

_INTERESTING = ("avx2", "fma", "avx512", "amx", "gfni", "vaes", "f16c", "neon", "sve", "dotprod", "i8mm", "bf16")
_ANSWER = 42
_TINY_KERNEL = f"define i64 @kernel(i64 %x) {{\n  %y = add i64 %x, {_ANSWER}\n  ret i64 %y\n}}\n"


def _cpu() -> str:
    facts = cpu_architecture()
    return f"{facts['vendor_model']} ({facts['vendor_id']}, {facts['architecture']})"


def _features() -> str:
    return " ".join(sorted(f for f in host_features() if f.startswith(_INTERESTING)))


def _cores() -> str:
    facts = cpu_architecture()
    quota = cgroup_quota()
    usable = f"{facts['available_num_cores']} usable physical cores, {facts['available_num_hw_threads']} usable threads"
    whole = f"{facts['num_cores']} cores and {facts['num_hw_threads']} threads on {facts['num_sockets']} socket(s)"
    return f"{usable}; the machine has {whole}; quota {'none' if quota is None else f'{quota:g} CPUs'}"


def _caches() -> str:
    facts = cpu_architecture()
    names = {"L1 data": "L1_data", "L1 instructions": "L1_instruction", "L2": "L2", "L3": "L3"}
    return ", ".join(f"{label} {in_bytes(facts[f'{key}_cache_size'])}" for label, key in names.items())


def _memory() -> str:
    if sys.platform != "linux":
        return "not known on this system"
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    sizes = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    granted = f", control group grants {in_bytes(int(text))}" if text.isdigit() else ""
    return f"{in_bytes(sizes['MemTotal'])}, {in_bytes(sizes['MemAvailable'])} available{granted}"


def _huge_pages() -> str:
    if sys.platform != "linux":
        return "not used on this system"
    return Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip()


def _platform() -> str:
    return f"{platform().name} ({sys.platform}, {python_platform.platform()})"


FACTS: dict[str, Callable[[], str]] = {
    "cpu": _cpu,
    "instruction sets": _features,
    "cores": _cores,
    "caches": _caches,
    "memory": _memory,
    "huge pages": _huge_pages,
}
"""Topic -> its text."""


def _environment() -> tuple[str, str]:
    knobs.check_environment()
    given = [k.name for k in knobs.KNOBS if os.environ.get(k.name)]
    return "ok", f"set: {', '.join(given)}" if given else "no SKIPJACK_* variable is set"


def _target() -> tuple[str, str]:
    chosen = host()
    names = [t.name for t in runnable()]
    why = f"SKIPJACK_ISA={knobs.ISA.get()}" if knobs.ISA.get() else "the widest of what this CPU runs"
    return "ok", f"{chosen.name}: {why} ({', '.join(names)}); tuned for {chosen.cpu}"


def _system_calls() -> tuple[str, str]:
    return "ok", _platform()


def _kernel_cache() -> tuple[str, str]:
    if not knobs.CACHE.get():
        return "note", "off (SKIPJACK_CACHE=0): every process compiles its kernels anew"
    folder = cache_directory()
    if folder is None:
        return "note", "not used: its directory cannot be made, or others may write to it; set SKIPJACK_CACHE_DIR"
    if not os.access(folder, os.W_OK):
        return "note", f"{folder} is not writable: new kernels are compiled in every process; set SKIPJACK_CACHE_DIR"
    files = cache_files(folder)
    nbytes = sum(f.nbytes for f in files)
    return "ok", f"{folder}: {len(files)} kernels, {in_bytes(nbytes)} of at most {in_bytes(knobs.CACHE_LIMIT.get())}"


def _compile() -> tuple[str, str]:
    target = host()
    code = compile_in_children([CompileJob("self-test", _TINY_KERNEL)], target)[0]
    library = Library(code, ["kernel"])
    answer = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library.address("kernel"))(0)
    if answer != _ANSWER:
        return "missing", f"a kernel compiled for {target.name} answered {answer}, expected {_ANSWER}"
    return "ok", f"a kernel compiles in a child process and runs ({len(code)} bytes for {target.name})"


def _run() -> tuple[str, str]:
    shape = [3, 37]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y"))
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "self-test", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    engine = Engine(model, batch_size=None)
    values = np.linspace(-1.0, 1.0, 111, dtype=np.float32).reshape(shape)
    if not np.array_equal(engine.run([values])[0], np.maximum(values, 0)):
        return "missing", "a model of one Relu gave wrong results"
    return "ok", f"a model of one node runs on {engine.num_cores} core(s)"


CHECKS: dict[str, Callable[[], tuple[str, str]]] = {
    "environment": _environment,
    "target": _target,
    "system calls": _system_calls,
    "kernel cache": _kernel_cache,
    "compiler": _compile,
    "engine": _run,
}
"""Topic -> (status, text)."""
