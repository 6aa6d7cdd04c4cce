"""skipjack: neural networks on CPUs, fast because zeros are skipped.

Names are loaded on first use, so that importing the package costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skipjack.core.collecting import put_off

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from skipjack.benchmark.model import benchmark_model as benchmark_model
    from skipjack.benchmark.model import multistream_benchmark as multistream_benchmark
    from skipjack.benchmark.model import singlestream_benchmark as singlestream_benchmark
    from skipjack.core.errors import SkipjackError as SkipjackError
    from skipjack.cpu import cpu_architecture as cpu_architecture
    from skipjack.cpu import cpu_avx2_compatible as cpu_avx2_compatible
    from skipjack.cpu import cpu_avx512_compatible as cpu_avx512_compatible
    from skipjack.cpu import cpu_vnni_compatible as cpu_vnni_compatible
    from skipjack.engine import Context as Context
    from skipjack.engine import Engine as Engine
    from skipjack.engine import MultiModelEngine as MultiModelEngine
    from skipjack.engine import compile_model as compile_model
    from skipjack.session.results import BatchBenchmarkResult as BatchBenchmarkResult
    from skipjack.session.results import BenchmarkResults as BenchmarkResults
    from skipjack.session.teams import Scheduler as Scheduler
    from skipjack.zoo.model import Model as Model

_PUBLIC = {
    "BatchBenchmarkResult": "skipjack.session.results",
    "BenchmarkResults": "skipjack.session.results",
    "Context": "skipjack.engine",
    "Engine": "skipjack.engine",
    "Model": "skipjack.zoo.model",
    "MultiModelEngine": "skipjack.engine",
    "Scheduler": "skipjack.session.teams",
    "SkipjackError": "skipjack.core.errors",
    "benchmark_model": "skipjack.benchmark.model",
    "compile_model": "skipjack.engine",
    "cpu_architecture": "skipjack.cpu",
    "cpu_avx2_compatible": "skipjack.cpu",
    "cpu_avx512_compatible": "skipjack.cpu",
    "cpu_vnni_compatible": "skipjack.cpu",
    "multistream_benchmark": "skipjack.benchmark.model",
    "singlestream_benchmark": "skipjack.benchmark.model",
}
__all__ = [
    "BatchBenchmarkResult",
    "BenchmarkResults",
    "Context",
    "Engine",
    "Model",
    "MultiModelEngine",
    "Scheduler",
    "SkipjackError",
    "__version__",
    "benchmark_model",
    "compile_model",
    "cpu_architecture",
    "cpu_avx2_compatible",
    "cpu_avx512_compatible",
    "cpu_vnni_compatible",
    "multistream_benchmark",
    "singlestream_benchmark",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'skipjack' has no attribute {name!r}")
    with put_off():
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
