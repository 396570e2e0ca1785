from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk import sinks
from sdk.errors import SinkError, UsageError
from sdk.sinks import (
    VIDEO_CODECS,
    AnnotatedImages,
    AnnotatedVideo,
    JsonLines,
    Sink,
    Window,
    open_save,
    window,
)
from sdk.sinks.annotate import annotate
from sdk.sinks.record import Record
from tests.sdk.conftest import count_frames, make_frame, make_result

RED = (0, 0, 255)


# --- the annotated picture


def test_suspicion_is_shown_where_there_is_one() -> None:
    image = make_frame().image
    plain, low, high = (
        annotate(image, dataclasses.replace(make_result(), suspicion=value)) for value in (None, 0.02, 0.97)
    )
    height = image.shape[0] * (plain.shape[1] // image.shape[1])  # the bar is below
    assert not np.array_equal(plain[height:], low[height:])
    assert not np.array_equal(low[height:], high[height:])


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 700), width=st.integers(1, 2500))
def test_any_frame_becomes_a_picture_that_a_video_can_take(height: int, width: int) -> None:
    image = np.full((height, width, 3), 90, np.uint8)
    picture = annotate(image, make_result())
    assert picture.dtype == np.uint8
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert 640 <= picture.shape[1] <= 1920
    assert np.all(image == 90), "the frame must not be drawn on"


