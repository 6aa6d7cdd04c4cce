"""What a call may pass: checks against the model, and random inputs that the model accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipjack.core.dims import Dim, Sym, evaluate, symbols
from skipjack.core.dtypes import DType
from skipjack.core.errors import ConfigError, InputError, nearest
from skipjack.ir.graph import ONNX, Graph
from skipjack.ir.types import TensorType

_KEEPS_IDS = frozenset({"Cast", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Flatten", "Expand", "Slice", "Concat"})
_DEFAULT_SEQUENCE, _DEFAULT_IMAGE = 128, 224
_REMEMBERED = 256
_DEFAULT_SAMPLES = 512
_SAMPLE_RATES, _SAMPLE_RATE = frozenset({"sr", "sample_rate", "sampling_rate"}), 16000


@dataclass(frozen=True)
class InputSpec:
    """One input: its name, its type (None when it is no tensor), and the bound of its values when they are indices."""

    name: str
    type: TensorType | None
    index_bound: int | None = None


def input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    """The inputs of a graph in order."""
    bounds = _index_bounds(graph)
    types = [graph.types.get(n) for n in graph.inputs]
    return tuple(
        InputSpec(n, t if isinstance(t, TensorType) else None, bounds.get(n))
        for n, t in zip(graph.inputs, types, strict=True)
    )


def _index_bounds(graph: Graph) -> dict[str, int]:
    """For integer inputs that index constant tables: the smallest number of rows."""
    origin = {n: n for n in graph.inputs}
    bounds: dict[str, int] = {}
    for node in graph.nodes:
        if node.domain != ONNX:
            continue
        if node.op in _KEEPS_IDS and node.inputs[0] in origin:
            origin[node.outputs[0]] = origin[node.inputs[0]]
        if node.op == "Gather" and node.inputs[1] in origin and node.inputs[0] in graph.constants:
            rows = graph.constants[node.inputs[0]].shape[int(node.attrs.get("axis", 0))]  # type: ignore[arg-type]
            name = origin[node.inputs[1]]
            bounds[name] = min(rows, bounds.get(name, rows))
    return bounds


def as_list(specs: Sequence[InputSpec], given: Any) -> list[Any]:
    """The inputs of a call in order, from a list, a tuple, or a dictionary by name."""
    names = [s.name for s in specs]
    if isinstance(given, Mapping):
        unknown = [n for n in given if n not in names]
        missing = [n for n in names if n not in given]
        if unknown or missing:
            hint = nearest(str(unknown[0]), names) if unknown else ""
            raise InputError(f"inputs by name: expected {names}, got {list(given)}{hint}")
        return [given[n] for n in names]
    if not isinstance(given, list | tuple):
        raise InputError(f"inputs: expected a list of {len(names)} arrays ({names}), got {type(given).__name__}")
    if len(given) != len(names):
        raise InputError(f"inputs: expected {len(names)} arrays ({names}), got {len(given)}")
    return list(given)


class Checks:
    """The checks of one model; shapes and element types that passed once are only compared the next time."""

    def __init__(self, specs: Sequence[InputSpec]) -> None:
        self._specs = specs
        self._passed: set[tuple[Any, ...]] = set()
        self._indexed = tuple(i for i, s in enumerate(specs) if s.index_bound is not None)

    def check(self, arrays: Sequence[Any]) -> None:
        """InputError for the first array that does not fit."""
        try:
            key = tuple([(a.shape, a.dtype, a.flags.c_contiguous) for a in arrays])
        except AttributeError:
            key = ()
        if key not in self._passed:
            check(self._specs, arrays)
            if key and len(self._passed) < _REMEMBERED and all(isinstance(a, np.ndarray) for a in arrays):
                self._passed.add(key)
            return
        for index in self._indexed:
            _check_indices(self._specs[index], arrays[index])


def check(specs: Sequence[InputSpec], arrays: Sequence[Any]) -> None:
    """InputError for the first array that does not fit: its kind, element type, rank, sizes, contiguity or indices."""
    sizes: dict[str, int] = {}
    for spec, array in zip(specs, arrays, strict=True):
        if spec.type is not None:
            _check_one(spec, spec.type, array, sizes)


def _check_one(spec: InputSpec, declared: TensorType, array: Any, sizes: dict[str, int]) -> None:
    where = f"input {spec.name!r}"
    if not isinstance(array, np.ndarray):
        raise InputError(f"{where}: expected a numpy array, got {type(array).__name__}; use numpy.asarray")
    if declared.dtype is DType.STRING:
        if array.dtype.kind not in "OUS":
            raise InputError(f"{where}: expected strings, got {array.dtype}")
    elif array.dtype != declared.dtype.np:
        raise InputError(f"{where}: expected element type {declared.dtype.np}, got {array.dtype}; use .astype")
    if declared.shape is None:
        return
    if array.ndim != len(declared.shape):
        shape = [str(d) for d in declared.shape]
        raise InputError(f"{where}: expected {len(shape)} dimensions {shape}, got shape {list(array.shape)}")
    for axis, (d, n) in enumerate(zip(declared.shape, array.shape, strict=True)):
        _check_size(where, axis, d, n, sizes)
    if not array.flags.c_contiguous:
        raise InputError(f"{where}: expected a C-contiguous array; use numpy.ascontiguousarray")
    _check_indices(spec, array)


def _check_indices(spec: InputSpec, array: np.ndarray) -> None:
    if spec.index_bound is not None and array.size:
        low, high = int(array.min()), int(array.max())
        if low < -spec.index_bound or high >= spec.index_bound:
            raise InputError(
                f"input {spec.name!r}: expected indices below {spec.index_bound}, got values from {low} to {high}"
            )


def _check_size(where: str, axis: int, d: Dim, n: int, sizes: dict[str, int]) -> None:
    if isinstance(d, Sym):
        if Sym.named(str(d)) == d:
            if sizes.setdefault(str(d), n) != n:
                raise InputError(f"{where}: dimension {axis} ({d}) is {n}, but {d} is {sizes[str(d)]} in another input")
            return
        if symbols(d) - sizes.keys():
            return
        d = evaluate(d, sizes)
    if d != n:
        raise InputError(f"{where}: expected size {d} in dimension {axis}, got {n}")


def parse_shapes(names: Sequence[str], shapes: Any) -> dict[str, list[int]]:
    """input_shapes as users give it: a list of shapes, one flat shape for a single input, or shapes by name.

    An empty shape or None in the list keeps what the model declares.
    """
    if shapes is None or (isinstance(shapes, Sequence | Mapping) and not shapes):
        return {}
    if isinstance(shapes, Mapping):
        return {str(n): _parse_shape(str(n), s) for n, s in shapes.items()}
    if isinstance(shapes, str) or not isinstance(shapes, Iterable):
        raise ConfigError(f"input_shapes: expected a list of shapes or a dictionary by input name, got {shapes!r}")
    listed: list[Any] = list(shapes)
    if all(isinstance(d, int | np.integer) for d in listed):
        listed = [listed]
    if len(listed) != len(names):
        raise ConfigError(f"input_shapes: expected {len(names)} shapes for {list(names)}, got {len(listed)}")
    parsed = {n: [] if s is None else _parse_shape(n, s) for n, s in zip(names, listed, strict=True)}
    return {n: s for n, s in parsed.items() if s}


def _parse_shape(name: str, shape: Any) -> list[int]:
    sizes: list[Any] = list(shape) if isinstance(shape, Iterable) and not isinstance(shape, str) else [None]
    if not all(isinstance(d, int | np.integer) and not isinstance(d, bool) and d >= 0 for d in sizes):
        expected = "sizes that are integers and not negative"
        raise ConfigError(f"input_shapes: expected {expected} for {name!r}, got {shape!r}")
    return [int(d) for d in sizes]


def random_inputs(specs: Sequence[InputSpec], seed: int | None = None) -> list[np.ndarray]:
    """Arrays the model accepts: its element types, token ids inside the vocabulary, masks of 0 and 1."""
    rng = np.random.default_rng(seed)
    sizes = _samples(specs)
    return [_random_one(spec, rng, sizes) for spec in specs]


def usual_shapes(specs: Sequence[InputSpec]) -> dict[str, tuple[DType, tuple[int, ...]]]:
    """Element type and shape per input; free sizes get usual values. InputError for an input without a known rank."""
    sizes = _samples(specs)
    found: dict[str, tuple[DType, tuple[int, ...]]] = {}
    for spec in specs:
        if spec.type is None or spec.type.shape is None:
            raise InputError(f"input {spec.name!r}: its rank is not known")
        shape = _usual_shape(spec.type.shape, sizes)
        found[spec.name] = (spec.type.dtype, shape)
    return found


def _random_one(spec: InputSpec, rng: np.random.Generator, sizes: dict[str, int]) -> np.ndarray:
    t = spec.type
    if t is None or t.shape is None:
        raise InputError(f"input {spec.name!r}: random values need a tensor of known rank; give the input yourself")
    shape = _usual_shape(t.shape, sizes)
    if t.dtype is DType.STRING:
        return np.full(shape, "skipjack", dtype=object)
    if "mask" in spec.name.lower():
        return _mask(shape).astype(t.dtype.np)
    if t.dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if not t.dtype.is_int:
        return rng.standard_normal(shape).astype(t.dtype.np)
    if "position" in spec.name.lower() and shape:
        steps = np.arange(shape[-1]) % max(spec.index_bound or shape[-1], 1)
        return np.ascontiguousarray(np.broadcast_to(steps, shape), t.dtype.np)
    if spec.name in _SAMPLE_RATES:
        return np.full(shape, _SAMPLE_RATE, t.dtype.np)
    if spec.index_bound is not None:
        return rng.integers(0, max(spec.index_bound, 1), shape).astype(t.dtype.np)
    if t.dtype not in (DType.U8, DType.I8):
        return _mask(shape).astype(t.dtype.np)
    return rng.integers(0, 128, shape).astype(t.dtype.np)


def _mask(shape: tuple[int, ...]) -> np.ndarray:
    """Ones with a zero at the end of every other row: a batch whose texts differ in length."""
    mask = np.ones(shape, np.int64)
    if len(shape) == 2 and shape[1] > 1:
        mask[1::2, -1] = 0
    return mask


def _usual_shape(shape: Sequence[Dim], sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(_size(d, _usual_size(shape, axis), sizes) for axis, d in enumerate(shape))


def _size(d: Dim, usual: int, sizes: dict[str, int]) -> int:
    for name in symbols(d):
        sizes.setdefault(name, _usual_by_name(name, usual))
    return evaluate(d, sizes)


def _samples(specs: Sequence[InputSpec]) -> dict[str, int]:
    """The free lengths of recordings [batch, samples]; there are some where an input is a sample rate."""
    if not any(s.name in _SAMPLE_RATES for s in specs):
        return {}
    shapes = [s.type.shape for s in specs if s.type is not None and s.type.dtype.is_float and s.type.rank == 2]
    return {name: _DEFAULT_SAMPLES for shape in shapes if shape is not None for name in symbols(shape[1])}


def _usual_by_name(name: str, usual: int) -> int:
    """The usual size, but no past: exporters name its length past_*, and the length with it past_*___*."""
    past, _, new = name.partition("___")
    if "past" not in past:
        return usual
    return (int(new) if new.isdigit() else usual) if new else 0


def _usual_size(shape: Sequence[Dim], axis: int) -> int:
    """What a free size most likely is: a batch of one, the side of an image, the length of a sequence."""
    if axis == 0:
        return 1
    fixed = [isinstance(d, int) for d in shape]
    if len(shape) == 3 and axis == 1 and fixed[0] and fixed[2]:
        return 1  # [layers, batch, features]: the state of a recurrent network
    image = len(shape) == 4 and axis > 1 and not (axis == 2 and fixed[3])
    return _DEFAULT_IMAGE if image else _DEFAULT_SEQUENCE
