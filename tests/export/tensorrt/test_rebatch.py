"""Graphs for several images at a time: each row is as alone, and TensorRT-RTX builds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from export import cli
from export.inputs.draws import engine_inputs, random_inputs
from export.tensorrt.build import BuildError, Options, build_plan
from export.tensorrt.engines import build_engines
from export.tensorrt.rebatch import with_batch
from export.torch_to_onnx import engine_bytes
from sdk.backends.plan_store import Host, find_engine
from sdk.bundle import Bundle, Engine, File, Precision, default_bundle
from tests.export.spoil import edit_manifest
from tests.trainer.models.test_maep import shake, tiny_defence

NOWHERE = {"fp32": File("x.onnx", "0" * 64)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.open(default_bundle())


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("kind", ["purifiers", "classifiers"])
def test_shipped_engines_take_several_images(kind: str, precision: Precision, shipped: Bundle) -> None:
    """``with_batch`` itself compares every row with the graph of one image; TensorRT-RTX builds it."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx isn't installed")
    engine = getattr(shipped.manifest, kind)[0]
    rebatched = with_batch(shipped.read(engine.onnx[precision]), 8, engine, precision)
    session = onnxruntime.InferenceSession(rebatched, providers=["CPUExecutionProvider"])
    assert {node.shape[0] for node in (*session.get_inputs(), *session.get_outputs())} == {8}
    assert len(build_plan(trt, rebatched, Options(256, batch=8)).plan) > 10_000


def test_masked_autoencoder_takes_several_images() -> None:
    generator = torch.Generator().manual_seed(0)
    defence = tiny_defence(patches_kept=12, adapter_rank=0).eval()
    shake(defence.purifier)
    draw = defence.draw(1, generator)
    example = {"image": torch.rand(1, 3, 16, 16, generator=generator)} | {
        name: torch.from_numpy(value[:1]) for name, value in engine_inputs(draw).items()
    }
    graph = engine_bytes(defence.single_purifier(0), example, output="purified", name="purifier-00")
    engine = Engine("purifier-00", NOWHERE, tuple(random_inputs(defence)))
    rebatched = onnx.load_model_from_string(with_batch(graph, 3, engine, "fp32"))
    assert {value.type.tensor_type.shape.dim[0].dim_value for value in rebatched.graph.input} == {3}


def graph_of(*nodes: onnx.NodeProto, **initializers: Any) -> bytes:
    shape = [1, 3, 4, 4]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "purified")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()]
    graph = helper.make_graph(list(nodes), "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def test_graph_that_mixes_the_images_is_refused() -> None:
    """A mean over the batch: right for one image alone."""
    graph = graph_of(
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["purified"]),
        axes=np.array([0, 2, 3], np.int64),
    )
    with pytest.raises(
        BuildError, match=r"^engine p \(fp32\): a batch of 2: its graph mixes the images: a row is off"
    ):
        with_batch(graph, 2, Engine("p", NOWHERE), "fp32")


def test_graph_of_one_image_by_its_shapes_is_refused() -> None:
    graph = graph_of(
        helper.make_node("Reshape", ["image", "flat"], ["row"]),
        helper.make_node("Reshape", ["row", "back"], ["purified"]),
        flat=np.array([48], np.int64),
        back=np.array([1, 3, 4, 4], np.int64),
    )
    with pytest.raises(BuildError, match=r"its graph can't take several images: "):
        with_batch(graph, 2, Engine("p", NOWHERE), "fp32")


# --- the command


@pytest.fixture
def small(bundle_copy: Path) -> Bundle:
    def cut(tree: dict[str, Any]) -> None:
        del tree["purifiers"][1:], tree["classifiers"][1:]

    edit_manifest(bundle_copy, cut)
    return Bundle.open(bundle_copy)


@pytest.mark.slow
def test_both_sizes_are_built_found_and_reused(small: Bundle) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx isn't installed")
    host = Host("tensorrt-rtx", trt.__version__, "NVIDIA GeForce RTX 4090", "8.9")
    outcome = build_engines(small, "rtx", batch=4)
    assert [(engine.engine, engine.batch, engine.built) for engine in outcome.engines] == [
        ("purifier-00", 1, True), ("classifier-00", 1, True),
        ("purifier-00", 4, True), ("classifier-00", 4, True),
    ]  # fmt: skip
    for engine in small.manifest.engines:
        plans = [find_engine(small, engine, "fp32", host, batch=batch).read() for batch in (1, 4)]
        assert plans[0] != plans[1]
    result = CliRunner().invoke(cli.main, ["engines", str(small.folder), "--target", "rtx", "--batch", "4"])
    assert result.exit_code == 0, result.output
    assert "purifier-00    fp32  x4" in result.output
    assert "4 engines for rtx" in result.output
    assert "0 of them built now" in result.output
    args = ["engines", str(small.folder), "--target", "rtx", "--json"]
    alone = json.loads(CliRunner().invoke(cli.main, args).stdout)
    assert [engine["batch"] for engine in alone["engines"]] == [1, 1]


def test_dry_run_has_no_batch(small: Bundle) -> None:
    args = ["engines", str(small.folder), "--target", "rtx", "--batch", "4", "--dry-run"]
    result = CliRunner().invoke(cli.main, args)
    assert result.exit_code == 2
    assert "--batch: NVIDIA's tools build the bundle's own files" in result.output
