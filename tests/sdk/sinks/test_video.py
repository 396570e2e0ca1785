"""Annotated videos: playable whatever happens, with the times of the source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdk.errors import SinkError, UsageError
from sdk.sinks import (
    VIDEO_CODECS,
    AnnotatedImages,
    AnnotatedVideo,
    JsonLines,
    Sink,
    _encoders,
    open_save,
)
from sdk.sinks.annotate import annotate
from tests.sdk.conftest import count_frames, make_frame, make_result
from tests.sdk.sinks.ffprobe import duration_s, frame_times_s


@pytest.fixture(params=["pyav", "opencv"], autouse=True)
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with each library that may write."""
    if request.param == "opencv":
        monkeypatch.setattr(_encoders, "av", None)
    elif _encoders.av is None:
        pytest.skip("PyAV is not installed")
    return str(request.param)


@pytest.mark.parametrize("suffix", VIDEO_CODECS)
@pytest.mark.parametrize("size", [(64, 64), (63, 87), (720, 1280)])
def test_video_can_be_read_back(suffix: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    with AnnotatedVideo(path, fps=25) as sink:
        for index in range(7):
            sink.write(make_frame(index, size), make_result())
    assert count_frames(path) == 7
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    readable, picture = cv2.VideoCapture(str(path)).read()
    assert readable
    assert picture.shape == annotate(make_frame(0, size).image, make_result()).shape


def test_frames_of_other_sizes_are_fitted_into_the_first(tmp_path: Path) -> None:
    with AnnotatedVideo(tmp_path / "out.avi", fps=25) as sink:
        for index, size in enumerate([(48, 64), (500, 100), (720, 1280), (10, 10)]):
            sink.write(make_frame(index, size), make_result())
    assert count_frames(tmp_path / "out.avi") == 4


def test_live_video_lasts_as_long_as_the_source(tmp_path: Path) -> None:
    with AnnotatedVideo(tmp_path / "out.avi", fps=10) as sink:
        for index, time_s in enumerate([5.0, 5.01, 5.5, 7.0]):
            sink.write(make_frame(index, time_s=time_s), make_result())
    assert count_frames(tmp_path / "out.avi") == 21, "two seconds at 10 frames a second, and the first frame"


def test_error_after_some_frames_keeps_them(tmp_path: Path) -> None:
    def fall() -> None:
        with AnnotatedVideo(tmp_path / "out.mp4", fps=25) as sink:
            sink.write(make_frame(), make_result())
            raise RuntimeError("the camera fell")

    with pytest.raises(RuntimeError, match="the camera fell"):
        fall()
    assert count_frames(tmp_path / "out.mp4") == 1


@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl"])
def test_nothing_written_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("yesterday's")
    with open_any(tmp_path / name):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "yesterday's"


def open_any(path: Path) -> Sink:
    return JsonLines(path, ["red", "blue"]) if path.suffix == ".jsonl" else open_save(path, 25.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/out.mp4", r"out.mp4: can't be written: No such file or directory; check the folder"),
        ("missing/out.jsonl", r"out.jsonl: can't be written: No such file or directory"),
        ("folder.mp4", r"folder.mp4: is a folder, expected a file's name"),
        ("folder.jsonl", r"folder.jsonl: is a folder"),
        ("file", r"file: can't be a folder for pictures: File exists"),
    ],
)
def test_unwritable_path_is_known_before_the_first_frame(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file").touch()
    sink = AnnotatedVideo(tmp_path / name, fps=25) if name == "folder.mp4" else open_any(tmp_path / name)
    with pytest.raises(SinkError, match=message):
        sink.open()


def test_missing_codec_is_known_before_the_first_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_encoders.VIDEO_CODECS, ".mp4", "ZZZZ")
    monkeypatch.setitem(_encoders._AV_CODECS, "mp4", ("zzzz",))
    with pytest.raises(SinkError, match=r"out.mp4: can't be written: .*[zZ]{4}.*; try .avi, or a folder for"):
        AnnotatedVideo(tmp_path / "out.mp4", fps=25).open()
    assert list(tmp_path.iterdir()) == []


def test_link_s_target_is_what_is_written(tmp_path: Path) -> None:
    for name in ("out.jsonl", "out.avi"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / "folder" / name)
        with open_any(tmp_path / name) as sink:
            sink.write(make_frame(), make_result())
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "folder" / name).stat().st_size > 0
    assert len(list((tmp_path / "folder").iterdir())) == 2


def test_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.avi")
    with pytest.raises(SinkError, match=r"pipe.avi: is a device or a pipe, expected a file's name"):
        open_save(tmp_path / "pipe.avi", 25.0).open()
    assert (tmp_path / "pipe.avi").is_fifo()


def test_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_save("12:30.avi", 25.0) as sink:
        sink.write(make_frame(), make_result())
    assert count_frames(tmp_path / "12:30.avi") == 1


@pytest.mark.parametrize("name", ["out.gif", "out.png", "runs.v2"])
def test_unknown_suffix(name: str) -> None:
    what = rf"expected a video's suffix \(.mp4, .avi, .mkv\) or a folder .*; write {name}/ for a folder"
    with pytest.raises(UsageError, match=what):
        open_save(name, 25.0)


