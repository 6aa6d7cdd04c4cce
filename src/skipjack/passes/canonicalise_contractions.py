"""Bring MatMul, Gemm, FusedMatMul, Conv, FusedConv and ConvTranspose to the normal forms Linear, MatMul, Conv."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skipjack.core.dims import Dim
from skipjack.core.dtypes import DType
from skipjack.ir.graph import MS, ONNX, SKIPJACK, Attr, Graph, Node
from skipjack.lang.expr import Expr, arg
from skipjack.passes.rewrite import Edit, node

_FLOATS = frozenset({DType.F32, DType.F16, DType.BF16, DType.F64})


@dataclass(frozen=True)
class CanonicaliseContractions:
    """Float contractions only; integer ones have their form by now."""

    name: str = "canonicalise_contractions"

    def apply(self, graph: Graph) -> Graph:
        edit = Edit(graph)
        for n in graph.nodes:
            rule = _RULES.get((n.domain, n.op))
            t = edit.tensor(n.input(0))
            if rule is None or t is None or t.dtype not in _FLOATS:
                continue
            rule(edit, n)
        return edit.finish()


def int_attr(n: Node, name: str, default: int) -> int:
    """An integer attribute."""
    value = n.attrs.get(name, default)
    assert isinstance(value, int), f"attribute {name} of {n.origin} is an integer after import"
    return int(value)


def float_attr(n: Node, name: str, default: float) -> float:
    """A float attribute."""
    value = n.attrs.get(name, default)
    assert isinstance(value, int | float), f"attribute {name} of {n.origin} is a number after import"
    return float(value)


def ints_attr(n: Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """An attribute holding integers."""
    value = n.attrs.get(name)
    return tuple(int(v) for v in value) if isinstance(value, tuple) else tuple(default)  # pyright: ignore[reportArgumentType]


def _matmul(edit: Edit, n: Node) -> None:
    _contraction(edit, n, n.input(0), n.input(1), (0, 0), 1.0)


def _fused_matmul(edit: Edit, n: Node) -> None:
    if int_attr(n, "transBatchA", 0) or int_attr(n, "transBatchB", 0):
        return
    transposed = (int_attr(n, "transA", 0), int_attr(n, "transB", 0))
    _contraction(edit, n, n.input(0), n.input(1), transposed, float_attr(n, "alpha", 1.0))


def _contraction(edit: Edit, n: Node, a: str, b: str, trans: tuple[int, int], alpha: float) -> None:
    """Linear when b is a constant matrix, MatMul when both have two axes or more; other products stay."""
    ranks = edit.rank(a), edit.rank(b)
    weight = edit.array(b)
    if weight is not None and weight.ndim == 2 and not trans[0]:
        edit.replace(n, [_linear(edit, a, b, weight, trans[1], alpha, n.outputs[0])])
    elif None not in ranks and all(r is not None and r >= 2 for r in ranks):
        edit.replace(n, [_dynamic(a, b, trans, alpha, n.outputs[0])])
    elif None not in ranks and 0 not in ranks and trans == (0, 0):
        _vector_product(edit, n, (a, b), ranks, alpha)


def _vector_product(
    edit: Edit, n: Node, operands: tuple[str, str], ranks: tuple[int | None, int | None], alpha: float
) -> None:
    """A vector on the left is a row, one on the right a column; the axis it gained goes from the product."""
    names = list(operands)
    made: list[Node] = []
    gained: list[int] = []
    for side, axis in ((0, 0), (1, 1)):
        if ranks[side] == 1:
            axes = edit.constant(np.array([axis], np.int64), f"{operands[side]}.axis")
            names[side] = edit.name(f"{operands[side]}.matrix")
            made.append(node("Unsqueeze", (operands[side], axes), names[side]))
            gained.append(axis - 2)
    product = edit.name(f"{n.outputs[0]}.product")
    made.append(_dynamic(names[0], names[1], (0, 0), alpha, product))
    axes = edit.constant(np.array(gained, np.int64), f"{product}.axes")
    edit.replace(n, [*made, node("Squeeze", (product, axes), n.outputs[0])])


def _dynamic(a: str, b: str, trans: tuple[int, int], alpha: float, output: str) -> Node:
    return node("MatMul", (a, b), output, SKIPJACK, trans_a=trans[0], trans_b=trans[1], alpha=alpha)


def _linear(edit: Edit, x: str, w: str, weight: np.ndarray, transposed: int, alpha: float, output: str) -> Node:
    if transposed or alpha != 1.0:
        changed = (weight.T if transposed else weight).astype(np.float64) * alpha
        w = edit.constant(changed.astype(weight.dtype), f"{w}.linear")
    return node("Linear", (x, w), output, SKIPJACK)


def _bits(edit: Edit, n: Node) -> None:
    """MatMulNBits without its bias, and the bias as a sum."""
    if not n.input(5):
        return
    product = edit.name(f"{n.outputs[0]}.product")
    made = Node(n.op, n.inputs[:4], (product,), n.attrs, n.domain)
    edit.replace(n, [made, node("Add", (product, n.input(5)), n.outputs[0])])


def _gemm(edit: Edit, n: Node) -> None:
    alpha, beta = float_attr(n, "alpha", 1.0), float_attr(n, "beta", 1.0)
    trans = (int_attr(n, "transA", 0), int_attr(n, "transB", 0))
    addend = "" if beta == 0 else n.input(2)
    t = edit.tensor(n.input(0))
    if t is None or (addend and edit.rank(addend) is None):
        return
    product = n.outputs[0] if not addend else edit.name(f"{n.outputs[0]}.product")
    weight = edit.array(n.input(1))
    if weight is not None and not trans[0]:
        made = _linear(edit, n.input(0), n.input(1), weight, trans[1], alpha, product)
    else:
        made = _dynamic(n.input(0), n.input(1), trans, alpha, product)
    if not addend:
        edit.replace(n, [made])
        return
    constant = edit.array(addend)
    if beta != 1.0 and constant is not None:
        addend = edit.constant((constant.astype(np.float64) * beta).astype(constant.dtype), f"{addend}.scaled")
    elif beta != 1.0:
        factor = edit.constant(np.array(beta, t.dtype.np), f"{n.outputs[0]}.beta")
        scaled = edit.name(f"{n.outputs[0]}.scaled")
        terms = [node("Mul", (addend, factor), scaled), node("Add", (product, scaled), n.outputs[0])]
        edit.replace(n, [made, *terms])
        return
    edit.replace(n, [made, node("Add", (product, addend), n.outputs[0])])


def _conv(edit: Edit, n: Node) -> None:
    attrs = window_attrs_of(edit, n)
    if attrs is None:
        return
    result = n.outputs[0]
    extras, epilogue = _bias(edit, n)
    if n.domain == MS and n.attrs.get("activation") is not None:
        _fused_conv(edit, n, attrs, extras, epilogue)
        return
    edit.replace(n, [_with_epilogue(Node("Conv", (*n.inputs[:2], *extras), (result,), attrs, SKIPJACK), epilogue)])


def _fused_conv(edit: Edit, n: Node, attrs: dict[str, Attr], extras: tuple[str, ...], epilogue: Expr | None) -> None:
    """Conv, an optional sum with a fourth input, then the activation the attribute names, as nodes of their own."""
    name, shape = str(n.attrs["activation"]), n.attrs.get("activation_params")
    numbers = [float(v) for v in shape] if isinstance(shape, tuple) else []  # pyright: ignore[reportArgumentType]
    result = edit.name(f"{n.outputs[0]}.conv")
    made = [_with_epilogue(Node("Conv", (*n.inputs[:2], *extras), (result,), attrs, SKIPJACK), epilogue)]
    if n.input(3):
        total = edit.name(f"{n.outputs[0]}.sum")
        made.append(node("Add", (result, n.input(3)), total))
        result = total
    if name == "Clip":
        t = edit.tensor(n.input(0))
        assert t is not None, "the caller looked at the type of the input"
        bounds = [edit.constant(np.array(v, t.dtype.np), f"{n.outputs[0]}.bound") for v in numbers]
        made.append(node("Clip", (result, *bounds), n.outputs[0]))
    elif name in ("LeakyRelu", "HardSigmoid"):
        keys = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}[name]
        values: dict[str, Attr] = dict(zip(keys, numbers))
        made.append(Node(name, (result,), n.outputs, values))
    else:
        made.append(node(name, (result,), n.outputs[0]))
    edit.replace(n, made)


@dataclass(frozen=True)
class _Window:
    kernel: tuple[int, ...]
    spatial: tuple[Dim, ...]


def _window(edit: Edit, n: Node) -> _Window | None:
    x, w = edit.tensor(n.input(0)), edit.tensor(n.input(1))
    if x is None or w is None or x.shape is None or w.shape is None or len(x.shape) < 3:
        return None
    kernel = ints_attr(n, "kernel_shape", [k for k in w.shape[2:] if isinstance(k, int)])
    return _Window(kernel, x.shape[2:]) if len(kernel) == len(x.shape) - 2 else None


def window_attrs_of(edit: Edit, n: Node) -> dict[str, Attr] | None:
    """Strides, dilations, group and pads of a convolution, explicit where sizes are known; None while ranks are not."""
    window = _window(edit, n)
    if window is None:
        return None
    attrs = _window_attrs(n, window)
    pads = _resolved_pads(edit, n, window, attrs)
    if pads is not None:
        attrs["pads"] = pads
        attrs.pop("auto_pad", None)
    return attrs


def _window_attrs(n: Node, window: _Window) -> dict[str, Attr]:
    ones = [1] * len(window.kernel)
    return {
        "strides": ints_attr(n, "strides", ones),
        "dilations": ints_attr(n, "dilations", ones),
        "pads": ints_attr(n, "pads", [0] * (2 * len(ones))),
        "group": int_attr(n, "group", 1),
        "auto_pad": str(n.attrs.get("auto_pad", "NOTSET")),
    }


def _resolved_pads(edit: Edit, n: Node, window: _Window, attrs: dict[str, Attr]) -> tuple[int, ...] | None:
    """Begin pads, then end pads; None while they depend on a size that is not known."""
    kind = str(attrs["auto_pad"])
    if kind in ("NOTSET", ""):
        return ints_attr(n, "pads", [0] * (2 * len(window.kernel)))
    if kind == "VALID":
        return (0,) * (2 * len(window.kernel))
    begin: list[int] = []
    end: list[int] = []
    strides, dilations = ints_attr(n, "strides", [1] * 9), ints_attr(n, "dilations", [1] * 9)
    for size, kernel, stride, dilation in zip(window.spatial, window.kernel, strides, dilations):
        reach = (kernel - 1) * dilation + 1
        if not isinstance(size, int) and stride != 1:
            return None
        total = reach - 1 if not isinstance(size, int) else max(0, (-(-size // stride) - 1) * stride + reach - size)
        small = total // 2
        begin.append(small if kind == "SAME_UPPER" else total - small)
        end.append(total - small if kind == "SAME_UPPER" else small)
    return (*begin, *end)


def _bias(edit: Edit, n: Node) -> tuple[tuple[str, ...], Expr | None]:
    t = edit.tensor(n.input(0))
    if not n.input(2) or t is None:
        return (), None
    return (n.input(2),), arg(0, t.dtype) + arg(1, t.dtype)


def _with_epilogue(n: Node, epilogue: Expr | None) -> Node:
    return n if epilogue is None else n.with_attrs(epilogue=epilogue)


def _conv_transpose(edit: Edit, n: Node) -> None:
    window = _window(edit, n)
    if window is None:
        return
    attrs = _window_attrs(n, window)
    extra = ints_attr(n, "output_padding", [0] * len(window.kernel))
    kind, wanted = str(attrs.pop("auto_pad")), ints_attr(n, "output_shape", ())
    if wanted or kind.startswith("SAME"):
        pads = _transposed_pads(n, window, wanted, kind)
        if pads is None:
            return
        attrs["pads"], extra = pads
    attrs["output_padding"] = extra
    extras, epilogue = _bias(edit, n)
    made = Node("ConvTranspose", (*n.inputs[:2], *extras), n.outputs, attrs, SKIPJACK)
    edit.replace(n, [_with_epilogue(made, epilogue)])


def _transposed_pads(
    n: Node, window: _Window, wanted: tuple[int, ...], kind: str
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(pads, output padding) that give the sizes wanted, or strides times the input for SAME; None for free sizes."""
    ones = [1] * len(window.kernel)
    strides, dilations = ints_attr(n, "strides", ones), ints_attr(n, "dilations", ones)
    extra = ints_attr(n, "output_padding", [0] * len(ones))
    begin: list[int] = []
    end: list[int] = []
    more: list[int] = []
    for axis, size in enumerate(window.spatial):
        if not isinstance(size, int):
            return None
        goal = wanted[len(wanted) - len(ones) + axis] if wanted else size * strides[axis]
        full = strides[axis] * (size - 1) + extra[axis] + (window.kernel[axis] - 1) * dilations[axis] + 1
        total = max(full - goal, 0)
        small = total // 2 if kind == "SAME_UPPER" else total - total // 2
        begin.append(small)
        end.append(total - small)
        more.append(extra[axis] + max(goal - full, 0))
    return (*begin, *end), tuple(more)


_RULES: dict[tuple[str, str], Callable[[Edit, Node], None]] = {
    (ONNX, "MatMul"): _matmul,
    (ONNX, "Gemm"): _gemm,
    (ONNX, "Conv"): _conv,
    (ONNX, "ConvTranspose"): _conv_transpose,
    (MS, "FusedMatMul"): _fused_matmul,
    (MS, "MatMulNBits"): _bits,
    (MS, "FusedConv"): _conv,
}
