"""What `Engine.benchmark` returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class BatchBenchmarkResult:
    """One timed batch."""

    time_elapsed: float
    batch_size: int
    inputs: list[np.ndarray] | None = None
    outputs: list[Any] | None = None

    @property
    def batches_per_second(self) -> float:
        return 1.0 / self.time_elapsed

    @property
    def items_per_second(self) -> float:
        return self.batch_size / self.time_elapsed

    @property
    def ms_per_batch(self) -> float:
        return self.time_elapsed * 1000.0

    @property
    def ms_per_item(self) -> float:
        return self.time_elapsed * 1000.0 / self.batch_size


class BenchmarkResults:
    """All timed batches of one benchmark, iterable."""

    def __init__(self, results: Sequence[BatchBenchmarkResult] = ()) -> None:
        self._results = list(results)

    def __iter__(self) -> Iterator[BatchBenchmarkResult]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __getitem__(self, index: int) -> BatchBenchmarkResult:
        return self._results[index]

    def __repr__(self) -> str:
        speed = f"ms_per_batch={self.ms_per_batch:.4f}, items_per_second={self.items_per_second:.4f}"
        return f"BenchmarkResults(num_batches={len(self)}, {speed})"

    __str__ = __repr__

    def append(self, result: BatchBenchmarkResult) -> None:
        self._results.append(result)

    @property
    def results(self) -> list[BatchBenchmarkResult]:
        return self._results

    @property
    def num_batches(self) -> int:
        return len(self._results)

    @property
    def num_items(self) -> int:
        return sum(self.batch_sizes)

    @property
    def batch_times(self) -> list[float]:
        return [r.time_elapsed for r in self._results]

    @property
    def batch_sizes(self) -> list[int]:
        return [r.batch_size for r in self._results]

    @property
    def batch_times_mean(self) -> float:
        return float(np.mean(self.batch_times)) if self._results else 0.0

    @property
    def batch_times_median(self) -> float:
        return float(np.median(self.batch_times)) if self._results else 0.0

    @property
    def batch_times_std(self) -> float:
        return float(np.std(self.batch_times)) if self._results else 0.0

    @property
    def batches_per_second(self) -> float:
        return self.num_batches / sum(self.batch_times) if self._results else 0.0

    @property
    def items_per_second(self) -> float:
        return self.num_items / sum(self.batch_times) if self._results else 0.0

    @property
    def ms_per_batch(self) -> float:
        return self.batch_times_mean * 1000.0

    @property
    def ms_per_item(self) -> float:
        return sum(self.batch_times) * 1000.0 / self.num_items if self._results else 0.0

    @property
    def inputs(self) -> list[list[np.ndarray] | None]:
        return [r.inputs for r in self._results]

    @property
    def outputs(self) -> list[list[Any] | None]:
        return [r.outputs for r in self._results]
