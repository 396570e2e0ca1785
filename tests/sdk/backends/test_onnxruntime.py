"""The ONNX Runtime backend beyond what ``test_sessions`` asks of it: its threads, and other providers."""

from __future__ import annotations

import inspect
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, get_args

import msgspec
import numpy as np
import onnxruntime
import pytest

from sdk.backends import open_backend, trial
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.backends.providers import ProviderError
from sdk.bundle import Bundle, Engine, Precision
from sdk.errors import BackendError, UsageError
from tests.sdk.fakes.golden import with_golden

IMAGE = np.linspace(0, 1, 3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16)
REAL_SESSION = onnxruntime.InferenceSession
CHECK_PROVIDERS = onnxruntime.capi.onnxruntime_inference_collection.check_and_normalize_provider_args
ALL_KEPT = {"atom_mask": np.ones((1, 12), np.float32)}


def test_the_callers_threads_are_kept_and_never_spin(tiny_bundle: Path) -> None:
    purifiers, classifiers = OnnxRuntimeBackend(Bundle.open(tiny_bundle), threads=2).bare_sessions()
    assert (len(purifiers), len(classifiers)) == (3, 2)
    for session in (*purifiers, *classifiers):
        options = session.get_session_options()
        assert options.intra_op_num_threads == 2
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


# --- other providers than the CPU


