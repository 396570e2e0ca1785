"""systemd's protocol over a real socket: ready, alive while it works, stopping."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdk.errors import SinkError
from sdk.sinks import Watchdog, watchdog
from sdk.sources import SourceEvent, SourceState
from tests.sdk.cli.helpers import COMMAND
from tests.sdk.conftest import DEADLINE_S, MjpegServer, make_frame, make_result


class Systemd:
    """The receiving end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(DEADLINE_S)

    def next(self) -> list[str]:
        return self._socket.recv(4096).decode().splitlines()

    def until(self, wanted: str) -> list[str]:
        while wanted not in (message := self.next()):
            pass
        return message

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    opened = Systemd(str(tmp_path / "notify"))
    yield opened
    opened.close()


@pytest.mark.parametrize("is_abstract", [False, True])
def test_ready_then_heartbeats_then_stopping(tmp_path: Path, *, is_abstract: bool) -> None:
    address = f"@edge-purify-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    manager = Systemd(address)
    with Watchdog(address, 0.06) as sink:
        assert manager.next()[0] == "READY=1"
        sink.source_changed(SourceEvent("camera 0", SourceState.LIVE))
        sink.write(make_frame(), make_result())
        message = manager.until("STATUS=1 frames; camera 0 live")
        assert set(message) <= {"WATCHDOG=1", "STATUS=1 frames; camera 0 live"}
    assert manager.until("STOPPING=1") == ["STOPPING=1"]
    sink.close()
    manager.close()


def test_heartbeat_stops_where_a_live_source_gives_no_result() -> None:
    now = 0.0
    sink = Watchdog("/nowhere", 10.0, clock=lambda: now)
    now = 100.0
    assert sink.is_alive, "no frame yet: a source that can't be reached is no hang"
    sink.source_changed(SourceEvent("a", SourceState.LIVE))
    now = 109.0
    assert sink.is_alive
    now = 111.0
    assert not sink.is_alive, "frames come in and none comes out"
    sink.write(make_frame(), make_result())
    assert sink.is_alive
    now = 200.0
    sink.source_changed(SourceEvent("a", SourceState.STALLED, "no frame for 10 s"))
    assert sink.is_alive, "the camera is unplugged"
    sink.source_changed(SourceEvent("b", SourceState.LIVE))
    now = 211.0
    assert not sink.is_alive
    sink.source_changed(SourceEvent("b", SourceState.ENDED))
    assert sink.is_alive


def test_frames_without_events_count_as_live() -> None:
    now = 0.0
    sink = Watchdog("/nowhere", 10.0, clock=lambda: now)
    sink.write(make_frame(), make_result())
    now = 11.0
    assert not sink.is_alive


@pytest.mark.parametrize(
    ("variables", "timeout_s"),
    [
        ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000"}, 30.0),
        (
            {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())},
            30.0,
        ),
        ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "@abstract"}, None),
        ({"NOTIFY_SOCKET": "@abstract", "WATCHDOG_USEC": "often"}, None),
    ],
)
def test_systemd_s_variables(
    variables: dict[str, str], timeout_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = Watchdog.from_environment()
    assert found is not None
    assert found._timeout_s == timeout_s
    assert not [name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_"))]
    assert Watchdog.from_environment() is None


def test_socket_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"systemd's socket .*/gone' can't be written: No such file"):
        Watchdog(str(tmp_path / "gone"), None).open()


def test_status_without_a_watchdog(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "STATUS_S", 0.02)
    with Watchdog(systemd.address, None):
        assert systemd.next()[0] == "READY=1"
        assert systemd.next() == ["STATUS=0 frames"]


def test_command_under_systemd(systemd: Systemd, tiny_bundle: Path, mjpeg_server: MjpegServer) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--source", mjpeg_server.url(), "--bundle", tiny_bundle, "--backend", "onnxruntime"],
        env={**os.environ, "NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "300000"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert systemd.next()[0] == "READY=1"
        while not ("WATCHDOG=1" in (message := systemd.next()) and message[-1].endswith(" live")):
            assert message != ["STOPPING=1"]
        process.send_signal(signal.SIGTERM)
        systemd.until("STOPPING=1")
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
