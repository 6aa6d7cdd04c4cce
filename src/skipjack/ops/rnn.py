"""Recurrent networks: RNN, GRU and LSTM in both directions, with any gate activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skipjack.core.dims import Dim
from skipjack.ir.types import TensorType, ValueType
from skipjack.ops.conv import widened
from skipjack.ops.registry import Infer, Op, Ref, register
from skipjack.ops.rules import outputs, same_dim

Activation = Callable[[np.ndarray], np.ndarray]
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _activations(alpha: float, beta: float) -> dict[str, Activation]:
    """Every gate activation by its lower-case name, with its two parameters bound."""
    return {
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "sigmoid": _sigmoid,
        "affine": lambda x: alpha * x + beta,
        "leakyrelu": lambda x: np.where(x >= 0, x, alpha * x),
        "thresholdedrelu": lambda x: np.where(x >= alpha, x, 0),
        "scaledtanh": lambda x: alpha * np.tanh(beta * x),
        "hardsigmoid": lambda x: np.clip(alpha * x + beta, 0, 1),
        "elu": lambda x: np.where(x >= 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1)),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "softplus": lambda x: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0),
    }


ALPHA = {
    "affine": 1.0,
    "leakyrelu": 0.01,
    "thresholdedrelu": 1.0,
    "scaledtanh": 1.0,
    "hardsigmoid": 0.2,
    "elu": 1.0,
}
BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}
NAMES = frozenset(_activations(0, 0))


def gate_activations(x: Infer | Ref, defaults: Sequence[str]) -> list[tuple[str, float, float]]:
    """(name, alpha, beta) of every gate, direction by direction; parameters go, in order, to those that take them."""
    count = DIRECTIONS[direction_of(x)]
    names = [str(n).lower() for n in x.attr("activations") or list(defaults) * count]
    if len(names) != len(defaults) * count or any(n not in NAMES for n in names):
        x.fail(f"{len(defaults) * count} activations among {sorted(NAMES)}", names)
    alphas, betas = list(x.attr("activation_alpha") or ()), list(x.attr("activation_beta") or ())
    out: list[tuple[str, float, float]] = []
    for name in names:
        alpha, beta = ALPHA.get(name, 0.0), BETA.get(name, 0.0)
        if name in ALPHA and alphas:
            alpha = float(alphas.pop(0))
        if name in BETA and betas:
            beta = float(betas.pop(0))
        out.append((name, alpha, beta))
    return out


def direction_of(x: Infer | Ref) -> str:
    """forward, reverse or bidirectional."""
    direction = str(x.attr("direction", "forward"))
    if direction not in DIRECTIONS:
        x.fail(f"direction among {sorted(DIRECTIONS)}", direction)
    return direction


def _infer(gates: int, defaults: Sequence[str], cell: bool) -> Callable[[Infer], list[ValueType]]:
    def rule(i: Infer) -> list[ValueType]:
        dtype = i.tensor(0).dtype
        directions = DIRECTIONS[direction_of(i)]
        gate_activations(i, defaults)
        x, w, r = i.shape(0), i.shape(1), i.shape(2)
        hidden: Dim = _hidden(i, gates, directions)
        if x is None:
            return outputs(i, *[TensorType(dtype, None)] * (3 if cell else 2))
        if len(x) != 3 or (w is not None and len(w) != 3) or (r is not None and len(r) != 3):
            i.fail("input, weight and recurrence with three axes", f"{x}, {w} and {r}")
        if w is not None:
            same_dim(i, x[2], w[2], "input features")
        batch_first = bool(i.attr("layout", 0))
        batch, steps = (x[0], x[1]) if batch_first else (x[1], x[0])
        state = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
        y = (batch, steps, directions, hidden) if batch_first else (steps, directions, batch, hidden)
        last = TensorType(dtype, state)
        return outputs(i, TensorType(dtype, y), last, *([last] if cell else []))

    return rule


def _hidden(i: Infer, gates: int, directions: int) -> Dim:
    """The number of hidden features, checked against weights and bias."""
    w, r = i.shape(1), i.shape(2)
    given = i.attr("hidden_size")
    hidden: Dim = (
        int(given) if given else r[2] if r is not None else w[1] // gates if w is not None else i.fresh("hidden")
    )
    if w is not None:
        same_dim(i, w[0], directions, "directions")
        same_dim(i, w[1], hidden * gates, "gates")
    if r is not None:
        same_dim(i, r[1], hidden * gates, "gates")
        same_dim(i, r[2], hidden, "hidden features")
    bias = i.shape(3) if i.has(3) else None
    if bias is not None:
        same_dim(i, bias[-1], hidden * gates * 2, "bias")
    return hidden


class _Cell:
    """One direction of one network: its weights as f32 or f64 and the function of one step."""

    def __init__(self, r: Ref, direction: int, gates: int, acts: Sequence[tuple[str, float, float]]) -> None:
        self.w, self.r = widened(r.inputs[1][direction]), widened(r.inputs[2][direction])
        self.hidden = self.r.shape[1]
        if self.w.shape[0] != gates * self.hidden or self.r.shape[0] != gates * self.hidden:
            r.fail(f"weights of {gates * self.hidden} rows", f"{self.w.shape} and {self.r.shape}")
        bias = r.get(3)
        b = np.zeros(2 * gates * self.hidden, self.w.dtype) if bias is None else widened(bias[direction])
        self.wb, self.rb = b[: gates * self.hidden], b[gates * self.hidden :]
        self.f = [_activations(alpha, beta)[name] for name, alpha, beta in acts]
        self.clip = float(r.attr("clip", 0.0) or np.inf)
        self.before = bool(r.attr("linear_before_reset", 0))
        self.coupled = bool(r.attr("input_forget", 0))
        peephole = r.get(7)
        p = np.zeros(3 * self.hidden, self.w.dtype) if peephole is None else widened(peephole[direction])
        self.peepholes = np.split(p, 3)

    def clipped(self, x: np.ndarray) -> np.ndarray:
        return np.clip(x, -self.clip, self.clip)

    def rnn(self, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.f[0](self.clipped(x @ self.w.T + self.wb + h @ self.r.T + self.rb)), c

    def gru(self, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = self.hidden
        fed = x @ self.w.T + self.wb
        update, reset = np.split(
            self.f[0](self.clipped(fed[:, : 2 * n] + h @ self.r[: 2 * n].T + self.rb[: 2 * n])), 2, axis=1
        )
        last, bias = self.r[2 * n :].T, self.rb[2 * n :]
        inner = reset * (h @ last + bias) if self.before else (reset * h) @ last + bias
        candidate = self.f[1](self.clipped(fed[:, 2 * n :] + inner))
        return (1 - update) * candidate + update * h, c

    def lstm(self, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        i, o, f, g = np.split(x @ self.w.T + self.wb + h @ self.r.T + self.rb, 4, axis=1)
        pi, po, pf = self.peepholes
        i = self.f[0](self.clipped(i + pi * c))
        f = 1 - i if self.coupled else self.f[0](self.clipped(f + pf * c))
        c = f * c + i * self.f[1](self.clipped(g))
        return self.f[0](self.clipped(o + po * c)) * self.f[2](c), c


def _run(
    r: Ref, x: np.ndarray, lengths: np.ndarray, step: Any, state: np.ndarray, cell: np.ndarray, reverse: bool
) -> Any:
    """One direction over x [steps, batch, features]: outputs [steps, batch, hidden] and the last states."""
    h, c = state, cell
    y = np.zeros((x.shape[0], x.shape[1], h.shape[1]), h.dtype)
    batch = np.arange(x.shape[1])
    for t in range(int(lengths.max(initial=0))):
        live = t < lengths
        at = np.where(live, lengths - 1 - t if reverse else t, 0)
        new_h, new_c = step(x[at, batch], h, c)
        h, c = np.where(live[:, None], new_h, h), np.where(live[:, None], new_c, c)
        y[at[live], batch[live]] = h[live]
    return y, h, c


def _initial(r: Ref, index: int, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    given = r.get(index)
    if given is None:
        return np.zeros(shape, dtype)
    state = widened(given).swapaxes(0, 1) if r.attr("layout", 0) else widened(given)
    if state.shape != shape:
        r.fail(f"an initial state of shape {shape}", state.shape)
    return state


def _reference(gates: int, defaults: Sequence[str], method: str) -> Callable[[Ref], list[Any]]:
    def reference(r: Ref) -> list[Any]:
        direction = direction_of(r)
        directions = DIRECTIONS[direction]
        acts = gate_activations(r, defaults)
        x = widened(r.inputs[0])
        x = x.swapaxes(0, 1) if r.attr("layout", 0) else x
        steps, batch = x.shape[:2]
        lengths = np.full(batch, steps) if r.get(4) is None else np.asarray(r.inputs[4]).astype(np.int64)
        if lengths.shape != (batch,) or (batch and (lengths.min() < 0 or lengths.max() > steps)):
            r.fail(f"{batch} sequence lengths of at most {steps}", lengths.tolist())
        hidden = r.inputs[2].shape[2]
        h0, c0 = (_initial(r, n, (directions, batch, hidden), x.dtype) for n in (5, 6))
        results: list[Any] = []
        for d in range(directions):
            cell = _Cell(r, d, gates, acts[d * len(defaults) : (d + 1) * len(defaults)])
            reverse = direction == "reverse" or d == 1
            results.append(_run(r, x, lengths, getattr(cell, method), h0[d], c0[d], reverse))
        y = np.stack([p[0] for p in results], axis=1)
        states = [np.stack([p[n] for p in results]) for n in (1, 2)]
        if r.attr("layout", 0):
            y, states = y.transpose(2, 0, 1, 3), [s.swapaxes(0, 1) for s in states]
        return [np.ascontiguousarray(a).astype(r.inputs[0].dtype) for a in (y, *states)][: r.n_outputs]

    return reference


register(Op("RNN", _infer(1, ("Tanh",), False), _reference(1, ("Tanh",), "rnn")))
register(Op("GRU", _infer(3, ("Sigmoid", "Tanh"), False), _reference(3, ("Sigmoid", "Tanh"), "gru")))
_LSTM = ("Sigmoid", "Tanh", "Tanh")
register(Op("LSTM", _infer(4, _LSTM, True), _reference(4, _LSTM, "lstm")))
