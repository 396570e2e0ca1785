"""A bundle small enough to reason about by hand, for every test of the runtime; and which tests are slow."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from sdk.bundle import Engine, File, Image, Manifest, RandomInput, sha256_of, write_manifest

SIDE = 16
LABELS = ("red", "green", "blue", "dark")
MASK = RandomInput("atom_mask", "subset", 12, 9, "mask", "float32", (1, 12))


# A shell's background job ignores SIGINT, one under nohup SIGHUP, and so would what it starts; the tests stop
# programs by them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("untimed", deadline=None)  # a busy machine says nothing about the code
settings.load_profile("untimed")

SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").split())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that slow.txt names, as FILE.py::TEST: a move to another folder leaves that valid."""
    for item in items:
        if f"{item.path.name}::{getattr(item, 'originalname', item.name)}" in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's cache is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 purifiers and 2 classifiers on 16x16 images; to change a file, take ``bundle_copy`` instead.

    A purifier shifts the image's colours a little, by an amount that depends on it and on the mask.  A
    classifier names the strongest of red, green and blue, or "dark".
    """
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_tiny_bundle(folder)
    return folder


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def red_frame() -> np.ndarray:
    """A 48x64 frame, BGR, which the tiny bundle calls red."""
    return np.full((48, 64, 3), (30, 40, 220), np.uint8)


def write_tiny_bundle(folder: Path) -> None:
    (folder / "onnx").mkdir(parents=True)
    rng = np.random.default_rng(0)
    purifiers = [_purifier(folder, i, rng.uniform(-0.01, 0.01, (MASK.size, 3))) for i in range(3)]
    classifiers = [_classifier(folder, j, sharpness=4.0 + j) for j in range(2)]
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    np.savez(folder / "golden.npz", images=np.zeros((1, 3, SIDE, SIDE), np.float32))
    manifest = Manifest(
        schema=1,
        name="tiny",
        family="ren",
        labels=_file(folder, "labels.txt"),
        image=Image(SIDE, SIDE),
        purifiers=tuple(purifiers),
        classifiers=tuple(classifiers),
        golden=_file(folder, "golden.npz"),
        provenance={"made by": "tests/conftest.py"},
    )
    write_manifest(folder, manifest)


def _purifier(folder: Path, index: int, shifts: np.ndarray) -> Engine:
    """clip(image + atom_mask @ shifts, 0, 1), the shift being one number per colour."""
    nodes = [
        helper.make_node("MatMul", ["atom_mask", "shifts"], ["shift"]),
        helper.make_node("Reshape", ["shift", "shape"], ["shift_per_colour"]),
        helper.make_node("Add", ["image", "shift_per_colour"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "zero", "one"], ["purified"]),
    ]
    constants = {
        "shifts": shifts.astype(np.float32),
        "shape": np.array([1, 3, 1, 1], np.int64),
        "zero": np.float32(0),
        "one": np.float32(1),
    }
    inputs = {"image": [1, 3, SIDE, SIDE], "atom_mask": list(MASK.shape)}
    file = _save(
        folder, f"onnx/purifier-{index:02d}.onnx", nodes, constants, inputs, {"purified": inputs["image"]}
    )
    return Engine(f"purifier-{index:02d}", {"fp32": file}, (MASK,))


def _classifier(folder: Path, index: int, sharpness: float) -> Engine:
    """sharpness * mean colour for red, green and blue; sharpness / 4 for dark."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["colour"], keepdims=0),
        helper.make_node("Gemm", ["colour", "weight", "bias"], ["logits"]),
    ]
    constants = {
        "axes": np.array([2, 3], np.int64),
        "weight": (sharpness * np.eye(3, len(LABELS))).astype(np.float32),
        "bias": np.array([0, 0, 0, sharpness / 4], np.float32),
    }
    inputs = {"image": [1, 3, SIDE, SIDE]}
    file = _save(
        folder, f"onnx/classifier-{index:02d}.onnx", nodes, constants, inputs, {"logits": [1, len(LABELS)]}
    )
    return Engine(f"classifier-{index:02d}", {"fp32": file})


def _save(
    folder: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: dict[str, list[int]],
    outputs: dict[str, list[int]],
) -> File:
    def values(shapes: dict[str, list[int]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(key, TensorProto.FLOAT, dims) for key, dims in shapes.items()]

    initializers = [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", values(inputs), values(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / name)
    return _file(folder, name)


def _file(folder: Path, name: str) -> File:
    return File(name, sha256_of(folder / name))
