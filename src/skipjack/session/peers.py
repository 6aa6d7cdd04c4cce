"""The same calls on onnxruntime, for comparison."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from skipjack.core.errors import ConfigError, InputError, ModelError
from skipjack.session.calls import Calls
from skipjack.session.inputs import parse_shapes
from skipjack.zoo.names import is_remote

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


class ORTEngine(Calls):
    """A model on onnxruntime's CPU provider with skipjack's run methods. The model's own sizes are not changed."""

    def __init__(
        self, model: Any, batch_size: int | None = 1, num_cores: int | None = None, input_shapes: Any = None
    ) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            advice = "pip install 'skipjack[compare]'"
            raise ConfigError(f"engine 'onnxruntime' needs the package onnxruntime: {advice}") from None
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_cores or 0
        options.inter_op_num_threads = 1
        source = model.SerializeToString() if isinstance(model, ModelProto) else model
        if not isinstance(source, bytes):
            path = (
                importlib.import_module("skipjack.zoo.resolve").resolve(source).model
                if is_remote(source)
                else Path(os.fspath(source))
            )
            source = str(path / "model.onnx" if path.is_dir() else path)
        try:
            self.session: Any = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no public base class
            raise ModelError(f"onnxruntime does not load the model: {error}") from error
        self.model_path = "" if isinstance(source, bytes) else source
        self.num_cores = num_cores or (os.cpu_count() or 1)
        self.input_names: list[str] = [i.name for i in self.session.get_inputs()]
        self._batch_size = batch_size if batch_size is not None and batch_size >= 1 else None
        self._shapes = parse_shapes(self.input_names, input_shapes)

    def run(self, inp: Any, val_inp: bool = True) -> list[Any]:
        """The outputs for one list (or dictionary) of input arrays; onnxruntime checks types and sizes."""
        return list(self.session.run(None, dict(zip(self.input_names, self.in_order(inp), strict=True))))

    __call__ = run

    def checked(self, inp: Any) -> list[Any]:
        return self.in_order(inp)

    def in_order(self, inp: Any) -> list[Any]:
        arrays = [inp[n] for n in self.input_names if n in inp] if isinstance(inp, Mapping) else list(inp)
        if len(arrays) != len(self.input_names):
            raise InputError(f"inputs: expected {len(self.input_names)} arrays ({self.input_names}), got {len(arrays)}")
        return arrays

    @property
    def batch_size(self) -> int | None:
        return self._batch_size

    @property
    def output_names(self) -> list[str]:
        return [o.name for o in self.session.get_outputs()]

    @property
    def input_shapes(self) -> list[tuple[Any, ...]]:
        """Sizes per input as overridden, else as the file declares them."""
        return [tuple(self._shapes.get(i.name) or i.shape) for i in self.session.get_inputs()]

    def generate_random_inputs(self, seed: int | None = None) -> list[np.ndarray]:
        """Random arrays of the model's element types; free sizes become the batch size or 1."""
        rng = np.random.default_rng(seed)
        made: list[np.ndarray] = []
        for i, shape in zip(self.session.get_inputs(), self.input_shapes, strict=True):
            free = [self.batch_size or 1] + [1] * len(shape)
            sizes = [d if isinstance(d, int) else n for d, n in zip(shape, free)]
            dtype = np.dtype(_NUMPY.get(i.type, np.float32))
            made.append((rng.standard_normal(sizes) if dtype.kind == "f" else rng.integers(0, 2, sizes)).astype(dtype))
        return made

    def __str__(self) -> str:
        lines = [f"onnx_file_path: {self.model_path}", f"batch_size: {self.batch_size}", f"num_cores: {self.num_cores}"]
        return f"{type(self).__module__}.{type(self).__qualname__}:\n\t" + "\n\t".join(lines)
