"""What FFmpeg's own program says of a video; skips the test where it is not installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def frame_times_s(path: Path) -> list[float]:
    """Presentation times of a video's frames, by FFmpeg's own program."""
    if (ffprobe := shutil.which("ffprobe")) is None:
        pytest.skip("ffprobe is not installed")
    entries = [
        "-select_streams",
        "v:0",
        "-show_entries",
        "frame=pts_time",
        "-of",
        "csv=p=0",
    ]
    command = [ffprobe, "-loglevel", "error", *entries, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return [float(line.strip(",")) for line in done.stdout.split()]


def duration_s(path: Path) -> float:
    if (ffprobe := shutil.which("ffprobe")) is None:
        pytest.skip("ffprobe is not installed")
    command = [ffprobe, "-loglevel", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(path)]
    return float(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout)
