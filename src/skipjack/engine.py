"""From a model file to runs: the table of contents of skipjack, and the Engine that users hold."""

# pyright: reportUnusedImport=false

from __future__ import annotations

import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

import skipjack.kernels.all
import skipjack.ops.all  # noqa: F401
from skipjack.core.collecting import put_off
from skipjack.core.dims import Sym
from skipjack.core.dtypes import DType
from skipjack.core.errors import ConfigError, SkipjackError, nearest
from skipjack.core.forking import renew_in_child
from skipjack.core.knobs import check_environment
from skipjack.core.limits import check_allocation
from skipjack.core.trace import debug, dump, dumping
from skipjack.frontend.onnx_file import ImportedModel, Source, import_model
from skipjack.ir.graph import Graph
from skipjack.ir.text import print_graph
from skipjack.passes import pipeline
from skipjack.passes.lower_precision import BF16, FP32, PRECISIONS, LowerPrecision
from skipjack.passes.propagate_types import specialize
from skipjack.runtime.run import Program, Stream
from skipjack.runtime.separable import batch_symbol
from skipjack.runtime.team import Team
from skipjack.select.rates import current
from skipjack.session import inputs as session_inputs
from skipjack.session.calls import Calls
from skipjack.session.peers import ORTEngine
from skipjack.session.teams import Scheduler, TeamPool, resolve_cores, resolve_scheduler, resolve_streams
from skipjack.targets.target import Target, host
from skipjack.tune import time_model


@dataclass(frozen=True)
class Compiled:
    """A model ready to be bound to sizes.

    declared has the sizes callers must keep to, graph may leave the batch free.
    """

    imported: ImportedModel
    declared: Graph
    graph: Graph
    program: Program


def compile_graph(
    source: Source,
    batch_size: int | None = None,
    input_shapes: Any = None,
    target: Target | None = None,
    threads: int = 1,
    precision: str = FP32,
    tune: str | None = None,
) -> Compiled:
    """Every stage that needs no sizes: read and check, specialise, rewrite, choose kernels and layouts."""
    if tune not in (None, "load"):
        raise ConfigError(f"tune={tune!r}: expected 'load', to time the kernels of this model's layers, or None")
    if precision not in PRECISIONS:
        hint = nearest(precision, PRECISIONS)
        raise ConfigError(f"precision {precision!r}: expected one of {list(PRECISIONS)}{hint}")
    target = target or host()
    imported = import_model(source)
    _show("import", imported.graph)
    shapes = session_inputs.parse_shapes(imported.graph.inputs, input_shapes)
    if batch_size is not None:
        shapes = {name: [batch_size, *sizes[1:]] for name, sizes in shapes.items()}
    declared = specialize(imported.graph, input_shapes=shapes, batch_size=batch_size)
    passes = pipeline.PASSES
    if precision == BF16:
        passes = (*passes, LowerPrecision(held=target.has("avx512bf16")))
    graph = pipeline.run(_with_free_batch(imported.graph, declared), pipeline.Options(on_stage=_show), passes)
    prices = time_model(graph, target, current(target)) if tune else None
    program = Program.of(graph, target, threads, prices)
    _show("plan", program.plan.graph)
    return Compiled(imported, declared, graph, program)


def _with_free_batch(imported: Graph, declared: Graph) -> Graph:
    """The declared graph, with a batch of several items left symbolic where the file does: parts of it can then run."""
    batch = batch_symbol(imported)
    sizes: dict[str, int] = {}
    for name in imported.inputs:
        for old, new in zip(_shape_of(imported, name), _shape_of(declared, name), strict=False):
            if isinstance(old, Sym) and Sym.named(str(old)) == old and isinstance(new, int):
                sizes[str(old)] = new
    if batch is None or sizes.pop(batch, 1) < 2:
        return declared
    free = specialize(imported, sizes=sizes)
    same = all(_shape_of(free, n)[1:] == _shape_of(declared, n)[1:] for n in imported.inputs)
    return free if same else declared


def _shape_of(graph: Graph, name: str) -> tuple[Any, ...]:
    return getattr(graph.types[name], "shape", None) or ()


def _show(stage: str, graph: Graph) -> None:
    debug(2, f"{stage}: {len(graph.nodes)} nodes")
    if dumping():
        dump(stage, print_graph(graph))


