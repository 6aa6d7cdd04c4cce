"""The whole pipeline on real models: the outputs stay, and the graphs shrink to the normal forms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from skipjack.core.dims import Sym
from skipjack.frontend.onnx_file import import_model
from skipjack.ir.graph import Graph
from skipjack.ir.types import TensorType
from skipjack.ir.verify import verify
from skipjack.ops.execute import run_graph
from skipjack.passes import pipeline
from tests.passes.building import ops, results

ASSETS = os.environ.get("SKIPJACK_TEST_ASSETS", "")
_ALL = sorted(Path(ASSETS, "models").rglob("*.onnx")) if ASSETS else []
SIZE_LIMIT_BYTES = 6 << 20
MODELS = [path for path in _ALL if path.stat().st_size <= SIZE_LIMIT_BYTES]
pytestmark = pytest.mark.skipif(not MODELS, reason="SKIPJACK_TEST_ASSETS names no directory with models")

SIZES = {"past_sequence_length": 3, "sequence_length": 5, "past_sequence_length___sequence_length": 8}
BY_AXIS = (1, 3, 64, 64)
SPEECH_AXES = {"input": (1, 576), "state": (2, 1, 128)}
REMAINING_NODES = {"mnist": 6, "Network": 3, "resnet20": 26, "superres_core_op18": 5, "model": 185}


def _size(model: str, name: str, axis: int, d: int | Sym) -> int:
    if isinstance(d, int):
        return d
    if "silero" in model:
        return SPEECH_AXES[name][axis]
    return SIZES.get(str(d), BY_AXIS[axis])


def _inputs(graph: Graph, model: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    made: dict[str, np.ndarray] = {}
    for name in graph.inputs:
        t = graph.types[name]
        assert isinstance(t, TensorType)
        assert t.shape is not None
        shape = tuple(_size(model, name, i, d) for i, d in enumerate(t.shape))
        if t.dtype.is_float:
            made[name] = rng.standard_normal(shape).astype(t.dtype.np)
        else:
            made[name] = np.full(shape, 16000 if name == "sr" else 1, t.dtype.np)
    return made


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_outputs_stay(path: Path) -> None:
    before = import_model(path).graph
    after = pipeline.run(before, pipeline.Options(on_stage=lambda name, graph: verify(graph, name)))
    inputs = _inputs(before, path.stem)
    for name, x, y in zip(before.outputs, run_graph(before, inputs), results(after, inputs)):
        assert (x.shape, x.dtype) == (y.shape, y.dtype), name
        scale = float(np.abs(x.astype(np.float64)).max(initial=1e-6))
        tol = 2e-2 if x.dtype == np.float16 else 1e-4
        np.testing.assert_allclose(y.astype(np.float64), x.astype(np.float64), rtol=0, atol=tol * scale, err_msg=name)
    assert len(after.nodes) <= REMAINING_NODES.get(path.stem, len(before.nodes)), ops(after)
