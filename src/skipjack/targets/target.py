"""A target: what kernels may assume of a CPU.

Vector length, registers and features are parameters of every generator.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass

import llvmlite.binding as llvm

from skipjack.core import knobs
from skipjack.core.errors import HardwareError
from skipjack.targets.tiles import tiles_permitted


@dataclass(frozen=True)
class Target:
    """An instruction set. features are LLVM's names; cpu is the model LLVM tunes for."""

    name: str
    triple: str
    cpu: str
    vector_bytes: int
    registers: int
    features: frozenset[str]

    def lanes(self, itemsize: int) -> int:
        """Elements of itemsize bytes in one vector register."""
        return self.vector_bytes // itemsize

    @property
    def vl(self) -> int:
        """Lanes of f32 in one vector register: the channel block of the blocked layout."""
        return self.vector_bytes // 4

    def has(self, feature: str) -> bool:
        return feature in self.features

    @property
    def feature_string(self) -> str:
        """The features as LLVM reads them, sorted."""
        return ",".join("+" + f for f in sorted(self.features))


_AVX2 = frozenset(
    [
        *("sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16"),
        *("avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"),
    ]
)
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
_VNNI = _AVX512 | {"avx512vnni"}
_AMX = _VNNI | {"amx-tile", "amx-int8", "amx-bf16", "avx512bf16"}
_EXTRA_512 = frozenset(
    ["avx512vbmi", "avx512vbmi2", "avx512bitalg", "avx512vpopcntdq", "avx512bf16", "gfni"],
)

X86 = "x86_64-unknown-linux-gnu"
AVX2 = Target("avx2", X86, "haswell", 32, 16, _AVX2)
AVX512 = Target("avx512", X86, "skylake-avx512", 64, 32, _AVX512)
AVX512_VNNI = Target("avx512vnni", X86, "icelake-server", 64, 32, _VNNI)
AMX = Target("amx", X86, "sapphirerapids", 64, 32, _AMX)
ARM = "aarch64-unknown-linux-gnu"
_NEON = frozenset(["neon", "fp-armv8"])
NEON = Target("neon", ARM, "neoverse-n1", 16, 32, _NEON)
NEON_DOTPROD = Target("neon-dotprod", ARM, "neoverse-n1", 16, 32, _NEON | {"dotprod"})
NEON_I8MM = Target("neon-i8mm", ARM, "neoverse-n2", 16, 32, _NEON | {"dotprod", "i8mm"})
KNOWN: tuple[Target, ...] = (AVX2, AVX512, AVX512_VNNI, AMX, NEON, NEON_DOTPROD, NEON_I8MM)


@functools.cache
def host_features() -> frozenset[str]:
    """The feature bits of this CPU, as LLVM names them."""
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def runnable() -> list[Target]:
    """The known targets that this machine can execute, weakest first."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return [t for t in KNOWN if t.triple == ARM and t.features <= host_features() | NEON.features]
    found = [t for t in KNOWN if t.triple == X86 and t.features <= host_features()]
    return found if AMX not in found or tiles_permitted() else [t for t in found if t is not AMX]


@functools.cache
def _host(limit: str | None) -> Target:
    targets = runnable()
    if limit is not None:
        names = [t.name for t in targets]
        if limit not in names:
            raise HardwareError(f"SKIPJACK_ISA={limit}: this CPU runs {', '.join(names) or 'none of the known sets'}")
        targets = targets[: names.index(limit) + 1]
    if not targets:
        raise HardwareError(
            f"this CPU ({platform.machine()}) has neither AVX2 with FMA nor NEON; skipjack needs one of both"
        )
    best = targets[-1]
    extra = (host_features() & _EXTRA_512) if best.vector_bytes == 64 and limit is None else frozenset[str]()
    triple = llvm.get_process_triple()
    return Target(best.name, triple, best.cpu, best.vector_bytes, best.registers, best.features | extra)


def host() -> Target:
    """The best target this machine runs, at most what SKIPJACK_ISA names."""
    return _host(knobs.ISA.get())
