"""Normalisation of token matrices in column tiles: lanes are positions, so that sums run down a tile."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from skipjack.core.dtypes import DType
from skipjack.ir.graph import ONNX
from skipjack.kernels.kinds import TILE
from skipjack.kernels.launch import KernelSpec, Launch, Lowering, Site, Work, generator, lowering
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, I64, PTR, Program
from skipjack.targets.target import Target

_PITCH = 4 * TILE
_VECTORS = 2
_CHAINS = 4


class _Strip:
    """Traces a few vectors of positions of one tile; x and y point to their first feature."""

    def __init__(self, k: Kernel, vl: int, x: V, y: V) -> None:
        self.k, self.x, self.y = k, x, y
        self.vector = F32.vec(vl)
        self.offsets = [4 * vl * t for t in range(_VECTORS)]

    def total(self, term: Callable[[int, V], V]) -> list[V]:
        """The sum over all features of term(vector, x) of every vector: neighbouring features go to own chains."""
        k, n = self.k, self.k.arg.features
        sums = [[k.var(k.zero(self.vector)) for _ in self.offsets] for _ in range(_CHAINS)]

        def add(f: V, chain: int) -> None:
            for t, offset in enumerate(self.offsets):
                x = self.x.at(f * _PITCH).at(chain * _PITCH + offset).load(self.vector)
                sums[chain][t].set(sums[chain][t].get() + term(t, x))

        whole = n // _CHAINS * _CHAINS
        with k.loop(whole, 0, _CHAINS) as f:
            for chain in range(_CHAINS):
                add(f, chain)
        with k.loop(n, whole) as f:
            add(f, 0)
        return [
            (sums[0][t].get() + sums[1][t].get()) + (sums[2][t].get() + sums[3][t].get())
            for t in range(len(self.offsets))
        ]

    def trace(self, centred: bool, shifted: bool) -> None:
        k, a = self.k, self.k.arg
        count = a.features.to_float(F32).splat(self.vector.lanes)
        means = [s / count for s in self.total(lambda _, x: x)] if centred else []

        def deviation(t: int, x: V) -> V:
            return x - means[t] if centred else x

        squares = self.total(lambda t, x: deviation(t, x) * deviation(t, x))
        inverses = [1.0 / k.unary("sqrt", s / count + a.epsilon) for s in squares]
        with k.loop(a.features) as f:
            scale = a.scale.at(f, 4).load(F32, 4)
            for t, offset in enumerate(self.offsets):
                at = f * _PITCH
                x = self.x.at(at).at(offset).load(self.vector)
                y = deviation(t, x) * inverses[t] * scale
                self.y.at(at).at(offset).store(y + a.bias.at(f, 4).load(F32, 4) if shifted else y)


@generator("column_norm")
def column_norm(target: Target, symbol: str, centred: bool, shifted: bool) -> Program:
    """A unit is a strip of vectors of one tile."""
    places = ("x", "y", "scale", *(["bias"] if shifted else []))
    fields = [*((n, PTR) for n in places), *((n, I64) for n in ("features", "strips")), ("epsilon", F32)]
    k = Kernel(symbol, fields, 8 * target.vector_bytes)
    a = k.arg
    with k.units() as unit:
        at = (unit // a.strips * a.features) * _PITCH + unit % a.strips * (4 * _VECTORS * target.vl)
        _Strip(k, target.vl, a.x.at(at), a.y.at(at)).trace(centred, shifted)
    return k.finish()


def _lower(work: Work) -> list[Launch]:
    x, scale, bias, y = work.input(0), work.input(1), work.maybe(2), work.output()
    *axes, features = x.shape
    positions = prod(axes)
    if not positions or not features:
        return []
    width = _VECTORS * work.target.vl
    places = [b.place for b in (x, y, scale, bias) if b is not None]
    words = (*places, features, TILE // width, float(work.attr("epsilon", 1e-5)))
    spec = KernelSpec("column_norm", (work.node.op == "LayerNormalization", bias is not None))
    return [Launch(spec, -(-positions // width), words, (places[0], *places[2:]), (y.place,))]


def _accepts(site: Site) -> str:
    x, rest = site.inputs[0], [t for t in site.inputs[1:] if t is not None]
    if x is None or x.shape is None or len(x.shape) < 2:
        return "no token matrix"
    if any(t.dtype is not DType.F32 for t in (x, *rest)) or int(site.node.attrs.get("stash_type", 1)) != 1:  # type: ignore[arg-type]
        return "computes in f32"
    if any(t is not None for t in site.outputs[1:]):
        return "statistics are outputs"
    if int(site.node.attrs.get("axis", -1)) % len(x.shape) != len(x.shape) - 1:  # type: ignore[arg-type]
        return "normalises over more than the features"
    if any(t.shape != x.shape[-1:] for t in rest):
        return "a scale that is no number per feature"
    return ""


for _op in ("LayerNormalization", "RMSNormalization"):
    lowering(Lowering("column_norm", ONNX, _op, _accepts, _lower, layouts="columns"))
