"""Integer operators on sizes that are not known yet: what reaches a Reshape or Expand downstream."""

from __future__ import annotations

import onnx.parser
import pytest

import skipjack.ops.all  # noqa: F401
from skipjack.core.dims import Sym, parse_dim
from skipjack.frontend.onnx_file import import_model
from skipjack.ops.shape_arithmetic import is_positive, lower_bound
from skipjack.passes.propagate_types import typed

B, S = Sym.named("b"), Sym.named("s")
CASES = {
    "gathered and joined": (
        """
        zero = Constant<value_ints = [0]>()
        b = Gather(shape, zero)
        rest = Constant<value_ints = [-1, 3, 4]>()
        target = Concat<axis = 0>(b, rest)
        y = Reshape(x, target)
        """,
        "b,s,3,4",
    ),
    "a product of all sizes": (
        """
        target = ReduceProd<keepdims = 1>(shape)
        y = Reshape(x, target)
        """,
        "12*b*s",
    ),
    "halves": (
        """
        parts = Constant<value_ints = [1, 1, 2]>()
        fewer = Div(shape, parts)
        two = Constant<value_int = 2>()
        pair = Constant<value_ints = [2]>()
        target = Concat<axis = 0>(fewer, pair)
        y = Reshape(x, target)
        """,
        "b,s,6,2",
    ),
    "wildcards replaced": (
        """
        minus = Constant<value_int = -1>()
        one = Constant<value_ints = [1, 1, 1]>()
        wild = Equal(shape, minus)
        target = Where(wild, one, shape)
        y = Expand(x, target)
        """,
        "b,s,12",
    ),
    "a comparison that is decided": (
        """
        zero = Constant<value_int = 0>()
        negative = Less(shape, zero)
        target = Where(negative, zero, shape)
        y = Expand(x, target)
        """,
        "b,s,12",
    ),
    "through floats and back": (
        """
        wide = Cast<to = 1>(shape)
        scale = Constant<value_floats = [1.0, 1.0, 2.0]>()
        scaled = Mul(wide, scale)
        floored = Floor(scaled)
        sizes = Cast<to = 7>(floored)
        y = ConstantOfShape(sizes)
        """,
        "b,s,24",
    ),
    "differences": (
        """
        one = Constant<value_int = 1>()
        more = Add(shape, one)
        same = Sub(more, one)
        y = Reshape(x, same)
        """,
        "b,s,12",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sizes_reach_the_shape_they_are_for(name: str) -> None:
    body, expected = CASES[name]
    text = f"""
    <ir_version: 10, opset_import: ["": 21]>
    g (float[b, s, 12] x) => (float[] y) {{
        shape = Shape(x)
        {body}
    }}
    """
    graph = typed(import_model(onnx.parser.parse_model(text)).graph).graph
    assert graph.tensor(graph.outputs[0]).shape == tuple(parse_dim(d) for d in expected.split(","))


def test_bounds_of_sizes() -> None:
    assert lower_bound(B * S + 3) == 3
    assert lower_bound(B - S) is None
    assert is_positive(B + 1) is True
    assert is_positive(-B) is False
    assert is_positive(B) is None
