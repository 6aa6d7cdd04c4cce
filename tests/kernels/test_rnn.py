"""Recurrent networks against their references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.kernels.compare import check, random

import skipjack.kernels.rnn  # noqa: F401

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}


def network(
    op: str, hidden: int, steps: int = 5, batch: int = 3, features: int = 7, directions: int = 1, bias: bool = True
) -> list[Any]:
    g = GATES[op]
    w = random((directions, g * hidden, features), seed=1) * 0.4
    r = random((directions, g * hidden, hidden), seed=2) * 0.3
    b = random((directions, 2 * g * hidden), seed=3) * 0.5 if bias else None
    return [random((steps, batch, features)), w, r, b]


def run(op: str, inputs: list[Any], attrs: dict[str, Any] | None = None, outputs: int = 0) -> None:
    known = [i for i in (1, 2, 3, 7) if i < len(inputs) and inputs[i] is not None]
    check(op, inputs, attrs, outputs=outputs or (3 if op == "LSTM" else 2), constants=known, **CLOSE)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("hidden", [1, 8, 16, 17, 40])
def test_forward(op: str, hidden: int) -> None:
    run(op, network(op, hidden))
    run(op, network(op, hidden, bias=False), outputs=1)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_directions_lengths_and_states(op: str, direction: str) -> None:
    d = 2 if direction == "bidirectional" else 1
    inputs = network(op, 9, directions=d)
    lengths = np.array([5, 0, 3], np.int32)
    states = [random((d, 3, 9), seed=7), random((d, 3, 9), seed=8)][: 2 if op == "LSTM" else 1]
    run(op, [*inputs, lengths, *states], {"direction": direction})
    run(op, [*inputs, None, *states], {"direction": direction})


@pytest.mark.parametrize("op", GATES)
def test_batch_first(op: str) -> None:
    x, w, r, b = network(op, 9, directions=2)
    h0 = random((3, 2, 9), seed=7)
    attrs = {"direction": "bidirectional", "layout": 1}
    run(op, [np.ascontiguousarray(x.swapaxes(0, 1)), w, r, b, None, h0], attrs)


def test_variants() -> None:
    gru, lstm, rnn = (network(op, 20) for op in ("GRU", "LSTM", "RNN"))
    run("GRU", gru, {"linear_before_reset": 1})
    run("GRU", gru, {"clip": 0.2})
    run("LSTM", lstm, {"clip": 0.3})
    run("LSTM", lstm, {"input_forget": 1})
    run("LSTM", [*lstm, None, None, None, random((1, 60), seed=9)])
    two = network("RNN", 20, directions=2)
    run("RNN", two, {"direction": "bidirectional", "activations": ("Relu", "Tanh")})
    for name in ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"):
        run("RNN", rnn, {"activations": (name,), "activation_alpha": (0.4,), "activation_beta": (0.3,)})


def test_no_steps() -> None:
    run("LSTM", network("LSTM", 9, steps=0))