class FakeSession(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session that says that it has the providers it was asked for, and runs on the CPU.

    ``dropped`` are those that it drops without a word, as where a library is missing.
    """

    dropped: tuple[str, ...] = ()
    asked: ClassVar[list[tuple[list[str], int]]] = []
    given: ClassVar[list[dict[str, dict[str, str]]]] = []

    def __init__(self, path: str, options: Any, providers: list[Any], *, enable_fallback: int) -> None:
        available = onnxruntime.get_available_providers()
        names, given = CHECK_PROVIDERS(providers, None, available)  # as a real session reads what it is given
        self.asked.append((names, enable_fallback))
        self.given.append(dict(zip(names, given, strict=True)))
        self.kept = [name for name in names if name not in self.dropped]
        super().__init__(path, options, providers=["CPUExecutionProvider"], enable_fallback=enable_fallback)

    def get_providers(self) -> list[str]:
        return self.kept


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeSession]:
    """``onnxruntime-gpu``, as far as the backend sees it."""
    available = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudart"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(FakeSession, "asked", [])
    monkeypatch.setattr(FakeSession, "given", [])
    return FakeSession


def test_the_fakes_take_what_onnx_runtime_takes() -> None:
    real = inspect.signature(REAL_SESSION.__init__).parameters
    assert list(real)[:4] == ["self", "path_or_bytes", "sess_options", "providers"]
    assert "enable_fallback" in inspect.getsource(REAL_SESSION.__init__)
    assert "CPUExecutionProvider" in onnxruntime.get_available_providers()
    assert all(
        parameter.default is not parameter.empty
        for parameter in inspect.signature(onnxruntime.preload_dlls).parameters.values()
    )


@pytest.mark.parametrize(
    ("provider", "chain"),
    [
        ("cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"]),
        ("tensorrt", ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_a_provider_is_asked_for_with_what_it_falls_through_to(
    tiny_bundle: Path,
    gpu_build: type[FakeSession],
    capsys: pytest.CaptureFixture[str],
    provider: str,
    chain: list[str],
) -> None:
    opened = open_backend(Bundle.open(tiny_bundle), "onnxruntime", provider=provider)
    assert gpu_build.asked == [(chain, 0)] * 5
    assert opened.purify(0, IMAGE, ALL_KEPT).shape == IMAGE.shape
    captured = capsys.readouterr()
    assert captured.out == ""  # which may carry JSON
    assert "libcudart" in captured.err


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"),
    [("fp32", "False", "False"), ("fp16", "True", "False"), ("int8", "False", "True")],
)
def test_the_tensorrt_provider_may_compute_in_the_precision_of_the_graph(
    bundle_copy: Path, gpu_build: type[FakeSession], precision: Any, fp16: str, int8: str
) -> None:
    opened = Bundle.open(bundle_copy)
    opened.manifest = msgspec.structs.replace(
        opened.manifest,
        purifiers=tuple(in_every_precision(engine) for engine in opened.manifest.purifiers),
        classifiers=tuple(in_every_precision(engine) for engine in opened.manifest.classifiers),
    )
    OnnxRuntimeBackend(opened, precision, provider="tensorrt")
    for given in gpu_build.given:
        asked = given["TensorrtExecutionProvider"]
        assert (asked["trt_fp16_enable"], asked["trt_int8_enable"]) == (fp16, int8)
        assert given["CUDAExecutionProvider"] == given["CPUExecutionProvider"] == {}
    assert len(gpu_build.given) == 5


def test_the_tensorrt_provider_keeps_its_engines_in_a_folder_for_each_onnx_file(
    tiny_bundle: Path, gpu_build: type[FakeSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names an engine after the graph's names alone: in one folder a bank's would be mixed up."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = Bundle.open(tiny_bundle)
    OnnxRuntimeBackend(bundle, provider="tensorrt")
    folders = []
    for engine, given in zip(bundle.manifest.engines, gpu_build.given, strict=True):
        asked = given["TensorrtExecutionProvider"]
        assert asked["trt_engine_cache_enable"] == asked["trt_timing_cache_enable"] == "True"
        assert asked["trt_engine_cache_path"] == asked["trt_timing_cache_path"]
        folder = Path(asked["trt_engine_cache_path"])
        folders.append(folder)
        assert folder.relative_to(tmp_path).parts == (
            *("edge-purify", "onnxruntime", onnxruntime.__version__, engine.onnx["fp32"].sha256),
        )
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert len(set(folders)) == 5
    gpu_build.given.clear()
    OnnxRuntimeBackend(bundle, provider="cuda")
    assert all(options == {} for given in gpu_build.given for options in given.values())


def test_the_tensorrt_provider_keeps_no_engine_where_others_may_write(
    tiny_bundle: Path,
    gpu_build: type[FakeSession],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "edge-purify").mkdir()
    (tmp_path / "edge-purify").chmod(0o777)
    OnnxRuntimeBackend(Bundle.open(tiny_bundle), provider="tensorrt")
    assert all("trt_engine_cache_path" not in g["TensorrtExecutionProvider"] for g in gpu_build.given)
    (line,) = caplog.messages
    assert line.startswith("provider tensorrt: engines aren't kept, and the next start builds again: ")


def in_every_precision(engine: Engine) -> Engine:
    """The engine under the names of all precisions: what is in its file is not asked about."""
    return msgspec.structs.replace(engine, onnx=dict.fromkeys(get_args(Precision), engine.onnx["fp32"]))


def test_the_cpu_asks_for_nothing_else(tiny_bundle: Path, gpu_build: type[FakeSession]) -> None:
    OnnxRuntimeBackend(Bundle.open(tiny_bundle))
    assert gpu_build.asked == [(["CPUExecutionProvider"], 0)] * 5


def test_a_provider_that_was_dropped_is_an_error(
    tiny_bundle: Path, gpu_build: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_build, "dropped", ("CUDAExecutionProvider",))
    with pytest.raises(
        BackendError,
        match=r"^provider cuda: ONNX Runtime dropped CUDAExecutionProvider and kept CPUExecutionProvider: ",
    ) as caught:
        open_backend(Bundle.open(tiny_bundle), "onnxruntime", provider="cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_was_not_built_in_names_the_package(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"in this ONNX Runtime, got .*pip install onnxruntime-gpu"):
        open_backend(Bundle.open(tiny_bundle), "onnxruntime", provider=provider)


@pytest.mark.parametrize(
    ("backend_name", "provider", "message"),
    [
        ("auto", "cuda", "provider cuda: only backend onnxruntime has it, got backend auto"),
        ("tensorrt", "tensorrt", "provider tensorrt: only backend onnxruntime has it"),
        ("onnxruntime", "rocm", "provider: expected one of cpu, cuda, tensorrt, got 'rocm'"),
    ],
)
def test_an_impossible_provider(tiny_bundle: Path, backend_name: str, provider: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_backend(Bundle.open(tiny_bundle), backend_name, provider=provider)


def test_a_provider_that_was_dropped_is_no_fault_of_a_precision(
    bundle_copy: Path, gpu_build: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_golden(bundle_copy)
    monkeypatch.setattr(gpu_build, "dropped", ("CUDAExecutionProvider",))
    with pytest.raises(ProviderError, match="dropped"):
        trial(bundle, "onnxruntime", "cuda")


@pytest.mark.parametrize("backend_name", ["auto", "onnxruntime"])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_auto_is_onnx_runtime_in_fp32(tiny_bundle: Path, backend_name: str, precision: str) -> None:
    opened = open_backend(Bundle.open(tiny_bundle), backend_name, precision)
    assert (opened.name, opened.precision) == ("onnxruntime", "fp32")


def test_a_precision_the_bundle_lacks_names_those_it_has(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match="no int8 engines in it; choose --precision fp32"):
        open_backend(Bundle.open(tiny_bundle), "auto", "int8")


@pytest.mark.parametrize(
    ("missing", "mend"),
    [("onnxruntime", "pip install onnxruntime"), ("cv2", "pip install 'edge-purify[opencv]'")],
)
def test_a_missing_library_is_one_line_with_the_mend(tiny_bundle: Path, missing: str, mend: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None  # what Python leaves when an import is barred
from sdk.errors import BackendError
try:
    from sdk import Purifier
    Purifier.load({str(tiny_bundle)!r})
except BackendError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300
    )
    assert mend in done.stdout
    assert done.stdout.count("\n") == 1