class Context:
    """Cores shared by several engines; requests take shares of what is idle (the elastic scheduler)."""

    def __init__(self, num_cores: int | None = None, num_streams: int | None = None) -> None:
        cores = resolve_cores(num_cores)
        self.num_cores = len(cores)
        self.scheduler = Scheduler.elastic
        self.num_streams = resolve_streams(num_streams, self.scheduler, len(cores))
        self.value = TeamPool(cores, self.num_streams, self.scheduler)

    def __repr__(self) -> str:
        return f"Context(num_cores={self.num_cores}, num_streams={self.num_streams}, scheduler={self.scheduler})"


class Engine(Calls):
    """A compiled model.

    Safe to call from several threads; runs wait for the scheduler when all its streams are busy.
    """

    def __init__(
        self,
        model: Source,
        batch_size: int | None = 1,
        num_cores: int | None = None,
        num_streams: int | None = None,
        scheduler: Scheduler | str | None = None,
        input_shapes: Any = None,
        *,
        precision: str = FP32,
        tune: str | None = None,
        context: Context | None = None,
    ) -> None:
        check_environment()
        self._batch_size = batch_size if batch_size is not None and batch_size >= 1 else None
        self._scheduler = context.scheduler if context else resolve_scheduler(scheduler)
        cores = context.value.cores if context else resolve_cores(num_cores)
        self._num_cores = len(cores)
        self._num_streams = (
            context.num_streams if context else resolve_streams(num_streams, self._scheduler, len(cores))
        )
        self._pool = context.value if context else TeamPool(cores, self._num_streams, self._scheduler)
        with put_off():
            self._compiled = compile_graph(
                model, self._batch_size, input_shapes, threads=len(cores), precision=precision, tune=tune
            )
        self._specs = session_inputs.input_specs(self._compiled.declared)
        self._checks = session_inputs.Checks(self._specs)
        self._idle: list[Stream] = []
        self._renew()
        renew_in_child(self._renew)
        self._supported: float | None = None
        with put_off():
            self._bind_declared()

    def _renew(self) -> None:
        """Forget the threads that a forked child does not have."""
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def _bind_declared(self) -> None:
        """Compile the kernels and pack the weights now.

        Sizes that are free get usual values, which may not suit a model.
        """
        stream = Stream(self._compiled.program)
        if not stream.can_bind_early:
            return
        try:
            shapes = session_inputs.usual_shapes(self._specs)
            stream.prepare({n: _shaped_zeros(dtype, shape) for n, (dtype, shape) in shapes.items()})
        except (SkipjackError, MemoryError) as error:
            debug(1, f"kernels are compiled at the first run: {error}")
            return
        self._idle.append(stream)

    def run(self, inp: Any, val_inp: bool = True) -> list[Any]:
        """The outputs for one list of input arrays; val_inp checks the inputs first."""
        arrays = inp if type(inp) is list and len(inp) == len(self._specs) else session_inputs.as_list(self._specs, inp)
        if val_inp:
            self._checks.check(arrays)
        pool = self._pool
        if pool.streams == 1:
            # Only a plain `with` on a lock cannot be interrupted between taking it and being sure to release it.
            with pool.turn:
                return self._call(arrays, pool.sole)
        with pool.team() as team:
            return self._call(arrays, team)

    __call__ = run

    def _call(self, arrays: list[Any], team: Team) -> list[Any]:
        stream = self._take()
        try:
            return stream.call(arrays, team)
        finally:
            self._give(stream)

    def _take(self) -> Stream:
        try:
            return self._idle.pop()
        except IndexError:
            return Stream(self._compiled.program)

    def _give(self, stream: Stream) -> None:
        self._idle.append(stream)

    def checked(self, inp: Any) -> list[Any]:
        arrays = self.in_order(inp)
        self._checks.check(arrays)
        return arrays

    def in_order(self, inp: Any) -> list[Any]:
        return session_inputs.as_list(self._specs, inp)

    def submit(self, inp: Any, val_inp: bool = True) -> Future[list[Any]]:
        """Run in the background; the future gives the outputs or the error."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._num_streams, thread_name_prefix="skipjack-submit")
            return self._executor.submit(self.run, inp, val_inp)

    def generate_random_inputs(self, seed: int | None = None) -> list[np.ndarray]:
        """Inputs the model accepts: its element types and sizes, ids inside the vocabulary, masks of 0 and 1."""
        return session_inputs.random_inputs(self._specs, seed)

    @property
    def model_path(self) -> str:
        return str(self._compiled.imported.path or "")

    @property
    def batch_size(self) -> int | None:
        return self._batch_size

    @property
    def num_cores(self) -> int:
        return self._num_cores

    @property
    def num_streams(self) -> int:
        return self._num_streams

    @property
    def scheduler(self) -> Scheduler:
        return self._scheduler

    @property
    def input_names(self) -> list[str]:
        return [s.name for s in self._specs]

    @property
    def output_names(self) -> list[str]:
        return list(self._compiled.graph.outputs)

    @property
    def input_shapes(self) -> list[tuple[Any, ...]]:
        """Sizes per input; a size that is free is its name."""
        return [_shape(self._compiled.declared, n) for n in self._compiled.graph.inputs]

    @property
    def output_shapes(self) -> list[tuple[Any, ...]]:
        return [_shape(self._compiled.declared, n) for n in self._compiled.graph.outputs]

    @property
    def cpu_avx_type(self) -> str:
        return self._compiled.program.plan.target.name

    @property
    def cpu_vnni(self) -> bool:
        return self._compiled.program.plan.target.has("avx512vnni")

    @property
    def compiled(self) -> Compiled:
        """The stages' results, for tools that look inside."""
        return self._compiled

    @property
    def fraction_of_supported_ops(self) -> float:
        """The share of run time spent in kernels, measured on random inputs; 4 digits."""
        if self._supported is None:
            self._supported = self._measure_supported()
        return self._supported

    def _measure_supported(self) -> float:
        if all(not c.on_host for c in self._compiled.program.plan.choices):
            return 1.0
        arrays = self.generate_random_inputs(seed=0)
        feeds = {s.name: a for s, a in zip(self._specs, arrays, strict=True)}
        stream = self._take()
        with self._pool.team() as team:
            stream.run(feeds, team)
            stream.kernel_seconds = 0.0
            start = perf_counter()
            stream.run(feeds, team)
            total = perf_counter() - start
        share = stream.kernel_seconds / total
        self._give(stream)
        return round(min(share, 1.0), 4)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [
            f"onnx_file_path: {self.model_path}",
            f"batch_size: {self.batch_size}",
            f"num_cores: {self.num_cores}",
            f"num_streams: {self.num_streams}",
            f"scheduler: {self.scheduler}",
            f"fraction_of_supported_ops: {self.fraction_of_supported_ops}",
            f"cpu_avx_type: {self.cpu_avx_type}",
            f"cpu_vnni: {self.cpu_vnni}",
        ]
        return f"{type(self).__module__}.{type(self).__qualname__}:\n\t" + "\n\t".join(lines)


