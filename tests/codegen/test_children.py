"""Compile children: what they answer, and what their crashes, delays and surroundings may not do."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pytest

from skipjack.codegen import children
from skipjack.codegen.children import CompileJob, compile_in_children
from skipjack.codegen.jit import Library
from skipjack.core.errors import CompileError
from skipjack.targets.target import host

ROOT = Path(__file__).parents[2]
GOOD = "define i64 @kernel() {\n  ret i64 41\n}\n"
# No x86 or ARM instruction selection knows this intrinsic: LLVM ends the process.
ABORTS = """
declare void @llvm.wasm.throw(i32, ptr)
define void @kernel() {
  call void @llvm.wasm.throw(i32 0, ptr null)
  ret void
}
"""


def jobs(*sources: str) -> list[CompileJob]:
    return [CompileJob(f"kernel{i}", s) for i, s in enumerate(sources)]


def test_objects_come_in_order() -> None:
    sources = [GOOD.replace("41", str(i)).replace("@kernel", f"@kernel{i}") for i in range(7)]
    made = compile_in_children(jobs(*sources), host())
    assert [f"kernel{i}".encode() in code for i, code in enumerate(made)] == [True] * 7
    Library(made[3], ["kernel3"])


def test_no_jobs_start_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert compile_in_children([], host()) == []


@pytest.mark.parametrize("bad", [ABORTS, "not LLVM text\n", "", "define void @kernel() {\n  ret i64 1\n}\n"])
def test_an_error_names_the_kernel_and_the_target(bad: str) -> None:
    if not bad:
        assert compile_in_children(jobs(bad), host())
        return
    with pytest.raises(CompileError, match=f"kernel kernel1 for {host().name} could not be compiled: .*(ended|rror)"):
        compile_in_children(jobs(GOOD, bad, GOOD), host())
    assert len(compile_in_children(jobs(GOOD), host())) == 1


def test_a_crash_tells_the_last_words_of_llvm() -> None:
    with pytest.raises(CompileError, match=r"ended with -?\d+ \(.*LLVM ERROR"):
        compile_in_children(jobs(ABORTS), host())


def test_a_killed_child_costs_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[children._Child] = []
    ask = children._Child._ask

    def killing(self: children._Child, job: CompileJob, target: object) -> bytes:
        if not started:
            started.append(self)
            self._process.kill()
        return ask(self, job, target)  # type: ignore[arg-type]

    monkeypatch.setattr(children._Child, "_ask", killing)
    with pytest.raises(CompileError, match="ended with -9"):
        compile_in_children(jobs(GOOD, GOOD, GOOD), host())


def test_a_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_COMPILE_TIMEOUT", "1")
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **kw: popen(slow, **kw))
    begin = time.monotonic()
    with pytest.raises(CompileError, match="more than 1 s; SKIPJACK_COMPILE_TIMEOUT"):
        compile_in_children(jobs(GOOD), host())
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("error", [OSError(11, "Resource temporarily unavailable"), OSError(24, "Too many open files")])
def test_a_child_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(CompileError, match=error.strerror):
        compile_in_children(jobs(GOOD, GOOD), host())


def test_no_python_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(CompileError, match="executable is not set"):
        compile_in_children(jobs(GOOD), host())


def test_no_thread_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert len(compile_in_children(jobs(GOOD, GOOD), host())) == 2


def test_an_interrupt_ends_the_children(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[children._Child] = []
    init = children._Child.__init__

    def noted(self: children._Child) -> None:
        init(self)
        made.append(self)

    def interrupted(self: children._Child, job: CompileJob, target: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(children._Child, "__init__", noted)
    monkeypatch.setattr(children._Child, "_ask", interrupted)
    monkeypatch.setenv("SKIPJACK_COMPILE_JOBS", "1")
    with pytest.raises(KeyboardInterrupt):
        compile_in_children(jobs(GOOD, GOOD), host())
    assert all(c._process.poll() is not None for c in made)


@pytest.mark.parametrize("at_once", ["1", "3"])
def test_as_many_children_as_asked_for(monkeypatch: pytest.MonkeyPatch, at_once: str) -> None:
    monkeypatch.setenv("SKIPJACK_COMPILE_JOBS", at_once)
    made: list[children._Child] = []
    init = children._Child.__init__

    def noted(self: children._Child) -> None:
        made.append(self)
        init(self)

    monkeypatch.setattr(children._Child, "__init__", noted)
    compile_in_children(jobs(*[GOOD] * 12), host())
    assert len(made) == int(at_once)


COMPILE = f"""
from skipjack.codegen.children import CompileJob, compile_in_children
from skipjack.targets.target import host
print(len(compile_in_children([CompileJob("k", {GOOD!r})] * 2, host())))
"""


def run(command: list[str], cwd: Path, stdin: str = "", **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, input=stdin, env=clean | env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_scripts_need_no_main_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f'print("script")\n{COMPILE}')
    assert run([sys.executable, "script.py"], tmp_path) == "script\n2"


def test_a_program_on_stdin(tmp_path: Path) -> None:
    assert run([sys.executable], tmp_path, stdin=COMPILE) == "2"


def test_files_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    for name in ("json", "llvmlite", "skipjack", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    assert run([sys.executable, "-P", "-c", COMPILE], tmp_path) == "2"


def test_a_program_in_a_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as z:
        z.writestr("__main__.py", COMPILE)
        for path in (ROOT / "src").rglob("*.py"):
            z.write(path, path.relative_to(ROOT / "src"))
    assert run([sys.executable, "app.pyz"], tmp_path) == "2"


def test_site_hooks_that_print_do_not_matter(tmp_path: Path) -> None:
    hook = "import sys; print('hello'); sys.stdout.flush(); print('oops', file=sys.stderr)"
    (tmp_path / "sitecustomize.py").write_text(hook)
    assert run([sys.executable, "-c", COMPILE], tmp_path, PYTHONPATH=str(tmp_path)) == "hello\n2"


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_few_file_descriptors(tmp_path: Path) -> None:
    text = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n" + textwrap.dedent(COMPILE)
    assert run([sys.executable, "-c", text], tmp_path) == "2"
