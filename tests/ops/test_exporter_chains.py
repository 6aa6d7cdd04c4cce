"""Chains that exporters write around shapes must keep sizes as expressions of the inputs' symbols."""

from __future__ import annotations

import numpy as np
import pytest

import skipjack.ops.all  # noqa: F401
from skipjack.core.dims import Dim, Sym
from skipjack.core.dtypes import DType
from skipjack.core.errors import ModelError, ResourceError
from skipjack.ir.graph import Attr, Graph, Node, frozen
from skipjack.ir.types import tensor
from skipjack.ops.execute import run_graph
from skipjack.passes.propagate_types import typed

B, S, P = Sym.named("b"), Sym.named("s"), Sym.named("p")


class Chain:
    """A graph under construction: every call adds one node and gives the name of its first output."""

    def __init__(self, **inputs: tuple[Dim, ...]) -> None:
        self.inputs = inputs
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, *inputs: str | int | list[int], outputs: int = 1, **attrs: Attr) -> str:
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        made = tuple(f"v{len(self.nodes)}.{n}" for n in range(outputs))
        self.nodes.append(Node(op, tuple(names), made, attrs))
        return made[0]

    def constant(self, value: int | list[int]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(value, np.int64)
        return name

    def size(self, x: str, axis: int) -> str:
        """Shape, Gather, Unsqueeze: one size as a vector, as TorchScript writes it."""
        return self.add("Unsqueeze", self.add("Gather", self.add("Shape", x), axis), [0])

    def graph(self, output: str) -> Graph:
        types = frozen({name: tensor(DType.F32, *shape) for name, shape in self.inputs.items()})
        return Graph("g", tuple(self.inputs), (output,), tuple(self.nodes), types, frozen(self.constants))

    def shape(self, output: str) -> tuple[Dim, ...] | None:
        """The symbolic shape of a value, checked against a run with s=5, p=3, b=2."""
        graph = typed(self.graph(output)).graph
        sizes = {"b": 2, "s": 5, "p": 3}
        feeds = {
            n: np.zeros([sizes[str(d)] if isinstance(d, Sym) else d for d in s], np.float32)
            for n, s in self.inputs.items()
        }
        assert run_graph(graph, feeds)[0].ndim == graph.tensor(output).rank
        return graph.tensor(output).shape


def test_heads_are_split_by_a_reshape_from_sizes() -> None:
    c = Chain(x=(B, S, 64))
    target = c.add("Concat", c.size("x", 0), c.size("x", 1), [8], [8], axis=0)
    heads = c.add("Transpose", c.add("Reshape", "x", target), perm=(0, 2, 1, 3))
    assert c.shape(heads) == (B, 8, S, 8)


def test_minus_one_divides_what_is_left_over() -> None:
    c = Chain(x=(B, S, 12, 64))
    merged = c.add("Reshape", "x", c.add("Concat", c.size("x", 0), c.size("x", 1), [-1], axis=0))
    assert c.shape(merged) == (B, S, 768)


def test_minus_one_divides_by_a_sum_of_sizes() -> None:
    c = Chain(past=(B, P, 64), x=(B, S, 64))
    both = c.add("Concat", "past", "x", axis=1)
    flat = c.add("Reshape", both, [-1, 64])
    length = c.add("Add", c.size("past", 1), c.size("x", 1))
    again = c.add("Reshape", flat, c.add("Concat", [-1], length, [64], axis=0))
    assert c.shape(again) == (B, P + S, 64)


def test_grouped_heads_are_repeated_by_expand() -> None:
    c = Chain(k=(B, 4, S, 8))
    sizes = c.add("Concat", c.size("k", 0), [4, 2], c.size("k", 2), [8], axis=0)
    wide = c.add("Expand", c.add("Unsqueeze", "k", [2]), sizes)
    target = c.add("Concat", c.size("k", 0), [8], c.size("k", 2), [8], axis=0)
    assert c.shape(c.add("Reshape", wide, target)) == (B, 8, S, 8)


def test_expand_with_the_minus_one_that_where_replaces() -> None:
    c = Chain(x=(B, 1, S))
    wanted = c.add("Concat", c.size("x", 0), [4], [-1], axis=0)
    ones = c.add("ConstantOfShape", c.add("Shape", wanted), value=np.ones(1, np.int64))
    negative = c.add("Equal", wanted, c.add("Mul", ones, -1))
    assert c.shape(c.add("Expand", "x", c.add("Where", negative, ones, wanted))) == (B, 4, S)


def test_positions_of_a_decoder_with_a_past() -> None:
    c = Chain(past=(B, 4, P, 8), x=(B, S, 64))
    past = c.add("Gather", c.add("Shape", "past"), 2)
    total = c.add("Add", past, c.add("Gather", c.add("Shape", "x"), 1))
    positions = c.add("Range", past, total, 1)
    assert c.shape(c.add("Unsqueeze", positions, [0])) == (1, S)


def test_causal_mask_from_ones_and_a_slice() -> None:
    c = Chain(past=(B, 4, P, 8), x=(B, S, 64))
    query = c.size("x", 1)
    key = c.add("Add", c.size("past", 2), query)
    square = c.add("ConstantOfShape", c.add("Concat", key, key, axis=0))
    rows = c.add("Slice", square, c.add("Sub", key, query), key, [0])
    assert c.shape(c.add("Trilu", rows)) == (S, P + S)


def test_mask_buffer_is_cut_to_the_sequence() -> None:
    c = Chain(buffer=(1, 1, S + P, S + P), x=(B, S, 64))
    cut = c.add("Slice", "buffer", [0], c.size("x", 1), [3])
    assert typed(c.graph(cut)).graph.tensor(cut).shape == (1, 1, S + P, S)


@pytest.mark.parametrize(
    "starts, ends, expected",
    [
        ([0], [2**63 - 1], S),
        ([1], [2**63 - 1], Sym.named("s") - 1),
        ([-2], [2**31 - 1], 2),
        ([0], [-1], Sym.named("s") - 1),
        ([0], [3], 3),
    ],
)
def test_slices_of_a_long_enough_axis_need_no_clamping(starts: list[int], ends: list[int], expected: Dim) -> None:
    c = Chain(x=(B, S, 64), y=(B, 2, 64))
    longer = c.add("Concat", "x", "y", "y", axis=1)
    shape = c.shape(c.add("Slice", longer, starts, ends, [1]))
    assert shape == (B, expected + 4 if isinstance(expected, Sym) else expected, 64)


def test_halves_for_rotary_embedding() -> None:
    c = Chain(x=(B, 8, S, 64))
    half = c.add("Div", c.add("Gather", c.add("Shape", "x"), 3), 2)
    last = c.add("Slice", "x", c.add("Unsqueeze", half, [0]), [2**63 - 1], [3])
    first = c.add("Slice", "x", [0], c.add("Unsqueeze", half, [0]), [3])
    assert c.shape(c.add("Concat", c.add("Neg", last), first, axis=-1)) == (B, 8, S, 64)


def test_split_sizes_computed_from_a_shape() -> None:
    c = Chain(x=(B, S, 192))
    third = c.add("Div", c.size("x", 2), [3])
    q = c.add("Split", "x", c.add("Concat", third, third, third, axis=0), axis=2, outputs=3)
    assert c.shape(q) == (B, S, 64)


def test_flatten_pads_and_scatters_keep_symbols() -> None:
    c = Chain(x=(B, S, 4))
    assert c.shape(c.add("Flatten", c.add("Pad", "x", [0, 1, 0, 0, 2, 0]), axis=2)) == (B * (S + 3), 4)
    target = c.add("ScatterND", c.add("Shape", "x"), [[2]], [7])
    graph = typed(c.graph(target))
    assert graph.values[target].tolist() == [B, S, 7]


def test_a_size_written_into_numbers_stays_known() -> None:
    c = Chain(x=(B, S, 4))
    written = c.add("ScatterElements", [1, 2, 3], [1], c.size("x", 1), axis=0)
    padded = c.add("Pad", c.size("x", 0), [0, 2])
    largest = c.add("ScatterND", [1, 2, 3], [[0]], c.size("x", 1), reduction="max")
    values = typed(c.graph(largest)).values
    assert values[written].tolist() == [1, S, 3]
    assert values[padded].tolist() == [B, 0, 0]
    assert largest not in values


def _run(op: str, *inputs: np.ndarray, **attrs: Attr) -> object:
    names = tuple(f"x{n}" for n in range(len(inputs)))
    graph = Graph("g", names, ("y",), (Node(op, names, ("y",), attrs),), frozen({}))
    return run_graph(graph, dict(zip(names, inputs)))[0]


ints = np.array


@pytest.mark.parametrize(
    "op, inputs, attrs, text",
    [
        ("Gather", [np.zeros(3), ints([3])], {}, "indices from -3 to 2, got 3"),
        ("GatherElements", [np.zeros((2, 2)), ints([[0, 5]])], {"axis": 1}, "got 5"),
        ("GatherND", [np.zeros((2, 2)), ints([[0, -3]])], {}, "got -3"),
        ("ScatterND", [np.zeros(2), ints([[2]]), np.zeros(1)], {}, "got 2"),
        ("ScatterElements", [np.zeros(2), ints([0]), np.zeros(2)], {}, "updates of shape"),
        ("Reshape", [np.zeros(6), ints([4, -1])], {}, "divides the 6 elements"),
        ("Reshape", [np.zeros(6), ints([4, 2])], {}, "a shape of 6 elements"),
        ("Expand", [np.zeros((2, 3)), ints([4, 3])], {}, "broadcasts with"),
        ("Slice", [np.zeros(3), ints([0]), ints([3]), ints([0]), ints([0])], {}, "non-zero steps"),
        ("Squeeze", [np.zeros((2, 1)), ints([0])], {}, "size 1 on axis 0, got 2"),
        ("Split", [np.zeros(5), ints([6])], {}, "sum to 5"),
        ("Compress", [np.zeros(2), ints([False, False, True])], {}, "got one at 2"),
        ("Range", [ints(0), ints(5), ints(0)], {}, "delta other than 0"),
        ("ConstantOfShape", [ints([-1])], {}, "not negative"),
        ("SequenceInsert", [[ints(1)], ints(2), ints(2)], {}, "a position from -1 to 1, got 2"),
        ("SequenceAt", [[ints(1)], ints(-2)], {}, "a position from -1 to 0, got -2"),
        ("SequenceErase", [[]], {}, "a position"),
        ("ConcatFromSequence", [[]], {"axis": 0}, "at least one element"),
        ("OptionalGetElement", [None], {}, "an empty one"),
        ("RegexFullMatch", [ints(["a"], object)], {"pattern": "("}, "a regular expression"),
        ("NonMaxSuppression", [np.zeros((1, 2, 4)), np.zeros((1, 1, 3))], {}, "boxes \\[N, B, 4\\]"),
        ("ReverseSequence", [np.zeros((2, 2)), ints([1, 3])], {}, "lengths up to 2"),
        ("DepthToSpace", [np.zeros((1, 3, 2, 2))], {"blocksize": 2}, "multiple of 4 channels, got 3"),
        ("SpaceToDepth", [np.zeros((1, 3, 3, 2))], {"blocksize": 2}, "multiples of 2"),
        ("TensorScatter", [np.zeros((1, 4, 2)), np.zeros((1, 2, 2)), ints([3])], {}, "got 4"),
    ],
)
def test_data_that_breaks_the_contract_is_named(
    op: str, inputs: list[np.ndarray], attrs: dict[str, Attr], text: str
) -> None:
    with pytest.raises(ModelError, match=text):
        _run(op, *inputs, **attrs)


@pytest.mark.parametrize(
    "op, inputs",
    [
        ("ConstantOfShape", [ints([1 << 40, 1 << 20])]),
        ("Expand", [np.zeros(1), ints([1 << 40])]),
        ("Tile", [np.zeros(4), ints([1 << 40])]),
        ("Gather", [np.zeros((1, 64)), np.broadcast_to(ints(0), (1 << 40,))]),
        ("GatherND", [np.zeros((1, 64)), np.broadcast_to(ints(0), (1 << 40, 1))]),
        ("Range", [ints(0), ints(1 << 50), ints(1)]),
        ("Pad", [np.zeros(1), ints([0, 1 << 50])]),
        ("OneHot", [ints([0]), ints(1 << 50), ints([0, 1])]),
        ("CenterCropPad", [np.zeros(1), ints([1 << 50])]),
    ],
)
def test_a_memory_bomb_is_refused_before_it_allocates(op: str, inputs: list[np.ndarray]) -> None:
    with pytest.raises(ResourceError, match="at most"):
        _run(op, *inputs)
