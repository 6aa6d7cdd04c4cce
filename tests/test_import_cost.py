"""`import skipjack` and the engine behind it: what they load, and how long the import takes."""

from __future__ import annotations

import json
import subprocess
import sys

LIMIT_SECONDS = 0.4
ALLOWED = {"skipjack", "numpy", "llvmlite"}
_MEASURE = """
import json, sys
from time import perf_counter
before = set(sys.modules)
start = perf_counter()
import skipjack
seconds = perf_counter() - start
loaded = sorted({m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))
print(json.dumps({'seconds': seconds, 'loaded': loaded}))
"""


def measure() -> dict:
    """Import the package in a new interpreter."""
    answer = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def test_the_import_loads_nothing_beyond_numpy_and_llvmlite() -> None:
    assert set(measure()["loaded"]) <= ALLOWED


def test_the_import_is_quick() -> None:
    best = min(measure()["seconds"] for _ in range(5))
    assert best < LIMIT_SECONDS, f"import skipjack took {best:.3f} s in the best of 5"


def test_apps_and_optional_packages_are_not_loaded_by_the_engine() -> None:
    code = "import skipjack, sys; skipjack.Engine; print([m for m in %r if m in sys.modules])"
    heavy = ["torch", "onnxruntime", "openvino", "click", "fastapi", "tokenizers", "huggingface_hub"]
    answer = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
