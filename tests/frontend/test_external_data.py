"""The loader rule: which files a model may read, and how much of them."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skipjack.core.errors import ModelError
from skipjack.frontend.onnx_file import import_model

DATA = np.arange(6, dtype=np.float32)


def external(location: str, dims: tuple[int, ...] = (6,), **entries: object) -> TensorProto:
    t = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        t.external_data.add(key=key, value=str(value))
    return t


def model_of(tensor: TensorProto) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [6])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"], name="add")], "g", [x], [y], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def save(directory: Path, tensor: TensorProto, name: str = "model.onnx") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_bytes(model_of(tensor).SerializeToString())
    return path


def load(path: Path, **options: bool) -> np.ndarray:
    return import_model(path, **options).graph.constants["w"]


def test_data_beside_the_model_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"12345678" + DATA.tobytes() + b"tail")
    path = save(tmp_path, external("sub/w.bin", offset=8, length=24))
    w = load(path)
    np.testing.assert_array_equal(w, DATA)
    assert not w.flags.writeable
    np.testing.assert_array_equal(load(tmp_path), DATA)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"offset": 4}, "expected 24 bytes"),
        ({"offset": 25}, "offset 25 is past"),
        ({"offset": -1}, "expected an integer"),
        ({"offset": "1e3"}, "expected an integer"),
        ({"offset": 2**70}, "expected an integer"),
        ({"length": 25}, "expected 25 bytes"),
        ({"length": 20}, "expected 24 bytes"),
        ({"length": 2**62}, "expected 4611686018427387904 bytes"),
        ({"length": -24}, "expected an integer"),
    ],
)
def test_offset_and_length_are_bounded(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    (tmp_path / "w.bin").write_bytes(DATA.tobytes())
    with pytest.raises(ModelError, match=message):
        load(save(tmp_path, external("w.bin", **entries)))


@pytest.mark.parametrize("dims", [(2**31, 2**31), (2**62, 8), (-6,), (7,), (0,)])
def test_dims_must_match_the_bytes(tmp_path: Path, dims: tuple[int, ...]) -> None:
    (tmp_path / "w.bin").write_bytes(DATA.tobytes())
    with pytest.raises(ModelError, match=r"model\.onnx: initializer 'w'"):
        load(save(tmp_path, external("w.bin", dims)))


@pytest.mark.parametrize("location", ["../w.bin", "a/../../w.bin", "/etc/hostname", "", "..", "a\0b", "..\\w.bin", "."])
def test_locations_outside_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(DATA.tobytes())
    with pytest.raises(ModelError):
        load(save(tmp_path / "model", external(location)))


def test_a_link_that_leaves_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(DATA.tobytes())
    path = save(tmp_path / "model", external("w.bin"))
    (tmp_path / "model" / "w.bin").symlink_to("../secret")
    with pytest.raises(ModelError, match="outside the model's directory"):
        load(path)


def test_a_linked_directory_that_leaves_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w.bin").write_bytes(DATA.tobytes())
    path = save(tmp_path / "model", external("data/w.bin"))
    (tmp_path / "model" / "data").symlink_to("../outside")
    with pytest.raises(ModelError, match="outside the model's directory"):
        load(path)


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(DATA.tobytes())
    (tmp_path / "w.bin").symlink_to("real.bin")
    np.testing.assert_array_equal(load(save(tmp_path, external("w.bin"))), DATA)


def test_hard_links_are_refused_in_strict_mode_only(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(DATA.tobytes())
    os.link(tmp_path / "a.bin", tmp_path / "w.bin")
    path = save(tmp_path, external("w.bin"))
    np.testing.assert_array_equal(load(path), DATA)
    with pytest.raises(ModelError, match="2 hard links"):
        load(path, strict_links=True)


def hub_cache(root: Path, tensor: TensorProto) -> Path:
    """The layout of a Hugging Face cache: snapshots hold links into the blobs of their repository."""
    repo = root / "models--org--name"
    snapshot = repo / "snapshots" / "0123" / "onnx"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "aaaa").write_bytes(model_of(tensor).SerializeToString())
    (repo / "blobs" / "bbbb").write_bytes(DATA.tobytes())
    (snapshot / "model.onnx").symlink_to("../../../blobs/aaaa")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/bbbb")
    return snapshot / "model.onnx"


def test_hub_cache_links_are_followed(tmp_path: Path) -> None:
    np.testing.assert_array_equal(load(hub_cache(tmp_path, external("model.onnx_data"))), DATA)


def test_hub_cache_links_into_another_repository_are_refused(tmp_path: Path) -> None:
    path = hub_cache(tmp_path, external("model.onnx_data"))
    other = tmp_path / "models--other--name" / "blobs"
    other.mkdir(parents=True)
    (other / "cccc").write_bytes(DATA.tobytes())
    (path.parent / "model.onnx_data").unlink()
    (path.parent / "model.onnx_data").symlink_to(other / "cccc")
    with pytest.raises(ModelError, match="outside the model's directory"):
        load(path)


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "missing"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "w.bin"
    if kind == "directory":
        place.mkdir()
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            load(save(tmp_path, external("w.bin")))
        except ModelError as e:
            failures.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "opening waited for the other end"
    assert len(failures) == 1


def test_a_model_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="regular file"):
        import_model(tmp_path / "m.onnx")


def test_bytes_have_no_external_data() -> None:
    with pytest.raises(ModelError, match="needs a model path"):
        import_model(model_of(external("w.bin")).SerializeToString())


def sparse_model(values: TensorProto, indices: TensorProto) -> onnx.ModelProto:
    model = model_of(external("unused"))
    del model.graph.initializer[:]
    model.graph.sparse_initializer.add(values=values, indices=indices, dims=[6])
    return model


def attribute_model(tensor: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    model = model_of(external("unused"))
    del model.graph.initializer[:]
    model.graph.node.insert(0, node)
    return model


def nested_model(tensor: TensorProto) -> onnx.ModelProto:
    y = helper.make_tensor_value_info("b", TensorProto.FLOAT, [6])
    body = helper.make_graph([helper.make_node("Identity", ["v"], ["b"])], "body", [], [y])
    tensor.name = "v"
    body.initializer.append(tensor)
    cond = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "other", [], [])
    other.output.add(name="e")
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other)
    model = model_of(external("unused"))
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.initializer.append(cond)
    model.graph.node.append(node)
    return model


def function_model(tensor: TensorProto) -> onnx.ModelProto:
    constant = attribute_model(tensor).graph.node[0]
    function = helper.make_function("f", "F", [], ["w"], [constant], [helper.make_opsetid("", 20)])
    model = model_of(external("unused"))
    del model.graph.initializer[:]
    model.graph.node.insert(0, helper.make_node("F", [], ["w"], domain="f"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("f", 1))
    return model


Build = Callable[[TensorProto], onnx.ModelProto]
INDICES = helper.make_tensor("i", TensorProto.INT64, [6], range(6))


@pytest.mark.parametrize(
    "build",
    [
        lambda t: sparse_model(t, INDICES),
        lambda t: sparse_model(helper.make_tensor("w", TensorProto.FLOAT, [6], DATA), t),
        attribute_model,
        nested_model,
        function_model,
    ],
    ids=["sparse values", "sparse indices", "attribute", "nested graph", "function"],
)
def test_every_place_of_a_tensor_obeys_the_rule(
    tmp_path: Path, build: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    (tmp_path / "secret").write_bytes(DATA.tobytes())
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "m.onnx").write_bytes(build(external("../secret")).SerializeToString())
    with pytest.raises(ModelError, match="relative path without"):
        import_model(tmp_path / "m" / "m.onnx")


@pytest.mark.parametrize("build", [lambda t: sparse_model(t, INDICES), attribute_model, function_model])
def test_every_place_of_a_tensor_reads_its_file(
    tmp_path: Path, build: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    (tmp_path / "w.bin").write_bytes(DATA.tobytes())
    (tmp_path / "m.onnx").write_bytes(build(external("w.bin")).SerializeToString())
    arrays = import_model(tmp_path / "m.onnx").graph.constants.values()
    assert any(np.array_equal(a, DATA) for a in arrays)
