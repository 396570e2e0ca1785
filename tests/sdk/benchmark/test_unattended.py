"""The long unattended run: what it does to the runtime, what it reports, and what it finds."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sdk import benchmark
from sdk.backends.onnxruntime import OnnxRuntimeBackend
from sdk.benchmark import unattended
from sdk.benchmark.bounds import LEAK_BOUND, UNATTENDED_GROWTH_BOUND, checks
from sdk.benchmark.report import Interval, Quantiles, Report, Unattended
from sdk.bundle import Bundle
from sdk.errors import UsageError
from sdk.purifier import Purifier
from tests.sdk.conftest import count_frames, make_frame, make_result

SIZE = (160, 120)


def interval(number: int, **what: int) -> Interval:
    figures = {"resident_bytes": 100 << 20, "open_files": 9, "threads": 12, **what}
    return Interval(
        ended_s=300.0 * (number + 1),
        frames=1000,
        skipped=1,
        missed=500,
        losses=3,
        latency=Quantiles(1.0, 2.0, 3.0),
        **figures,
    )


def long_run(failures: int = 12, **last: int) -> Unattended:
    """Twelve intervals, of which the last two have other figures."""
    ends = (interval(10, **last), interval(11, **last))
    return Unattended(1.0, (*map(interval, range(10)), *ends), failures, visits=400)


def report_of(found: Unattended) -> Report:
    report = Report("b", "onnxruntime", "1", "fp32", 1, 2, 16, 16, 160, 120, 1, unattended=found)
    return msgspec.structs.replace(report, checks=tuple(checks(report)))


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"resident_bytes": (100 << 20) + UNATTENDED_GROWTH_BOUND + 1}, "unattended: memory growth"),
        ({"open_files": 9 + LEAK_BOUND + 1}, "unattended: open files more"),
        ({"threads": 12 + LEAK_BOUND + 1}, "unattended: threads more"),
        ({"failures": 11}, "unattended: unlabelled beyond failures"),
    ],
)
def test_each_bound_is_held(bad: dict[str, int], name: str) -> None:
    assert all(check.passed for check in report_of(long_run()).checks)
    assert [check.name for check in report_of(long_run(**bad)).checks if not check.passed] == [name]


@pytest.mark.parametrize(
    ("threads", "growth"),
    [
        ([1, 2, 3] + [20] * 9, 0),  # in the warm-up
        ([6] * 4 + [12] + [6] * 5 + [12, 6], 0),  # now and then, an encoder's
        (list(range(12)), 6),  # a leak
    ],
)
def test_growth_is_what_stays(threads: list[int], growth: int) -> None:
    intervals = tuple(interval(i, threads=count) for i, count in enumerate(threads))
    assert Unattended(1.0, intervals, 0, 0).growth("threads") == growth


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")
def test_a_short_run(tiny_bundle: Path) -> None:
    """Seconds in place of hours: every part takes part, and what failed is what got no label."""
    said: list[str] = []
    report = benchmark.run(tiny_bundle, frame_size=SIZE, soak_hours=24 / 3600, on_step=said.append)
    found = report.unattended
    assert found is not None
    assert report.stages is None, "nothing else was asked for"
    assert len(said) == benchmark.steps([], None, soak_hours=24 / 3600)
    assert len(found.intervals) == unattended.INTERVALS
    assert all(one.frames > 0 and one.latency.p50_ms > 0 for one in found.intervals)
    assert [one.ended_s for one in found.intervals] == sorted(one.ended_s for one in found.intervals)
    assert found.visits > 0
    assert found.skipped <= found.failures <= found.skipped + 2, "but for those behind the last interval"
    assert msgspec.json.decode(benchmark.as_json(report), type=Report) == report


@pytest.mark.parametrize("hours", [0.0, -1.0, 1e9, float("nan")])
def test_impossible_hours_are_a_usage_error(hours: float, tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="--soak-hours: expected more than 0 and at most"):
        benchmark.run(tiny_bundle, soak_hours=hours)


def test_its_camera_is_lost_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unattended, "SECONDS_BETWEEN_LOSSES", 1e9)
    scene = np.zeros((120, 160 + 64, 3), np.uint8)
    readable, image = unattended.Camera(scene, 160).read()
    assert readable
    assert image is not None
    assert image.shape == (120, 160, 3)
    monkeypatch.setattr(unattended, "SECONDS_BETWEEN_LOSSES", 1e-9)
    camera = unattended.Camera(scene, 160)
    assert not camera.read()[0]
    again = [unattended._reconnect(lambda: camera).isOpened() for _ in range(200)]
    assert {True, False} == set(again)


def test_its_engines_fail_on_purpose_and_the_frame_gets_no_label(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, red_frame: np.ndarray
) -> None:
    monkeypatch.setattr(unattended, "FRAMES_BETWEEN_FAILURES", 2)
    bundle = Bundle.open(tiny_bundle)
    faulty = unattended.Faulty(OnnxRuntimeBackend(bundle))
    with Purifier(bundle, faulty, on_error="skip") as purifier:
        results = [purifier(red_frame) for _ in range(60)]
    assert sum(result.label is None for result in results) == faulty.failures > 0
    assert {result.label for result in results} == {None, "red"}


def test_its_files_roll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unattended, "FRAMES_PER_FILE", 10)
    monkeypatch.setattr(unattended, "FRAMES_PER_PICTURE", 2)
    with unattended.Rolling(tmp_path / "out", ("red", "green")) as sink:
        for index in range(25):
            sink.write(make_frame(index), make_result())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000020.jsonl", "000000020.mp4"]
    assert (tmp_path / "out" / "000000020.jsonl").read_bytes().count(b"\n") == 5
    assert count_frames(tmp_path / "out" / "000000020.mp4") == 3


def test_the_tables_show_every_interval() -> None:
    import io

    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(benchmark.render(report_of(long_run(threads=77))))
    text = console.export_text()
    assert "unattended, 1 h: 12 engine failures, 400 visits" in text
    assert "60.0" in text
    assert "77" in text
