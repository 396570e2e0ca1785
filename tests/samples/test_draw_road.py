"""The drawn road: each sign stands where its ``--roi`` says, and is no grass or sky."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2

SCRIPT = Path(__file__).parents[2] / "samples" / "draw_road.py"


def test_each_sign_is_where_the_script_says(tmp_path: Path) -> None:
    out = tmp_path / "road.png"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", out], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    image = cv2.imread(str(out))
    assert image is not None
    assert image.shape == (720, 1280, 3)
    regions = re.findall(r"--roi (\d+),(\d+),(\d+),(\d+)  (.+)", done.stdout)
    assert [name for *_, name in regions] == ["stop", "speed limit 50", "yield", "no entry"]
    for *numbers, name in regions:
        x, y, width, height = map(int, numbers)
        blue, _, red = cv2.mean(image[y : y + height, x : x + width])[:3]
        around = image[y : y + height, x + width : x + 2 * width]
        assert red - blue > cv2.mean(around)[2] - cv2.mean(around)[0] + 10, f"{name}: all have much red"
