"""Which cores this process may use: one hardware thread per physical core, and what the control groups grant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

_ROOT = Path("/")


def usable_cores(allowed: Sequence[int], root: Path = _ROOT) -> list[int]:
    """One CPU number per physical core among the allowed ones, as many as the control groups grant, at least one."""
    physical = one_per_physical_core(allowed, root)
    quota = cgroup_quota(root)
    return physical if quota is None else physical[: max(1, math.ceil(quota))]


def one_per_physical_core(cpus: Sequence[int], root: Path = _ROOT) -> list[int]:
    """The first of the given CPU numbers on each physical core; all of them when the machine does not tell."""
    seen: set[str] = set()
    kept: list[int] = []
    for cpu in sorted(cpus):
        siblings = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        group = _text(siblings) or str(cpu)
        if group not in seen:
            seen.add(group)
            kept.append(cpu)
    return kept


def cgroup_quota(root: Path = _ROOT) -> float | None:
    """CPUs' worth of time that the tightest control group around this process grants, None when none sets a limit."""
    quotas = [q for group in _groups(root) for q in (_quota(group),) if q is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups this process is in, innermost first. A container sees its own group as the top."""
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",") if controllers else []
        if names and "cpu" not in names:
            continue
        for mount in [top / controllers, top / "cpu"] if names else [top, top / "unified"]:
            inner = mount / path.lstrip("/")
            if ".." not in inner.parts:
                yield from (p for p in (inner, *inner.parents) if p.is_relative_to(mount))
    yield from (top, top / "cpu")


def _quota(group: Path) -> float | None:
    words = _text(group / "cpu.max").split()
    if not words:
        words = [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
    try:
        quota, period = (int(w) for w in words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
