"""What CPU this is: vendor, instruction sets, sockets, cores, caches, and what this process may use of it."""

from __future__ import annotations

import functools
import math
import os
import platform as python_platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipjack.core.errors import ConfigError, HardwareError, nearest
from skipjack.runtime.cores import cgroup_quota
from skipjack.targets.target import host_features

ISAS = ("avx2", "avx512", "neon", "sve")
_SYSTEM = Path("/sys/devices/system")
_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "HygonGenuine": "Hygon", "ARM": "ARM", "Apple": "Apple"}


class CpuArchitecture(Mapping[str, Any]):
    """The facts as an immutable mapping whose keys are attributes too.

    Plain counts describe the machine, `available_` ones what this process may use (affinity and quota).
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__setattr__("_facts", dict(facts))

    def __getitem__(self, key: str) -> Any:
        return self._facts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def __getattr__(self, name: str) -> Any:
        # Copies and pickles ask for attributes before _facts is there.
        facts: dict[str, Any] = self.__dict__.get("_facts", {})
        if name not in facts:
            raise AttributeError(f"the CPU has no fact {name!r}{nearest(name, facts)}")
        return facts[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("facts of the CPU cannot be changed")

    def __repr__(self) -> str:
        return repr(self._facts)

    @property
    def threads_per_socket(self) -> int:
        """Hardware threads of one socket."""
        return self["threads_per_core"] * self["cores_per_socket"]

    @property
    def num_threads(self) -> int:
        """Hardware threads of the machine."""
        return self["num_hw_threads"]

    @property
    def num_physical_cores(self) -> int:
        return self["num_cores"]

    @property
    def num_available_physical_cores(self) -> int:
        """Physical cores this process may use."""
        return self["available_num_cores"]


@dataclass(frozen=True)
class _Topology:
    """(socket, core) of each hardware thread by its number, and the NUMA node of each."""

    places: Mapping[int, tuple[int, int]]
    nodes: Mapping[int, int]

    def counts(self, threads: Iterable[int]) -> dict[str, int]:
        """Sockets, cores, threads and NUMA nodes among these hardware threads."""
        chosen = [t for t in threads if t in self.places] or list(self.places)
        sockets = {self.places[t][0] for t in chosen}
        cores = {self.places[t] for t in chosen}
        return {
            "num_sockets": len(sockets),
            "cores_per_socket": max(sum(core[0] == s for core in cores) for s in sockets),
            "threads_per_core": math.ceil(len(chosen) / len(cores)),
            "num_cores": len(cores),
            "num_hw_threads": len(chosen),
            "num_numa": len({self.nodes.get(t, 0) for t in chosen}),
        }


@functools.cache
def cpu_architecture() -> CpuArchitecture:
    """The facts of this machine's CPU; HardwareError when it has no instruction set that skipjack knows.

    The environment variable NM_ARCH names another instruction set to report.
    """
    topology = _linux_topology() if sys.platform == "linux" else _flat_topology()
    total, available = topology.counts(topology.places), topology.counts(_usable())
    quota = cgroup_quota()
    if quota is not None:
        available["num_cores"] = min(available["num_cores"], max(1, math.ceil(quota)))
    available_sockets = available.pop("num_sockets")
    features, identity, caches = host_features(), _identity(), _caches()
    return CpuArchitecture(
        {
            **{f"{name}_cache_size": caches.get(name, 0) for name in ("L1_data", "L1_instruction", "L2", "L3")},
            "architecture": _machine(),
            **identity,
            "isa": _isa(features),
            "vnni": "avx512vnni" in features,
            "bf16": "avx512bf16" in features or "bf16" in features,
            "dotprod": "dotprod" in features,
            "i8mm": "i8mm" in features,
            **total,
            "available_sockets": available_sockets,
            "available_num_sockets": available_sockets,
            **{f"available_{name}": count for name, count in available.items()},
        }
    )


def _machine() -> str:
    name = python_platform.machine().lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name, name)


def _isa(features: frozenset[str]) -> str:
    asked = os.environ.get("NM_ARCH")
    if asked:
        if asked not in ISAS:
            hint = nearest(asked, ISAS)
            raise ConfigError(f"environment variable NM_ARCH={asked!r}: expected one of {list(ISAS)}{hint}")
        print(f"skipjack: reporting instruction set {asked}, as the environment variable NM_ARCH asks", file=sys.stderr)
        return asked
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= features:
        return "avx512"
    if {"avx2", "fma"} <= features:
        return "avx2"
    if _machine() == "arm64":
        return "sve" if "sve" in features else "neon"
    raise HardwareError(platform_error_msg())


def platform_error_msg() -> str:
    """What to tell a user whose machine has no instruction set that skipjack knows."""
    return (
        f"Unable to determine instruction set of {_machine()} on {sys.platform}: expected AVX2 with FMA or AVX-512"
        " (x86-64), or NEON (64-bit ARM); run on such a machine, or on a virtual one that passes these features through"
    )


def _usable() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _linux_topology() -> _Topology:
    places: dict[int, tuple[int, int]] = {}
    for folder in (_SYSTEM / "cpu").glob("cpu[0-9]*/topology"):
        thread = int(folder.parent.name.removeprefix("cpu"))
        socket, core = _number(folder / "physical_package_id"), _number(folder / "core_id")
        if socket is not None and core is not None:
            places[thread] = (socket, core)
    nodes: dict[int, int] = {}
    for link in (_SYSTEM / "node").glob("node[0-9]*/cpu[0-9]*"):
        nodes[int(link.name.removeprefix("cpu"))] = int(link.parent.name.removeprefix("node"))
    return _Topology(places, nodes) if places else _flat_topology()


def _flat_topology() -> _Topology:
    """One socket; on macOS the system says how many cores its threads share."""
    threads = os.cpu_count() or 1
    cores = int(_sysctl("hw.physicalcpu") or threads)
    return _Topology({t: (0, t % max(cores, 1)) for t in range(threads)}, {})


def _identity() -> dict[str, str]:
    facts = _proc_cpuinfo() if sys.platform == "linux" else {}
    brand = _sysctl("machdep.cpu.brand_string")
    identifier = os.environ.get("PROCESSOR_IDENTIFIER", "")
    vendor_id = facts.get("vendor_id") or _sysctl("machdep.cpu.vendor") or identifier.rpartition(", ")[2]
    if not vendor_id:
        vendor_id = "Apple" if brand.startswith("Apple") else "ARM" if _machine() == "arm64" else "unknown"
    model = facts.get("model name") or brand or identifier or python_platform.processor() or "unknown"
    return {"vendor": _VENDORS.get(vendor_id, vendor_id), "vendor_id": vendor_id, "vendor_model": model}


def _proc_cpuinfo() -> dict[str, str]:
    """The lines about the first hardware thread."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _caches() -> dict[str, int]:
    if sys.platform == "darwin":
        names = {"L1_data": "l1dcachesize", "L1_instruction": "l1icachesize", "L2": "l2cachesize", "L3": "l3cachesize"}
        return {name: int(_sysctl(f"hw.{key}") or 0) for name, key in names.items()}
    found: dict[str, int] = {}
    for folder in (_SYSTEM / "cpu/cpu0/cache").glob("index[0-9]*"):
        level, kind, size = (_text(folder / name) for name in ("level", "type", "size"))
        name = f"L{level}" + (f"_{kind.lower()}" if level == "1" else "")
        if size[:-1].isdigit():
            found[name] = int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


