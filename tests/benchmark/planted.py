"""Engines with planted faults: onnxruntime's outputs, a set time per call, and one that gets its outputs wrong."""

from __future__ import annotations

import time

import numpy as np

from skipjack.benchmark.engines import EngineSettings, Feed, LoadedEngine, RunOnce, load_onnxruntime

CALL_S = 2e-3


def _lasting(seconds: float, path: str, feed: Feed, settings: EngineSettings, error: float = 0.0) -> LoadedEngine:
    call = load_onnxruntime(path, feed, settings).caller()

    def run_once() -> list[np.ndarray]:
        end = time.process_time() + seconds
        outputs = [array + np.float32(error) for array in call()]
        while time.process_time() < end:
            pass
        return outputs

    def caller() -> RunOnce:
        return run_once

    return LoadedEngine(caller, lambda: {"repr": "planted", "version": "1"})


def steady(path: str, feed: Feed, settings: EngineSettings) -> LoadedEngine:
    return _lasting(CALL_S, path, feed, settings)


def slower(path: str, feed: Feed, settings: EngineSettings) -> LoadedEngine:
    """Ten percent slower than steady."""
    return _lasting(1.1 * CALL_S, path, feed, settings)


def wrong(path: str, feed: Feed, settings: EngineSettings) -> LoadedEngine:
    """Fast and wrong."""
    return _lasting(0.0, path, feed, settings, error=0.5)


def broken(path: str, feed: Feed, settings: EngineSettings) -> LoadedEngine:
    raise RuntimeError("this engine does not\nlike the model")
