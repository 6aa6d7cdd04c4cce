"""The kernel cache: damaged, foreign, full, pruned, shared by processes. It may cost time, never a wrong kernel."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import skipjack.kernels.all  # noqa: F401
from skipjack.codegen import object_files, objects
from skipjack.codegen.cache_files import cache_files, prune
from skipjack.codegen.object_files import ObjectFile, cache_directory, read_object, write_objects
from skipjack.core import trace
from skipjack.core.dtypes import DType
from skipjack.core.errors import CompileError
from skipjack.kernels.launch import KernelSpec
from skipjack.targets.target import host

SPEC = KernelSpec("softmax_rows", (DType.F32, False))
OTHER = KernelSpec("softmax_rows", (DType.F32, True))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a process that has loaded nothing and warned of nothing."""
    monkeypatch.setenv("SKIPJACK_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SKIPJACK_CACHE", raising=False)
    monkeypatch.setattr(objects, "_loaded", {})
    monkeypatch.setattr(trace, "_warned", set())
    found = cache_directory()
    assert found is not None
    yield found
    found.chmod(0o700)


def load_afresh(*specs: KernelSpec) -> tuple[int, int]:
    """(compiled, from disk) in a process that has loaded nothing."""
    objects._loaded.clear()
    done = objects.load(specs or [SPEC], host())
    assert set(done.codes) == set(specs or [SPEC])
    return done.compiled, done.from_disk


def entry(folder: Path) -> Path:
    (only,) = [p for p in folder.iterdir() if not p.name.startswith(".")]
    return only


def test_memory_then_disk_then_children(folder: Path) -> None:
    assert load_afresh(SPEC, SPEC) == (1, 0)
    assert (objects.load([SPEC], host()).compiled, objects.load([SPEC], host()).from_disk) == (0, 0)
    assert load_afresh() == (0, 1)
    assert load_afresh(SPEC, OTHER) == (1, 1)


def test_the_folder_and_its_files_are_private(folder: Path) -> None:
    load_afresh()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry(folder).stat().st_mode) == 0o600
    assert len(entry(folder).name) == 64


def test_every_damage_is_found(folder: Path) -> None:
    one = ObjectFile("k" * 64, "kernel", 128, bytes(range(256)) * 3)
    write_objects(folder, [one])
    path = folder / one.key
    assert read_object(folder, one.key) == one
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
        assert read_object(folder, one.key) is None, i
    for n in range(0, len(data), 7):
        path.write_bytes(data[:n])
        assert read_object(folder, one.key) is None, n
    path.write_bytes(data + b"\0")
    assert read_object(folder, one.key) is None


@pytest.mark.parametrize("place", [0, 30, 200, -1])
def test_a_damaged_entry_is_compiled_again_and_replaced(folder: Path, place: int) -> None:
    load_afresh()
    data = bytearray(entry(folder).read_bytes())
    data[place] ^= 4
    entry(folder).write_bytes(data)
    assert load_afresh() == (1, 0)
    assert load_afresh() == (0, 1)


def test_an_entry_of_another_kernel_is_not_used(folder: Path) -> None:
    load_afresh(SPEC, OTHER)
    a, b = sorted(folder.iterdir())
    os.replace(a, b)
    assert load_afresh(SPEC, OTHER) == (2, 0)


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_an_entry_others_can_write_is_not_used(folder: Path, mode: int) -> None:
    load_afresh()
    entry(folder).chmod(mode)
    assert load_afresh() == (1, 0)
    assert stat.S_IMODE(entry(folder).stat().st_mode) == 0o600


def test_links_fifos_and_folders_are_not_used(folder: Path, tmp_path: Path) -> None:
    load_afresh()
    path = entry(folder)
    elsewhere = tmp_path / "elsewhere"
    os.replace(path, elsewhere)
    path.symlink_to(elsewhere)
    assert read_object(folder, path.name) is None
    path.unlink()
    os.mkfifo(path)
    assert read_object(folder, path.name) is None
    path.unlink()
    path.mkdir()
    with pytest.warns(RuntimeWarning, match="could not store"):
        assert load_afresh() == (1, 0)


