"""Cores this process may use, on machines made of files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skipjack.runtime.cores import cgroup_quota, one_per_physical_core, usable_cores
from skipjack.runtime.platform import platform


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def siblings(*groups: str) -> dict[str, str]:
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {folder.format(cpu): f"{group}\n" for group in groups for cpu in group.split(",")}


def test_one_thread_per_physical_core(tmp_path: Path) -> None:
    root = machine(tmp_path, siblings("0,4", "1,5", "2,6", "3,7"))
    assert one_per_physical_core(range(8), root) == [0, 1, 2, 3]
    assert one_per_physical_core([7, 5, 4, 1], root) == [1, 4, 7]
    assert one_per_physical_core([6], root) == [6]


def test_every_cpu_counts_when_the_machine_does_not_tell(tmp_path: Path) -> None:
    assert one_per_physical_core([0, 3], tmp_path) == [0, 3]


V1 = {
    "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/docker/a\n0::/\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize(
    "files, quota",
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ({"sys/fs/cgroup/cpu.max": "garbage\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "1 0\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "300000 100000"}, 3.0),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/cpu.max": "400000 100000",
            },
            2.0,
        ),
        ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2.0),
        (V1, None),
        (V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000"}, 2.5),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
    ],
)
def test_quota_of_the_tightest_group(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cgroup_quota(machine(tmp_path, files)) == quota


@pytest.mark.parametrize("quota, expected", [(50000, [0]), (100000, [0]), (150000, [0, 1]), (900000, [0, 1, 2, 3])])
def test_a_quota_limits_the_cores_but_leaves_one(tmp_path: Path, quota: int, expected: list[int]) -> None:
    files = siblings("0,4", "1,5", "2,6", "3,7") | {"sys/fs/cgroup/cpu.max": f"{quota} 100000"}
    assert usable_cores(range(8), machine(tmp_path, files)) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
@pytest.mark.parametrize("system", ["linux", "portable"])
def test_cores_follow_the_mask_of_the_process(system: str) -> None:
    last = max(os.sched_getaffinity(0))
    text = (
        f"import os; os.sched_setaffinity(0, {{{last}}})\n"
        "from skipjack.runtime.platform import platform; from skipjack.session.teams import resolve_cores\n"
        "print(platform().name, platform().cores(), resolve_cores(None))"
    )
    env = {**os.environ, "SKIPJACK_PLATFORM": system}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split("\n")[0] == f"{system} [{last}] [{last}]"


@pytest.mark.parametrize("nbytes", [0, 1, 4096, (4 << 20) + 5])
@pytest.mark.parametrize("system", ["auto", "portable"])
def test_reserved_memory_is_zero_and_writable(system: str, nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_PLATFORM", system)
    memory = platform().reserve(nbytes)
    assert len(memory) >= nbytes
    assert memory[: max(nbytes, 1)].count(0) == max(nbytes, 1)
    memory[0:1] = b"x"
