"""A bundle as a Triton model repository: its configurations by Triton's schema, and the Python model."""

from __future__ import annotations

import json
import sys
from collections import Counter
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from export.triton.repository import Options, engine_config, write_repository
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import Bundle, default_bundle
from sdk.choices import GraphKind
from sdk.errors import UsageError
from sdk.inference import softmax
from tests.export.cli.helpers import assert_one_line, run
from tests.export.triton import stand_in

IMAGES = np.linspace(0, 1, 3 * 3 * 16 * 16, dtype=np.float32).reshape(3, 3, 16, 16)


def imported(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def schema() -> ModuleType:
    """Triton's ``model_config.proto``, without the client that it comes with."""
    found = find_spec("tritonclient")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("needs Triton's schema: pip install tritonclient")
    folder = Path(found.submodule_search_locations[0])
    return imported("model_config_pb2", folder / "grpc" / "model_config_pb2.py")


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def parse(schema: ModuleType, text: str) -> Any:
    return text_format.Parse(text, schema.ModelConfig())


@pytest.fixture
def repository(bundle: Bundle, tmp_path: Path) -> Path:
    write_repository(bundle, tmp_path / "models", Options(votes=2))
    return tmp_path / "models"


# --- the configurations


def test_each_engine_is_a_model_and_one_draws(bundle: Bundle, tmp_path: Path, schema: ModuleType) -> None:
    names = write_repository(bundle, tmp_path, Options())
    assert names == (
        *(f"tiny-purifier-{index:02}" for index in range(3)),
        *(f"tiny-classifier-{index:02}" for index in range(2)),
        "tiny",
    )
    kind = schema.ModelInstanceGroup
    for name in names:
        config = parse(schema, (tmp_path / name / "config.pbtxt").read_text())
        assert (config.name, config.max_batch_size) == (name, 64 if name == "tiny" else 0)
        assert [group.kind for group in config.instance_group] == [kind.KIND_CPU]
    purifier = parse(schema, (tmp_path / names[1] / "config.pbtxt").read_text())
    assert purifier.platform == "onnxruntime_onnx"
    assert [(each.name, each.data_type, list(each.dims)) for each in purifier.input] == [
        ("image", schema.TYPE_FP32, [1, 3, 16, 16]),
        ("atom_mask", schema.TYPE_FP32, [1, 12]),
    ]
    assert (tmp_path / names[1] / "1" / "model.onnx").read_bytes() == bundle.read(
        bundle.manifest.purifiers[1].onnx["fp32"]
    )
    chain = parse(schema, (tmp_path / "tiny" / "config.pbtxt").read_text())
    assert (chain.backend, chain.parameters["votes"].string_value) == ("python", "1")
    assert [(each.name, list(each.dims)) for each in chain.output] == [
        ("probabilities", [4]),
        ("purified", [3, 16, 16]),
    ]
    assert (tmp_path / "tiny" / chain.output[0].label_filename).read_text().split() == list(bundle.labels)


def test_indices_are_integers(schema: ModuleType) -> None:
    text = engine_config("m", [("keep", "TYPE_INT64", (1, 12))], ("purified", "TYPE_FP32", (1, 3)), Options())
    (keep,) = parse(schema, text).input
    assert (keep.name, keep.data_type, list(keep.dims)) == ("keep", schema.TYPE_INT64, [1, 12])


def test_int8_takes_the_graph_of_its_device_and_plans_take_a_gpu(tmp_path: Path, schema: ModuleType) -> None:
    bundle = Bundle.open(default_bundle())
    graphs = set()
    devices: tuple[GraphKind, ...] = ("cpu", "gpu")
    for device in devices:
        names = write_repository(bundle, tmp_path / device, Options("int8", device))
        written = (tmp_path / device / names[-2] / "1" / "model.onnx").read_bytes()
        assert written == bundle.read(bundle.manifest.classifiers[-1].graph("int8", device))
        graphs.add(written)
    assert len(graphs) == 2
    plans = {engine.id: engine.id.encode() for engine in bundle.manifest.engines}
    names = write_repository(bundle, tmp_path / "plans", Options("fp16", "gpu", plans))
    for name, engine in zip(names, bundle.manifest.engines, strict=False):
        config = parse(schema, (tmp_path / "plans" / name / "config.pbtxt").read_text())
        assert config.platform == "tensorrt_plan"
        assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
        assert (tmp_path / "plans" / name / "1" / "model.plan").read_text() == engine.id


# --- the Python model


@pytest.fixture
def called() -> list[str]:
    return []


@pytest.fixture
def model(repository: Path, schema: ModuleType, called: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The repository's own copy of the model, as Triton starts it."""
    utils = stand_in.module(repository, lambda text: parse(schema, text), called)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    module = imported("model", repository / "tiny" / "1" / "model.py")
    config = {"parameters": {"votes": {"string_value": "2"}}}
    started = module.TritonPythonModel()
    started.initialize(
        {
            "model_repository": str(repository / "tiny"),
            "model_version": "1",
            "model_config": json.dumps(config),
        }
    )
    started.module = module
    return started


def ask(model: Any, images: np.ndarray, *wanted: str) -> stand_in.InferenceResponse:
    (response,) = model.execute([stand_in.Request({"image": images}, list(wanted))])
    found: stand_in.InferenceResponse = response
    return found


def test_it_chains_the_engines_that_it_draws_and_averages(
    bundle: Bundle, model: Any, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.module.secrets, "choice", lambda engines: engines[1])
    words = np.arange(12, dtype=np.uint64).tobytes()
    monkeypatch.setattr(model.module.os, "urandom", lambda size: words)
    response = ask(model, IMAGES)
    assert response.error is None
    outputs = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors}
    mask = (np.arange(12) < 9).astype(np.float32)[None]  # the positions of the smallest words
    backend = OnnxRuntimeBackend(bundle)
    purified = np.concatenate([backend.purify(1, image[None], {"atom_mask": mask}) for image in IMAGES])
    expected = np.stack([softmax(backend.classify(1, image[None])[0]) for image in purified])
    np.testing.assert_allclose(outputs["purified"], purified, atol=1e-6)
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
    assert called == ["tiny-purifier-01", "tiny-classifier-01"] * 2 * len(IMAGES)


def test_every_engine_is_drawn_and_only_what_was_asked_for_is_given(model: Any, called: list[str]) -> None:
    for _ in range(8):
        response = ask(model, IMAGES, "probabilities")
        assert [tensor.name() for tensor in response.output_tensors] == ["probabilities"]
        np.testing.assert_allclose(response.output_tensors[0].as_numpy().sum(axis=1), 1, atol=1e-5)
    assert len(set(called)) == 5


@pytest.mark.parametrize("encoding", ["mask", "indices"])
def test_subsets_are_uniform(model: Any, encoding: str) -> None:
    spec = {"size": 4, "take": 2, "encoding": encoding, "dtype": "int64"}
    drawn = Counter(tuple(model.module.subset(spec)[0].tolist()) for _ in range(3000))
    assert len(drawn) == 6
    assert min(drawn.values()) > 400  # of 500 expected, five standard deviations off
    assert all(sorted(found) == list(found) for found in drawn if encoding == "indices")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (IMAGES[:, :, :8], "image: expected shape [N, 3, 16, 16], N at least 1, got [3, 3, 8, 16]"),
        (IMAGES[:0], "image: expected shape [N, 3, 16, 16], N at least 1, got [0, 3, 16, 16]"),
        (IMAGES * 255, "image: expected values from 0 to 1"),
        (IMAGES * np.nan, "image: expected values from 0 to 1"),
    ],
    ids=["size", "none", "pixels", "NaN"],
)
def test_a_request_that_cannot_be_used_is_an_error(model: Any, images: np.ndarray, said: str) -> None:
    response = ask(model, images.astype(np.float32))
    assert response.output_tensors == []
    assert response.error is not None
    assert response.error.message().startswith(said)
    assert ask(model, IMAGES[:1]).error is None  # the next one is served


