"""Upsampling of few maps."""

from __future__ import annotations

import pytest

from skipjack.passes.canonicalise_contractions import CanonicaliseContractions
from skipjack.passes.shuffle_upsampling import ShuffleUpsampling
from tests.passes.building import applied, graph_of, ops, weights

PASSES = [CanonicaliseContractions(), ShuffleUpsampling()]
SHAPE = "float[b, 6, h, w] x"


@pytest.mark.parametrize("maps,side", [(1, 2), (3, 2), (1, 4)])
def test_few_maps_become_depth(maps: int, side: int) -> None:
    text = f"({SHAPE}) => (float[b, m, p, q] y) {{ y = ConvTranspose<strides = [{side}, {side}]>(x, w, c) }}"
    graph = graph_of(text, w=weights(6, maps, side, side), c=weights(maps, seed=1))
    after = applied(PASSES, graph)
    assert ops(after) == ["*Conv", "DepthToSpace"]


@pytest.mark.parametrize(
    "maps,side,attributes",
    [
        (8, 2, "strides = [2, 2]"),
        (1, 3, "strides = [2, 2]"),
        (1, 2, "strides = [2, 2], pads = [1, 0, 0, 0]"),
        (1, 2, "strides = [2, 2], output_padding = [1, 1]"),
        (1, 2, "strides = [2, 2], output_shape = [17, 16]"),
        (1, 2, "strides = [2, 2], group = 2"),
        (1, 2, "strides = [2, 2], dilations = [2, 2]"),
    ],
)
def test_others_stay(maps: int, side: int, attributes: str) -> None:
    text = f"(float[b, 6, 9, 8] x) => (float[b, m, p, q] y) {{ y = ConvTranspose<{attributes}>(x, w) }}"
    graph = graph_of(text, w=weights(6, maps, side, side))
    assert "DepthToSpace" not in ops(applied(PASSES, graph))


def test_computed_extras_stay() -> None:
    text = f"({SHAPE}, float[1] c) => (float[b, 1, p, q] y) {{ y = ConvTranspose<strides = [2, 2]>(x, w, c) }}"
    assert ops(applied(PASSES, graph_of(text, w=weights(6, 1, 2, 2)))) == ["*ConvTranspose"]
