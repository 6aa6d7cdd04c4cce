"""Small models for engines, from ONNX's text form."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

HEAD = '<ir_version: 10, opset_import: ["": 23]> g '


def model(body: str, **constants: np.ndarray) -> onnx.ModelProto:
    """The model of `(inputs) => (outputs) { nodes }`; constants are initialisers of it."""
    made = onnx.parser.parse_model(HEAD + body)
    made.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    return made


def dense(features: int = 16) -> onnx.ModelProto:
    """A layer with a free batch: relu(x w + b)."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, features)).astype(np.float32)
    b = rng.standard_normal(features).astype(np.float32)
    nodes = "{ h = MatMul(x, w) z = Add(h, b) y = Relu(z) }"
    return model(f"(float[n,8] x) => (float[n,{features}] y) {nodes}", w=w, b=b)


def dense_means(x: np.ndarray, features: int = 16) -> np.ndarray:
    """What `dense` computes."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, features)).astype(np.float32)
    b = rng.standard_normal(features).astype(np.float32)
    return np.maximum(x @ w + b, 0)


def embedding(words: int = 50) -> onnx.ModelProto:
    """Token ids and a mask, as text models have them."""
    table = np.random.default_rng(1).standard_normal((words, 4)).astype(np.float32)
    return model(
        "(int64[batch,seq] input_ids, int64[batch,seq] attention_mask) => (float[batch,seq,4] y) {"
        " e = Gather(table, input_ids) f = Cast<to=1>(attention_mask) a = Constant<value_ints=[2]>()"
        " u = Unsqueeze(f, a) y = Mul(e, u) }",
        table=table,
    )