@pytest.mark.parametrize("name", ["runs.v2", "clip.mp4"])
def test_slash_at_the_end_means_a_folder(name: str, tmp_path: Path) -> None:
    with open_save(f"{tmp_path / name}/", 25.0) as sink:
        assert isinstance(sink, AnnotatedImages)
        sink.write(make_frame(), make_result())
    assert [entry.name for entry in (tmp_path / name).iterdir()] == ["clip-000000.png"]
    assert isinstance(open_save(tmp_path / name, 25.0), AnnotatedImages), "the folder is there now"


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_fps_must_be_positive_and_finite(fps: float) -> None:
    with pytest.raises(UsageError, match=r"out.mp4: expected fps > 0, got "):
        AnnotatedVideo("out.mp4", fps=fps)


def test_mpeg4_where_there_is_no_h264(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if writer == "opencv":
        pytest.skip("OpenCV writes MPEG-4 anyway")
    monkeypatch.setitem(_encoders._AV_CODECS, "mp4", ("zzzz", "mpeg4"))
    times_s = [0.0, 0.04, 0.5, 0.51]
    with AnnotatedVideo(tmp_path / "out.mp4", fps=105611 / 500) as sink:
        for index, time_s in enumerate(times_s):
            sink.write(make_frame(index, time_s=time_s), make_result())
    assert frame_times_s(tmp_path / "out.mp4") == pytest.approx(times_s, abs=0.001)


@pytest.mark.parametrize("length", [200, 255])
def test_long_name(length: int, tmp_path: Path) -> None:
    path = tmp_path / ("n" * (length - 4) + ".mp4")
    with AnnotatedVideo(path, fps=25) as sink:
        sink.write(make_frame(), make_result())
    assert count_frames(path) == 1


# --- rates and times


@pytest.mark.parametrize(
    ("fps", "suffix"),
    [
        *((105611 / 500, suffix) for suffix in VIDEO_CODECS),
        *((fps, ".mp4") for fps in (30000 / 1001, 23.976, 1 / 3, 1000.0)),
        (59.94005994, ".avi"),
    ],
)
def test_any_rate(fps: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    n_frames = 60 if fps > 1 else 10
    with AnnotatedVideo(path, fps=fps) as sink:
        for index in range(n_frames):
            sink.write(make_frame(index, time_s=index / fps), make_result())
    assert count_frames(path) == pytest.approx(n_frames, abs=1)
    assert duration_s(path) == pytest.approx(n_frames / fps, rel=0.02, abs=0.002)


@pytest.mark.parametrize("suffix", VIDEO_CODECS)
def test_variable_rate_keeps_the_source_s_times(suffix: str, writer: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    times_s = [100.0, 100.04, 100.08, 101.0, 101.5, 103.0, 103.04]
    with AnnotatedVideo(path, fps=25) as sink:
        for index, time_s in enumerate(times_s):
            sink.write(make_frame(index, time_s=time_s), make_result())
    found = frame_times_s(path)
    if writer == "pyav" and suffix != ".avi":
        assert found == pytest.approx([time_s - 100.0 for time_s in times_s], abs=0.0011)
    else:
        assert len(found) == 1 + 25 * 3.04, "one rate, with frames repeated"
    assert found[-1] == pytest.approx(3.04, abs=0.01)


def test_times_that_go_back_or_stand_still_lose_no_frame(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    with AnnotatedVideo(path, fps=25) as sink:
        for index, time_s in enumerate([0.0, 0.04, 0.08, 0.0, 0.04, 0.04, None, None]):
            sink.write(make_frame(index, time_s=time_s), make_result())
    found = frame_times_s(path)
    assert np.all(np.diff(found) > 0)
    assert len(found) == 8 if writer == "pyav" else len(found) >= 7


# --- full disks and killed processes

PREAMBLE = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
from sdk.errors import SinkError
from sdk.sinks import AnnotatedVideo, JsonLines, _encoders
from tests.sdk.sinks.ffprobe import duration_s, frame_times_s
from tests.sdk.conftest import make_frame, make_result
"""
FILL_THE_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))
try:
    with AnnotatedVideo(sys.argv[1], fps=25) as sink:
        for index in range(150):
            sink.write(make_frame(index), make_result(score=index / 150))
except SinkError as error:
    print(error)
"""
RECORD_UNTIL_KILLED = """
with AnnotatedVideo(sys.argv[1], fps=25) as sink:
    for index in range(10_000):
        sink.write(make_frame(index, time_s=index / 25), make_result(score=index % 100 / 100))
        print(index, flush=True)
"""
ROOT = str(Path(__file__).parents[3])


@pytest.mark.parametrize("suffix", VIDEO_CODECS)
def test_full_disk_is_one_line_and_leaves_a_video_or_nothing(
    suffix: str, writer: str, tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    chosen = "_encoders.av = None\n" if writer == "opencv" else ""
    command = [sys.executable, "-c", PREAMBLE + chosen + FILL_THE_DISK, str(path), ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert f"out{suffix}: can't be written: " in done.stdout
    assert done.stdout.count("\n") == 1
    if path.exists():
        assert count_frames(path) > 0
        assert "; what was written before is kept" in done.stdout
    else:
        assert "; nothing is kept" in done.stdout
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_killed_process_leaves_a_video_that_plays_up_to_the_last_second(
    suffix: str, writer: str, tmp_path: Path
) -> None:
    if writer == "opencv":
        pytest.skip("OpenCV writes the index of an MP4 at its end: PyAV is what survives a kill")
    path = tmp_path / f"out{suffix}"
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + RECORD_UNTIL_KILLED, str(path), ROOT], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        n_written = 0
        for line in process.stdout:
            n_written = int(line) + 1
            if n_written == 130:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert n_written - 25 <= count_frames(path) <= n_written + 2
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