def test_files_of_another_user_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_afresh()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert read_object(folder, entry(folder).name) is None
    with pytest.warns(RuntimeWarning, match="must belong to this user"):
        assert load_afresh() == (1, 0)


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_folder_others_can_write_is_not_used(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.warns(RuntimeWarning, match="writable by nobody else"):
        assert load_afresh() == (1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_afresh() == (1, 0)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "kernels").write_text("a file")
    monkeypatch.setenv("SKIPJACK_CACHE_DIR", str(tmp_path / "base"))
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        assert load_afresh() == (1, 0)


@pytest.mark.parametrize("step", ["mkstemp", "write", "replace"])
def test_a_full_disk_costs_one_warning(folder: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "write":
        monkeypatch.setattr(object_files, "_digest", full)
    else:
        monkeypatch.setattr(*{"mkstemp": (object_files.tempfile, "mkstemp"), "replace": (os, "replace")}[step], full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert load_afresh() == (1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_afresh() == (1, 0)
    assert list(folder.iterdir()) == []


def test_the_cache_can_be_turned_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_afresh()
    monkeypatch.setenv("SKIPJACK_CACHE", "0")
    assert cache_directory() is None
    assert load_afresh() == (1, 0)


def fill(folder: Path, ages_hours: list[int], nbytes: int = 1000) -> list[Path]:
    paths = [folder / f"{i:064d}" for i in range(len(ages_hours))]
    for path, age in zip(paths, ages_hours, strict=True):
        path.write_bytes(b"x" * nbytes)
        then = time.time() - 3600 * age
        os.utime(path, (then, then))
    return paths


def test_the_least_recently_used_go_first(folder: Path) -> None:
    paths = fill(folder, [5, 1, 9, 3])
    assert [f.path for f in cache_files(folder)] == [paths[i] for i in (2, 0, 3, 1)]
    assert prune(folder, 2500) == (2, 2000)
    assert sorted(folder.iterdir()) == [paths[1], paths[3]]


def test_a_store_keeps_the_folder_below_its_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, [5] * 50)
    monkeypatch.setenv("SKIPJACK_CACHE_LIMIT", "20k")
    load_afresh()
    assert sum(f.nbytes for f in cache_files(folder)) <= 20 << 10
    assert load_afresh() == (0, 1)
    monkeypatch.setenv("SKIPJACK_CACHE_LIMIT", "0")
    load_afresh(OTHER)
    assert list(folder.iterdir()) == []


def test_reading_an_old_entry_makes_it_young(folder: Path) -> None:
    load_afresh()
    then = time.time() - 1e6
    os.utime(entry(folder), (then, then))
    load_afresh()
    assert time.time() - entry(folder).stat().st_mtime < 1000


def test_files_that_are_being_written_stay_and_abandoned_ones_go(folder: Path) -> None:
    young, old = folder / ".partyoung", folder / ".partold"
    for path in (young, old):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    assert prune(folder, 0) == (1, 1)
    assert list(folder.iterdir()) == [young]


def test_a_crashing_kernel_leaves_the_others_usable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aborts = (
        "declare void @llvm.wasm.throw(i32, ptr)\n"
        "define void @kernel() {\n  call void @llvm.wasm.throw(i32 0, ptr null)\n  ret void\n}\n"
    )
    with monkeypatch.context() as m:
        m.setattr(objects, "lower", lambda programs: aborts)
        with pytest.raises(CompileError, match="kernel softmax_rows"):
            load_afresh()
    assert load_afresh() == (1, 0)
    assert load_afresh() == (0, 1)


MODEL = """
import json, sys
import numpy as np, onnx.parser, skipjack
from skipjack.codegen import objects
head = '<ir_version: 10, opset_import: ["": 23]> g (float[2,8] x) => (float[2,8] y) '
model = onnx.parser.parse_model(head + '{ h = Mul(x, x) s = Softmax(h) y = Add(s, x) }')
e = skipjack.compile_model(model, batch_size=None)
y = e.run([np.arange(16, dtype=np.float32).reshape(2, 8) / 7])[0]
print(json.dumps(y.tolist()))
"""


def start(tmp_path: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "SKIPJACK_CACHE_DIR": str(tmp_path / "shared"), "SKIPJACK_COMPILE_JOBS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", MODEL], env=env, stdout=pipe, stderr=pipe, text=True)


def test_processes_that_compile_one_model_while_some_are_killed(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(8)]
    folder = tmp_path / "shared" / "kernels"
    end = time.monotonic() + 60
    while not (folder.is_dir() and any(folder.iterdir())) and time.monotonic() < end:
        time.sleep(0.005)
    for victim in processes[:2]:
        victim.send_signal(signal.SIGKILL)
    done = [p.communicate(timeout=100) for p in processes]
    assert [p.returncode for p in processes[2:]] == [0] * 6, done
    outputs = {out for out, _ in done[2:]}
    assert len(outputs) == 1
    assert len(json.loads(outputs.pop())) == 2
    last = start(tmp_path)
    assert last.communicate(timeout=60)[1] == ""
    for f in cache_files(folder):
        assert f.path.name.startswith(".part") or read_object(folder, f.path.name) is not None
