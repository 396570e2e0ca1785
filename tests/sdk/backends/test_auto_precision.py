"""The trial behind ``precision="auto"``: right before fast, remembered, and never in the way."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sdk import doctor
from sdk.backends import auto_precision, onnxruntime, open_backend
from sdk.backends import trial as run_trial
from sdk.backends.auto_precision import SCHEMA, Measured, Trial, remembered, this_machine
from sdk.backends.interface import Float
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.bundle import MANIFEST, Bundle, Manifest, Precision, write_manifest
from sdk.errors import BackendError, BundleError
from tests.sdk.fakes.golden import with_golden

MACHINE = this_machine("onnxruntime")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edge-purify"


@pytest.fixture
def bundle(bundle_copy: Path, cache: Path) -> Bundle:
    """The tiny bundle, its FP32 engines under the names of all three precisions."""
    manifest = with_golden(bundle_copy).manifest

    def in_all(name: str) -> tuple[object, ...]:
        return tuple(
            msgspec.structs.replace(engine, onnx=dict.fromkeys(("fp32", "fp16", "int8"), engine.onnx["fp32"]))
            for engine in getattr(manifest, name)
        )

    changes: dict[str, object] = {name: in_all(name) for name in ("purifiers", "classifiers")}
    write_manifest(bundle_copy, msgspec.structs.replace(manifest, **changes))
    return Bundle.open(bundle_copy)


@pytest.fixture
def times_ms(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What each precision takes; a test changes it.  Beside it, every precision that is timed is noted."""
    times = {"fp32": 10.0, "fp16": 9.5, "int8": 12.0}
    monkeypatch.setattr(auto_precision, "_frame_ms", lambda bundle, backend: times[backend.precision])
    return times


@pytest.mark.parametrize(
    ("fp32", "fp16", "int8", "chosen"),
    [
        (10.0, 9.5, 12.0, "fp32"),  # what is gained isn't worth the precision
        (10.0, 8.9, 12.0, "fp16"),
        (10.0, 8.9, 8.5, "fp16"),
        (10.0, 8.9, 4.0, "int8"),
        (10.0, 9.5, 8.8, "int8"),
        (10.0, None, 4.0, "int8"),
        (10.0, None, None, "fp32"),
        (None, 9.0, 8.9, "fp16"),
    ],
)
def test_the_most_exact_is_taken_unless_another_saves_a_tenth(
    fp32: float | None, fp16: float | None, int8: float | None, chosen: str
) -> None:
    assert made(fp32, fp16, int8).chosen == chosen


def test_where_none_is_right_the_error_says_why() -> None:
    with pytest.raises(BackendError, match=r"none is right on this machine: fp32 off by 0\.5, .* fp32$"):
        _ = made(None, None, None).chosen


def test_auto_takes_the_fastest(bundle: Bundle, times_ms: dict[str, float]) -> None:
    times_ms["int8"] = 5.0
    opened = open_backend(bundle, "onnxruntime")
    assert (opened.name, opened.precision) == ("onnxruntime", "int8")


class WrongInInt8(OnnxRuntimeBackend):
    """As on a processor whose 8-bit kernels saturate."""

    def purify(self, purifier: int, image: Float, random_inputs: Mapping[str, np.ndarray]) -> Float:
        purified = super().purify(purifier, image, random_inputs)
        return 1 - purified if self.precision == "int8" else purified


