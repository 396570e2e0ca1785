"""Weights in half the space: the same values bit for bit, in the file, in the runtime and in TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from export.inputs.calibration import engine_feeds, self_made_images
from export.precision.ranges import session
from export.precision.weight_storage import MIN_VALUES, compressed, expanded
from export.torch_to_onnx import engine_bytes
from sdk.bundle import Bundle
from tests.export.precision.test_fp16 import engines
from tests.export.tensorrt.helpers import build_size_bytes
from trainer import checkpoint


@pytest.fixture(params=["lowered", "maep_lowered"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.getfixturevalue(request.param))


def weights_of(data: bytes) -> dict[str, npt.NDArray[np.generic]]:
    graph = onnx.load_model_from_string(data).graph
    return {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}


def classifier(loaded: checkpoint.Loaded, index: int) -> tuple[bytes, list[npt.NDArray[np.float32]]]:
    """A classifier's file as the exporter gives it, batch norms folded, and its weights before that."""
    import torch

    module = loaded.defence.single_classifier(index)
    data = engine_bytes(module, {"image": torch.zeros(1, 3, 16, 16)}, output="logits", name="classifier-00")
    return data, [value.numpy() for value in module.state_dict().values() if value.dtype is torch.float32]


def test_every_large_weight_of_a_classifier_is_stored_in_half_the_space(lowered: Path) -> None:
    for name, data in engines(Bundle.open(lowered), "fp32").items():
        if name.startswith("classifier"):
            large = [value for value in weights_of(data).values() if value.size >= MIN_VALUES]
            assert large
            assert {value.dtype for value in large} == {np.dtype(np.float16)}


def test_storing_and_expanding_gives_the_same_values(loaded: checkpoint.Loaded) -> None:
    data, originals = classifier(loaded, 0)
    stored = compressed(data, originals)
    before, between, after = (weights_of(each) for each in (data, stored, expanded(stored)))
    assert any(name.endswith("_factor") for name in between), "a batch norm was folded into a convolution"
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert values.dtype == after[name].dtype
        assert np.array_equal(values, after[name]), name


def test_the_runtime_gives_the_same_output_bit_for_bit(bundle: Bundle) -> None:
    manifest, images = bundle.manifest, self_made_images(bundle.manifest, 4)
    for engine in manifest.engines:
        stored = bundle.read(engine.onnx["fp32"])
        both = [session(data, engine.id) for data in (stored, expanded(stored))]
        for feed in engine_feeds(manifest, engine, images):
            got, expected = (one.run(None, feed)[0] for one in both)
            assert np.array_equal(got, expected), engine.id


def test_tensorrt_rtx_builds_the_stored_form(bundle: Bundle) -> None:
    for data in engines(bundle, "fp32").values():
        assert build_size_bytes(data) > 0


def test_what_fp16_does_not_hold_stays_as_it_is(loaded: checkpoint.Loaded) -> None:
    data, _ = classifier(loaded, 0)
    assert compressed(data) == data, "every large weight has a batch norm in it, and the factors are unknown"
    model = onnx.load_model_from_string(data)
    rng = np.random.default_rng(0)
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            noise = rng.standard_normal(weight.dims).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(noise, weight.name))
    data = model.SerializeToString()
    assert compressed(data, [noise.astype(np.float16).astype(np.float32)]) == data


def test_a_weight_beyond_fp16_and_one_of_zeros_are_exact(loaded: checkpoint.Loaded) -> None:
    data, originals = classifier(loaded, 0)
    model = onnx.load_model_from_string(data)
    large = [weight for weight in model.graph.initializer if np.prod(weight.dims) >= MIN_VALUES]
    shape = tuple(large[0].dims)
    large[0].CopyFrom(numpy_helper.from_array(np.full(shape, 1e6, np.float32), large[0].name))
    large[1].CopyFrom(numpy_helper.from_array(np.zeros(tuple(large[1].dims), np.float32), large[1].name))
    data = model.SerializeToString()
    after = weights_of(expanded(compressed(data, originals)))
    assert all(np.array_equal(values, after[name]) for name, values in weights_of(data).items())
