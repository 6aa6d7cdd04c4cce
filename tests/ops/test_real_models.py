"""Whole networks on the references: outputs as recorded, and every value of the type that the type rules promise."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import skipjack.ops.all  # noqa: F401
from skipjack.frontend.onnx_file import import_model
from skipjack.passes.propagate_types import typed
from tests.ops.conformance.runners import run_checked

ASSETS = os.environ.get("SKIPJACK_TEST_ASSETS")
pytestmark = pytest.mark.skipif(not ASSETS, reason="SKIPJACK_TEST_ASSETS does not name the directory of real models")
RECORDED = sorted(Path(ASSETS, "models").glob("*/*.golden_r*.npz")) if ASSETS else []
LOOSE = 2e-2


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda p: p.stem)
def test_recorded_outputs_come_out(recorded: Path) -> None:
    graph = typed(import_model(recorded.parent / f"{recorded.name.split('.golden_')[0]}.onnx").graph).graph
    with np.load(recorded) as data:
        feeds = {name: data[f"in:{name}"] for name in graph.inputs}
        expected = {name: data[f"out:{name}"] for name in graph.outputs if f"out:{name}" in data}
    assert expected, f"{recorded.name} holds no outputs"
    outputs = dict(zip(graph.outputs, run_checked(graph, feeds)))
    for name, wanted in expected.items():
        loose = wanted.dtype == np.float16 or "random" in recorded.name
        limit = (LOOSE if loose else 1e-4) * max(float(np.abs(wanted).max()), 1e-6)
        np.testing.assert_allclose(outputs[name].astype(np.float64), wanted.astype(np.float64), rtol=0, atol=limit)
