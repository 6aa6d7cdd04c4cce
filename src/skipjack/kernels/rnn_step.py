"""The recurrent steps of one sequence: lanes over hidden features, states in the thread's scratch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import emit
from skipjack.kernels.launch import generator
from skipjack.lang.expr import Expr, arg, const, maximum, minimum, select, sigmoid, unary
from skipjack.lang.kernel import Kernel, V, Var
from skipjack.lang.program import F32, I32, I64, PTR, Program
from skipjack.targets.target import Target

_CHAINS = 2
_BUFFERS = 5


@dataclass(frozen=True)
class Cell:
    """What one step computes. acts: (name, alpha, beta) per activation; present: the optional values that are given."""

    op: str
    acts: tuple[tuple[str, float, float], ...]
    clip: float
    before_reset: bool
    coupled: bool
    peepholes: bool
    present: tuple[str, ...]


def scratch_bytes(padded: int) -> int:
    """Scratch of one thread for states of `padded` features."""
    return _BUFFERS * 4 * padded


def activation(name: str, alpha: float, beta: float) -> Expr:
    """A gate activation by its lower-case name."""
    x = arg(0, DType.F32)
    zero = const(0.0, DType.F32)
    table: dict[str, Callable[[], Expr]] = {
        "relu": lambda: maximum(x, 0.0),
        "tanh": lambda: unary("tanh", x),
        "sigmoid": lambda: sigmoid(x),
        "affine": lambda: x * alpha + beta,
        "leakyrelu": lambda: select(x >= 0.0, x, x * alpha),
        "thresholdedrelu": lambda: select(x >= alpha, x, zero),
        "scaledtanh": lambda: unary("tanh", x * beta) * alpha,
        "hardsigmoid": lambda: maximum(minimum(x * alpha + beta, 1.0), 0.0),
        "elu": lambda: select(x >= 0.0, x, (unary("exp", minimum(x, 0.0)) - 1.0) * alpha),
        "softsign": lambda: x / (unary("abs", x) + 1.0),
        "softplus": lambda: unary("log1p", unary("exp", -unary("abs", x))) + maximum(x, 0.0),
    }
    return table[name]()


_WORDS = (
    "first", "batch", "steps", "hidden", "padded", "reverse", "rows", "row_step", "row_batch",
    "y_step", "y_direction", "y_batch", "state_direction", "state_batch",
)  # fmt: skip


@generator("rnn_steps")
def kernel(target: Target, name: str, cell: Cell) -> Program:
    """A unit is one sequence in one direction."""
    pointers = ["fed", "r", "r_last", "last_bias", *(["peephole"] if cell.peepholes else []), *cell.present]
    k = Kernel(name, [*((p, PTR) for p in pointers), *((w, I64) for w in _WORDS)], 8 * target.vector_bytes)
    with k.units() as u:
        _Sequence(k, target.vl, cell, u).run()
    return k.finish()


class _Sequence:
    """Writes the steps of one unit."""

    def __init__(self, k: Kernel, vl: int, cell: Cell, unit: V) -> None:
        self.k, self.vl, self.cell, self.g = k, vl, cell, k.arg
        g = k.arg
        self.d, self.b = g.first + unit.udiv(g.batch), unit.urem(g.batch)
        self.gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[cell.op]
        size = g.padded * 4
        self.hidden = [k.scratch, k.scratch.at(size)]
        self.c, self.update, self.fresh = (k.scratch.at(size * n) for n in (2, 3, 4))
        self.vector = F32.vec(vl)
        self.now: Var = k.var(k.i64(0))

    def state(self) -> V:
        return self.k.scratch.at(self.now.get())

    def following(self) -> V:
        return self.k.scratch.at(self.g.padded * 4 - self.now.get())

    def run(self) -> None:
        k, g = self.k, self.g
        state = self.d * g.state_direction + self.b * g.state_batch
        self.now.set(0)
        self.start("h0", self.state(), state)
        if self.cell.op == "LSTM":
            self.start("c0", self.c, state)
        length = g.steps
        if "lengths" in self.cell.present:
            length = k.max(k.min(g.lengths.at(self.b, 4).load(I32).sext(I64), g.steps), 0)
        backwards = g.reverse.ne(0) | (self.d > 0)
        with k.loop(length) as s:
            t = k.select(backwards, length - 1 - s, s)
            self.step(t)
            self.now.set(g.padded * 4 - self.now.get())
            if "y" in self.cell.present:
                self.copy(self.state(), self.y(t))
        if "y" in self.cell.present:
            with k.loop(g.steps, length) as t:
                self.copy(None, self.y(t))
        if "h_last" in self.cell.present:
            self.copy(self.state(), g.h_last.at(state, 4))
        if "c_last" in self.cell.present:
            self.copy(self.c, g.c_last.at(state, 4))

    def y(self, t: V) -> V:
        g = self.g
        return g.y.at(t * g.y_step + self.d * g.y_direction + self.b * g.y_batch, 4)

    def start(self, name: str, to: V, offset: V) -> None:
        """A state as given, or zeros; zeros behind it."""
        k = self.k
        with k.loop(self.g.padded, step=self.vl) as j:
            value = k.zero(self.vector)
            if name in self.cell.present:
                source = getattr(self.g, name).at(offset + j, 4)
                value = source.load_masked(self.vector, k.below(self.g.hidden - j, self.vl))
            to.at(j, 4).store(value)

    def copy(self, source: V | None, to: V) -> None:
        k = self.k
        with k.loop(self.g.hidden, step=self.vl) as j:
            value = k.zero(self.vector) if source is None else source.at(j, 4).load(self.vector)
            to.at(j, 4).store_masked(value, k.below(self.g.hidden - j, self.vl))

    def step(self, t: V) -> None:
        k, g = self.k, self.g
        row = self.d * g.rows + t * g.row_step + self.b * g.row_batch
        fed = g.fed.at(row * g.padded * self.gates, 4)
        if self.cell.op == "GRU" and not self.cell.before_reset:
            self.gru_apart(fed)
            return
        with k.loop(g.padded, step=self.vl) as j:
            sums = self.sums(g.r, self.gates, j, self.state())
            inputs = [fed.at(n * g.padded + j, 4).load(self.vector) for n in range(self.gates)]
            {"RNN": self.rnn, "GRU": self.gru, "LSTM": self.lstm}[self.cell.op](inputs, sums, j)

    def sums(self, packed: V, gates: int, j: V, state: V) -> list[V]:
        """state @ recurrent weights for `gates` gates of the features [j, j + lanes), in chains of every other term."""
        k, g, vl = self.k, self.g, self.vl
        base = packed.at((self.d * g.padded + j) * g.hidden * gates, 4)
        chains = [[k.var(k.zero(self.vector)) for _ in range(gates)] for _ in range(_CHAINS)]

        def term(i: V, chain: Sequence[Var]) -> None:
            value = state.at(i, 4).load(F32).splat(vl)
            for n, total in enumerate(chain):
                total.set(k.fma(value, base.at((i * gates + n) * vl, 4).load(self.vector), total))

        even = (g.hidden // _CHAINS) * _CHAINS
        with k.loop(even, step=_CHAINS) as i:
            for n, chain in enumerate(chains):
                term(i + n, chain)
        with k.loop(g.hidden, even) as i:
            term(i, chains[0])
        return [a.get() + b.get() for a, b in zip(chains[0], chains[1], strict=True)]

    def f(self, n: int, x: V, clipped: bool = True) -> V:
        k = self.k
        if clipped and math.isfinite(self.cell.clip):
            limit = self.cell.clip
            x = k.min(k.constant(x.ty, limit), k.max(k.constant(x.ty, -limit), x))
        return emit(k, activation(*self.cell.acts[n]), [x])

    def store(self, j: V, value: V) -> None:
        self.following().at(j, 4).store(value)

    def rnn(self, fed: list[V], sums: list[V], j: V) -> None:
        self.store(j, self.f(0, fed[0] + sums[0]))

    def lstm(self, fed: list[V], sums: list[V], j: V) -> None:
        i, o, forget, g = (a + b for a, b in zip(fed, sums, strict=True))
        c = self.c.at(j, 4).load(self.vector)
        i = self.f(0, self.peeped(i, 0, c, j))
        forget = 1.0 - i if self.cell.coupled else self.f(0, self.peeped(forget, 2, c, j))
        c = forget * c + i * self.f(1, g)
        self.c.at(j, 4).store(c)
        self.store(j, self.f(0, self.peeped(o, 1, c, j)) * self.f(2, c, clipped=False))

    def peeped(self, x: V, gate: int, c: V, j: V) -> V:
        if not self.cell.peepholes:
            return x
        g = self.g
        return x + g.peephole.at((self.d * 3 + gate) * g.padded + j, 4).load(self.vector) * c

    def gru(self, fed: list[V], sums: list[V], j: V) -> None:
        update, reset = self.f(0, fed[0] + sums[0]), self.f(0, fed[1] + sums[1])
        inner = sums[2] + self.g.last_bias.at(self.d * self.g.padded + j, 4).load(self.vector)
        candidate = self.f(1, fed[2] + reset * inner)
        self.store(j, self.mixed(update, candidate, j))

    def mixed(self, update: V, candidate: V, j: V) -> V:
        return (1.0 - update) * candidate + update * self.state().at(j, 4).load(self.vector)

    def gru_apart(self, fed: V) -> None:
        """The reset gate acts on the state before the last product, so all of it must be there first."""
        k, g = self.k, self.g
        with k.loop(g.padded, step=self.vl) as j:
            sums = self.sums(g.r, 2, j, self.state())
            update, reset = (self.f(0, fed.at(n * g.padded + j, 4).load(self.vector) + sums[n]) for n in range(2))
            self.update.at(j, 4).store(update)
            self.fresh.at(j, 4).store(reset * self.state().at(j, 4).load(self.vector))
        with k.loop(g.padded, step=self.vl) as j:
            (inner,) = self.sums(g.r_last, 1, j, self.fresh)
            candidate = self.f(1, fed.at(2 * g.padded + j, 4).load(self.vector) + inner)
            self.store(j, self.mixed(self.update.at(j, 4).load(self.vector), candidate, j))
