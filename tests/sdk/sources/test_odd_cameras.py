"""HTTP cameras and servers as people have them: odd multipart streams, passwords, files without a length."""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdk.errors import SourceError
from sdk.sources import Source, open_source
from sdk.sources.video import pyav
from tests.sdk.conftest import DEADLINE_S, index_first, write_video
from tests.sdk.sources.helpers import read_all, write_h264

pytestmark = pytest.mark.skipif(pyav.av is None, reason="PyAV is not installed")

JPEG = cv2.imencode(".jpg", np.full((48, 64, 3), (200, 60, 60), np.uint8))[1].tobytes()
Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


class Camera:
    """A web server with one answer for every path; counts its requests."""

    def __init__(self) -> None:
        self.answer: Answer = lambda handler: handler.send_error(404)
        self.closing = threading.Event()
        outer = self

        class OfThis(Handler):
            def do_GET(self) -> None:
                with suppress(OSError):  # the client has gone
                    outer.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OfThis)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str = "video", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self._server.server_port}/{path}"

    def send(self, handler: Handler, headers: dict[str, str], chunks: Iterator[bytes]) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        for chunk in chunks:
            if self.closing.wait(0.005):
                return
            handler.wfile.write(chunk)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def camera() -> Iterator[Camera]:
    server = Camera()
    yield server
    server.close()


def endless(part: bytes) -> Iterator[bytes]:
    while True:
        yield part


def frames_of(source: Source, count: int = 8) -> int:
    """How many frames come, of the ``count`` that are wanted."""
    got: list[object] = []

    def read() -> None:
        with source:
            got.extend(islice(source, count))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    return len(got)


TYPE = b"Content-Type: image/jpeg\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(JPEG)
PARTS = {
    "boundary that holds the dashes": ("--frame", b"--frame\r\n" + TYPE + LENGTH),
    "quoted boundary": ('"frame"', b"--frame\r\n" + TYPE + LENGTH),
    "another boundary than announced": ("other", b"--frame\r\n" + TYPE + LENGTH),
    "no length": ("frame", b"--frame\r\n" + TYPE),
    "no type": ("frame", b"--frame\r\n" + LENGTH),
    "a length that is too long": (
        "frame",
        b"--frame\r\n" + TYPE + b"Content-Length: %d\r\n" % (len(JPEG) + 3),
    ),
    "headers of its own": ("frame", b"--frame\r\nX-Time: 12.5\r\n" + TYPE + LENGTH),
}


@pytest.mark.parametrize("case", PARTS)
def test_multipart_streams_of_every_kind(case: str, camera: Camera) -> None:
    boundary, head = PARTS[case]
    headers = {"Content-Type": f"multipart/x-mixed-replace; boundary={boundary}"}
    part = head + b"\r\n" + JPEG + b"\r\n"
    camera.answer = lambda handler: camera.send(handler, headers, endless(part))
    assert frames_of(open_source(camera.url())) == 8


@pytest.mark.parametrize("content_type", ["application/octet-stream", "image/jpeg"])
def test_jpegs_without_parts_are_a_stream(content_type: str, camera: Camera) -> None:
    """FFmpeg gives up on such a stream once its connection ends."""

    def answer(handler: Handler) -> None:
        camera.send(handler, {"Content-Type": content_type}, iter([JPEG] * 60))

    camera.answer = answer
    assert frames_of(open_source(camera.url())) == 8


@pytest.mark.parametrize("body", [b"<html>log in</html>", b'{"error": "busy"}', b""])
def test_page_in_the_place_of_a_stream_is_refused(body: bytes, camera: Camera) -> None:
    headers = {"Content-Type": "text/html", "Content-Length": str(len(body))}
    camera.answer = lambda handler: camera.send(handler, headers, iter([body]))
    with pytest.raises(SourceError, match="no video there"):
        open_source(camera.url("?user=admin&password=hunter2"))


def test_password_is_sent_as_it_is_asked_for(camera: Camera) -> None:
    headers = {"Content-Type": "multipart/x-mixed-replace; boundary=frame"}
    part = b"--frame\r\n" + TYPE + LENGTH + b"\r\n" + JPEG + b"\r\n"
    expected = "Basic " + base64.b64encode(b"admin:p@ss/w:rd").decode()

    def answer(handler: Handler) -> None:
        if handler.headers.get("Authorization") == expected:
            camera.send(handler, headers, endless(part))
            return
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", 'Basic realm="camera"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    camera.answer = answer
    assert frames_of(open_source(camera.url(user="admin:p%40ss%2Fw%3Ard@"))) == 8
    with pytest.raises(SourceError, match=r"no video there; check address, user and password") as caught:
        open_source(camera.url(user="admin:hunter2@"))
    assert "hunter2" not in str(caught.value)


def served(path: Path, *, with_length: bool, share: float = 1.0) -> Answer:
    data = path.read_bytes()

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        if with_length:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: int(share * len(data))])

    return answer


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_file_of_a_server_that_says_no_length(suffix: str, camera: Camera, tmp_path: Path) -> None:
    """The end of such a connection looks to FFmpeg as if it were lost."""
    path = write_h264(tmp_path / f"t{suffix}", 100)
    if suffix == ".mp4":
        path = index_first(path)
    camera.answer = served(path, with_length=False)
    frames, error = read_all(open_source(camera.url(f"t{suffix}")))
    assert (len(frames), error) == (100, None)
    camera.answer = served(path, with_length=False, share=0.5)
    frames, error = read_all(open_source(camera.url(f"t{suffix}")))
    assert 10 < len(frames) < 90
    assert "the connection was lost" in str(error)


@pytest.mark.parametrize("suffix", [".ts", ".gif"])
def test_file_without_a_duration_gives_every_frame(suffix: str, camera: Camera, tmp_path: Path) -> None:
    """A known size makes it a file, of which no frame may be dropped."""
    path = tmp_path / f"t{suffix}"
    if suffix == ".ts":
        write_h264(path, 60)
    else:
        with pyav.av.open(str(path), "w") as container:
            stream = container.add_stream("gif", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
            for grey in range(60):
                picture = np.full((48, 64, 3), grey, np.uint8)
                container.mux(stream.encode(pyav.av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(stream.encode())
    camera.answer = served(path, with_length=True)
    with open_source(camera.url(f"t{suffix}")) as source:
        assert not source.live
        assert len(list(source)) == 60


def test_redirects_lead_on_and_not_to_files(camera: Camera, tmp_path: Path) -> None:
    headers = {"Content-Type": "multipart/x-mixed-replace; boundary=frame"}
    part = b"--frame\r\n" + TYPE + LENGTH + b"\r\n" + JPEG + b"\r\n"
    targets = {"/first": camera.url("second"), "/loop": camera.url("loop"), "/file": f"file://{tmp_path}/a"}
    write_video(tmp_path / "clip.avi", 3).rename(tmp_path / "a")

    def answer(handler: Handler) -> None:
        if handler.path in targets:
            handler.send_response(302)
            handler.send_header("Location", targets[handler.path])
            handler.end_headers()
        else:
            camera.send(handler, headers, endless(part))

    camera.answer = answer
    assert frames_of(open_source(camera.url("first"))) == 8
    for path in ("loop", "file"):
        with pytest.raises(SourceError, match="no video there"):
            open_source(camera.url(path))
