"""Numbers of a benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from skipjack.session.results import BatchBenchmarkResult, BenchmarkResults


def test_one_batch() -> None:
    one = BatchBenchmarkResult(0.02, 4)
    assert one.batches_per_second == pytest.approx(50)
    assert one.items_per_second == pytest.approx(200)
    assert one.ms_per_batch == pytest.approx(20)
    assert one.ms_per_item == pytest.approx(5)


def test_many_batches() -> None:
    x = [np.zeros(1)]
    results = BenchmarkResults([BatchBenchmarkResult(0.1, 2, x, x), BatchBenchmarkResult(0.3, 2)])
    results.append(BatchBenchmarkResult(0.2, 4))
    assert len(results) == results.num_batches == len(results.results) == len(list(results)) == 3
    assert results[2].batch_size == 4
    assert results.num_items == 8
    assert results.batch_sizes == [2, 2, 4]
    assert results.batch_times == [0.1, 0.3, 0.2]
    assert results.batch_times_mean == pytest.approx(0.2)
    assert results.batch_times_median == pytest.approx(0.2)
    assert results.batch_times_std == pytest.approx(np.std([0.1, 0.2, 0.3]))
    assert results.batches_per_second == pytest.approx(5)
    assert results.items_per_second == pytest.approx(8 / 0.6)
    assert results.ms_per_batch == pytest.approx(200)
    assert results.ms_per_item == pytest.approx(75)
    assert results.inputs == results.outputs == [x, None, None]
    assert "num_batches=3" in repr(results)


def test_no_batches() -> None:
    empty = BenchmarkResults()
    assert (empty.num_batches, empty.num_items, empty.batch_times_mean, empty.items_per_second) == (0, 0, 0, 0)
    assert (empty.batch_times_median, empty.batch_times_std) == (0, 0)
    assert (empty.ms_per_item, empty.batches_per_second) == (0, 0)
