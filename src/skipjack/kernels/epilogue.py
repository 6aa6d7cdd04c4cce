"""The end of a contraction: the epilogue expression applied to accumulators, extras read, the result stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipjack.core.dtypes import DType
from skipjack.kernels.emit import emit, load_as, register_type, store_as, supported
from skipjack.kernels.launch import Bound, Site, Work
from skipjack.lang.expr import Expr
from skipjack.lang.kernel import Kernel, V
from skipjack.lang.program import F32, PTR, Ty

_CHANNEL, _SCALAR, _FULL = "channel", "scalar", "full"


@dataclass(frozen=True)
class Epilogue:
    """What is compiled in: the expression, kind (channel, scalar, full) and type of each extra, type of the output."""

    expr: Expr | None
    extras: tuple[tuple[str, DType], ...]
    output: DType

    def fields(self) -> list[tuple[str, Ty]]:
        """The argument words: y, then one pointer per extra."""
        return [("y", PTR), *((f"e{i}", PTR) for i in range(len(self.extras)))]


def epilogue_of(work: Work, own: int = 2) -> Epilogue:
    """The epilogue of a node whose extras start at input `own`."""
    kinds: list[tuple[str, DType]] = []
    for b in extras_of(work, own):
        kinds.append((_kind(b, work.output()), b.dtype))
    return Epilogue(work.attr("epilogue"), tuple(kinds), work.output().dtype)


def _kind(extra: Bound, output: Bound) -> str:
    if extra.elements == 1 and len(extra.shape) <= 1:
        return _SCALAR
    return _CHANNEL if len(extra.shape) == 1 and len(output.shape) != 1 else _FULL


def extras_of(work: Work, own: int = 2) -> list[Bound]:
    """The inputs that the epilogue reads beside the accumulator."""
    return [work.input(i) for i in range(own, len(work.inputs))]


def accepts_epilogue(site: Site, own: int = 2) -> str:
    """Empty when kernels can compute the node's epilogue, else the reason why not."""
    expr = site.node.attrs.get("epilogue")
    if isinstance(expr, Expr) and (reason := supported(expr)):
        return reason
    for t in [*site.inputs[own:], site.outputs[0]]:
        if t is not None and (reason := supported(Expr("input", (), t.dtype))):
            return reason
    return ""


@dataclass(frozen=True)
class Tile:
    """Accumulators of `rows` output rows and one vector of columns."""

    accumulators: V
    pitch_bytes: int
    rows: V
    first_row: V
    column: V
    columns: V


def finish_tile(k: Kernel, e: Epilogue, tile: Tile, lanes: int) -> None:
    """Store epilogue(accumulators) to y, row-major with `columns` columns; columns past the end are not touched."""
    whole = tile.column + lanes <= tile.columns
    k.branch(
        whole,
        lambda: _rows(k, e, tile, lanes, None),
        lambda: _rows(k, e, tile, lanes, k.below(tile.columns - tile.column, lanes)),
    )


def _rows(k: Kernel, e: Epilogue, tile: Tile, lanes: int, mask: V | None) -> None:
    end = Ending(k, e, tile.column, lanes, mask)
    with k.loop(tile.rows) as r:
        acc = tile.accumulators.at(r * tile.pitch_bytes).load(F32.vec(lanes))
        end.store(acc, (tile.first_row + r) * tile.columns + tile.column)


class Ending:
    """Finishes accumulators of `lanes` columns from `column` on; values per channel and scalars are loaded once."""

    def __init__(self, k: Kernel, e: Epilogue, column: V, lanes: int, mask: V | None) -> None:
        self.k, self.e, self.lanes, self.mask = k, e, lanes, mask
        self.pointers = [getattr(k.arg, f"e{i}") for i in range(len(e.extras))]
        self.held = {
            i: load_as(k, self.pointers[i].at(column * dtype.itemsize), dtype, lanes, mask)
            if kind == _CHANNEL
            else load_as(k, self.pointers[i], dtype, 0).splat(lanes)
            for i, (kind, dtype) in enumerate(e.extras)
            if kind != _FULL
        }

    def store(self, acc: V, element: V) -> None:
        """epilogue(acc) to elements of y from number `element` on."""
        inputs = [acc]
        for i, (kind, dtype) in enumerate(self.e.extras):
            at = self.pointers[i].at(element * dtype.itemsize)
            inputs.append(load_as(self.k, at, dtype, self.lanes, self.mask) if kind == _FULL else self.held[i])
        y = self.k.arg.y.at(element * self.e.output.itemsize)
        store_as(self.k, y, finished(self.k, self.e, inputs), self.e.output, self.mask)


def finished(k: Kernel, e: Epilogue, inputs: Sequence[V]) -> V:
    """The value to store, in the form it is computed in."""
    if e.expr is None:
        return inputs[0]
    y = emit(k, e.expr, inputs)
    assert y.ty.scalar == register_type(e.output), "an epilogue's type differs from its node's output type"
    return y
