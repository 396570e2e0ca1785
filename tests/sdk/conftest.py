"""Real media for the tests of sources, sinks, loop and command: videos, damaged ones, a live HTTP stream."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdk.draw import Draw
from sdk.result import Result, Timings
from sdk.sources import Frame
from sdk.sources.opencv import quiet_opencv

quiet_opencv()  # before the first video that a test writes, which fixes FFmpeg's log level for the process

N_FRAMES = 30
DEADLINE_S = 60.0  # a busy machine takes its time

CODECS = {"clip.mp4": "mp4v", "clip.avi": "MJPG", "clip.mkv": "FFV1"}


def write_video(path: Path, n_frames: int = N_FRAMES, *, codec: str | None = None) -> Path:
    """A 96x64 video of noise, so that every frame takes its share of the file."""
    fourcc = cv2.VideoWriter.fourcc(*(codec or CODECS["clip" + path.suffix]))
    writer = cv2.VideoWriter(str(path), fourcc, 25.0, (96, 64))
    assert writer.isOpened()
    rng = np.random.default_rng(0)
    for _ in range(n_frames):
        writer.write(rng.integers(0, 256, (64, 96, 3), np.uint8))
    writer.release()
    return path


def index_first(path: Path) -> Path:
    """Move an MP4's index to its front, as in files made for streaming, so that a part can be played."""
    data = path.read_bytes()
    boxes = {}
    position = 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        boxes[data[position + 4 : position + 8]] = data[position : position + size]
        position += size
    moov = bytearray(boxes.pop(b"moov"))
    table = moov.index(b"stco") + 4
    for i in range(int.from_bytes(moov[table + 4 : table + 8], "big")):
        at = table + 8 + 4 * i
        moov[at : at + 4] = (int.from_bytes(moov[at : at + 4], "big") + len(moov)).to_bytes(4, "big")
    path.write_bytes(boxes.pop(b"ftyp") + bytes(moov) + b"".join(boxes.values()))
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def count_frames(path: Path) -> int:
    """How many frames of a video can really be decoded."""
    capture = cv2.VideoCapture(str(path))
    n_frames = 0
    while capture.read()[0]:
        n_frames += 1
    capture.release()
    return n_frames


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll, with a deadline that fails the test."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:.0f} s for {what}"
        time.sleep(0.01)


def make_frame(index: int = 0, size: tuple[int, int] = (48, 64), time_s: float | None = None) -> Frame:
    return Frame(np.full((*size, 3), (200, 60, 60), np.uint8), index, "clip.mp4", time_s)


def make_result(
    label: str | None = "red", score: float = 0.75, n_draws: int = 1, *, seeded: bool = False
) -> Result:
    """A result whose purified image is all red; skipped if ``label`` is None."""
    draws = tuple(Draw(i, f"purifier-{i:02d}", 0, "classifier-00", {}, seeded) for i in range(n_draws))
    purified = np.zeros((3, 16, 16), np.float32)
    purified[0] = 1.0
    skipped = label is None
    return Result(
        label=label,
        score=None if skipped else score,
        probabilities=None if skipped else np.array([score, 1 - score], np.float32),
        draws=draws,
        timings=Timings(0.1, 0.2, 1.0, 0.7, 2.0),
        seeded=seeded,
        error="engine purifier-00: failed" if skipped else None,
        _purified=None if skipped else purified,
    )


class MjpegServer:
    """A live stream on this machine: JPEGs without end, or ``frames_per_connection`` and then it drops."""

    def __init__(self) -> None:
        self.frames_per_connection: int | None = None
        self.refuse = False
        self.connections = 0
        self.files: dict[str, bytes] = {}
        self.drop_at = 1.0  # share of a file after which its connection is lost
        self._stopped = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str = "live.mjpg", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self._server.server_port}/{path}"

    def close(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.connections += 1
        data = self.files.get(handler.path[1:])
        if self.refuse:
            handler.send_error(503)
        elif data is not None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[: int(self.drop_at * len(data))])
        else:
            self._stream(handler)

    def _stream(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        jpeg = cv2.imencode(".jpg", make_frame().image)[1].tobytes()
        part = (
            b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
        )
        n_sent = 0
        while not self._stopped.wait(0.005):
            if self.frames_per_connection is not None and n_sent >= self.frames_per_connection:
                return
            try:
                handler.wfile.write(part)
            except OSError:
                return
            n_sent += 1


@pytest.fixture
def mjpeg_server() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.close()
