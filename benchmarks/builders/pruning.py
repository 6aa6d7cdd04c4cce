"""Magnitude pruning of a finished ONNX file, layer by layer, to exact zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.builders.layers import input_axis, replace_weight, weighted_nodes

BLOCK = 4


def prune(source: Path, target: Path, share: float, *, blocks: bool) -> None:
    """Zeroes `share` of each layer's weights, or of its 1x4 blocks along the input.

    Layers with fewer than four inputs per group (stems, depthwise) stay dense. What is left is scaled up to the layer's
    former norm, so that activations keep their size.
    """
    model = onnx.load(str(source))
    for node, weight in weighted_nodes(model.graph):
        values = numpy_helper.to_array(weight)
        axis = input_axis(node)
        if values.shape[axis] < BLOCK:
            continue
        kept = _kept_blocks(values, axis, share) if blocks else _kept_elements(np.abs(values), share)
        pruned = np.where(kept, values, np.float32(0))
        scale = np.linalg.norm(values) / np.linalg.norm(pruned)
        replace_weight(weight, (pruned * scale).astype(np.float32))
    _save(model, target)


def _kept_elements(score: np.ndarray, share: float) -> np.ndarray:
    """True for all but the `share` of elements with the smallest scores."""
    kept = np.ones(score.size, bool)
    dropped = round(share * score.size)
    if dropped:
        kept[np.argpartition(score.ravel(), dropped - 1)[:dropped]] = False
    return kept.reshape(score.shape)


def _kept_blocks(values: np.ndarray, axis: int, share: float) -> np.ndarray:
    if values.shape[axis] % BLOCK:
        raise SystemExit(f"a layer has {values.shape[axis]} inputs, which 1x{BLOCK} blocks do not divide")
    inputs_last = np.moveaxis(values, axis, -1)
    blocks = inputs_last.reshape(*inputs_last.shape[:-1], -1, BLOCK)
    kept = _kept_elements(np.linalg.norm(blocks, axis=-1), share)
    return np.moveaxis(np.repeat(kept, BLOCK, axis=-1), -1, axis)


def _save(model: onnx.ModelProto, target: Path) -> None:
    if model.ByteSize() < 1 << 30:
        onnx.save(model, str(target))
        return
    data_path = target.with_suffix(".onnx.data")
    data_path.unlink(missing_ok=True)
    onnx.save(model, str(target), save_as_external_data=True, location=data_path.name, size_threshold=1024)