@pytest.mark.parametrize("size", [(64, 64), (480, 640), (1080, 1920)])
def test_picture_shows_the_frame_the_purified_inset_and_text(size: tuple[int, int]) -> None:
    frame = make_frame(size=size)
    picture = annotate(frame.image, make_result())
    red = np.all(np.abs(picture.astype(int) - RED) < 8, axis=2)
    rows, columns = np.nonzero(red)
    side = 0.28 * min(picture.shape[0] - bar_height(picture), picture.shape[1])
    assert np.ptp(rows) == pytest.approx(side, abs=3), "the inset is square and of its share"
    assert np.ptp(columns) == pytest.approx(side, abs=3)
    assert tuple(picture[5, 5]) == tuple(frame.image[0, 0])
    bar = picture[-bar_height(picture) :]
    left, right = bar[4:, : bar.shape[1] // 2], bar[4:, bar.shape[1] // 2 :]
    assert (left > 200).any(), "the label is on the left"
    assert ((right > 130).all(axis=2)).sum() > 100, "the engines are on the right"


def bar_height(picture: np.ndarray) -> int:
    return 2 * round(32 * max(0.85, picture.shape[1] / 960))


@pytest.mark.parametrize("score", [0.2, 0.6, 1.0])
def test_score_line_is_as_long_as_the_score(score: float) -> None:
    picture = annotate(make_frame(size=(480, 640)).image, make_result(score=score))
    line = picture[-bar_height(picture)]
    lit = (line.max(axis=1) > 120).mean()
    assert lit == pytest.approx(score, abs=0.005)


def test_skipped_frame_is_marked_and_shows_no_purified_picture() -> None:
    picture = annotate(make_frame(size=(480, 640)).image, make_result(label=None))
    assert np.all(picture[-bar_height(picture)] == (80, 80, 235)), "a red line"
    assert np.all(picture[: 480 - 1] == (200, 60, 60)), "the frame alone"


def test_long_label_leaves_the_engines_readable() -> None:
    short = annotate(make_frame(size=(480, 640)).image, make_result("cat"))
    long = annotate(make_frame(size=(480, 640)).image, make_result("tabby cat, " * 20))
    right = slice(485, None)
    assert np.array_equal(short[480:, right], long[480:, right])


# --- video


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
    with AnnotatedVideo(tmp_path / "out.avi", fps=10, real_time=True) as sink:
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
    monkeypatch.setitem(sinks.VIDEO_CODECS, ".mp4", "ZZZZ")
    with pytest.raises(SinkError, match=r"out.mp4: this OpenCV can't write ZZZZ video; try .avi"):
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


@pytest.mark.parametrize("name", ["out.gif", "out.png"])
def test_unknown_suffix(name: str) -> None:
    with pytest.raises(UsageError, match=r"expected a video's suffix \(.mp4, .avi, .mkv\) or a folder"):
        open_save(name, 25.0)


def test_fps_must_be_positive() -> None:
    with pytest.raises(UsageError, match=r"out.mp4: expected fps > 0, got 0"):
        AnnotatedVideo("out.mp4", fps=0)


FILL_THE_DISK = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
from sdk.errors import SinkError
from sdk.sinks import AnnotatedVideo
from tests.sdk.conftest import make_frame, make_result
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with AnnotatedVideo(sys.argv[1], fps=25) as sink:
        for index in range(40):
            sink.write(make_frame(index), make_result(score=index / 40))
except SinkError as error:
    print(error)
"""


def test_full_disk_is_an_error_though_opencv_reports_none(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "out.mp4"), root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "out.mp4: 40 frames were written, 0 of them can be read back, so nothing is kept" in done.stdout
    assert list(tmp_path.iterdir()) == []


FILL_THE_DISK_WITH_LINES = (
    FILL_THE_DISK.replace("AnnotatedVideo", "JsonLines")
    .replace("fps=25", "['red', 'blue']")
    .replace("40", "4000")
)


def test_full_disk_leaves_the_whole_lines(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", FILL_THE_DISK_WITH_LINES, str(tmp_path / "out.jsonl"), root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]
    assert 1 < len(lines) < 4000
    assert [msgspec.json.decode(line, type=Record).frame for line in lines] == list(range(len(lines)))
    assert f"can't be written: File too large; the {len(lines)} lines before are kept" in done.stdout


# --- pictures


def test_pictures_are_named_after_source_and_index(tmp_path: Path) -> None:
    with open_save(tmp_path / "new" / "folder", None) as sink:
        assert isinstance(sink, AnnotatedImages)
        for index in (0, 12):
            sink.write(make_frame(index), make_result())
    names = sorted(entry.name for entry in (tmp_path / "new" / "folder").iterdir())
    assert names == ["clip-000000.png", "clip-000012.png"]
    picture = cv2.imread(str(tmp_path / "new" / "folder" / names[1]))
    assert np.array_equal(picture, annotate(make_frame().image, make_result()))


# --- JSON lines


def test_json_lines_hold_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonLines(path, ["red", "blue"]) as sink:
        sink.write(make_frame(0, time_s=0.04), make_result(n_draws=2, seeded=True))
        sink.write(make_frame(1), make_result(label=None))
    first, second = (msgspec.json.decode(line, type=Record) for line in path.read_bytes().splitlines())
    assert first == Record(
        frame=0,
        source="clip.mp4",
        time_s=0.04,
        label="red",
        score=0.75,
        top={"red": 0.75, "blue": 0.25},
        suspicion=None,
        draws=[
            {"purifier": "purifier-00", "classifier": "classifier-00"},
            {"purifier": "purifier-01", "classifier": "classifier-00"},
        ],
        roi=None,
        timings_ms={"preprocess": 0.1, "draw": 0.2, "purify": 1.0, "classify": 0.7, "total": 2.0},
        seeded=True,
        error=None,
    )
    assert (second.label, second.score, second.top, second.error) == (
        None,
        None,
        None,
        "engine purifier-00: failed",
    )


def test_json_lines_on_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with JsonLines("-", ["red", "blue"]) as sink:
        sink.write(make_frame(3), make_result())
    assert msgspec.json.decode(capfdbinary.readouterr().out, type=Record).frame == 3


def test_json_lines_into_a_pipe_are_read_as_they_come(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with JsonLines(tmp_path / "pipe", ["red", "blue"]) as sink:
        sink.write(make_frame(3), make_result())
        assert msgspec.json.decode(os.read(reader, 10_000), type=Record).frame == 3
        os.close(reader)
        with pytest.raises(SinkError, match=r"pipe: its reader is gone"):
            sink.write(make_frame(4), make_result())
    assert (tmp_path / "pipe").is_fifo()


def test_json_lines_of_a_name_that_is_no_text_and_of_labels_that_are_there_twice(tmp_path: Path) -> None:
    frame = dataclasses.replace(make_frame(), source=os.fsdecode(b"caf\xe9.png"))
    with JsonLines(tmp_path / "out", ["crane", "crane"]) as sink:
        sink.write(frame, make_result("crane", score=0.25))
    found = msgspec.json.decode((tmp_path / "out").read_bytes(), type=Record)
    assert found.source == r"caf\udce9.png"
    assert found.top == {"crane": 0.75}, "of two classes with one name, the more probable one"


# --- window


class Screen:
    """OpenCV's windows, by a script of what ``waitKey`` gives; None is the user who closes the window."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keys: list[int | None]) -> None:
        self.keys, self.n_shown, self.is_open = keys, 0, True
        for name in ("imshow", "waitKey", "getWindowProperty"):
            monkeypatch.setattr(cv2, name, getattr(self, name))

    def imshow(self, title: str, picture: np.ndarray) -> None:
        self.n_shown += 1

    def waitKey(self, wait_ms: int) -> int:
        key = self.keys.pop(0)
        self.is_open = key is not None
        return -1 if key is None else key

    def getWindowProperty(self, title: str, prop: int) -> float:
        return 1.0 if self.is_open else 0.0


@pytest.mark.parametrize(
    ("pause", "keys", "n_done"),
    [
        (False, [-1, -1, ord("x"), ord("q")], 4),
        (False, [-1, None], 2),
        (True, [-1, -1, ord(" "), -1, 27], 2),
        (True, [-1, -1, None], 1),
    ],
)
def test_window_ends_by_key_or_by_being_closed_and_pictures_wait(
    *, pause: bool, keys: list[int | None], n_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, shown = Screen(monkeypatch, list(keys)), Window(pause=pause)
    while not shown.done:
        shown.write(make_frame(), make_result())
    assert (screen.n_shown, screen.keys) == (n_done, [])


def test_window_on_a_display_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":63")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match=r"--show: .* use --save instead"):
        Window().open()


def test_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform != "linux":
        pytest.skip("other systems have a display without a variable that says so")
    with pytest.raises(SinkError, match=r"--show: there is no display here .* use --save instead"):
        Window().open()


def test_window_of_a_headless_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise cv2.error("The function is not implemented. Rebuild the library with GTK+ support.")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(window, "_require_display", lambda: None)
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(SinkError, match=r"--show: this OpenCV is built without windows"):
        Window().open()