@functools.cache
def _sysctl(name: str) -> str:
    """A value of macOS's sysctl, empty elsewhere."""
    if sys.platform != "darwin":
        return ""
    answer = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def cpu_details() -> tuple[int, str, bool]:
    """(cores per socket, instruction set, whether it has VNNI), of what this process may use."""
    facts = cpu_architecture()
    return facts["available_cores_per_socket"], facts["isa"], facts["vnni"]


def cpu_avx2_compatible() -> bool:
    """Whether kernels for AVX2 run here; AVX-512 includes it."""
    return cpu_architecture()["isa"] in ("avx2", "avx512")


def cpu_avx512_compatible() -> bool:
    """Whether kernels for AVX-512 run here."""
    return cpu_architecture()["isa"] == "avx512"


def cpu_vnni_compatible() -> bool:
    """Whether the CPU multiplies int8 with AVX-512 VNNI."""
    return bool(cpu_architecture()["vnni"])


def cpu_neon_compatible() -> bool:
    """Whether kernels for NEON run here; SVE includes it."""
    return cpu_architecture()["isa"] in ("neon", "sve")


def cpu_sve_compatible() -> bool:
    """Whether the CPU has SVE."""
    return cpu_architecture()["isa"] == "sve"


def cpu_quantization_compatible() -> bool:
    """Whether the CPU has vector instructions for int8 models, with VNNI or without."""
    return cpu_avx2_compatible() or cpu_neon_compatible()


def print_hardware_capability() -> None:
    """Print what the CPU offers for fp32 and int8 models."""
    facts = cpu_architecture()
    fast_int8 = facts["vnni"] or facts["i8mm"] or facts["dotprod"]
    int8 = "TRUE" if fast_int8 else "TRUE (emulated)" if cpu_quantization_compatible() else "FALSE"
    print(
        f"{facts['vendor']} CPU detected with {facts['num_cores']} cores."
        f" ({facts['num_sockets']} sockets with {facts['cores_per_socket']} cores each)"
    )
    print(f"FP32 model performance supported: {cpu_avx2_compatible() or cpu_neon_compatible()}.")
    print(f"INT8 (quantized) model performance supported: {int8}.")
    if facts["isa"] == "avx2":
        print("Note: vectors are 256 bits wide (AVX2); a CPU with AVX-512 does twice the work per instruction.")
    if cpu_avx2_compatible() and not facts["vnni"]:
        print("Note: without VNNI an int8 product takes several instructions.")
    print(f"Additional CPU info: {facts!r}")