class MultiModelEngine(Engine):
    """An engine that shares the cores of a context with others."""

    def __init__(self, model: Source, batch_size: int | None, context: Context, input_shapes: Any = None) -> None:
        super().__init__(model, batch_size, input_shapes=input_shapes, context=context)


_ENGINES = ("skipjack", "onnxruntime", "ort")


def compile_model(
    model: Source,
    batch_size: int | None = 1,
    num_cores: int | None = None,
    num_streams: int | None = None,
    scheduler: Scheduler | str | None = None,
    input_shapes: Any = None,
    *,
    engine: str = "skipjack",
    precision: str = FP32,
    tune: str | None = None,
) -> Any:
    """Compile a model and return the engine that runs it.

    model: an .onnx path, a directory with model.onnx, bytes, or a ModelProto. batch_size overrides the first dimension
    of every input; None keeps the model's own. engine="onnxruntime" gives the same calls on onnxruntime.
    precision="bf16" lets products round their operands to bf16. tune="load" times the kernels that can run each layer
    and keeps the times on disk.
    """
    if engine in ("onnxruntime", "ort"):
        if precision != FP32:
            raise ConfigError(f"precision {precision!r}: onnxruntime computes as the model says; engine skipjack can")
        return ORTEngine(model, batch_size, num_cores, input_shapes)
    if engine != "skipjack":
        raise ConfigError(f"engine {engine!r}: expected one of {list(_ENGINES)}{nearest(engine, _ENGINES)}")
    return Engine(model, batch_size, num_cores, num_streams, scheduler, input_shapes, precision=precision, tune=tune)


def _shaped_zeros(dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape; memory that nobody reads costs nothing."""
    check_allocation(math.prod(shape), dtype.itemsize, f"an input of shape {list(shape)}")
    return np.zeros(shape, dtype.np)


def _shape(graph: Graph, name: str) -> tuple[Any, ...]:
    shape = getattr(graph.types[name], "shape", None) or ()
    return tuple(d if isinstance(d, int) else str(d) for d in shape)
