"""The engine as users hold it: options, run methods, schedulers, forks, and the same calls on onnxruntime."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import skipjack
from skipjack import Context, Engine, MultiModelEngine, Scheduler
from skipjack.core import trace
from skipjack.core.errors import ConfigError, HardwareError, InputError, ModelError
from skipjack.runtime.platform import platform
from skipjack.targets.target import runnable
from tests.session.models import dense, dense_means, embedding, model

F = np.float32
ROOT = Path(__file__).parents[2]
CORES = len(platform().cores())


@pytest.fixture(autouse=True)
def _no_warning_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_warned", set())


@pytest.fixture(scope="module")
def engine() -> Engine:
    return skipjack.compile_model(dense(), batch_size=4)


def items(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8)).astype(F)


def test_what_an_engine_tells_of_itself(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "dense.onnx"
    onnx.save(dense(), path)
    e = Engine(str(path), 2, 1)
    assert (e.model_path, e.batch_size, e.num_cores, e.num_streams) == (str(path), 2, 1, 1)
    assert (e.input_names, e.output_names) == (["x"], ["y"])
    assert (e.input_shapes, e.output_shapes) == ([(2, 8)], [(2, 16)])
    assert e.scheduler is Scheduler.default
    assert 0 <= e.fraction_of_supported_ops <= 1
    assert isinstance(e.cpu_vnni, bool)
    lines = str(e).split("\n\t")
    assert lines[0] == "skipjack.engine.Engine:"
    names = "onnx_file_path batch_size num_cores num_streams scheduler fraction_of_supported_ops cpu_avx_type cpu_vnni"
    assert [line.split(": ")[0] for line in lines[1:]] == names.split()
    assert lines[1] == f"onnx_file_path: {path}"
    assert repr(e) == str(e)


@pytest.mark.parametrize("batch_size, rows", [(1, 1), (4, 4), (None, "n"), (0, "n"), (-1, "n")])
def test_batch_size(batch_size: int | None, rows: int | str) -> None:
    e = skipjack.compile_model(dense(), batch_size=batch_size)
    assert e.input_shapes == [(rows, 8)]
    assert e.batch_size == (rows if isinstance(rows, int) else None)
    n = rows if isinstance(rows, int) else 3
    np.testing.assert_allclose(e([items(n)])[0], dense_means(items(n)), rtol=1e-5, atol=1e-5)
    if isinstance(rows, int):
        with pytest.raises(InputError, match=f"expected size {rows} in dimension 0, got {rows + 1}"):
            e([items(rows + 1)])


def test_a_fixed_batch_can_be_overridden() -> None:
    fixed = model("(float[2,8] x) => (float[2,8] y) { y = Relu(x) }")
    assert skipjack.compile_model(fixed, batch_size=None).input_shapes == [(2, 8)]
    e = skipjack.compile_model(fixed, batch_size=5)
    assert (e.input_shapes, e.output_shapes) == ([(5, 8)], [(5, 8)])
    assert e.run([items(5)])[0].shape == (5, 8)


def test_run_methods_agree(engine: Engine) -> None:
    x = items(4)
    expected = engine.run([x])[0]
    np.testing.assert_allclose(expected, dense_means(x), rtol=1e-5, atol=1e-5)
    assert expected.flags.c_contiguous
    np.testing.assert_array_equal(engine([x])[0], expected)
    np.testing.assert_array_equal(engine.run([x], val_inp=False)[0], expected)
    assert list(engine.mapped_run([x])) == ["y"]
    np.testing.assert_array_equal(engine.mapped_run([x])["y"], expected)
    outputs, seconds = engine.timed_run([x])
    np.testing.assert_array_equal(outputs[0], expected)
    assert 0 < seconds < 10
    np.testing.assert_array_equal(engine.submit([x]).result(30)[0], expected)


def test_outputs_belong_to_the_caller(engine: Engine) -> None:
    first = engine.run([items(4, 1)])[0]
    kept = first.copy()
    engine.run([items(4, 2)])
    np.testing.assert_array_equal(first, kept)
    first[:] = 7
    np.testing.assert_array_equal(engine.run([items(4, 1)])[0], kept)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 11])
def test_batched_run_splits_and_trims(engine: Engine, n: int) -> None:
    (y,) = engine.batched_run([items(n)])
    assert y.shape == (n, 16)
    np.testing.assert_allclose(y, dense_means(items(n)), rtol=1e-5, atol=1e-5)


def test_batched_run_edges(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"same number of items in every input, got \[0\]"):
        engine.batched_run([items(0)])
    text = skipjack.compile_model(embedding(), batch_size=2)
    with pytest.raises(InputError, match="same number of items"):
        text.batched_run([np.zeros((3, 5), np.int64), np.ones((4, 5), np.int64)])
    assert text.batched_run([np.zeros((3, 5), np.int64), np.ones((3, 5), np.int64)])[0].shape == (3, 5, 4)
    free = skipjack.compile_model(dense(), batch_size=None)
    assert free.batched_run([items(7)])[0].shape == (7, 16)


def test_submit_gives_the_error(engine: Engine) -> None:
    future = engine.submit([items(3)])
    with pytest.raises(InputError, match="expected size 4"):
        future.result(30)
    assert engine.submit([items(4)]).result(30)[0].shape == (4, 16)


def test_benchmark(engine: Engine) -> None:
    results = engine.benchmark([items(4)], num_iterations=3, num_warmup_iterations=1)
    assert (results.num_batches, results.num_items, results.batch_sizes) == (3, 12, [4, 4, 4])
    assert results.inputs == results.outputs == [None] * 3
    assert all(t > 0 for t in results.batch_times)
    full = engine.benchmark([items(4)], 2, 0, include_inputs=True, include_outputs=True, show_progress=True)
    np.testing.assert_array_equal(full[1].inputs[0], items(4))
    np.testing.assert_array_equal(full[0].outputs[0], engine.run([items(4)])[0])


def test_benchmark_loader(engine: Engine) -> None:
    batches = [[items(4, s)] for s in range(2)]
    results = engine.benchmark_loader(iter(batches), num_iterations=5, num_warmup_iterations=0, include_inputs=True)
    assert [np.array_equal(r.inputs[0], batches[i % 2][0]) for i, r in enumerate(results)] == [True] * 5
    with pytest.raises(InputError, match="an empty one"):
        engine.benchmark_loader([])
    with pytest.raises(ConfigError, match="at least one iteration"):
        engine.benchmark([items(4)], num_iterations=0)
    with pytest.raises(InputError):
        engine.benchmark_loader([[items(4), items(4)]])


def test_options_that_are_refused() -> None:
    with pytest.raises(ValueError, match="num_streams"):
        skipjack.compile_model(dense(), num_streams=-1)
    with pytest.raises(ConfigError, match="num_cores"):
        skipjack.compile_model(dense(), num_cores=-2)
    with pytest.raises(ConfigError, match="scheduler 'fast'"):
        skipjack.compile_model(dense(), scheduler="fast")
    with pytest.raises(ConfigError, match=r"engine 'onnxruntim'.*did you mean 'onnxruntime'"):
        skipjack.compile_model(dense(), engine="onnxruntim")
    with pytest.raises(ModelError):
        skipjack.compile_model(b"")


def test_more_streams_than_cores_are_capped() -> None:
    with pytest.warns(RuntimeWarning, match=f"more than the {CORES} cores"):
        e = skipjack.compile_model(dense(), num_streams=CORES + 3, scheduler="async")
    assert e.num_streams == CORES


def test_a_bad_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_CORES", "1")
    with pytest.raises(ConfigError, match="did you mean 'SKIPJACK_NUM_CORES'"):
        skipjack.compile_model(dense())


@pytest.mark.parametrize("system", ["auto", "portable"])
@pytest.mark.parametrize("scheduler", ["sync", "async", "elastic"])
def test_many_threads_and_engines(scheduler: str, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPJACK_PLATFORM", system)
    streams = 1 if scheduler == "sync" else CORES
    engines = [skipjack.compile_model(dense(f), None, num_streams=streams, scheduler=scheduler) for f in (16, 24, 40)]
    errors: list[BaseException] = []

    def call(seed: int) -> None:
        try:
            for i in range(25):
                features, e = ((16, 24, 40)[(seed + i) % 3], engines[(seed + i) % 3])
                x = items(1 + (seed * i) % 7, seed)
                got = e.submit([x]).result(60)[0] if i % 5 == 0 else e.run([x])[0]
                np.testing.assert_allclose(got, dense_means(x, features), rtol=1e-5, atol=1e-5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(s,)) for s in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(100)
    assert not errors, errors[0]
    assert not any(t.is_alive() for t in threads)


def test_a_deleted_engine_ends_its_threads() -> None:
    def ours() -> set[threading.Thread]:
        return {t for t in threading.enumerate() if t.name.startswith("skipjack-")}

    before = ours()
    e = skipjack.compile_model(dense(), 4, scheduler="async")
    e.run([items(4)])
    e.submit([items(4)]).result(30)
    del e
    gc.collect()
    end = time.monotonic() + 10
    while ours() - before and time.monotonic() < end:
        time.sleep(0.01)
    assert not ours() - before


def test_engines_of_a_context_share_its_cores() -> None:
    context = Context(num_cores=2, num_streams=1)
    assert (context.num_cores, context.num_streams, context.scheduler) == (min(2, CORES), 1, Scheduler.elastic)
    a = MultiModelEngine(dense(), 2, context)
    b = MultiModelEngine(embedding(), None, context, input_shapes=[[1, 3], [1, 3]])
    assert (a.num_cores, a.num_streams, a.scheduler) == (context.num_cores, 1, Scheduler.elastic)
    assert b.input_shapes == [(1, 3), (1, 3)]
    with context.value.team():
        futures = [a.submit([items(2)]), b.submit([np.zeros((1, 3), np.int64), np.ones((1, 3), np.int64)])]
        time.sleep(0.1)
        assert not any(f.done() for f in futures)
    assert [f.result(30)[0].shape for f in futures] == [(2, 16), (1, 3, 4)]


def test_a_failed_run_leaves_the_engine_usable() -> None:
    e = skipjack.compile_model(model("(float[n] x, int64[m] s) => (float[a,b] y) { y = Reshape(x, s) }"), None)
    x = np.arange(6, dtype=F)
    for _ in range(3):
        with pytest.raises(skipjack.SkipjackError):
            e.run([x, np.array([4, 2], np.int64)])
        assert e.run([x, np.array([2, 3], np.int64)])[0].shape == (2, 3)


@pytest.mark.parametrize("name", ["onnxruntime", "ort"])
def test_the_same_calls_on_onnxruntime(name: str, tmp_path: Path) -> None:
    path = tmp_path / "dense.onnx"
    onnx.save(dense(), path)
    theirs: Any = skipjack.compile_model(str(path), 4, 1, engine=name)
    x = items(4)
    np.testing.assert_allclose(theirs.run([x])[0], dense_means(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(theirs({"x": x})[0], theirs.mapped_run([x])["y"])
    assert theirs.timed_run([x])[1] > 0
    assert theirs.generate_random_inputs()[0].shape == (4, 8)
    assert "onnx_file_path" in str(theirs)
    with pytest.raises(InputError, match="expected 1 arrays"):
        theirs.run([x, x])
    assert theirs.batched_run([items(6)])[0].shape == (6, 16)
    assert theirs.benchmark([x], 2, 0).batch_sizes == [4, 4]


def test_onnxruntime_takes_every_kind_of_model(tmp_path: Path) -> None:
    onnx.save(dense(), tmp_path / "model.onnx")
    for source in (tmp_path, tmp_path / "model.onnx", dense(), dense().SerializeToString()):
        theirs = skipjack.compile_model(source, 4, engine="onnxruntime")
        assert theirs.run([items(4)])[0].shape == (4, 16)
    with pytest.raises(ModelError, match="onnxruntime does not load"):
        skipjack.compile_model(b"nothing", engine="onnxruntime")


def test_a_benchmark_refuses_inputs_before_it_runs(engine: Engine) -> None:
    with pytest.raises(InputError, match="expected size 4 in dimension 0, got 3"):
        engine.benchmark([items(3)])
    with pytest.raises(InputError, match="float64"):
        engine.benchmark_loader([[items(4)], [items(4).astype(np.float64)]])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
@pytest.mark.parametrize("system", ["linux", "portable"])
def test_an_engine_on_a_mask_of_one_core(system: str) -> None:
    text = (
        "import os, skipjack, numpy as np\nos.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
        "from tests.session.models import dense\n"
        "e = skipjack.compile_model(dense(), 4, scheduler='elastic')\n"
        "print(e.num_cores, e.num_streams, e.run([np.zeros((4, 8), np.float32)])[0].shape)"
    )
    assert run_script(text, SKIPJACK_PLATFORM=system).stdout == "1 1 (4, 16)\n"


FORK = """
import os, threading
import numpy as np, skipjack
from tests.session.models import dense, dense_means
engines = [skipjack.compile_model(dense(), None, scheduler=s) for s in ("sync", "async", "elastic")]
x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)

