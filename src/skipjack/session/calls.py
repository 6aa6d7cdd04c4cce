"""The ways to call an engine that all follow from `run`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from time import perf_counter
from typing import Any

import numpy as np

from skipjack.core.errors import ConfigError, InputError
from skipjack.session.progress import progress
from skipjack.session.results import BatchBenchmarkResult, BenchmarkResults


class Calls(ABC):
    """What every engine offers."""

    @abstractmethod
    def run(self, inp: Any, val_inp: bool = True) -> list[Any]:
        """The outputs for one list of input arrays."""

    @abstractmethod
    def checked(self, inp: Any) -> list[Any]:
        """The inputs of a call in order; InputError when they do not fit the model."""

    @abstractmethod
    def in_order(self, inp: Any) -> list[Any]:
        """The inputs of a call in order, their number and names checked."""

    @property
    @abstractmethod
    def batch_size(self) -> int | None: ...

    @property
    @abstractmethod
    def output_names(self) -> list[str]: ...

    def mapped_run(self, inp: Any, val_inp: bool = True) -> dict[str, Any]:
        """Like run, as a dictionary from output name to array."""
        return dict(zip(self.output_names, self.run(inp, val_inp), strict=True))

    def batched_run(self, inp: Any, val_inp: bool = True) -> list[Any]:
        """Any number of items: split into batches of the engine's size, the last one padded and trimmed."""
        arrays = self.in_order(inp)
        if not arrays or any(np.ndim(a) == 0 for a in arrays):
            raise InputError("batched_run: expected inputs with a dimension of items; use run")
        total = {len(a) for a in arrays}
        if len(total) != 1 or 0 in total:
            raise InputError(f"batched_run: expected the same number of items in every input, got {sorted(total)}")
        count, size = total.pop(), self.batch_size
        if size is None:
            return self.run(arrays, val_inp)
        parts = [self.run([_part(a, i, size) for a in arrays], val_inp) for i in range(0, count, size)]
        return [np.concatenate(outs)[:count] for outs in zip(*parts, strict=True)]

    def timed_run(self, inp: Any, val_inp: bool = False) -> tuple[list[Any], float]:
        """(outputs, seconds) of one run."""
        start = perf_counter()
        out = self.run(inp, val_inp)
        return out, perf_counter() - start

    def benchmark(
        self,
        inp: Any,
        num_iterations: int = 20,
        num_warmup_iterations: int = 5,
        include_inputs: bool = False,
        include_outputs: bool = False,
        show_progress: bool = False,
    ) -> BenchmarkResults:
        """Time num_iterations runs of the same inputs after num_warmup_iterations untimed ones."""
        return self.benchmark_loader(
            [inp], num_iterations, num_warmup_iterations, include_inputs, include_outputs, show_progress
        )

    def benchmark_loader(
        self,
        loader: Iterable[Any],
        num_iterations: int = 20,
        num_warmup_iterations: int = 5,
        include_inputs: bool = False,
        include_outputs: bool = False,
        show_progress: bool = False,
    ) -> BenchmarkResults:
        """Time runs over the input lists of a loader, again and again. Inputs are checked before the runs."""
        if num_iterations < 1 or num_warmup_iterations < 0:
            got = f"{num_iterations} and {num_warmup_iterations} for warm-up"
            raise ConfigError(f"benchmark: expected at least one iteration, got {got}")
        batches = [self.checked(b) for b in loader]
        if not batches:
            raise InputError("benchmark: expected a loader with at least one list of inputs, got an empty one")
        results = BenchmarkResults()
        for i in progress(range(-num_warmup_iterations, num_iterations), show_progress):
            batch = batches[i % len(batches)]
            out, seconds = self.timed_run(batch)
            if i >= 0:
                size = self.batch_size or (len(batch[0]) if batch and np.ndim(batch[0]) else 1)
                kept = batch if include_inputs else None
                results.append(BatchBenchmarkResult(seconds, size, kept, out if include_outputs else None))
        return results


def _part(array: np.ndarray, start: int, size: int) -> np.ndarray:
    part = array[start : start + size]
    if len(part) < size:
        part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
    return np.ascontiguousarray(part)
