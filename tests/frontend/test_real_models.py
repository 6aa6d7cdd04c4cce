"""Every model of the assets imports."""

import os
from pathlib import Path

import pytest

from skipjack.frontend.onnx_file import import_model
from skipjack.ops.registry import find

ASSETS = os.environ.get("SKIPJACK_TEST_ASSETS")
PATHS = sorted(Path(ASSETS, "models").rglob("*.onnx")) if ASSETS else []


@pytest.mark.skipif(not ASSETS, reason="SKIPJACK_TEST_ASSETS names no directory of real models")
@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_real_models_import(path: Path) -> None:
    model = import_model(path)
    assert model.path == path
    assert all(find(n.domain, n.op) for n in model.graph.nodes)
    assert all(name in model.graph.types for name in (*model.graph.inputs, *model.graph.constants))