def good():
    for e in engines:
        for y in (e.run([x])[0], e.submit([x]).result(30)[0]):
            np.testing.assert_allclose(y, dense_means(x), rtol=1e-5, atol=1e-5)

good()
stop = threading.Event()
def busy(e):
    while not stop.is_set():
        e.run([x])
threads = [threading.Thread(target=busy, args=(e,)) for e in engines]
for t in threads:
    t.start()
pids = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        try:
            good()
            other = skipjack.compile_model(dense(8), 2)
            other.run([x[:2]])
        except BaseException as error:
            print(error)
            os._exit(1)
        os._exit(0)
    pids.append(pid)
    good()
codes = [os.waitpid(p, 0)[1] for p in pids]
stop.set()
for t in threads:
    t.join()
good()
print(codes)
"""


def run_script(text: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("system", ["auto", "portable"])
def test_engines_work_in_forked_children(system: str) -> None:
    done = run_script(FORK, SKIPJACK_PLATFORM=system)
    assert done.stdout == f"{[0] * 6}\n", done.stdout + done.stderr
    assert done.returncode == 0


INTERRUPTS = """
import os, random, signal, threading, time
import numpy as np, skipjack
from tests.session.models import dense, dense_means
engine = skipjack.compile_model(dense(), None)
x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
engine.run([x])
going = True
def pester():
    while going:
        time.sleep(random.random() * 0.002)
        os.kill(os.getpid(), signal.SIGINT)
