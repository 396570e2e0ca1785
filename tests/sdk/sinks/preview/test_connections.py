"""Viewers and connections are bounded, and nobody who looks holds the loop up."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from sdk.sinks.preview import Preview, gate, server
from tests.sdk.cli.helpers import COMMAND
from tests.sdk.conftest import MjpegServer, make_frame, make_result, wait_until
from tests.sdk.sinks.preview.helpers import Viewer, connect, get, read_url


def test_viewer_who_takes_nothing_holds_nobody_up_and_is_dropped(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_VIEWERS", 2)
    monkeypatch.setattr(server, "PATIENCE_S", 0.5)
    monkeypatch.setattr(server, "MAX_FRAMES_PER_S", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    n_written = 0

    def write_one_more() -> None:
        nonlocal n_written
        preview.write(replace(make_frame(n_written), image=noise), make_result())
        n_written += 1

    write_one_more()
    with Viewer(preview) as idle, Viewer(preview) as keen:
        assert idle.status() == 200
        seen = keen.pictures()
        next(seen)
        for _ in range(30):  # some 30 MB of pictures, far more than the idle one's buffers take
            write_one_more()
            next(seen)

        def has_room() -> bool:
            write_one_more()
            next(seen)
            with Viewer(preview) as third:
                return third.status() == 200

        wait_until(has_room, "the idle viewer to be dropped")


def test_viewers_are_bounded_and_a_place_is_free_once_one_leaves(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_VIEWERS", 1)
    with Viewer(preview) as first:
        assert first.status() == 200
        refused = get(preview.url, "live.mjpg")
        assert (refused.code, refused.body) == (503, b"1 are watching, which is as many as can\n")
        assert get(preview.url, "status").code == 200, "only the stream is bounded"

    def admitted() -> bool:
        with Viewer(preview) as next_one:
            return next_one.status() == 200

    wait_until(admitted, "the first viewer's place, though no frame came")


def test_viewer_sees_the_newest_frame_not_every_frame(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(50):
        preview.write(make_frame(index), make_result())
    with Viewer(preview) as viewer:
        seen = viewer.pictures()
        next(seen)
        changed = make_frame(50)
        changed.image[:] = 255
        preview.write(changed, make_result())
        assert next(seen)[5, 5].min() > 240, "the next picture is the newest frame's"


MAX_DESCRIPTORS = 160


def test_idle_connections_never_end_the_loop(tiny_bundle: Path, mjpeg_server: MjpegServer) -> None:
    """Real process, real sockets: more connections than the process may have descriptors."""
    process = subprocess.Popen(
        [
            *(*COMMAND, "--source", mjpeg_server.url(), "--bundle", tiny_bundle, "--backend", "onnxruntime"),
            *("--serve", "0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit_descriptors,
    )
    idle: list[socket.socket] = []
    try:
        assert process.stderr is not None
        url = read_url(process.stderr)
        port = urlsplit(url).port
        wait_until(lambda: json.loads(get(url, "status").body)["frames"] >= 5, "five frames")
        before = json.loads(get(url, "status").body)["frames"]
        for number in range(MAX_DESCRIPTORS + 40):
            one = socket.socket()
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", port))
            idle.append(one)
            if number % 3 == 0:
                with suppress(OSError):
                    one.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            time.sleep(0.01)  # accepted one after the other, as over a network
        assert process.poll() is None
        connections = mjpeg_server.connections
        mjpeg_server.frames_per_connection = 0  # the camera is lost and must be connected again meanwhile
        wait_until(lambda: mjpeg_server.connections > connections, "the camera's new connection")
        mjpeg_server.frames_per_connection = None
        for one in idle:
            one.close()
        wait_until(lambda: json.loads(get(url, "status").body)["frames"] > before + 20, "frames to go on")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        for one in idle:
            one.close()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "open files" not in err


def limit_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_DESCRIPTORS, MAX_DESCRIPTORS))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_connections_are_bounded_and_one_too_many_is_told_so(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_CONNECTIONS", 3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(preview))

        def is_refused() -> bool:
            with connect(preview) as one:
                return one.recv(1000).startswith(b"HTTP/1.1 503 ")

        wait_until(is_refused, "the three to be counted")
    wait_until(lambda: get(preview.url, "healthz").code == 200, "a place")


@pytest.mark.parametrize(
    "sent", [b"", b"GET /status HTTP/1.1\r\nX: ", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
def test_connection_without_a_request_is_dropped(
    sent: bytes, preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "IDLE_S", 0.2)
    with connect(preview) as idle:
        idle.sendall(sent)
        with suppress(ConnectionResetError):
            while idle.recv(1000):
                pass


@pytest.mark.parametrize(
    "sent",
    [
        b"G\0T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET *?TOKEN HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /frame?TOKEN HTTP/1.1\r\nContent-Length: -1\r\nHost: a\r\n\r\n",
        b"GET /frame?TOKEN HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_leaves_nothing_in_the_log(
    preview: Preview, sent: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Anyone who reaches the port could fill it, and what is sent may hold the token."""
    token = preview.url.partition("?")[2]
    with connect(preview) as client:
        client.sendall(sent.replace(b"TOKEN", token.encode()))
        assert client.recv(100).startswith(b"HTTP/1.0 400")
    assert get(preview.url, "healthz").code == 200
    said = "".join(capfd.readouterr()) + caplog.text
    assert "Traceback" not in said
    assert token not in said
