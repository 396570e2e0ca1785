"""Outputs never replace what a source reads, whichever list, folder or link names it; and standard input."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.sdk.cli.helpers import COMMAND, Output
from tests.sdk.conftest import N_FRAMES, write_video


@pytest.mark.parametrize("option", ["--save", "--json"])
@pytest.mark.parametrize("through", ["list", "folder", "glob", "link"])
def test_output_that_a_source_reads_is_refused(
    option: str, through: str, edge_purify: Callable[..., Output], tiny_bundle: Path, tmp_path: Path
) -> None:
    if through in ("list", "link"):
        read = write_video(tmp_path / "clip.avi", 3)
        (tmp_path / "list.txt").write_text("clip.avi\n")
        (tmp_path / "hard.avi").hardlink_to(read)
        source, output = {"list": ("list.txt", "clip.avi"), "link": ("clip.avi", "hard.avi")}[through]
    else:
        (tmp_path / "in").mkdir()
        read = tmp_path / "in" / "a.png"
        assert cv2.imwrite(str(read), np.zeros((20, 30, 3), np.uint8))
        source, output = {"folder": "in", "glob": "in/*.png"}[through], "in/a.png"
        if option == "--save":
            pytest.skip("a picture's suffix is none of a video's")
    before = read.read_bytes()
    code, _, err = edge_purify(
        "--source", tmp_path / source, "--bundle", tiny_bundle, option, tmp_path / output
    )
    assert code == 2
    assert f"{tmp_path / output} is read by --source; write to another file" in err[0]
    assert read.read_bytes() == before


def test_numbered_output_of_several_sources_spares_them(
    edge_purify: Callable[..., Output], tiny_bundle: Path, tmp_path: Path
) -> None:
    """``--save cam.avi`` of two sources writes cam-1.avi and cam-2.avi."""
    paths = [write_video(tmp_path / "clip.avi", 3).rename(tmp_path / f"cam-{i}.avi") for i in (1, 2)]
    before = [path.read_bytes() for path in paths]
    code, _, err = edge_purify(
        *("--source", paths[0], "--source", paths[1], "--bundle", tiny_bundle),
        *("--save", tmp_path / "cam.avi"),
    )
    assert code == 2
    assert "cam-1.avi is read by --source" in err[0]
    assert [path.read_bytes() for path in paths] == before


def test_list_is_not_replaced_by_what_is_written(
    edge_purify: Callable[..., Output], tiny_bundle: Path, tmp_path: Path
) -> None:
    write_video(tmp_path / "clip.avi", 3)
    (tmp_path / "list.txt").write_text("clip.avi\n")
    listed = f"@{tmp_path / 'list.txt'}"
    code, _, _ = edge_purify("--source", listed, "--bundle", tiny_bundle, "--json", tmp_path / "list.txt")
    assert code == 2
    assert (tmp_path / "list.txt").read_text() == "clip.avi\n"


def run_on_standard_input(data: bytes, tiny_bundle: Path, source: str) -> subprocess.CompletedProcess[bytes]:
    command = [*COMMAND, "--source", source, "--bundle", os.fspath(tiny_bundle), "--json", "-"]
    return subprocess.run(command, input=data, capture_output=True, timeout=120, check=False)


@pytest.mark.slow
def test_standard_input_is_a_source(tiny_bundle: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mkv").read_bytes()
    for source in ("-", "/dev/stdin"):
        done = run_on_standard_input(clip, tiny_bundle, source)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b'"label"') == N_FRAMES


@pytest.mark.slow
def test_mp4_through_a_pipe_says_what_to_send(tiny_bundle: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4").read_bytes()  # its index is at its end
    done = run_on_standard_input(clip, tiny_bundle, "-")
    assert done.returncode == 1
    assert b"comes through this pipe" in done.stderr
    assert b"MPEG-TS" in done.stderr
    assert b"Traceback" not in done.stderr
