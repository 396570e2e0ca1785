from __future__ import annotations

import math
import queue
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.errors import SourceError
from sdk.host.urls import redact
from sdk.loop import run
from sdk.result import Result
from sdk.sources import Frame, Source, SourceState, open_source
from sdk.sources.live import Live
from sdk.sources.source import frame_rate
from sdk.sources.video import pyav
from tests.sdk.conftest import (
    CODECS,
    N_FRAMES,
    MjpegServer,
    count_frames,
    cut,
    index_first,
    make_result,
    wait_until,
    write_video,
)


@pytest.fixture(autouse=True, params=["pyav", "opencv"])
def _reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds for both readers."""
    if request.param == "opencv":
        monkeypatch.setattr(pyav, "av", None)


def read_until_error(source: Source) -> tuple[list[Frame], str]:
    frames: list[Frame] = []
    with source, pytest.raises(SourceError) as caught:
        frames.extend(source)  # keeps those before the error
    return frames, str(caught.value)


# --- videos


@pytest.mark.parametrize("name", CODECS)
def test_video_gives_every_frame_with_its_time(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name)
    with open_source(path) as source:
        assert (source.total, source.fps, source.live) == (N_FRAMES, 25.0, False)
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(N_FRAMES))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(N_FRAMES)], abs=1e-3)
    assert frames[0].image.shape == (64, 96, 3)
    assert frames[0].source == str(path)


@pytest.mark.parametrize("share", [0.9, 0.4])
@pytest.mark.parametrize("name", CODECS)
def test_cut_video_gives_the_frames_before_the_damage(
    name: str, share: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / name)
    path = cut(index_first(path) if path.suffix == ".mp4" else path, share)
    frames, message = read_until_error(open_source(path))
    n_readable = count_frames(path)
    assert 0.3 * share * N_FRAMES < n_readable < N_FRAMES
    assert n_readable - 1 <= len(frames) <= n_readable, "OpenCV gives half of the frame at the cut as well"
    assert f"{path}: ended after {len(frames)} of {N_FRAMES} frames" in message
    assert capfd.readouterr().err == "", "OpenCV and FFmpeg must not speak beside our error"


def test_mp4_that_lost_its_index_is_refused_at_once(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "clip.mp4"), 0.9)
    with pytest.raises(SourceError, match=r"clip.mp4: a damaged video, .* cut short; get it again"):
        open_source(path)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_video_overwritten_in_the_middle_is_an_error(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name)
    data = bytearray(path.read_bytes())
    start, stop = len(data) * 4 // 10, len(data) * 6 // 10
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    frames, message = read_until_error(open_source(path))
    assert 0 < len(frames) < N_FRAMES
    assert f"only {len(frames)} of {N_FRAMES} frames can be read" in message


def test_whole_matroska_with_too_high_a_frame_count_is_no_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv")
    data = bytearray(path.read_bytes())
    duration = data.index(b"\x44\x89\x88") + 3  # a 64-bit float, in milliseconds
    data[duration : duration + 8] = np.array(2 * 40.0 * N_FRAMES, ">f8").tobytes()
    path.write_bytes(data)
    with open_source(path) as source:
        assert source.total == 2 * N_FRAMES
        assert len(list(source)) == N_FRAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"meeting at ten\n" * 50, "a text file, neither a video nor a picture")],
)
def test_file_that_is_no_video(
    content: bytes, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notes.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"notes.mp4: {message}"):
        open_source(path)
    assert capfd.readouterr().err == ""


# --- pictures


def write_pictures(folder: Path, names: list[str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        picture = np.random.default_rng(len(name)).integers(0, 256, (40, 50, 3), np.uint8)
        assert cv2.imwrite(str(folder / name), picture)
    return [folder / name for name in names]


def test_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", ["b10.png", "b9.png", "A.jpg", "b9.bmp"])
    (tmp_path / "in" / "labels.csv").write_text("not a picture")
    (tmp_path / "in" / ".hidden.png").write_text("not one either")
    with open_source(tmp_path / "in") as source:
        frames = list(source)
    assert [Path(frame.source).name for frame in frames] == ["A.jpg", "b9.bmp", "b9.png", "b10.png"]
    assert (source.total, source.fps, frames[1].index, frames[0].time_s) == (4, None, 1, None)


def test_glob_and_single_picture(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, ["1.png", "2.png", "3.jpg"])
    assert [frame.source for frame in open_source(str(tmp_path / "*.png"))] == [
        str(path) for path in paths[:2]
    ]
    (frame,) = open_source(paths[0])
    assert np.array_equal(frame.image, cv2.imread(str(paths[0])))


def test_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path, ["cat[1].png"])
    assert [frame.source for frame in open_source(str(path))] == [str(path)]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_damaged_picture_is_named_and_never_skipped(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = write_pictures(tmp_path / "in", [f"{i}{suffix}" for i in range(3)])
    cut(paths[1], 0.7)
    frames, message = read_until_error(open_source(tmp_path / "in"))
    assert [frame.source for frame in frames] == [str(paths[0])]
    assert f"{paths[1]}: not a picture, or a damaged one" in message
    assert capfd.readouterr().err == ""


def test_png_with_one_changed_byte_is_damaged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (path,) = write_pictures(tmp_path, ["cat.png"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    _, message = read_until_error(open_source(path))
    assert "cat.png: not a picture, or a damaged one" in message
    assert capfd.readouterr().err == ""


def test_empty_picture_file(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    with pytest.raises(SourceError, match=r"cat.png: the file is empty; get it again"):
        open_source(tmp_path / "cat.png")


# --- what isn't there


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (63, "camera 63: no such camera; this machine has"),
        ("63", "camera 63: no such camera"),
        ("/dev/video63", "camera 63: no such camera"),
        ("/dev/video", "expected a number from 0, or a device"),
        (-1, "camera -1: expected a number from 0"),
        ("nowhere/clip.mp4", "nowhere/clip.mp4: no such file or folder; give a camera number, video"),
        ("nowhere/*.png", "glob nowhere/*.png: no picture in it; expected files of the kinds bmp dib jfif"),
        ("ftp://host/clip.mp4", "expected a URL of rtsp, .* or csi, got ftp"),
        ("csi://left", "csi://left: expected csi:// and a sensor's number"),
    ],
)
def test_source_that_does_not_exist(spec: int | str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match=message.replace("*.", r"\*\.")) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"folder {tmp_path}: no picture in it"):
        open_source(tmp_path)


def test_csi_needs_gstreamer() -> None:
    if re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(SourceError, match=r"csi://0: this OpenCV .* has no GStreamer.*JetPack"):
        open_source("csi://0")


def test_unreachable_stream_keeps_its_password(
    mjpeg_server: MjpegServer, capfd: pytest.CaptureFixture[str]
) -> None:
    mjpeg_server.refuse = True
    with pytest.raises(SourceError, match=r"^http://127.0.0.1: no video there") as caught:
        open_source(mjpeg_server.url(user="admin:hunter2@"))
    assert "hunter2" not in str(caught.value)
    assert capfd.readouterr().err == ""


@given(
    secret=st.text(st.characters(categories=["L", "N"], include_characters="@:!$-_."), min_size=8),
    form=st.sampled_from(
        [
            "rtsp://admin:{}@host:554/1",
            "http://host/1?token={}&a=b",
            "rtsp://h/user=a&password={}&c=1",
            "https://h/1.mp4?sv=2024&sig={}&se=1",
        ]
    ),
)
def test_redact_leaves_no_secret(secret: str, form: str) -> None:
    shown = redact(form.format(secret))
    assert secret not in shown
    assert shown.partition("://")[0] == form.partition("://")[0]


# --- live


class ScriptedCapture:
    """A camera that gives the frames it is handed: a number is a frame of that grey, None is the end."""

    def __init__(self) -> None:
        self.script: queue.Queue[int | None] = queue.Queue()
        self.released = threading.Event()
        self.waiting = threading.Event()

    def get(self, prop: int) -> float:
        return 30.0

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.script.empty():
            self.waiting.set()
        grey = self.script.get()
        return (False, None) if grey is None else (True, np.full((4, 4, 3), grey, np.uint8))

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def capture() -> Iterator[ScriptedCapture]:
    scripted = ScriptedCapture()
    yield scripted
    scripted.script.put(None)  # lets the grab thread go


def test_live_gives_the_newest_frame(capture: ScriptedCapture) -> None:
    for grey in range(10):
        capture.script.put(grey)
    with Live("camera 0", capture) as source:
        assert capture.waiting.wait(30), "the grab thread must read on while nobody asks"
        frame = next(iter(source))
        assert (frame.index, frame.image[0, 0, 0], source.live, source.total) == (9, 9, True, None)
        capture.script.put(None)
    assert capture.released.wait(30)


def test_lost_camera_is_an_error_after_its_frames(capture: ScriptedCapture) -> None:
    capture.script.put(7)
    capture.script.put(None)
    frames, message = read_until_error(Live("camera 0", capture))
    assert [frame.index for frame in frames] == [0]
    assert "camera 0: lost after 1 frames, the connection ended; is it still plugged in?" in message


def test_close_ends_a_reader_that_waits(capture: ScriptedCapture) -> None:
    source = Live("camera 0", capture)
    got: list[Frame] = []
    reader = threading.Thread(target=lambda: got.extend(source))
    reader.start()
    assert capture.waiting.wait(30)
    source.close()
    reader.join(30)
    assert not reader.is_alive()
    assert got == []


def test_stream_reconnects(mjpeg_server: MjpegServer) -> None:
    mjpeg_server.frames_per_connection = 5

    def connect() -> cv2.VideoCapture:
        return cv2.VideoCapture(mjpeg_server.url(), cv2.CAP_FFMPEG)

    with Live("stream", connect(), reconnect=connect, first_retry_s=0.01) as source:
        for frame in source:
            if mjpeg_server.connections >= 3 and frame.index >= 11:
                break
    assert frame.image.shape == (48, 64, 3)


@pytest.mark.parametrize("answers", [False, True], ids=["refuses", "answers without a frame"])
def test_stream_that_stays_away_is_an_error(answers: bool, mjpeg_server: MjpegServer) -> None:
    mjpeg_server.frames_per_connection = 5

    def connect() -> cv2.VideoCapture:
        return cv2.VideoCapture(mjpeg_server.url(), cv2.CAP_FFMPEG)

    source = Live("stream", connect(), reconnect=connect, first_retry_s=0.01, patience_s=0.05)
    mjpeg_server.refuse, mjpeg_server.frames_per_connection = not answers, 0
    frames, message = read_until_error(source)
    assert frames
    assert re.search(r"stream: lost after \d frames, the connection ended, and not back within 0 s", message)


def test_stream_opens_and_closes_while_it_runs(mjpeg_server: MjpegServer) -> None:
    with open_source(mjpeg_server.url(user="admin:hunter2@")) as source:
        frames = iter(source)
        first, second = next(frames), next(frames)
    assert source.live
    assert second.index > first.index
    assert second.time_s is not None
    assert "hunter2" not in first.source
    assert next(frames, None) is None
    wait_until(
        lambda: not any(t.name.startswith("grab") for t in threading.enumerate()), "the grab thread's end"
    )


def test_video_on_a_web_server_that_drops_the_connection_is_an_error(
    mjpeg_server: MjpegServer, tmp_path: Path
) -> None:
    mjpeg_server.files["clip.avi"] = write_video(tmp_path / "clip.avi").read_bytes()
    mjpeg_server.drop_at = 0.5
    with open_source(mjpeg_server.url("clip.avi")) as source:
        assert source.total == N_FRAMES
        frames = iter(source)
        assert [next(frames).index for _ in range(5)] == list(range(5))
        with pytest.raises(SourceError, match=rf"of {N_FRAMES} frames: the connection was lost, or the file"):
            list(frames)


@pytest.mark.parametrize(("announced", "fps"), [(30.0, 30.0), (0.0, None), (90_000.0, None), (-1.0, None)])
def test_clock_s_rate_is_no_frame_rate(announced: float, fps: float | None) -> None:
    class Announcing:
        def get(self, prop: int) -> float:
            return announced

    assert frame_rate(Announcing()) == fps


def test_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.avi").rename("12:30.avi")
    with open_source("12:30.avi") as source:
        assert len(list(source)) == N_FRAMES


def test_camera_by_a_link_is_that_camera(tmp_path: Path) -> None:
    (tmp_path / "front-camera").symlink_to("/dev/video63")
    with pytest.raises(SourceError, match=r"camera 63: no such camera"):
        open_source(str(tmp_path / "front-camera"))


def test_name_too_long_for_a_file_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"can't be read: File name too long"):
        open_source("a" * 300)


def test_video_on_a_web_server_gives_every_frame(mjpeg_server: MjpegServer, tmp_path: Path) -> None:
    mjpeg_server.files["clip.avi"] = write_video(tmp_path / "clip.avi").read_bytes()
    with open_source(mjpeg_server.url("clip.avi")) as source:
        assert (source.live, source.total) == (False, N_FRAMES)
        assert len(list(source)) == N_FRAMES


def test_stream_that_is_not_there_yet_is_waited_for(mjpeg_server: MjpegServer) -> None:
    mjpeg_server.refuse = True
    with open_source(mjpeg_server.url(), patience_s=math.inf) as source:
        assert (source.live, source.state) == (True, SourceState.CONNECTING)
        wait_until(lambda: mjpeg_server.connections >= 3, "another try")
        mjpeg_server.refuse = False
        assert next(iter(source)).image.shape == (48, 64, 3)
        wait_until(lambda: source.state is SourceState.LIVE, "the state")


def test_one_of_two_streams_lost_and_back(mjpeg_server: MjpegServer, tmp_path: Path) -> None:
    """Beside a stream that breaks off every few frames, another and a file give theirs."""
    steady = MjpegServer()
    mjpeg_server.frames_per_connection = 4
    clip = write_video(tmp_path / "clip.avi")
    seen: Counter[int] = Counter()

    def purify(image: np.ndarray, *, frame_index: int | None = None, source: str | None = None) -> Result:
        return make_result()

    def enough(frame: Frame, result: Result) -> None:
        seen[frame.source_index] += 1
        if seen[0] >= 9 and seen[1] >= 20 and seen[2] == N_FRAMES:
            raise KeyboardInterrupt  # as Ctrl-C ends it

    try:
        sources = [open_source(mjpeg_server.url()), open_source(steady.url()), open_source(clip)]
        summary = run(purify, sources, on_result=enough)
    finally:
        steady.close()
    assert summary.interrupted
    assert mjpeg_server.connections >= 3
    assert summary.sources[str(clip)].frames == N_FRAMES
    assert list(summary.sources) == ["http://127.0.0.1", "http://127.0.0.1 #2", str(clip)]


def test_snapshot_that_is_asked_for_again_and_again_is_no_video(mjpeg_server: MjpegServer) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    mjpeg_server.files["snapshot.jpg"] = jpeg

    def connect() -> cv2.VideoCapture:
        return cv2.VideoCapture(mjpeg_server.url("snapshot.jpg"), cv2.CAP_FFMPEG)

    frames, message = read_until_error(Live("camera", connect(), reconnect=connect, first_retry_s=0.01))
    assert len(frames) <= 3
    assert "camera: a single picture at a time, 3 times in a row, not a video; give the camera's" in message
