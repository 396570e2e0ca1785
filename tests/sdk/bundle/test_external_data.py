"""ONNX files whose weights lie elsewhere: found at any depth, and refused when read and when signed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.signing import sign
from sdk.bundle import SIGNATURE, Bundle
from sdk.bundle._external_data import NotOnnx, has_external_data
from sdk.errors import BundleError
from tests.export.spoil import rehash
from tests.sdk.keys import make_keys


def external(name: str = "weight", *, location: str = "weights.bin") -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph(*weights: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(weights))


def in_initializer() -> onnx.ModelProto:
    return helper.make_model(graph(external()))


def in_constant() -> onnx.ModelProto:
    return helper.make_model(graph(nodes=(helper.make_node("Constant", [], ["c"], value=external()),)))


def in_subgraph() -> onnx.ModelProto:
    inner = helper.make_node("If", ["a"], ["b"], then_branch=graph(external()), else_branch=graph())
    return helper.make_model(
        graph(nodes=(helper.make_node("If", ["x"], ["y"], then_branch=graph(nodes=(inner,))),))
    )


def in_a_list_of_tensors() -> onnx.ModelProto:
    node = helper.make_node("Custom", [], ["c"])
    node.attribute.append(helper.make_attribute("many", [external("a"), external("b")]))
    return helper.make_model(graph(nodes=(node,)))


def in_sparse() -> onnx.ModelProto:
    model = helper.make_model(graph())
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(external())
    return model


def in_function() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["c"], value=external())
    imports = [helper.make_opsetid("", 18)]
    function = helper.make_function("d", "f", [], ["c"], [node], imports)
    return helper.make_model(graph(), functions=[function])


def in_training() -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.training_info.add().algorithm.CopyFrom(graph(external()))
    return model


def without_its_marker() -> onnx.ModelProto:
    weight = external()
    weight.ClearField("data_location")
    return helper.make_model(graph(weight))


PLACES = [
    in_initializer,
    in_constant,
    in_subgraph,
    in_a_list_of_tensors,
    in_sparse,
    in_function,
    in_training,
    without_its_marker,
]


@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
def test_found_wherever_a_tensor_may_be(make: Callable[[], onnx.ModelProto]) -> None:
    assert has_external_data(make().SerializeToString())


def test_weights_inside_are_not_external(tiny_bundle: Path) -> None:
    for path in (tiny_bundle / "onnx").iterdir():
        assert not has_external_data(path.read_bytes())
    weight = numpy_helper.from_array(np.arange(300, dtype=np.int64), "weight")
    assert not has_external_data(helper.make_model(graph(weight)).SerializeToString())


@pytest.mark.parametrize(
    "data",
    [b"not ONNX at all", b"\x3a\x7f", b"\x3a", b"\x80" * 12, b"\x00\x01", b"\x3b\x01\x3c", b"\x38\x01"],
    ids=["text", "cut short", "no length", "long number", "number 0", "group", "a number for the graph"],
)
def test_what_cannot_be_walked_is_not_passed(data: bytes) -> None:
    with pytest.raises(NotOnnx):
        has_external_data(data)


def test_nesting_without_end_is_refused() -> None:
    data = b""
    for _ in range(200):  # a graph in an attribute of a node of a graph, and so on
        for number in (6, 5, 1):
            size, length = len(data), b""
            while size > 0x7F:
                length += bytes([size & 0x7F | 0x80])
                size >>= 7
            data = bytes([number << 3 | 2]) + length + bytes([size]) + data
    with pytest.raises(NotOnnx, match="nested too deeply"):
        has_external_data(b"\x3a" + _length(data) + data)


def _length(data: bytes) -> bytes:
    size, length = len(data), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return length + bytes([size])


def move_weights_out(folder: Path, name: str) -> None:
    """As ``onnx.save_model(save_as_external_data=True)`` does, with the manifest's hash made to fit."""
    path = folder / "onnx" / name
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    rehash(folder)


def test_an_engine_with_weights_outside_is_neither_read_nor_signed(bundle_copy: Path, tmp_path: Path) -> None:
    move_weights_out(bundle_copy, "classifier-01.onnx")
    bundle = Bundle.open(bundle_copy)
    file = bundle.manifest.classifiers[1].onnx["fp32"]
    expected = r"classifier-01.onnx keeps weights in other files, which no hash covers; don't use this bundle"
    with pytest.raises(BundleError, match=expected):
        bundle.read(file)
    keys = make_keys(tmp_path / "keys")
    with pytest.raises(BundleError, match=expected):
        sign(bundle_copy, keys.private)
    assert not (bundle_copy / SIGNATURE).exists()


@pytest.mark.parametrize("embedded", [0, 1])
def test_an_engine_compiled_elsewhere_is_no_graph(embedded: int) -> None:
    """ONNX Runtime would load it from the path that it names, or as code that comes with the file."""
    node = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=embedded, ep_cache_context="engine.plan"
    )
    assert has_external_data(helper.make_model(graph(nodes=(node,))).SerializeToString())
    other = helper.make_node("Identity", ["x"], ["y"], name="EPContext")
    assert not has_external_data(helper.make_model(graph(nodes=(other,))).SerializeToString())
