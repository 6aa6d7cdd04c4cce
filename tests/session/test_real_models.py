"""Random inputs run on real models; where a model cannot run on the usual sizes, onnxruntime cannot either."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import skipjack
from skipjack.core.errors import ModelError

ASSETS = os.environ.get("SKIPJACK_TEST_ASSETS")
MODELS = sorted(Path(ASSETS, "models").rglob("*.onnx")) if ASSETS else []


@pytest.mark.skipif(not MODELS, reason="SKIPJACK_TEST_ASSETS names no models")
@pytest.mark.parametrize("path", [p for p in MODELS if p.stat().st_size < 8 << 20] or [None], ids=str)
def test_random_inputs_run(path: Path) -> None:
    engine = skipjack.compile_model(path, batch_size=None)
    arrays = engine.generate_random_inputs(0)
    try:
        outputs = engine.run(arrays)
    except ModelError:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        theirs = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        with pytest.raises(Exception, match=r"FAIL|INVALID"):
            theirs.run(None, dict(zip(engine.input_names, arrays)))
        return
    assert all(np.isfinite(o).all() for o in outputs if isinstance(o, np.ndarray) and o.dtype.kind == "f")
