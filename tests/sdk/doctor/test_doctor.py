"""The doctor: it finds what is there, says how to fix what isn't, and its exit code tells the two apart."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sdk.backends.interface import checked
from sdk.bundle import Bundle
from sdk.cli import main
from sdk.doctor import Report, examine
from sdk.doctor import checks as checkup
from sdk.doctor.checks import Finding, build_part, failure
from sdk.errors import BackendError
from tests.sdk.backends.test_cuda import OldDriver
from tests.sdk.fakes.built import write_engines
from tests.sdk.fakes.cuda_bindings import FakeCudaBindings
from tests.sdk.fakes.golden import rehash, with_golden
from tests.sdk.fakes.gpu import FakeGpu
from tests.sdk.fakes.tensorrt import FakeTensorRt


@pytest.fixture(autouse=True)
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine wherever the tests run: without a GPU, TensorRT or Jetson, unless a test adds them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checkup, "gpu_nodes", list)
    monkeypatch.setattr(checkup, "closed_gpu_nodes", list)
    monkeypatch.setattr(checkup, "power_mode", lambda: None)
    monkeypatch.setattr(checkup, "l4t_release", lambda: None)
    for module in ("openvino", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "sdk.backends.openvino", raising=False)  # or it needs no import


@pytest.fixture
def golden_bundle(bundle_copy: Path) -> Path:
    return with_golden(bundle_copy).folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A fake GPU, with the fake TensorRT and cuda-python installed."""
    fake = FakeGpu()
    monkeypatch.setattr(checkup, "gpu_nodes", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(checkup, "kernel_driver", lambda: "540.4.0")
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt(fake))
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(__version__="13.0"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", FakeCudaBindings(fake))
    return fake


def named(report: Report, name: str) -> Finding:
    return next(finding for finding in report.findings if finding.name == name)


def test_a_sound_machine_and_bundle(golden_bundle: Path) -> None:
    report = examine(golden_bundle, selftest=True)
    assert report.healthy
    statuses = {finding.name: finding.status for finding in report.findings}
    needed = ["python", "cpu", "numpy", "onnxruntime", "opencv", "bundle", "engines onnxruntime"]
    assert {statuses[name] for name in [*needed, "self-test onnxruntime fp32"]} == {"ok"}
    assert {statuses[name] for name in ("gpu", "openvino", "tensorrt", "tensorrt-rtx", "l4t")} == {"note"}
    assert "CPUExecutionProvider" in named(report, "onnxruntime").what
    assert named(report, "self-test onnxruntime fp32").what.startswith("12 golden draws, at most 0.0e+00 off")
    assert named(report, "openvino").hint == "pip install 'edge-purify[openvino]'"
    assert named(report, "tensorrt-rtx").hint == "pip install 'edge-purify[rtx]'"
    assert named(report, "engines tensorrt-rtx").hint == (
        f"where there is a GPU with TensorRT-RTX: edge-export engines {golden_bundle} --target rtx"
    )


def test_openvino_is_tested_where_it_is_installed(
    golden_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "openvino")
    report = examine(golden_bundle, selftest=True)
    names = ("openvino", "engines openvino", "self-test openvino fp32")
    assert [named(report, name).status for name in names] == ["ok"] * 3
    assert named(report, "openvino").what == version("openvino").partition("-")[0]


def test_nothing_runs_unless_it_is_asked_for(tiny_bundle: Path) -> None:
    report = examine(tiny_bundle)  # whose golden outputs couldn't be replayed
    assert report.healthy
    assert not [finding for finding in report.findings if finding.name.startswith("self-test")]


def test_the_self_test_finds_an_engine_that_computes_something_else(golden_bundle: Path) -> None:
    shutil.copyfile(golden_bundle / "onnx/purifier-00.onnx", golden_bundle / "onnx/purifier-02.onnx")
    rehash(golden_bundle)
    report = examine(golden_bundle, selftest=True)
    assert not report.healthy
    finding = named(report, "self-test onnxruntime fp32")
    assert finding.status == "failed"
    assert "purifier-02: its purified image differs from the golden outputs" in finding.what
    assert finding.hint == "don't use fp32 here; export the bundle again"


def test_an_engine_that_gives_nan_is_not_fixed_by_half_a_sentence(
    golden_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nan(bundle: Bundle, backend: object, golden: object) -> None:
        checked(np.full((1, 4), np.nan, np.float32), (1, 4), "classifier-00")

    monkeypatch.setattr("sdk.backends.golden.replay", nan)
    finding = named(examine(golden_bundle, selftest=True), "self-test onnxruntime fp32")
    assert finding.status == "failed"
    assert finding.what.startswith("engine classifier-00: NaN or infinite values in its output")
    assert finding.hint == "don't use fp32 here"


@pytest.mark.parametrize("hint", [None, "take 4; or less"])
def test_a_message_with_semicolons_is_not_cut(hint: str | None) -> None:
    error = BackendError("classifier: expected: 4; got: 5", hint=hint)
    assert failure("bundle", error, "export the bundle again") == Finding(
        "bundle", "failed", "classifier: expected: 4; got: 5", hint or "export the bundle again"
    )


def test_golden_outputs_that_cannot_be_read_fail_the_self_test(tiny_bundle: Path) -> None:
    finding = named(examine(tiny_bundle, selftest=True), "self-test onnxruntime fp32")
    assert finding.status == "failed"
    assert "can't be read as golden outputs" in finding.what
    assert finding.hint == "export the bundle again"


def test_a_damaged_bundle_fails_with_the_fix(golden_bundle: Path) -> None:
    (golden_bundle / "onnx/classifier-00.onnx").unlink()
    finding = named(examine(golden_bundle), "bundle")
    assert finding.status == "failed"
    assert finding.what.endswith("'onnx/classifier-00.onnx' is missing")
    assert finding.hint == "copy the bundle again, whole"


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        ("onnxruntime", "onnxruntime", "pip install onnxruntime"),
        ("cv2", "opencv", "pip install 'edge-purify[opencv]'"),
    ],
)
def test_a_missing_library_fails_with_the_fix(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, hint: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    report = examine(tiny_bundle)
    finding = named(report, name)
    assert (finding.status, finding.hint) == ("failed", hint)
    assert "can't be imported" in finding.what
    assert not report.healthy


def test_two_opencv_wheels_fail_with_the_fix(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"opencv-python", "opencv-python-headless"}
    monkeypatch.setattr(checkup.metadata, "distributions", lambda name: iter([name] if name in both else []))
    finding = named(examine(tiny_bundle), "opencv wheels")
    assert (finding.status, finding.hint) == (
        "failed",
        "pip uninstall opencv-python opencv-python-headless; pip install opencv-python",
    )


def test_a_jetson_whose_opencv_has_no_gstreamer_is_noted(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    monkeypatch.setattr(checkup, "l4t_release", lambda: "36.4.3")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:   NO\n  FFMPEG:   YES\n")
    report = examine(tiny_bundle)
    assert named(report, "l4t").what == "36.4.3: a Jetson"
    finding = named(report, "opencv gstreamer")
    assert finding.status == "note"
    assert str(finding.hint).endswith("apt install python3-opencv")


@pytest.fixture
def jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "l4t_release", lambda: "36.4.3")


@pytest.mark.parametrize(
    ("what", "hint"),
    [
        ("numpy.core.multiarray failed to import", "pip install 'numpy<2'"),
        ("No module named 'cv2'", "sudo apt install python3-opencv"),
    ],
)
def test_numpy_2_under_jetpacks_opencv_is_told_from_a_missing_one(
    jetson: None, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, what: str, hint: str
) -> None:
    real = checkup.import_module

    def imported(name: str) -> object:
        if name == "cv2":
            raise ImportError(what)
        return real(name)

    monkeypatch.setattr(checkup, "import_module", imported)
    finding = named(examine(tiny_bundle), "opencv")
    assert (finding.status, finding.what, finding.hint) == ("failed", f"can't be imported: {what}", hint)


@pytest.mark.parametrize("sees", [False, True])
def test_a_jetsons_environment_that_does_not_see_the_systems_packages_fails_with_the_fix(
    jetson: None, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sees: bool
) -> None:
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = {sees}\n".lower())
    monkeypatch.setattr(checkup.sys, "prefix", str(tmp_path))
    report = examine(tiny_bundle)
    found = [finding for finding in report.findings if finding.name == "environment"]
    assert [finding.hint for finding in found] == (
        [] if sees else [f"python3 -m venv --system-site-packages {tmp_path}"]
    )
    assert named(report, "tensorrt").hint == "sudo apt install python3-libnvinfer"


@pytest.mark.parametrize(
    ("mode", "status", "hint"),
    [
        (("MAXN (0)", ["15W (1)"]), "ok", None),
        (("15W (1)", ["MAXN (0)", "30W (2)"]), "note", "sudo nvpmodel -m N; it also has MAXN (0), 30W (2)"),
    ],
)
def test_a_jetsons_power_mode(
    jetson: None, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, mode: object, status: str, hint: str
) -> None:
    monkeypatch.setattr(checkup, "power_mode", lambda: mode)
    finding = named(examine(tiny_bundle), "power mode")
    assert (finding.status, finding.hint) == (status, hint)


def test_build_parts_are_read_from_opencvs_own_words() -> None:
    information = (
        "  GUI:                           QT5\n    QT:  YES\n    FFMPEG:    YES\n      avcodec: YES\n"
    )
    assert [build_part(information, name) for name in ("GUI", "FFMPEG", "GStreamer")] == ["QT5", "YES", "NO"]


# --- with a GPU


def test_engines_that_are_missing_come_with_the_command(golden_bundle: Path, gpu: FakeGpu) -> None:
    report = examine(golden_bundle, selftest=True)
    assert report.healthy  # ONNX Runtime serves
    assert named(report, "gpu").what == (
        "Fake Orin, compute capability 8.7, 32.0 GiB, CUDA 12.6 by cuda-python 13.0"
    )
    assert named(report, "driver").what == "kernel module 540.4.0"
    assert (named(report, "tensorrt").status, named(report, "tensorrt").what) == ("ok", "10.3.0")
    finding = named(report, "engines tensorrt fp32")
    assert finding.status == "note"
    assert finding.hint == f"build it: edge-export engines {golden_bundle} --target local --precision fp32"
    assert not [f for f in report.findings if f.name == "self-test tensorrt fp32"]
    gpu.require_nothing_held()


def test_built_engines_are_found_and_tested(golden_bundle: Path, gpu: FakeGpu) -> None:
    folder = write_engines(Bundle.open(golden_bundle))
    report = examine(golden_bundle, selftest=True)
    assert named(report, "engines tensorrt fp32").what == f"5 built, in {folder}"
    assert named(report, "self-test tensorrt fp32").status == "ok"
    gpu.require_nothing_held()


def test_the_self_test_finds_a_wrong_engine_on_the_gpu(golden_bundle: Path, gpu: FakeGpu) -> None:
    other = (golden_bundle / "onnx/classifier-00.onnx").read_bytes()
    write_engines(Bundle.open(golden_bundle), plans={"classifier-01": other})
    report = examine(golden_bundle, selftest=True)
    finding = named(report, "self-test tensorrt fp32")
    assert finding.status == "failed"
    assert finding.what.startswith("classifier-01: its logits differs from the golden outputs")
    assert finding.hint == "don't use fp32 here; build the engines again"
    assert named(report, "self-test onnxruntime fp32").status == "ok"
    gpu.require_nothing_held()


def test_a_gpu_that_does_not_answer_fails_with_the_fix(golden_bundle: Path, gpu: FakeGpu) -> None:
    gpu.fail_at = 0
    report = examine(golden_bundle)
    finding = named(report, "gpu")
    assert finding.status == "failed"
    assert finding.what == "/dev/nvidia0, but CUDA: cuInit failed: the test let cuInit fail"
    assert finding.hint
    assert not report.healthy


def test_a_user_outside_of_group_video_is_told(
    golden_bundle: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "closed_gpu_nodes", lambda: ["/dev/nvhost-ctrl-gpu"])
    finding = named(examine(golden_bundle), "gpu")
    assert (finding.status, finding.what) == ("failed", "this user may not open /dev/nvhost-ctrl-gpu")
    assert str(finding.hint).startswith("sudo usermod --append --groups video $USER")
    assert gpu.calls == []  # nothing would come of opening it but an error without a reason


def test_a_driver_too_old_for_the_bindings_is_told(
    golden_bundle: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", OldDriver(gpu))
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    finding = named(examine(golden_bundle), "gpu")
    assert finding.status == "failed"
    assert "cuda-python 13.0 doesn't fit this driver, which serves CUDA 12.6: " in finding.what
    assert finding.hint == "pip install 'cuda-bindings>=12.8,<13', or update the driver"
    gpu.require_nothing_held()


def test_engines_of_another_board_with_the_same_name_are_not_taken_for_ours(
    golden_bundle: Path, gpu: FakeGpu
) -> None:
    write_engines(Bundle.open(golden_bundle), multiprocessors=8)
    finding = named(examine(golden_bundle), "engines tensorrt fp32")
    assert finding.status == "note"
    assert "a GPU of 8 multiprocessors, not this host's of 16" in finding.what


def test_a_gpu_that_nobody_meant_to_use_is_only_noted(
    golden_bundle: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    report = examine(golden_bundle)
    finding = named(report, "gpu")
    assert finding.status == "note"
    assert "neither cuda-python nor pycuda can be imported" in finding.what
    assert str(finding.hint).startswith("pip install 'edge-purify[tensorrt]'")
    assert report.healthy


def test_a_tensorrt_that_is_not_served_is_noted(
    golden_bundle: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt(gpu, "8.6.1"))
    finding = named(examine(golden_bundle), "tensorrt")
    assert (finding.status, finding.what) == ("note", "expected TensorRT 10.x or 11.x, got 8.6.1")
    assert finding.hint == "install one of those, or use --backend onnxruntime"


# --- the command


@pytest.fixture
def edge_purify(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_the_command_prints_a_line_a_finding_and_the_fixes(
    edge_purify: Callable[..., tuple[int, str, str]], golden_bundle: Path
) -> None:
    code, out, err = edge_purify("doctor", "--bundle", golden_bundle, "--selftest")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert sum(line.startswith("ok ") for line in lines) == 8
    assert sum(line.startswith("note ") for line in lines) == 7
    assert any("fix: pip install 'edge-purify[rtx]'" in line for line in lines)
    assert lines[-1] == "nothing that is needed failed"


def test_the_command_ends_with_1_where_something_needed_failed(
    edge_purify: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, _ = edge_purify("doctor", "--bundle", "nowhere")
    assert code == 1
    assert "FAILED bundle" in out
    assert "fix: give the folder that 'edge-export bundle' wrote" in out
    assert out.splitlines()[-1] == "1 of 11 failed"


def test_the_command_as_json(edge_purify: Callable[..., tuple[int, str, str]], golden_bundle: Path) -> None:
    code, out, _ = edge_purify("doctor", "--bundle", golden_bundle, "--json")
    report = json.loads(out)
    assert (code, report["healthy"], report["bundle"]) == (0, True, str(golden_bundle))
    assert {"name", "status", "what", "hint"} == set(report["findings"][0])


def test_every_failure_has_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> None:
    """All of it broken at once."""
    gpu.fail_at = 0
    for module in ("cv2", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    failed = [finding for finding in examine(tmp_path).findings if finding.status == "failed"]
    assert {finding.name for finding in failed} == {"gpu", "opencv", "onnxruntime", "bundle"}
    assert all(finding.hint for finding in failed)
