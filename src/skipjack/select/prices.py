"""What a lowering is expected to take: measured for this very layer, or predicted and corrected for this CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skipjack.ir.graph import Node
from skipjack.kernels.launch import Lowering, Work
from skipjack.select.rates import Rates, class_of, corrected_us

_BYTES_PER_US = 20_000.0
_REORDER_BYTES_PER_US = 8_000.0
_REORDER_US = 0.5


@dataclass(frozen=True)
class Prices:
    """measured: the first output of a node -> label of a lowering -> microseconds at likely sizes on one thread."""

    rates: Rates = field(default_factory=Rates)
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])

    def known(self, node: Node) -> Mapping[str, float]:
        """What was measured of a node."""
        return self.measured.get(node.outputs[0], {}) if node.outputs else {}

    def us(self, way: Lowering, work: Work) -> float | None:
        """The time of one lowering; None when nothing predicts it."""
        return self.known(work.node).get(way.label, corrected_us(self.rates, way, work))

    def least_us(self, ways: Sequence[Lowering], work: Work) -> float:
        """The least time of some ways; where one predicts nothing, they take as long as the bytes they move."""
        times = [t for way in ways if (t := self.us(way, work)) is not None]
        if len(times) == len(ways) or (times and self.known(work.node)):
            return min(times)
        return self.moved_us(ways, work)

    def moved_us(self, ways: Sequence[Lowering], work: Work) -> float:
        """The time that the bytes of a node take, corrected where the best of its ways has no prediction."""
        factor = self.rates.factor(ways[0].name, class_of(work)) if self.rates.knows(ways[0]) else 1.0
        return moved_us(work) * factor

    def ranked(self, ways: Sequence[Lowering], work: Work) -> tuple[Lowering, ...]:
        """The ways, the quickest first where they were measured, else as they come."""
        known = self.known(work.node)
        return tuple(sorted(ways, key=lambda w: known.get(w.label, float("inf")))) if known else tuple(ways)


def reorder_us(nbytes: int) -> float:
    """Microseconds to rearrange a value of so many bytes."""
    return _REORDER_US + 2 * nbytes / _REORDER_BYTES_PER_US


def moved_us(work: Work) -> float:
    """Microseconds to read the inputs that are no constants and write the outputs."""
    return sum(b.nbytes for b in (*work.inputs, *work.outputs) if b is not None and b.value is None) / _BYTES_PER_US