def test_a_precision_that_is_wrong_here_is_never_taken(
    bundle: Bundle, times_ms: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    times_ms["int8"] = 0.1
    monkeypatch.setattr(onnxruntime, "OnnxRuntimeBackend", WrongInInt8)
    found = run_trial(bundle, "onnxruntime")
    assert found.chosen == "fp32"
    assert "in int8: its purified image differs from the golden outputs" in str(found.measured[2].complaint)
    assert found.measured[2].frame_ms is None


class BrokenInFp16(OnnxRuntimeBackend):
    def __init__(self, bundle: Bundle, precision: Precision = "fp32", **options: object) -> None:
        if precision == "fp16":
            raise BackendError("engine purifier-00: ONNX Runtime can't load it")
        super().__init__(bundle, precision)


def test_a_precision_that_does_not_load_is_never_taken(
    bundle: Bundle, times_ms: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "OnnxRuntimeBackend", BrokenInFp16)
    found = run_trial(bundle, "onnxruntime")
    assert (found.chosen, found.measured[1].complaint) == (
        "fp32",
        "engine purifier-00: ONNX Runtime can't load it",
    )


def test_a_precision_that_failed_for_once_has_its_chance_the_next_time(
    bundle: Bundle, times_ms: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    times_ms["fp16"] = 5.0
    with monkeypatch.context() as passing:
        passing.setattr(onnxruntime, "OnnxRuntimeBackend", BrokenInFp16)
        assert run_trial(bundle, "onnxruntime").chosen == "fp32"
    assert remembered(bundle, "onnxruntime") is None
    assert run_trial(bundle, "onnxruntime").chosen == "fp16"


def test_a_precision_that_is_wrong_here_stays_so(
    bundle: Bundle, times_ms: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "OnnxRuntimeBackend", WrongInInt8)
    assert remembered(bundle, "onnxruntime") is None
    assert run_trial(bundle, "onnxruntime") == remembered(bundle, "onnxruntime")


def test_a_real_trial_times_every_precision_and_says_so_once(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sdk"):
        found = run_trial(bundle, "onnxruntime")
        assert run_trial(bundle, "onnxruntime") == found
    assert [measured.precision for measured in found.measured] == ["fp32", "fp16", "int8"]
    assert all(measured.frame_ms is not None and measured.frame_ms > 0 for measured in found.measured)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"precision auto takes {found.chosen}, measured on this machine: ")


def test_a_bundle_of_one_precision_needs_no_trial(tiny_bundle: Path, cache: Path) -> None:
    assert open_backend(Bundle.open(tiny_bundle), "onnxruntime").precision == "fp32"
    assert not cache.exists()


def test_golden_outputs_that_cannot_be_read_stop_auto_alone(bundle: Bundle) -> None:
    shutil.copyfile(bundle.folder / MANIFEST, bundle.path(bundle.manifest.golden))
    with pytest.raises(BundleError, match=r"golden.npz is damaged or changed: .*copy the bundle"):
        open_backend(bundle, "onnxruntime")
    assert open_backend(bundle, "onnxruntime", "fp16").precision == "fp16"


# --- the record


def test_a_trial_is_remembered_for_its_user_alone(
    bundle: Bundle, cache: Path, times_ms: dict[str, float]
) -> None:
    found = run_trial(bundle, "onnxruntime")
    times_ms["int8"] = 0.1  # which a second trial would find
    assert run_trial(bundle, "onnxruntime") == remembered(bundle, "onnxruntime") == found
    assert [path.stat().st_mode & 0o777 for path in (cache, cache / "trials")] == [0o700] * 2
    assert [path.suffix for path in (cache / "trials").iterdir()] == [".json"]


@pytest.mark.parametrize(
    "change",
    [
        {"processor_sha256": "0" * 64},
        {"cpus": 64},
        {"version": "1.0"},
        {"provider": "cuda"},
        {"gpu": "NVIDIA L4"},
    ],
)
def test_another_machine_is_measured_anew(
    bundle: Bundle, times_ms: dict[str, float], monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    run_trial(bundle, "onnxruntime")
    other = msgspec.structs.replace(MACHINE, **change)
    monkeypatch.setattr(auto_precision, "this_machine", lambda backend, provider: other)
    assert remembered(bundle, "onnxruntime") is None
    times_ms["int8"] = 0.1
    assert run_trial(bundle, "onnxruntime").chosen == "int8"


def test_each_backend_has_its_own_trial(
    bundle: Bundle, times_ms: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_trial(bundle, "onnxruntime")
    assert remembered(bundle, "openvino") is None
    times_ms["int8"] = 5.0
    opened = open_backend(bundle, "openvino")
    assert (opened.name, opened.precision) == ("openvino", "int8")
    found = remembered(bundle, "openvino")
    assert found is not None
    assert (found.machine.backend, found.machine.version) == ("openvino", opened.version)
    assert open_backend(bundle, "onnxruntime").precision == "fp32"


def test_another_bundle_is_measured_anew(bundle: Bundle, times_ms: dict[str, float]) -> None:
    run_trial(bundle, "onnxruntime")
    manifest: Manifest = msgspec.structs.replace(bundle.manifest, name="other")
    write_manifest(bundle.folder, manifest)
    assert remembered(Bundle.open(bundle.folder), "onnxruntime") is None


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda record: record[:40],
    lambda record: b"\xff" + record,
    lambda record: b"",
    lambda record: record.replace(b'"schema":3', b'"schema":2'),
    lambda record: record.replace(b'"fp16"', b'"fp64"'),
    lambda record: record.replace(b'"precision":"int8"', b'"precision":"fp16"'),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_replaced(
    bundle: Bundle, cache: Path, times_ms: dict[str, float], damage: Callable[[bytes], bytes]
) -> None:
    first = run_trial(bundle, "onnxruntime")
    (path,) = (cache / "trials").iterdir()
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    assert remembered(bundle, "onnxruntime") is None
    assert run_trial(bundle, "onnxruntime") == first
    assert path.read_bytes() == before


def test_a_cache_that_others_may_write_to_is_neither_read_nor_written(
    bundle: Bundle, cache: Path, times_ms: dict[str, float]
) -> None:
    run_trial(bundle, "onnxruntime")
    (path,) = (cache / "trials").iterdir()
    before = path.read_bytes()
    cache.chmod(0o777)
    assert remembered(bundle, "onnxruntime") is None
    times_ms["int8"] = 0.1
    assert run_trial(bundle, "onnxruntime").chosen == "int8"
    assert path.read_bytes() == before


def test_a_cache_that_cannot_be_written_is_no_failure(
    bundle: Bundle, cache: Path, times_ms: dict[str, float]
) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert run_trial(bundle, "onnxruntime").chosen == "fp32"
    assert cache.parent.is_file()


def test_a_run_on_the_cpu_needs_no_home(
    bundle: Bundle, times_ms: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)  # which the password file doesn't know
    for _ in range(2):
        assert open_backend(bundle, "onnxruntime").precision == "fp32"
    assert remembered(bundle, "onnxruntime") is None


def test_nothing_is_remembered_where_none_is_right(
    bundle: Bundle, times_ms: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        auto_precision, "_measure", lambda bundle, precision, *_: Measured(precision, None, "off")
    )
    with pytest.raises(BackendError, match="none is right"):
        open_backend(bundle, "onnxruntime")
    assert remembered(bundle, "onnxruntime") is None


# --- in the doctor


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_doctor_says_what_auto_takes_and_why(
    bundle: Bundle, times_ms: dict[str, float], backend: str
) -> None:
    def finding(selftest: bool) -> tuple[str, str, str | None]:
        report = doctor.examine(bundle.folder, selftest=selftest)
        (found,) = (found for found in report.findings if found.name == f"precision auto {backend}")
        return found.status, found.what, found.hint

    status, detail, mend = finding(selftest=False)
    assert (status, detail) == ("note", "not measured on this machine yet")
    assert str(mend).startswith("edge-purify doctor --selftest")
    times_ms["fp16"] = 5.0
    for selftest in (True, False):  # the second from memory
        status, detail, _ = finding(selftest)
        assert status == "ok"
        assert detail.startswith("fp16, the most exact that is right, unless another saves 10%: ")
        assert detail.endswith("fp32 10.00 ms, fp16 5.00 ms, int8 12.00 ms")


def made(fp32: float | None, fp16: float | None, int8: float | None) -> Trial:
    times: dict[Precision, float | None] = {"fp32": fp32, "fp16": fp16, "int8": int8}
    measured = tuple(
        Measured(name, time, None if time is not None else "off by 0.5") for name, time in times.items()
    )
    return Trial(SCHEMA, "0" * 64, MACHINE, measured)
