"""Large batches in parts: where the cuts lie, and that no output depends on them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from skipjack import compile_model
from skipjack.engine import compile_graph
from skipjack.runtime import regions
from skipjack.runtime.regions import Batching, Region


def layers(widths: list[int], density: float) -> bytes:
    """Linear layers with ReLU on tokens [batch, 9, width]; weights of the given density."""
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    for i, (k, m) in enumerate(pairwise(widths)):
        w = rng.standard_normal((k, m)).astype(np.float32) * (rng.random((k, m)) < density)
        weights.append(numpy_helper.from_array(w.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
        name = f"r{i}"
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 9, d])
        for n, d in (("x", widths[0]), (name, widths[-1]))
    ]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture
def _small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "_NEAR_BYTES", 40_000)
    monkeypatch.setattr(regions, "_MIDDLE_BYTES", 80_000)
    monkeypatch.setattr(regions, "_LAUNCH_US", 0.0)
    monkeypatch.setattr(regions, "_WEIGHT_RATE", 1e9)


def found(model: bytes, batch: int) -> list[Region]:
    batching = Batching(compile_graph(model, batch).program.plan)
    return list(batching.regions({str(batching.batch): batch}).values())


@pytest.mark.usefixtures("_small_caches")
@pytest.mark.parametrize("density", [0.05, 1.0])
def test_outputs_do_not_depend_on_parts(density: float) -> None:
    model = layers([256, 512, 256, 256, 16], density)
    assert any(r.items < 6 for r in found(model, 6)), "nothing is cut, so nothing is tested"
    x = np.random.default_rng(1).standard_normal((6, 9, 256)).astype(np.float32)
    whole = compile_model(model, batch_size=6).run([x])[0]
    alone = [compile_model(model, batch_size=1).run([x[i : i + 1]])[0] for i in range(6)]
    assert np.array_equal(whole, np.concatenate(alone))


@pytest.mark.usefixtures("_small_caches")
def test_parts_never_end_inside_column_tiles() -> None:
    plan = compile_graph(layers([256, 512, 512, 256], 0.03), 8).program.plan
    batching = Batching(plan)
    crossed = regions._crossed(plan.graph)
    assert crossed, "no value lies in column tiles, so nothing is tested"
    for r in batching.regions({str(batching.batch): 8}).values():
        assert r.start not in crossed
        assert r.end not in crossed


def test_small_activations_stay_whole() -> None:
    assert found(layers([16, 16, 16], 1.0), 8) == []
