"""Engines built from and into a folder that others write to: what was verified is compiled and recorded."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from export.tensorrt import engines
from export.tensorrt.engines import build_engines
from export.tensorrt.worker import Job, Made, build_apart
from sdk.backends.plan_store import Host, Sidecar, bundle_folder, cache_folder, find_engine
from sdk.bundle import Bundle
from sdk.errors import BackendError, BundleError
from tests.export.spoil import edit_manifest
from tests.sdk.bundle.test_swaps import SWAPS, Swapper

trt = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt_rtx isn't installed: pip install 'edge-purify[rtx]'"
)

GPU = Host("tensorrt-rtx", trt.__version__, "NVIDIA GeForce RTX 4090", "8.9")
REAL_BUILDS = 2  # of each engine; the others are told apart without compiling


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def only(folder: Path, purifiers: int) -> Bundle:
    def cut(tree: dict[str, Any]) -> None:
        del tree["purifiers"][purifiers:], tree["classifiers"][1:]

    edit_manifest(folder, cut)
    return Bundle.open(folder)


@pytest.mark.slow
def test_a_swapped_file_is_refused_or_was_read_before(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two purifiers swapped at random moments, 200 times: never is one compiled under the other's name."""
    only(bundle_copy, 2)
    compiled: list[str] = []

    def build(job: Job, where: str, on_phase: Any) -> Made:
        compiled.append(hashlib.sha256(job.onnx).hexdigest())
        if len(compiled) <= 3 * REAL_BUILDS:
            return build_apart(job, where, on_phase)
        job.part.write_bytes(job.onnx)  # tells which it was as well as an engine would
        return Made(compiled[-1], len(job.onnx))

    monkeypatch.setattr(engines, "build_apart", build)
    swapper = Swapper(bundle_copy, "purifier-00.onnx", "purifier-01.onnx", seed=2)
    refusals: list[str] = []
    built = 0
    with swapper.at_work():
        while swapper.n_swaps < SWAPS or not refusals or built < REAL_BUILDS:
            compiled_before = len(compiled)
            try:
                bundle = Bundle.open(bundle_copy)
                outcome = build_engines(bundle, "rtx", force=True)
            except BundleError as error:
                refusals.append(str(error))
                continue
            built += 1
            named = [engine.onnx["fp32"].sha256 for engine in bundle.manifest.engines]
            assert compiled[compiled_before:] == named
            for engine, sha256 in zip(outcome.engines, named, strict=True):
                sidecar = msgspec.json.decode(
                    Path(engine.plan).with_suffix(".json").read_bytes(), type=Sidecar
                )
                assert sidecar.fingerprint.onnx_sha256 == sha256
    assert len(compiled) >= 3 * REAL_BUILDS
    assert all("damaged or changed" in refusal for refusal in refusals)


@pytest.mark.parametrize("into_bundle", [False, True])
def test_a_plan_that_is_swapped_before_it_is_recorded_is_not_loaded(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, into_bundle: bool
) -> None:
    bundle = only(bundle_copy, 1)

    def build_and_swap(job: Job, where: str, on_phase: Any) -> Made:
        made = build_apart(job, where, on_phase)
        job.part.write_bytes(b"code")
        return made

    monkeypatch.setattr(engines, "build_apart", build_and_swap)
    build_engines(bundle, "rtx", into_bundle=into_bundle)
    opened = Bundle.open(bundle_copy)
    for engine in opened.manifest.engines:
        with pytest.raises(BackendError, match="damaged or changed"):
            find_engine(opened, engine, "fp32", GPU).read()


def test_nothing_is_written_through_a_link_in_the_bundle(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, own = only(bundle_copy, 1), tmp_path / "own.txt"
    own.write_text("mine")
    folder = bundle_folder(bundle)
    folder.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(BundleError, match="'engines' is a link"):
        build_engines(bundle, "rtx", into_bundle=True)
    folder.unlink()
    folder.mkdir()
    (folder / ".lock").symlink_to(own)  # opening it for writing would empty the file
    with pytest.raises(Exception, match=r"can't be written: Too many levels of symbolic links"):
        build_engines(bundle, "rtx", into_bundle=True)
    assert own.read_text() == "mine"
    (folder / ".lock").unlink()
    plans = [Path(engine.plan) for engine in build_engines(bundle, "rtx", into_bundle=True).engines]
    for path in (plans[0], plans[0].with_suffix(".json")):
        path.unlink()
        path.symlink_to(own)
    build_engines(Bundle.open(bundle_copy), "rtx", into_bundle=True, force=True)
    assert own.read_text() == "mine"
    opened = Bundle.open(bundle_copy)
    assert find_engine(opened, opened.manifest.purifiers[0], "fp32", GPU).read()
    assert not cache_folder(opened).exists()
    shutil.rmtree(folder)
