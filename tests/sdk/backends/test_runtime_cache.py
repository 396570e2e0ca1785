"""TensorRT-RTX's runtime cache: what one start compiled serves the next, and no cache is worse than slow."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.backends.runtime_cache import DIGEST_BYTES
from sdk.backends.tensorrt import TensorRtBackend
from sdk.bundle import Bundle
from tests.sdk.backends.test_tensorrt import IMAGE, fake_driver
from tests.sdk.fakes.built import write_engines
from tests.sdk.fakes.gpu import FakeGpu
from tests.sdk.fakes.tensorrt import FakeTensorRt

VERSION = "1.2.3"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = Bundle.open(tiny_bundle)
    write_engines(bundle, backend="tensorrt-rtx", version=VERSION, gpu=None, capabilities=("8.0+",))
    return bundle


def started(bundle: Bundle, gpu: FakeGpu | None = None, refuse: str | None = None) -> FakeTensorRt:
    """The library after one start of the backend, which answers as ONNX Runtime does and leaves nothing."""
    gpu = gpu or FakeGpu()
    trt = FakeTensorRt(gpu, VERSION)
    trt.refuse = refuse
    opened = TensorRtBackend(bundle, "tensorrt-rtx", module=trt, open_driver=fake_driver(gpu))
    assert np.array_equal(opened.classify(1, IMAGE), OnnxRuntimeBackend(bundle).classify(1, IMAGE))
    opened.close()
    gpu.require_nothing_held()
    return trt


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("kernels.*.cache"))


def test_the_second_start_compiles_nothing(bundle: Bundle, tmp_path: Path) -> None:
    assert len(started(bundle).compiled) == 5
    (path,) = kept(tmp_path)
    assert path.parent == next((tmp_path / "cache").rglob("*.plan")).parent
    written = path.stat().st_mtime_ns
    assert started(bundle).compiled == []
    assert path.stat().st_mtime_ns == written  # what is known already isn't written again


def test_another_gpu_and_other_plans_have_caches_of_their_own(bundle: Bundle, tmp_path: Path) -> None:
    started(bundle)
    assert len(started(bundle, FakeGpu(multiprocessors=8)).compiled) == 5
    assert len(kept(tmp_path)) == 2
    purifier = bundle.path(bundle.manifest.purifiers[0].onnx["fp32"]).read_bytes()
    write_engines(
        bundle, backend="tensorrt-rtx", version=VERSION, gpu=None, capabilities=("8.0+",),
        plans={"purifier-01": purifier},
    )  # fmt: skip
    assert len(started(bundle).compiled) == 4  # two engines share their kernels
    assert len(kept(tmp_path)) == 3


@pytest.mark.parametrize("content", [b"", b"short", None], ids=["empty", "short", "one bit"])
def test_a_damaged_cache_is_one_line_and_replaced(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    started(bundle)
    (path,) = kept(tmp_path)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]) if content is None else content)
    assert len(started(bundle).compiled) == 5
    assert caplog.messages == [f"{path}: cache of compiled kernels: damaged; they are compiled again"]
    assert path.read_bytes() == sound
    assert started(bundle).compiled == []


def test_a_cache_that_the_library_refuses_is_one_line_and_replaced(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started(bundle)
    (path,) = kept(tmp_path)
    blob = json.dumps(["1.1.0", []]).encode()
    path.write_bytes(hashlib.sha256(blob).digest() + blob)
    assert len(started(bundle).compiled) == 5
    assert caplog.messages == [
        f"{path}: cache of compiled kernels: of another driver or library; they are compiled again"
    ]
    assert json.loads(path.read_bytes()[DIGEST_BYTES:])[0] == VERSION


@pytest.mark.parametrize(
    "refuse", ["create_runtime_config", "create_runtime_cache", "set_runtime_cache", "serialize"]
)
def test_without_a_cache_it_runs_all_the_same(bundle: Bundle, tmp_path: Path, refuse: str) -> None:
    assert len(started(bundle, refuse=refuse).compiled) == 5
    assert all(json.loads(path.read_bytes()[DIGEST_BYTES:])[1] == [] for path in kept(tmp_path))


def test_a_cache_that_cannot_be_read_or_written_is_a_line_each(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started(bundle)
    (path,) = kept(tmp_path)
    path.unlink()
    path.mkdir()
    assert len(started(bundle).compiled) == 5
    unread, unwritten = caplog.messages
    assert unread.startswith(f"{path}: cache of compiled kernels: can't be read: Is a directory; ")
    assert unwritten.startswith(f"{path}: compiled kernels can't be kept: ")


def test_tensorrt_is_asked_for_no_cache(tiny_bundle: Path, bundle: Bundle, tmp_path: Path) -> None:
    """It has none, and versions before 10.11 no runtime configuration either."""
    gpu = FakeGpu()
    write_engines(bundle)
    TensorRtBackend(bundle, module=FakeTensorRt(gpu), open_driver=fake_driver(gpu)).close()
    assert "create_runtime_config" not in gpu.calls
    assert kept(tmp_path) == []
