"""The benchmark: a complete report, readable by a person and a machine, and a gate that can fail."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from sdk.benchmark import OVERHEAD_BOUND, Report, as_json, gate, natural_frame, render, run
from sdk.errors import GateError, UsageError


@pytest.fixture(scope="module")
def report(tiny_bundle: Path) -> Report:
    return run(tiny_bundle, frames=12, votes=2, frame_size=(160, 120))


def test_every_stage_of_both_sides_is_measured(report: Report) -> None:
    assert list(report.stages) == ["preprocess", "draw", "purify", "classify", "total"]
    assert list(report.bare) == ["resize", "purify", "classify", "total"]
    for times in (*report.stages.values(), *report.bare.values()):
        assert 0 < times.p50_ms <= times.p90_ms <= times.p99_ms
    assert report.overhead == report.stages["total"].p50_ms / report.bare["total"].p50_ms
    assert report.draw_us > 0
    assert report.frames_per_s > 0
    assert (report.bundle, report.backend, report.votes, report.frames) == ("tiny", "onnxruntime", 2, 12)


def test_each_frame_is_reported_once(tiny_bundle: Path) -> None:
    seen: list[int] = []
    run(tiny_bundle, frames=3, frame_size=(32, 32), on_frame=lambda: seen.append(1))
    assert len(seen) == 3


def test_json_holds_the_whole_report(report: Report) -> None:
    assert msgspec.json.decode(as_json(report), type=Report) == report


def test_the_table_shows_the_figures(report: Report) -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render(report))
    text = console.export_text()
    assert f"{report.stages['total'].p99_ms:.3f}" in text
    assert f"{report.bare['resize'].p50_ms:.3f}" in text
    assert f"overhead {report.overhead:.3f} x bare (bound {OVERHEAD_BOUND})" in text


@pytest.mark.parametrize("overhead", [0.9, 1.0, OVERHEAD_BOUND])
def test_the_gate_lets_a_small_overhead_pass(report: Report, overhead: float) -> None:
    gate(msgspec.structs.replace(report, overhead=overhead, draw_us=20.0))


def test_the_gate_stops_a_large_one(report: Report) -> None:
    with pytest.raises(GateError, match=r"overhead: expected at most 1.15 x bare, got 1.160") as caught:
        gate(msgspec.structs.replace(report, overhead=1.16, draw_us=20.0))
    assert caught.value.exit_code == 3


def test_the_gate_stops_a_slow_draw(report: Report) -> None:
    with pytest.raises(GateError, match=r"draw: expected at most 50.0 µs, got 50.1"):
        gate(msgspec.structs.replace(report, overhead=1.0, draw_us=50.1))


def test_no_frames_is_a_usage_error(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="frames: expected >= 1, got 0"):
        run(tiny_bundle, frames=0)


def test_the_synthetic_frame_is_smooth_as_a_photograph_and_full_of_contrast() -> None:
    frame = natural_frame(320, 200)
    assert (frame.shape, frame.dtype) == ((200, 320, 3), np.uint8)
    grey = frame.mean(axis=2)
    assert grey.std() > 20
    assert np.corrcoef(grey[:, :-1].ravel(), grey[:, 1:].ravel())[0, 1] > 0.85