@pytest.mark.parametrize("broken", ["missing", "NaN", "shape"])
def test_an_engine_that_fails_is_an_error_and_no_label(
    model: Any, repository: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken == "missing":
        for name in ("tiny-classifier-00", "tiny-classifier-01"):
            (repository / name / "1" / "model.onnx").unlink()
    else:
        found = np.full((1, 4), np.nan, np.float32) if broken == "NaN" else np.zeros((1, 5), np.float32)
        utils = sys.modules["triton_python_backend_utils"]
        real = utils.get_output_tensor_by_name  # type: ignore[attr-defined]
        monkeypatch.setattr(
            utils,
            "get_output_tensor_by_name",
            lambda response, name: stand_in.Tensor(name, found) if name == "logits" else real(response, name),
        )
    response = ask(model, IMAGES[:1])
    assert response.output_tensors == []
    assert response.error is not None
    assert "\n" not in response.error.message()


# --- the command


def test_the_command_writes_beside_other_models(tiny_bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "models" / "other"
    other.mkdir(parents=True)
    done = run("triton", tiny_bundle, tmp_path / "models")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'models'}: 6 models; clients call tiny",
        f"tritonserver --model-repository {tmp_path / 'models'}",
    ]
    assert other.is_dir()
    again = run("triton", tiny_bundle, tmp_path / "models")
    assert_one_line(again, 2, "tiny-purifier-00: is there already; --force replaces it")
    replaced = run("triton", tiny_bundle, tmp_path / "models", "--force", "--votes", "3", "--json")
    assert json.loads(replaced.stdout)["model"] == "tiny"
    assert 'string_value: "3"' in (tmp_path / "models" / "tiny" / "config.pbtxt").read_text()
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        "other",
        *json.loads(replaced.stdout)["models"],
    }


@pytest.mark.parametrize(
    ("options", "exit_code", "said"),
    [
        (("--name", "a/b"), 2, "name: expected up to 100 letters"),
        (("--precision", "int8"), 2, "precision int8: bundle"),
        (("--target", "rtx"), 2, "target rtx: Triton runs TensorRT's engines, not TensorRT-RTX's"),
        (("--target", "l4"), 1, "target l4: this host can't build it"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(
    tiny_bundle: Path, tmp_path: Path, options: tuple[str, ...], exit_code: int, said: str
) -> None:
    if "l4" in options and find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    assert_one_line(run("triton", tiny_bundle, tmp_path / "models", *options), exit_code, said)
    assert not (tmp_path / "models").exists()


def test_a_repository_that_is_a_file_is_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    assert_one_line(run("triton", tiny_bundle, tmp_path / "models"), 1, "can't be written: ")


def test_plans_of_another_bundle_are_not_taken(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no plan of engine purifier-00"):
        write_repository(bundle, tmp_path / "models", Options(plans={}))
    assert not (tmp_path / "models").exists()