pesterer = threading.Thread(target=pester)
hits = 0
pesterer.start()
while hits < 300:
    try:
        while True:
            engine.run([x])
    except KeyboardInterrupt:
        hits += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
going = False
pesterer.join()
np.testing.assert_allclose(engine.run([x])[0], dense_means(x), rtol=1e-5, atol=1e-5)
print("fine")
"""


def test_interrupts_leave_an_engine_usable() -> None:
    done = run_script(INTERRUPTS)
    assert done.stdout == "fine\n" or done.returncode == -signal.SIGINT, done.stderr


@pytest.mark.parametrize("isa", [t.name for t in runnable()])
def test_every_instruction_set_gives_equal_results(isa: str) -> None:
    text = (
        "import sys, numpy as np, skipjack\nfrom tests.session.models import dense, dense_means\n"
        "e = skipjack.compile_model(dense(), 6)\n"
        "x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)\n"
        "np.testing.assert_allclose(e.run([x])[0], dense_means(x), rtol=1e-5, atol=1e-5)\nprint(e.cpu_avx_type)"
    )
    done = run_script(text, SKIPJACK_ISA=isa)
    assert done.stdout == f"{isa}\n", done.stderr


def test_an_instruction_set_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = next(n for n in ("neon", "avx2") if n not in [t.name for t in runnable()])
    monkeypatch.setenv("SKIPJACK_ISA", missing)
    with pytest.raises(HardwareError, match=f"SKIPJACK_ISA={missing}: this CPU runs"):
        skipjack.compile_model(dense())


def test_debug_prints_and_dump_writes(tmp_path: Path) -> None:
    text = "import skipjack\nfrom tests.session.models import dense\nskipjack.compile_model(dense(), 6)"
    folder = tmp_path / "dump"
    done = run_script(text, SKIPJACK_DEBUG="2", SKIPJACK_DUMP=str(folder), SKIPJACK_CACHE="0")
    assert "skipjack: import: 3 nodes" in done.stderr
    assert "skipjack: compiling " in done.stderr
    names = sorted(p.name for p in folder.iterdir())
    assert names[0] == "0000-import.txt"
    assert [int(n[:4]) for n in names] == list(range(len(names)))
    assert any(n.endswith(".ll") for n in names)
    assert "MatMul" in (folder / names[0]).read_text()
    assert run_script(text).stderr == ""
