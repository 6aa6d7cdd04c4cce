"""What the machine did beside the measurement: stolen time, throttling, clocks, load and other busy processes."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEAL_LIMIT = 0.01
CLOCK_LIMIT = 0.05
BUSY_LIMIT = 0.1
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Snapshot:
    """Counters of the system at one moment; what cannot be read is None or missing."""

    moment: float
    steal: tuple[int, int] | None
    throttled: int | None
    clocks_khz: tuple[int, ...]
    process_ticks: dict[int, int] = field(default_factory=dict[int, int])


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def steal_and_total(stat: str) -> tuple[int, int] | None:
    """Ticks stolen by the host and all ticks, from the text of /proc/stat."""
    fields = stat.split("\n", 1)[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    ticks = [int(field) for field in fields[1:9]]
    return ticks[7], sum(ticks)


def throttled_periods(cpu_stat: str) -> int | None:
    """How often the cgroup's quota was used up, from the text of cpu.stat."""
    for line in cpu_stat.splitlines():
        if line.startswith("nr_throttled "):
            return int(line.split()[1])
    return None


def _clocks() -> tuple[int, ...]:
    found = [_text(path).strip() for path in sorted(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    return tuple(int(text) for text in found if text.isdigit())


def _process_ticks() -> dict[int, int]:
    """Processor time by process, for all that can be seen."""
    found: dict[int, int] = {}
    for folder in _PROC.glob("[0-9]*"):
        fields = _text(folder / "stat").rpartition(")")[2].split()
        if len(fields) > 13:
            found[int(folder.name)] = int(fields[11]) + int(fields[12])
    return found


def snapshot() -> Snapshot:
    """The counters now."""
    return Snapshot(
        moment=time.monotonic(),
        steal=steal_and_total(_text(_PROC / "stat")),
        throttled=throttled_periods(_text(_CGROUP / "cpu.stat")),
        clocks_khz=_clocks(),
        process_ticks=_process_ticks(),
    )


@dataclass(frozen=True)
class Machine:
    """The machine as far as it matters to a measurement."""

    processor: str
    cores: int
    governor: str
    load_average: float
    quota_cores: float | None

    def __str__(self) -> str:
        quota = "" if self.quota_cores is None else f", quota {self.quota_cores:g} cores"
        return f"{self.processor}, {self.cores} cores, governor {self.governor}, load {self.load_average:.2f}{quota}"


def machine(cores: int) -> Machine:
    """What this machine is and how busy it was."""
    names = [line.partition(":")[2].strip() for line in _text(_PROC / "cpuinfo").splitlines() if "model name" in line]
    governor = _text(_CPUS / "cpu0/cpufreq/scaling_governor").strip() or "unknown"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    processor = names[0] if names else platform.processor() or platform.machine()
    return Machine(processor, cores, governor, load, quota_cores(_text(_CGROUP / "cpu.max")))


def quota_cores(cpu_max: str) -> float | None:
    """The cores that the cgroup's quota allows, from the text of cpu.max."""
    fields = cpu_max.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None
    return int(fields[0]) / int(fields[1])


def warnings_between(before: Snapshot, after: Snapshot, ours: set[int], start: Machine) -> list[str]:
    """One line for each thing that makes the figures doubtful."""
    found: list[str] = []
    if before.steal and after.steal and after.steal[1] > before.steal[1]:
        share = (after.steal[0] - before.steal[0]) / (after.steal[1] - before.steal[1])
        if share > STEAL_LIMIT:
            found.append(f"the host took {share:.1%} of the processor time away (steal)")
    if before.throttled is not None and after.throttled is not None and after.throttled > before.throttled:
        found.append(f"the cgroup's quota stopped us {after.throttled - before.throttled} times")
    if start.quota_cores is not None and start.quota_cores < start.cores:
        found.append(f"the cgroup's quota allows {start.quota_cores:g} cores, fewer than the {start.cores} there are")
    if before.clocks_khz and after.clocks_khz:
        first, last = max(before.clocks_khz), max(after.clocks_khz)
        if abs(last - first) > CLOCK_LIMIT * first:
            found.append(f"the clock went from {first / 1e6:.2f} to {last / 1e6:.2f} GHz")
    if start.governor not in ("unknown", "performance"):
        found.append(f"the frequency governor is {start.governor}, not performance")
    if start.load_average > 0.5:
        found.append(f"the load average was {start.load_average:.2f} before the start")
    return found + _busy_processes(before, after, ours)


def _busy_processes(before: Snapshot, after: Snapshot, ours: set[int]) -> list[str]:
    ticks_per_second = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    span = max(after.moment - before.moment, 1e-3) * ticks_per_second
    found: list[tuple[float, int]] = []
    for process, ticks in after.process_ticks.items():
        share = (ticks - before.process_ticks.get(process, 0)) / span
        if process in before.process_ticks and process not in ours and share > BUSY_LIMIT:
            found.append((share, process))
    found.sort(reverse=True)
    return [f"process {number} ({_name(number)}) used {share:.0%} of a core" for share, number in found[:3]]


def _name(process: int) -> str:
    return _text(_PROC / str(process) / "comm").strip()


def as_json(start: Machine, warnings: list[str]) -> dict[str, Any]:
    """The machine and its warnings as plain values."""
    return {
        "processor": start.processor,
        "cores": start.cores,
        "governor": start.governor,
        "load_average": start.load_average,
        "quota_cores": start.quota_cores,
        "warnings": warnings,
    }
