"""Runs that are ended from outside: every video plays, every JSON line is whole, nothing else is left."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest

from sdk.sinks import _encoders
from sdk.sinks.record import Record
from tests.sdk.cli.helpers import COMMAND
from tests.sdk.conftest import MjpegServer, count_frames, wait_until

STOPS = {"HUP": signal.SIGHUP, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
SINGLE = [(name,) for name in STOPS]
PAIRS = [pytest.param(pair, marks=pytest.mark.slow) for pair in itertools.product(STOPS, repeat=2)]
RUNS = int(os.environ.get("EDGE_PURIFY_TEST_ENDINGS", "1"))  # of each; more for a soak


def record(source: str, bundle: Path, folder: Path, suffix: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(*COMMAND, "--source", source, "--bundle", bundle, "--backend", "onnxruntime"),
            *("--save", folder / f"v{suffix}", "--json", folder / "r.jsonl"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(path: Path, count: int) -> None:
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, f"{count} lines")


@pytest.mark.parametrize("names", [*SINGLE, *PAIRS])
def test_signals_leave_finished_files(
    names: tuple[str, ...], tiny_bundle: Path, mjpeg_server: MjpegServer, tmp_path: Path
) -> None:
    rng = random.Random(repr(names))
    for number in range(RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        suffix = rng.choice([".mp4", ".mkv", ".avi"])
        process = record(mjpeg_server.url(), tiny_bundle, folder, suffix)
        try:
            wait_for_lines(folder / "r.jsonl", rng.randint(1, 60))
            for name in names:
                process.send_signal(STOPS[name])
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130, err
        assert "Traceback" not in err
        lines = (folder / "r.jsonl").read_bytes().splitlines()
        assert [msgspec.json.decode(line, type=Record).label is not None for line in lines] == [True] * len(
            lines
        )
        assert count_frames(folder / f"v{suffix}") >= (len(lines) if suffix != ".avi" else 1)
        assert sorted(entry.name for entry in folder.iterdir()) == ["r.jsonl", f"v{suffix}"]


@pytest.mark.skipif(_encoders.av is None, reason="PyAV is not installed")
def test_kill_leaves_what_was_recorded(tiny_bundle: Path, mjpeg_server: MjpegServer, tmp_path: Path) -> None:
    process = record(mjpeg_server.url(), tiny_bundle, tmp_path, ".mp4")
    try:
        wait_for_lines(tmp_path / "r.jsonl", 200)
        process.kill()
        process.communicate(timeout=60)
    finally:
        process.kill()
    lines = (tmp_path / "r.jsonl").read_bytes().splitlines(keepends=True)
    records = [msgspec.json.decode(line, type=Record) for line in lines if line.endswith(b"\n")]
    last_s = records[-1].time_s
    assert last_s is not None
    n_before = sum(each.time_s is not None and each.time_s < last_s - 1.0 for each in records)
    assert count_frames(tmp_path / "v.mp4") >= n_before
    assert count_frames(tmp_path / "v.mp4") > 0
